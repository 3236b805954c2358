"""A CSV file as a dataset: `--dataset-csv FILE`.

Columns `user_input` and `ground_truth_output`; every other column with a name is an input too, for templates that
name it. One pool, split by the same rule as any dataset: 100 train, 100 validation and 200 test rows, or as many in
that proportion as the file has. `--split 0.5/0.2/0.3` shares out 400 rows, or as many as there are, otherwise.

    user_input,ground_truth_output,tone
    "Where is my parcel?",shipping,angry

becomes Example(inputs={"user_input": "Where is my parcel?", "tone": "angry"}, target="shipping").
"""

from __future__ import annotations

import math
import re
from pathlib import Path

from utils.dataset_specs.base import DatasetSpec, Row, Sizes, Source, text_of
from utils.errors import UsageError, cut
from utils.metrics.exact_match import ExactMatch
from utils.prompt import Prompt
from utils.records import Example

INPUT = "user_input"
OUTPUT = "ground_truth_output"


ROWS = 400  # at most, over the three splits
DEFAULT_SPLIT = "0.25/0.25/0.5"


def csv_spec(path: str | Path, split: str = "") -> DatasetSpec:
    """The dataset `csv_<file name>`; the file is read when its rows are loaded. Raises UsageError for a bad `split`."""
    stem = re.sub(r"\W+", "_", Path(path).stem, flags=re.ASCII).strip("_").lower()
    return DatasetSpec(
        name=f"csv_{stem or 'file'}",
        summary=f"rows of {Path(path).name}",
        version=1,
        licence="your own",
        sources=(Source(hub_id="", config=None, revision="", columns=(INPUT, OUTPUT), path=str(path)),),
        pools={"train": "rows", "validation": "rows", "test": "rows"},
        sizes=_sizes(split or DEFAULT_SPLIT),
        prompt=Prompt(user="{user_input}"),
        metrics=(ExactMatch(),),
        to_example=to_example,
    )


def _sizes(split: str) -> Sizes:
    """Rows of each split by three shares; they need not add up to 1."""
    try:
        shares = [float(part) for part in split.split("/")]
    except ValueError:
        shares = []
    if len(shares) != 3 or not all(0 < share < math.inf for share in shares):
        raise UsageError(
            f"--split {cut(split)!r} is not three shares above 0; write train/validation/test, as in {DEFAULT_SPLIT}"
        )
    train, validation, test = (max(1, round(ROWS * share / sum(shares))) for share in shares)
    return Sizes(train, validation, test)


def to_example(row: Row) -> Example:
    """The example of one line; ValueError where the input or the expected output is empty."""
    target = text_of(row, OUTPUT)
    text_of(row, INPUT)
    return Example(id="", inputs={name: text for name, text in row.items() if name != OUTPUT}, target=target)
