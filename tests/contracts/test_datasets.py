"""What every dataset keeps, on the bundled sample and on real rows where they are at hand.

1. splits are disjoint by normalised input and ids are unique    2. every placeholder of the seed prompt is a column
3. the target scores 1.0 by the objective                        4. targets are among the choices, where there are any
5. the sample has at least 36 rows; test mode gives 5 a split    6. names, columns and revisions are well formed
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from benchmark_config import DATASETS
from utils.dataset_specs.base import SAMPLE, TEST_MODE_SIZE, DatasetSpec, Splits, check_prompt, example_key, load_splits
from utils.metrics.base import Metric
from utils.records import Example

REAL = Path(__file__).parents[2].parent / "shared" / "data"

every_dataset = pytest.mark.parametrize("spec", DATASETS.values(), ids=DATASETS.keys())
on_sample_and_real_rows = pytest.mark.parametrize("origin", ["sample", "real"])


def rows_of(spec: DatasetSpec, origin: str) -> Splits:
    if origin == "sample":
        return load_splits(spec, "sample")
    if not (REAL / spec.name).is_dir():
        pytest.skip(f"no real rows of {spec.name} beside this checkout")
    return load_splits(spec, str(REAL))


def all_of(splits: Splits) -> tuple[Example, ...]:
    return (*splits.train, *splits.validation, *splits.test)


@every_dataset
def test_the_table_names_a_dataset_as_its_spec_does(spec: DatasetSpec) -> None:
    assert DATASETS[spec.name] is spec
    assert set(spec.pools) == {"train", "validation", "test"}
    assert spec.version >= 1
    assert spec.licence
    assert len(spec.summary.split()) <= 12


@every_dataset
def test_a_revision_is_a_full_commit_or_the_loss_is_told(spec: DatasetSpec) -> None:
    for source in spec.sources:
        assert re.fullmatch("[0-9a-f]{40}|main", source.revision)


@every_dataset
@on_sample_and_real_rows
def test_splits_are_disjoint_and_ids_unique(spec: DatasetSpec, origin: str) -> None:
    examples = all_of(rows_of(spec, origin))
    assert len({example_key(spec, example) for example in examples}) == len(examples)
    assert len({example.id for example in examples}) == len(examples)
    assert all(example.id for example in examples)


@every_dataset
@on_sample_and_real_rows
def test_the_seed_prompt_names_columns_that_exist(spec: DatasetSpec, origin: str) -> None:
    splits = rows_of(spec, origin)
    check_prompt(spec.prompt, splits, f"the seed prompt of {spec.name}")
    assert spec.prompt.placeholders, "a prompt that names no column sees no row"
    assert all(re.fullmatch("[a-z_]+", name) for name in splits.columns)
    assert all(set(example.inputs) == set(splits.columns) for example in all_of(splits))


@every_dataset
@on_sample_and_real_rows
def test_the_target_scores_one(spec: DatasetSpec, origin: str) -> None:
    objective = spec.metrics[0]
    assert isinstance(objective, Metric)
    for example in all_of(rows_of(spec, origin)):
        assert objective(example, example.target).value == 1.0, (example.id, example.target)


@every_dataset
@on_sample_and_real_rows
def test_a_target_is_one_of_its_choices(spec: DatasetSpec, origin: str) -> None:
    for example in all_of(rows_of(spec, origin)):
        if example.choices:
            assert example.target in example.choices
            assert len(set(example.choices)) == len(example.choices) > 1


@every_dataset
def test_no_answer_to_everything_is_right_in_the_sample(spec: DatasetSpec) -> None:
    targets = [example.target for example in all_of(load_splits(spec, "sample"))]
    assert max(map(targets.count, targets)) <= 0.65 * len(targets)


@every_dataset
def test_the_sample_has_rows_enough_and_all_are_used(spec: DatasetSpec) -> None:
    splits = load_splits(spec, "sample")
    files = (SAMPLE / spec.name / (spec.sources[0].config or "")).glob("*.jsonl")
    if len(spec.sources) == 1:
        files = (SAMPLE / spec.name).glob("*.jsonl")
    in_files = sum(path.read_bytes().count(b"\n") for path in files)
    assert in_files >= 36
    assert len(all_of(splits)) == in_files, splits.notes
    assert splits.notes == (f"{spec.name}: the rows are the bundled sample, not the hub's",)


@every_dataset
def test_test_mode_gives_five_examples_a_split(spec: DatasetSpec) -> None:
    splits = load_splits(spec, "sample", test_mode=True)
    assert [len(splits.train), len(splits.validation), len(splits.test)] == [TEST_MODE_SIZE] * 3


@every_dataset
def test_loading_twice_gives_the_same(spec: DatasetSpec) -> None:
    assert load_splits(spec, "sample") == load_splits(spec, "sample")
