"""A CSV file as a dataset: `--dataset-csv FILE`.

Columns `user_input` and `ground_truth_output`; every other column with a name is an input too, for templates that
name it. One pool, split by the same rule as any dataset: 100 train, 100 validation and 200 test rows, or as many in
that proportion as the file has.

    user_input,ground_truth_output,tone
    "Where is my parcel?",shipping,angry

becomes Example(inputs={"user_input": "Where is my parcel?", "tone": "angry"}, target="shipping").
"""

from __future__ import annotations

import re
from pathlib import Path

from utils.dataset_specs.base import DatasetSpec, Row, Sizes, Source, text_of
from utils.metrics.exact_match import ExactMatch
from utils.prompt import Prompt
from utils.records import Example

INPUT = "user_input"
OUTPUT = "ground_truth_output"


def csv_spec(path: str | Path) -> DatasetSpec:
    """The dataset `csv_<file name>`; the file is read when its rows are loaded."""
    stem = re.sub(r"\W+", "_", Path(path).stem, flags=re.ASCII).strip("_").lower()
    return DatasetSpec(
        name=f"csv_{stem or 'file'}",
        summary=f"rows of {Path(path).name}",
        version=1,
        licence="your own",
        sources=(Source(hub_id="", config=None, revision="", columns=(INPUT, OUTPUT), path=str(path)),),
        pools={"train": "rows", "validation": "rows", "test": "rows"},
        sizes=Sizes(train=100, validation=100, test=200),
        prompt=Prompt(user="{user_input}"),
        metrics=(ExactMatch(),),
        to_example=to_example,
    )


def to_example(row: Row) -> Example:
    """The example of one line; ValueError where the input or the expected output is empty."""
    target = text_of(row, OUTPUT)
    text_of(row, INPUT)
    return Example(id="", inputs={name: text for name, text in row.items() if name != OUTPUT}, target=target)
