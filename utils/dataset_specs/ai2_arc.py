"""AI2 ARC, the challenge set: science questions of school exams, answered with the letter of an option.

Source: https://huggingface.co/datasets/allenai/ai2_arc, config `ARC-Challenge`; Clark et al. 2018,
https://arxiv.org/abs/1803.05457
Licence: CC BY-SA 4.0
At the hub: train 1,119 rows, validation 299, test 1,172. Ours: train 100, validation 100, test 200, each from its
namesake.

    {"id": "Mercury_1", "question": "Which is a metal?", "choices": {"text": ["iron", "wood"], "label": ["A", "B"]},
     "answerKey": "A"}

becomes Example(id="Mercury_1", inputs={"question": "Which is a metal?", "choices": "A. iron\\nB. wood"}, target="A",
choices=("A", "B")). Labels are A to E, or 1 to 4 in the questions of one exam; they are kept as they are.
"""

from __future__ import annotations

from utils.dataset_specs.base import DatasetSpec, Row, Sizes, Source, text_of
from utils.metrics.option_letter import OptionLetter
from utils.prompt import Prompt
from utils.records import Example


def to_example(row: Row) -> Example:
    """The example of one row; ValueError where the right answer is not among the options."""
    options = row["choices"]
    labels = tuple(options["label"])
    target = text_of(row, "answerKey")
    if target not in labels:
        raise ValueError(f"column 'answerKey' holds {target!r}, which is no option ({', '.join(labels)})")
    lines = [f"{label}. {text}" for label, text in zip(labels, options["text"], strict=True)]
    return Example(
        id=text_of(row, "id"),
        inputs={"question": text_of(row, "question"), "choices": "\n".join(lines)},
        target=target,
        choices=labels,
    )


SPEC = DatasetSpec(
    name="ai2_arc",
    summary="school science questions, an option letter",
    version=1,
    licence="CC BY-SA 4.0",
    sources=(
        Source(
            hub_id="allenai/ai2_arc",
            config="ARC-Challenge",
            revision="210d026faf9955653af8916fad021475a3f00453",
            columns=("id", "question", "choices", "answerKey"),
        ),
    ),
    pools={"train": "train", "validation": "validation", "test": "test"},
    sizes=Sizes(train=100, validation=100, test=200),
    prompt=Prompt(system="Choose the right answer to the question.", user="{question}\n\n{choices}"),
    metrics=(OptionLetter(),),
    to_example=to_example,
)
