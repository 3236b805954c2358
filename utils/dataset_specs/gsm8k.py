"""GSM8K: grade school word problems, answered with a number.

Source: https://huggingface.co/datasets/openai/gsm8k, config `main`; Cobbe et al. 2021, https://arxiv.org/abs/2110.14168
Licence: MIT
At the hub: train 7,473 rows, test 1,319. Ours: train 100 and validation 100 from train, test 200 from test.

    {"question": "A crate holds 24 jars. How many jars are in 3 crates?",
     "answer": "Three crates hold 24*3 = <<24*3=72>>72 jars.\\n#### 72"}

becomes Example(inputs={"question": "A crate holds ..."}, target="72"). The solution text before `####` is not used. The
number is read as in the official code (openai/grade-school-math, `dataset.py`): after `####`, commas removed.
"""

from __future__ import annotations

import re

from utils.dataset_specs.base import DatasetSpec, Row, Sizes, Source, text_of
from utils.metrics.numeric_match import NumericMatch
from utils.prompt import Prompt
from utils.records import Example

ANSWER = re.compile(r"#### *\$?(-?[0-9.,]+)")


def to_example(row: Row) -> Example:
    """The example of one row; ValueError where no number follows `####`."""
    found = ANSWER.search(text_of(row, "answer"))
    if found is None:
        raise ValueError("no number after '####' in column 'answer'")
    target = found[1].replace(",", "").rstrip(".")
    float(target)
    return Example(id="", inputs={"question": text_of(row, "question")}, target=target)


SPEC = DatasetSpec(
    name="gsm8k",
    summary="grade school word problems, a number",
    version=1,
    licence="MIT",
    sources=(
        Source(
            hub_id="openai/gsm8k",
            config="main",
            revision="e53f048856ff4f594e959d75785d2c2d37b678ee",
            columns=("question", "answer"),
        ),
    ),
    pools={"train": "train", "validation": "train", "test": "test"},
    sizes=Sizes(train=100, validation=100, test=200),
    prompt=Prompt(system="Solve the math problem.", user="{question}"),
    metrics=(NumericMatch(),),
    to_example=to_example,
)
