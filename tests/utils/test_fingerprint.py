"""What decides a result is hashed: a module, and what it imports of the harness that decides, or of a user's folder."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from itertools import product
from pathlib import Path

import pytest

from benchmark_config import DATASETS, OPTIMIZERS
from benchmark_task import code_of
from utils import fingerprint
from utils.fingerprint import source_of, sources_of
from utils.records import TaskSpec


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A user's own folder, with a metric and a helper of it."""
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "own_metric.py").write_text(
        "import json\nimport own_helper\nimport utils.errors\nfrom utils import prompt\n"
    )
    (tmp_path / "own_helper.py").write_text("")
    yield tmp_path
    for cached in (fingerprint._path, fingerprint._read):
        cached.cache_clear()
    for name in ("own_metric", "own_helper"):
        sys.modules.pop(name, None)


def test_a_task_is_decided_by_its_optimizer_metric_dataset_and_runner() -> None:
    found = code_of(TaskSpec("gsm8k", "thompson", "m", 1, metric="rouge_l"))
    assert {
        "benchmark_task",
        "optimizers.thompson",
        "optimizers.bandit",
        "optimizers.editor",
        "optimizers.problem",
        "utils.dataset_specs.base",
        "utils.dataset_specs.gsm8k",
        "utils.metrics.numeric_match",
        "utils.metrics.rouge_l",
        "utils.prompt",
    } <= found.keys()
    assert not {"optimizers.few_shot", "utils.dataset_specs.medhallu", "utils.archive", "local.venue"} & found.keys()


def test_every_cell_has_a_fingerprint() -> None:
    for dataset, optimizer in product([*DATASETS, "csv"], OPTIMIZERS):
        found = code_of(TaskSpec(dataset, optimizer, "m", 1))
        assert {"benchmark_task", type(OPTIMIZERS[optimizer]).__module__} <= found.keys()


def test_a_users_module_counts_with_those_beside_it(folder: Path) -> None:
    assert sources_of(["own_metric"]).keys() == {"own_metric", "own_helper", "utils.prompt"}


@pytest.mark.parametrize("name", ["own_metric", "own_helper"])
def test_a_change_changes_the_hash_of_its_module_alone(folder: Path, name: str) -> None:
    before = sources_of(["own_metric"])
    with (folder / f"{name}.py").open("a") as file:
        file.write("x = 1\n")
    fingerprint._read.cache_clear()
    after = sources_of(["own_metric"])
    assert [module for module in after if after[module] != before[module]] == [name]


def test_functions_are_hashed_apart_from_the_rest_of_their_module() -> None:
    assert source_of(source_of) != source_of(sources_of)
    assert source_of(source_of) == source_of(source_of)
