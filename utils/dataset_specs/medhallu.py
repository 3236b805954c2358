"""MedHallu: is an answer to a medical question hallucinated?

Source: https://huggingface.co/datasets/UTAustin-AIHealth/MedHallu, config `pqa_labeled`; Pandit et al. 2025,
https://arxiv.org/abs/2502.14302
Licence: MIT
At the hub: train 1,000 rows. Ours, all from it: train 100, validation 100, test 200.

    {"Question": "Does vitamin D prevent falls?", "Knowledge": ["In a trial of ...", "Falls were ..."],
     "Ground Truth": "It did not.", "Hallucinated Answer": "It halved them."}

becomes Example(inputs={"question": ..., "knowledge": "In a trial of ...\\n\\nFalls were ...", "answer": "It halved
them."}, target="yes", choices=("yes", "no")): a hash of the row decides which of the two answers is shown; yes is
hallucinated.
"""

from __future__ import annotations

from utils.dataset_specs.base import DatasetSpec, Row, Sizes, Source, row_hash, text_of
from utils.metrics.label_accuracy import LabelAccuracy
from utils.prompt import Prompt
from utils.records import Example

LABELS = ("yes", "no")


def to_example(row: Row) -> Example:
    """The example of one row; ValueError where one of the two answers or the knowledge is missing."""
    question = text_of(row, "Question")
    answers = {"yes": text_of(row, "Hallucinated Answer"), "no": text_of(row, "Ground Truth")}
    knowledge = row["Knowledge"]
    knowledge = knowledge.strip() if isinstance(knowledge, str) else "\n\n".join(part.strip() for part in knowledge)
    if not knowledge:
        raise ValueError("column 'Knowledge' holds no text")
    target = LABELS[int(row_hash(question, *answers.values()), 16) % 2]
    return Example(
        id="",
        inputs={"question": question, "knowledge": knowledge, "answer": answers[target]},
        target=target,
        choices=LABELS,
    )


SPEC = DatasetSpec(
    name="medhallu",
    summary="is an answer to a medical question hallucinated, yes or no",
    version=1,
    licence="MIT",
    sources=(
        Source(
            hub_id="UTAustin-AIHealth/MedHallu",
            config="pqa_labeled",
            revision="515060458a945c633debc6fd5baac7764416b724",
            columns=("Question", "Knowledge", "Ground Truth", "Hallucinated Answer"),
        ),
    ),
    pools={"train": "train", "validation": "train", "test": "train"},
    sizes=Sizes(train=100, validation=100, test=200),
    prompt=Prompt(
        system="Is the answer to the medical question hallucinated? Say yes or no.",
        user="Knowledge:\n{knowledge}\n\nQuestion: {question}\nAnswer: {answer}",
    ),
    metrics=(LabelAccuracy(labels=LABELS),),
    to_example=to_example,
    # both answers to a question are one row
    identity=("question",),
)
