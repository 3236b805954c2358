"""RAGBench sentence relevance: does a retrieved sentence help to answer the question?

Source: https://huggingface.co/datasets/wandb/ragbench-sentence-relevance-balanced, made of RAGBench, Friel et al. 2024,
https://arxiv.org/abs/2407.11005
Licence: CC BY 4.0 for RAGBench; the card of this selection was not seen.
Revision: `main`, not pinned, because no commit of this repository is known to us. `data_hash` tells two states of it
apart.
Ours: train 100, validation 100, test 200, each from its namesake.

    {"question": "How do I change the equalizer?", "sentence": "Open Sound, then Equalizer.", "label": 1}

becomes Example(inputs={"question": ..., "sentence": ...}, target="relevant", choices=("relevant", "irrelevant")). A
label may be a number, a truth value or text: its type at the hub was not seen.
"""

from __future__ import annotations

from utils.dataset_specs.base import DatasetSpec, Row, Sizes, Source, text_of
from utils.metrics.label_accuracy import LabelAccuracy
from utils.prompt import Prompt
from utils.records import Example

LABELS = ("relevant", "irrelevant")
READINGS = {
    "1": "relevant",
    "true": "relevant",
    "relevant": "relevant",
    "0": "irrelevant",
    "false": "irrelevant",
    "irrelevant": "irrelevant",
    "not relevant": "irrelevant",
}


def to_example(row: Row) -> Example:
    """The example of one row; ValueError where the label is unknown."""
    label = str(row["label"]).strip().lower().removesuffix(".0")
    if label not in READINGS:
        raise ValueError(f"column 'label' holds {row['label']!r}; known: {', '.join(READINGS)}")
    return Example(
        id="",
        inputs={"question": text_of(row, "question"), "sentence": text_of(row, "sentence")},
        target=READINGS[label],
        choices=LABELS,
    )


SPEC = DatasetSpec(
    name="ragbench_sentence_relevance",
    summary="is a sentence relevant to a question, a label",
    version=1,
    licence="CC BY 4.0 (RAGBench)",
    sources=(
        Source(
            hub_id="wandb/ragbench-sentence-relevance-balanced",
            config=None,
            revision="main",
            columns=("question", "sentence", "label"),
        ),
    ),
    pools={"train": "train", "validation": "validation", "test": "test"},
    sizes=Sizes(train=100, validation=100, test=200),
    prompt=Prompt(
        system="Is the sentence relevant or irrelevant to the question?",
        user="Question: {question}\nSentence: {sentence}",
    ),
    metrics=(LabelAccuracy(labels=LABELS),),
    to_example=to_example,
)
