"""HotpotQA: questions whose answer needs two of ten given paragraphs, answered in a few words.

Source: https://huggingface.co/datasets/hotpotqa/hotpot_qa, config `distractor`; Yang et al. 2018,
https://arxiv.org/abs/1809.09600
Licence: CC BY-SA 4.0
At the hub: train 90,447 rows, validation 7,405 (no test labels). Ours: 300 rows, all drawn from validation because the
train split is half a gigabyte: train 75, validation 75, test 150.

    {"id": "5a8b57f2...", "question": "Which of the two rivers is longer?", "answer": "the Aller",
     "context": {"title": ["Aller", "Leine"], "sentences": [["The Aller is ...", " It ..."], ["The Leine is ..."]]}}

becomes Example(id="5a8b57f2...", inputs={"question": ..., "context": "Aller\\nThe Aller is ... It
...\\n\\nLeine\\n..."}, target="the Aller"). `type`, `level` and `supporting_facts` are not read.
"""

from __future__ import annotations

from utils.dataset_specs.base import DatasetSpec, Row, Sizes, Source, text_of
from utils.metrics.exact_match import ExactMatch
from utils.metrics.token_f1 import TokenF1
from utils.prompt import Prompt
from utils.records import Example


def to_example(row: Row) -> Example:
    """The example of one row; ValueError where question, answer or paragraphs are missing."""
    context = row["context"]
    paragraphs = [
        # the hub's sentences keep the space that stood before them
        f"{title}\n{''.join(sentences).strip()}"
        for title, sentences in zip(context["title"], context["sentences"], strict=True)
    ]
    if not paragraphs:
        raise ValueError("column 'context' holds no paragraphs")
    return Example(
        id=text_of(row, "id"),
        inputs={"question": text_of(row, "question"), "context": "\n\n".join(paragraphs)},
        target=text_of(row, "answer"),
    )


SPEC = DatasetSpec(
    name="hotpot_300",
    summary="multi-hop questions over given paragraphs, a few words",
    version=1,
    licence="CC BY-SA 4.0",
    sources=(
        Source(
            hub_id="hotpotqa/hotpot_qa",
            config="distractor",
            revision="1908d6afbbead072334abe2965f91bd2709910ab",
            columns=("id", "question", "answer", "context"),
        ),
    ),
    pools={"train": "validation", "validation": "validation", "test": "validation"},
    sizes=Sizes(train=75, validation=75, test=150),
    prompt=Prompt(
        system="Answer the question using the paragraphs.", user="Paragraphs:\n{context}\n\nQuestion: {question}"
    ),
    metrics=(TokenF1(), ExactMatch()),
    to_example=to_example,
    identity=("question",),
)
