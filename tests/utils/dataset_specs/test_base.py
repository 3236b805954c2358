"""The split rule, the layout of a folder, and what is refused."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from utils.dataset_specs.base import (
    TEST_MODE_SIZE,
    DatasetSpec,
    Row,
    Sizes,
    Source,
    Splits,
    check_prompt,
    example_key,
    load_splits,
    normalise,
    text_of,
)
from utils.errors import UsageError
from utils.metrics.exact_match import ExactMatch
from utils.prompt import Demo, Prompt
from utils.records import Example
from utils.serialization import dumps, loads

ROOT = Path(__file__).parents[3]


def to_example(row: Row) -> Example:
    return Example(str(row.get("id", "")), {"question": text_of(row, "question")}, text_of(row, "answer"))


def spec(**changes: Any) -> DatasetSpec:
    """A dataset of questions and answers; one pool unless told otherwise."""
    facts: dict[str, Any] = {
        "name": "toy",
        "summary": "questions",
        "version": 1,
        "licence": "ours",
        "sources": (Source("someone/toy", "main", "0" * 40, ("question", "answer")),),
        "pools": {"train": "all", "validation": "all", "test": "all"},
        "sizes": Sizes(train=10, validation=10, test=20),
        "prompt": Prompt(user="{question}"),
        "metrics": (ExactMatch(),),
        "to_example": to_example,
    }
    return DatasetSpec(**{**facts, **changes})


def folder(root: str | Path, pools: Mapping[str, Iterable[Mapping[str, Any]]]) -> str:
    """A data folder that holds the rows of each pool of `toy`."""
    for pool, rows in pools.items():
        path = Path(root) / "toy" / f"{pool}.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), "utf-8", newline="\n")
    return str(root)


def rows(count: int) -> list[dict[str, str]]:
    return [{"question": f"question {i}", "answer": f"answer {i}"} for i in range(count)]


def everything(splits: Splits) -> tuple[Example, ...]:
    return (*splits.train, *splits.validation, *splits.test)


# --------------------------------------------------------------------------- the split rule

SPELLINGS = st.sampled_from(
    ["ß", "SS", "é", "e\u0301", "Two  words", "two words\n", "a", "A ", "b", "c", "d", "e", "f"]
)
ROWS = st.lists(
    st.fixed_dictionaries({"question": SPELLINGS, "answer": st.sampled_from("xyz")}), min_size=1, max_size=12
)


@settings(max_examples=60)
@given(train=ROWS, test=ROWS)
def test_a_duplicate_never_straddles_two_splits(train: list[dict[str, str]], test: list[dict[str, str]]) -> None:
    toy = spec(pools={"train": "train", "validation": "train", "test": "test"}, sizes=Sizes(2, 2, 3))
    with tempfile.TemporaryDirectory() as root:
        try:
            splits = load_splits(toy, folder(root, {"train": train, "test": test}))
        except UsageError:  # what test took may leave nothing for train
            return
    keys = [example_key(toy, example) for example in everything(splits)]
    assert len(set(keys)) == len(keys)


@settings(max_examples=60)
@given(data=st.data(), pool=ROWS)
def test_splits_do_not_depend_on_row_order(data: st.DataObject, pool: list[dict[str, str]]) -> None:
    pool = pool + rows(3)
    shuffled = data.draw(st.permutations(pool))
    with tempfile.TemporaryDirectory() as one, tempfile.TemporaryDirectory() as two:
        assert load_splits(spec(), folder(one, {"all": pool})) == load_splits(spec(), folder(two, {"all": shuffled}))


def test_full_pools_give_the_sizes_of_the_spec(tmp_path: Path) -> None:
    splits = load_splits(spec(), folder(tmp_path, {"all": rows(100)}))
    assert [len(splits.train), len(splits.validation), len(splits.test)] == [10, 10, 20]


def test_a_small_pool_is_shared_out_in_proportion(tmp_path: Path) -> None:
    splits = load_splits(spec(), folder(tmp_path, {"all": rows(20)}))
    assert [len(splits.train), len(splits.validation), len(splits.test)] == [5, 5, 10]


def test_three_rows_are_one_for_each_split(tmp_path: Path) -> None:
    splits = load_splits(spec(), folder(tmp_path, {"all": rows(3)}))
    assert [len(splits.train), len(splits.validation), len(splits.test)] == [1, 1, 1]


def test_a_row_added_to_the_pool_moves_no_row_between_full_splits_and_rest(tmp_path: Path) -> None:
    before = load_splits(spec(), folder(tmp_path / "a", {"all": rows(200)}))
    after = load_splits(spec(), folder(tmp_path / "b", {"all": rows(201)}))
    assert len({e.id for e in everything(before)} - {e.id for e in everything(after)}) <= 1


def test_test_mode_is_the_first_five_of_each_split(tmp_path: Path) -> None:
    data = folder(tmp_path, {"all": rows(100)})
    full, small = load_splits(spec(), data), load_splits(spec(), data, test_mode=True)
    assert small.train == full.train[:TEST_MODE_SIZE]
    assert small.validation == full.validation[:TEST_MODE_SIZE]
    assert small.test == full.test[:TEST_MODE_SIZE]
    assert TEST_MODE_SIZE == 5
    assert small.data_hash != full.data_hash


def test_the_data_hash_follows_the_content(tmp_path: Path) -> None:
    one = load_splits(spec(), folder(tmp_path / "a", {"all": rows(9)}))
    same = load_splits(spec(), folder(tmp_path / "b", {"all": rows(9)}))
    other = load_splits(
        spec(), folder(tmp_path / "c", {"all": [*rows(8), {"question": "question 8", "answer": "new"}]})
    )
    assert one.data_hash == same.data_hash != other.data_hash


def test_an_id_of_the_row_is_kept_if_all_are_unique(tmp_path: Path) -> None:
    named = [{**row, "id": f"r{i}"} for i, row in enumerate(rows(9))]
    ids = {example.id for example in everything(load_splits(spec(), folder(tmp_path, {"all": named})))}
    assert ids == {f"r{i}" for i in range(9)}


@pytest.mark.parametrize("extra", [{}, {"id": "same"}])
def test_without_a_unique_id_the_id_is_a_hash_of_the_input(tmp_path: Path, extra: dict[str, str]) -> None:
    toy = spec()
    splits = load_splits(toy, folder(tmp_path, {"all": [{**row, **extra} for row in rows(9)]}))
    assert all(example.id == example_key(toy, example)[:12] for example in everything(splits))
    assert len({example.id for example in everything(splits)}) == 9


def test_identity_names_the_inputs_that_make_a_row(tmp_path: Path) -> None:
    def with_context(row: Row) -> Example:
        return Example("", {"question": text_of(row, "question"), "context": text_of(row, "context")}, "x")

    pool = [{"question": f"q{i % 4}", "context": f"c{i}", "answer": "x"} for i in range(8)]
    data = folder(tmp_path, {"all": pool})
    assert len(everything(load_splits(spec(to_example=with_context), data))) == 8
    assert len(everything(load_splits(spec(to_example=with_context, identity=("question",)), data))) == 4


def test_normal_form_ignores_case_spaces_and_composition() -> None:
    assert normalise("  STRASSE\u2028 Cafe\u0301 ") == normalise("straße café")


def test_splits_can_be_written_down_and_read_back(tmp_path: Path) -> None:
    splits = load_splits(spec(), folder(tmp_path, {"all": rows(9)}))
    assert loads(Splits, dumps(splits)) == splits


# --------------------------------------------------------------------------- rows and files


def test_u2028_inside_a_row_does_not_split_it(tmp_path: Path) -> None:
    strange = {"question": "before\u2028after\u0085end\x1cstop", "answer": "yes"}
    splits = load_splits(spec(), folder(tmp_path, {"all": [strange, *rows(5)]}))
    assert strange["question"] in {example.inputs["question"] for example in everything(splits)}


def test_a_config_folder_is_read_before_the_dataset_folder(tmp_path: Path) -> None:
    folder(tmp_path, {"all": rows(9)})
    (tmp_path / "toy" / "main").mkdir()
    (tmp_path / "toy" / "all.jsonl").rename(tmp_path / "toy" / "main" / "all.jsonl")
    assert len(everything(load_splits(spec(), str(tmp_path)))) == 9


def test_rows_that_cannot_be_used_are_left_out_and_told(tmp_path: Path) -> None:
    splits = load_splits(spec(), folder(tmp_path, {"all": [*rows(9), {"question": " ", "answer": "x"}]}))
    assert len(everything(splits)) == 9
    assert any("1 rows of" in note and "column 'question' holds no text" in note for note in splits.notes)


def test_two_sources_are_joined_on_a_column_whatever_their_order(tmp_path: Path) -> None:
    def joined(row: Row) -> Example:
        return Example("", {"question": text_of(row, "question"), "hint": text_of(row, "hint")}, text_of(row, "answer"))

    toy = spec(
        sources=(
            Source("someone/toy", "one", "0" * 40, ("question", "answer")),
            Source("someone/toy", "two", "0" * 40, ("question", "hint")),
        ),
        to_example=joined,
        join="question",
    )
    hints = [{"question": f" Question {i}", "hint": f"hint {i}"} for i in reversed(range(8))]
    for config, part in (("one", rows(9)), ("two", hints)):
        (tmp_path / "toy" / config).mkdir(parents=True)
        (tmp_path / "toy" / config / "all.jsonl").write_text("\n".join(map(json.dumps, part)), "utf-8")
    splits = load_splits(toy, str(tmp_path))
    assert len(everything(splits)) == 8
    assert all(example.inputs["hint"].split()[1] == example.target.split()[1] for example in everything(splits))
    assert any("no partner" in note for note in splits.notes)


def test_a_folder_that_says_it_stands_in_is_told(tmp_path: Path) -> None:
    data = folder(tmp_path, {"all": rows(9)})
    (tmp_path / "toy" / "STANDIN").write_text("made up")
    assert any("stand in" in note for note in load_splits(spec(), data).notes)


# --------------------------------------------------------------------------- what is refused


def refused(toy: DatasetSpec, data: str) -> str:
    with pytest.raises(UsageError) as caught:
        load_splits(toy, data)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_a_missing_column_is_named_with_the_columns_found(tmp_path: Path) -> None:
    message = refused(spec(), folder(tmp_path, {"all": [{"Question": "a", "answer": "b"}]}))
    assert "no column 'question'" in message
    assert "columns found: Question, answer" in message
    assert "--data sample" in message


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    message = refused(spec(), folder(tmp_path, {"other": rows(3)}))
    assert str(tmp_path / "toy" / "all.jsonl") in message
    assert "--data sample" in message


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    assert "no such folder; known: hub, sample" in refused(spec(), str(tmp_path / "nowhere"))


def test_an_empty_file_is_refused(tmp_path: Path) -> None:
    assert "has no rows" in refused(spec(), folder(tmp_path, {"all": []}))


def test_an_empty_split_is_refused(tmp_path: Path) -> None:
    message = refused(spec(), folder(tmp_path, {"all": rows(2)}))
    assert "the train split is empty" in message
    assert "has 2 rows" in message


@pytest.mark.parametrize("line", ["{", "[1]", '"text"'])
def test_a_line_that_is_no_json_object_is_named(tmp_path: Path, line: str) -> None:
    data = folder(tmp_path, {"all": rows(3)})
    with (tmp_path / "toy" / "all.jsonl").open("a") as file:
        file.write(line)
    assert "row 4 is not" in refused(spec(), data)


def test_a_file_that_is_not_utf8_is_refused(tmp_path: Path) -> None:
    data = folder(tmp_path, {"all": rows(3)})
    (tmp_path / "toy" / "all.jsonl").write_bytes(b'{"question": "caf\xe9"}')
    assert "must be UTF-8" in refused(spec(), data)


@pytest.mark.parametrize("name", ["demos", "target"])
def test_a_column_with_a_reserved_name_is_refused(tmp_path: Path, name: str) -> None:
    toy = spec(to_example=lambda row: Example("", {name: text_of(row, "question")}, "x"))
    assert f"column '{name}'" in refused(toy, folder(tmp_path, {"all": rows(3)}))


def test_mostly_unusable_rows_are_refused_with_the_first_reason(tmp_path: Path) -> None:
    bad = [{"question": "a", "answer": 7}] * 5
    message = refused(spec(), folder(tmp_path, {"all": [*bad, *rows(4)]}))
    assert "5 of 9 rows" in message
    assert "column 'answer' holds no text" in message


def test_a_placeholder_without_a_column_is_named_with_the_nearest(tmp_path: Path) -> None:
    splits = load_splits(spec(), folder(tmp_path, {"all": rows(3)}))
    check_prompt(Prompt(system='{"json": 1} {demos}', user="{question}"), splits, "--prompt")
    with pytest.raises(UsageError, match=r"--prompt-file p.txt: .*'\{quest\}'; did you mean '\{question\}'\?"):
        check_prompt(Prompt(user="{quest}"), splits, "--prompt-file p.txt")


def test_the_expected_answer_may_be_named_in_a_demo_template_only() -> None:
    demo = Demo("1", {"question": "q"}, "a")
    check_prompt(Prompt(user="{question}", demos=(demo,), demo_template="{question} {target}"), ["question"], "seed")
    with pytest.raises(UsageError, match="target"):
        check_prompt(Prompt(user="{question} {target}"), ["question"], "seed")


def test_heavy_packages_are_not_imported_before_the_hub_is_asked() -> None:
    code = (
        "import sys; from utils.dataset_specs import base, csv_file, cnn_dailymail;"
        "base.load_splits(cnn_dailymail.SPEC, 'sample');"
        "print([m for m in ('datasets', 'pandas', 'pyarrow', 'huggingface_hub', 'numpy') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
