"""RAG hallucinations: is an answer hallucinated, or does its context support it?

Source: https://huggingface.co/datasets/aporia-ai/rag_hallucinations
Licence: none stated on the card that we know of; do not republish rows.
Revision: `main`, not pinned, because no commit of this repository is known to us. `data_hash` tells two states of it
apart.
At the hub: train 1,000 rows, of them 309 hallucinated by public accounts. Ours, all from it: train 100, validation 100,
test 200. The labels are not balanced, so "no" for everything scores near 0.69.

    {"context": "The bridge opened in 1931.", "question": "When did it open?", "answer": "In 1913.",
     "is_hallucination": true}

becomes Example(inputs={"context": ..., "question": ..., "answer": ...}, target="yes", choices=("yes", "no")). The
label may be a truth value, a number or text: its type at the hub was not seen.
"""

from __future__ import annotations

from utils.dataset_specs.base import DatasetSpec, Row, Sizes, Source, text_of
from utils.metrics.label_accuracy import LabelAccuracy
from utils.prompt import Prompt
from utils.records import Example

LABELS = ("yes", "no")
READINGS = {"true": "yes", "1": "yes", "yes": "yes", "false": "no", "0": "no", "no": "no"}


def to_example(row: Row) -> Example:
    """The example of one row; ValueError where the label is unknown or a text is missing."""
    label = str(row["is_hallucination"]).strip().lower().removesuffix(".0")
    if label not in READINGS:
        raise ValueError(f"column 'is_hallucination' holds {row['is_hallucination']!r}; known: {', '.join(READINGS)}")
    return Example(
        id="",
        inputs={name: text_of(row, name) for name in ("context", "question", "answer")},
        target=READINGS[label],
        choices=LABELS,
    )


SPEC = DatasetSpec(
    name="rag_hallucinations",
    summary="is an answer supported by its context, yes or no",
    version=1,
    licence="not stated",
    sources=(
        Source(
            hub_id="aporia-ai/rag_hallucinations",
            config=None,
            revision="main",
            columns=("context", "question", "answer", "is_hallucination"),
        ),
    ),
    pools={"train": "train", "validation": "train", "test": "train"},
    sizes=Sizes(train=100, validation=100, test=200),
    prompt=Prompt(
        system="Is the answer a hallucination? Say yes or no.",
        user="Context:\n{context}\n\nQuestion: {question}\nAnswer: {answer}",
    ),
    metrics=(LabelAccuracy(labels=LABELS),),
    to_example=to_example,
)
