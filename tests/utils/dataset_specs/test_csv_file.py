"""`--dataset-csv FILE`: the same split rule, and messages for files that cannot be one."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest

from utils.dataset_specs.base import Splits, check_prompt, load_splits
from utils.dataset_specs.csv_file import csv_spec
from utils.errors import UsageError
from utils.records import Example

HEADER = "user_input,ground_truth_output\n"


def written(tmp_path: Path, text: str, name: str = "my data.csv", encoding: str = "utf-8") -> Path:
    path = tmp_path / name
    path.write_bytes(text.encode(encoding))
    return path


def all_of(splits: Splits) -> tuple[Example, ...]:
    return (*splits.train, *splits.validation, *splits.test)


def lines(count: int) -> str:
    return "".join(f"input {i},output {i}\n" for i in range(count))


def test_a_file_is_a_dataset_with_disjoint_splits(tmp_path: Path) -> None:
    spec = csv_spec(written(tmp_path, HEADER + lines(20)))
    splits = load_splits(spec, "hub")  # where other datasets come from makes no difference
    assert spec.name == "csv_my_data"
    assert [len(splits.train), len(splits.validation), len(splits.test)] == [5, 5, 10]
    assert len({example.id for example in all_of(splits)}) == 20
    assert all(e.inputs["user_input"].split()[1] == e.target.split()[1] for e in all_of(splits))
    check_prompt(spec.prompt, splits, "the default prompt")


def test_test_mode_gives_five_of_each_split(tmp_path: Path) -> None:
    splits = load_splits(csv_spec(written(tmp_path, HEADER + lines(60))), "sample", test_mode=True)
    assert [len(splits.train), len(splits.validation), len(splits.test)] == [5, 5, 5]


def test_the_target_scores_one_by_the_default_metric(tmp_path: Path) -> None:
    spec = csv_spec(written(tmp_path, HEADER + lines(5)))
    example = load_splits(spec, "hub").test[0]
    assert spec.metrics[0](example, example.target).value == 1.0


def test_other_columns_are_inputs_and_their_names_become_placeholders(tmp_path: Path) -> None:
    text = ",user_input,Reply tone,ground_truth_output\n" + "".join(f"{i},in {i},angry,out\n" for i in range(4))
    assert load_splits(csv_spec(written(tmp_path, text)), "hub").columns == ("user_input", "Reply_tone")


def test_quoted_cells_hold_commas_and_line_breaks(tmp_path: Path) -> None:
    text = HEADER + '"one, two\nthree","say ""hi"""\n' + lines(3)
    examples = all_of(load_splits(csv_spec(written(tmp_path, text)), "hub"))
    assert ("one, two\nthree", 'say "hi"') in {(e.inputs["user_input"], e.target) for e in examples}


def test_a_byte_order_mark_and_windows_line_ends_do_no_harm(tmp_path: Path) -> None:
    path = written(tmp_path, (HEADER + lines(4)).replace("\n", "\r\n"), encoding="utf-8-sig")
    assert len(all_of(load_splits(csv_spec(path), "hub"))) == 4


def test_a_cell_may_be_longer_than_the_standard_limit(tmp_path: Path) -> None:
    path = written(tmp_path, HEADER + lines(4) + "word " * 60_000 + ",long\n")
    assert len(all_of(load_splits(csv_spec(path), "hub"))) == 5


def test_rows_without_an_answer_are_left_out_and_told(tmp_path: Path) -> None:
    splits = load_splits(csv_spec(written(tmp_path, HEADER + lines(4) + "no answer,\n")), "hub")
    assert len(all_of(splits)) == 4
    assert "ground_truth_output" in splits.notes[0]


def test_a_spec_travels_to_another_process(tmp_path: Path) -> None:
    spec = csv_spec(written(tmp_path, HEADER + lines(4)))
    assert load_splits(pickle.loads(pickle.dumps(spec)), "hub") == load_splits(spec, "hub")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("user_input,answer\na,b\n", r"no column 'ground_truth_output'; columns found: user_input, answer"),
        (HEADER, "has no rows"),
        ("", "has no rows"),
        (HEADER + lines(2), "the train split is empty"),
        (HEADER + "same,a\n" * 9, "split is empty"),
        (HEADER + "a,b,c\n", "line 2 has 3 cells, the header has 2"),
        ("user_input,user_input,ground_truth_output\na,b,c\n", "two columns are named 'user_input'"),
        ("user_input,ground_truth_output,target\n" + "a,b,c\n", "column 'target' .* reserved name"),
        (HEADER + 'a,"b\n', "cannot read"),
    ],
)
def test_a_file_that_cannot_be_a_dataset_is_refused(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        load_splits(csv_spec(written(tmp_path, text)), "hub")
    assert "my data.csv" in str(caught.value)
    assert "--data" not in str(caught.value)


def test_a_file_that_is_not_there_or_not_utf8_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"cannot read .*nowhere\.csv"):
        load_splits(csv_spec(tmp_path / "nowhere.csv"), "hub")
    with pytest.raises(UsageError, match="must be a CSV file in UTF-8"):
        load_splits(csv_spec(written(tmp_path, HEADER + "café,b\n", encoding="latin-1")), "hub")


@pytest.mark.parametrize(
    ("split", "sizes"),
    [("", (3, 3, 6)), ("0.5/0.2/0.3", (7, 2, 3)), ("2/1/1", (6, 3, 3)), ("0.98/0.01/0.01", (10, 1, 1))],
)
def test_shares_of_the_splits_can_be_set_and_are_told(tmp_path: Path, split: str, sizes: tuple[int, ...]) -> None:
    file = written(tmp_path, "user_input,ground_truth_output\n" + lines(12))
    splits = load_splits(csv_spec(file, split), "hub")
    assert (len(splits.train), len(splits.validation), len(splits.test)) == sizes
    assert len({example.id for example in all_of(splits)}) == 12
    train, validation, test = sizes
    assert (
        f"csv_my_data: {train} train, {validation} validation and {test} test rows; --split shares them out otherwise"
        in splits.notes
    )


@pytest.mark.parametrize("split", ["half", "0.5/0.5", "1/0/1", "0.5/0.2/nan", "0.5/0.2/inf", "-1/1/1", "1/1/1/1"])
def test_shares_that_are_none_are_refused(tmp_path: Path, split: str) -> None:
    with pytest.raises(UsageError, match="is not three shares above 0"):
        csv_spec(tmp_path / "x.csv", split)
