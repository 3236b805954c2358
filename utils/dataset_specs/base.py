"""What a dataset is, and how its rows are loaded and split.

A `DatasetSpec` is a page of facts. Rows come from the hub, from the bundled sample or from a folder, always in the hub's
columns, and go through the same split rule. This module is the one owner of the `datasets` import.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from utils.metrics.base import JudgedMetric, Metric
from utils.prompt import Prompt
from utils.records import Example

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Source:
    """Where rows come from: a dataset of the hub at a fixed revision, and the columns that are read."""

    hub_id: str
    config: str | None
    revision: str
    columns: tuple[str, ...]


@dataclass(frozen=True)
class Sizes:
    """Rows of each split at full size; fewer rows are shared out in the same proportion."""

    train: int
    validation: int
    test: int


@dataclass(frozen=True)
class Splits:
    """Disjoint examples of a dataset, and a hash of them."""

    train: tuple[Example, ...]
    validation: tuple[Example, ...]
    test: tuple[Example, ...]
    data_hash: str


@dataclass(frozen=True)
class DatasetSpec:
    """A named dataset: source, split rule, seed prompt, metrics (the first is the objective)."""

    name: str
    summary: str  # a few words for --list
    version: int  # raised when rows, split or scoring change: scores of two versions are not comparable
    licence: str
    sources: tuple[Source, ...]
    pools: Mapping[str, str]  # our split -> the hub's split that its rows are drawn from
    sizes: Sizes
    prompt: Prompt
    metrics: tuple[Metric | JudgedMetric, ...]
    to_example: Callable[[Row], Example]
