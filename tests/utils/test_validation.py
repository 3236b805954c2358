"""What people type: lists after one option, names with commas, numbers, and the question before a large run."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from utils.errors import UsageError
from utils.validation import (
    any_number,
    confirm,
    named,
    one_of_seeds,
    refuse_missing_values,
    split_names,
    spread_lists,
    whole_number,
)

LISTS = ("--models", "--seeds")
values = st.sampled_from(["a", "b-c", "-1", "x=1", "1"])
names = st.text("abc_", min_size=1, max_size=4)


@pytest.mark.parametrize(
    ("argv", "spread"),
    [
        ([], []),
        (["--models", "a", "b", "c"], ["--models", "a", "--models", "b", "--models", "c"]),
        (["--models", "a", "--yes", "b"], ["--models", "a", "--yes", "b"]),
        (["--models=a", "b"], ["--models=a", "--models", "b"]),
        (["--seeds", "-1", "-2"], ["--seeds", "-1", "--seeds", "-2"]),
        (["--models", "a", "--models", "b", "c"], ["--models", "a", "--models", "b", "--models", "c"]),
        (["--models", "a", "--seeds", "1", "2"], ["--models", "a", "--seeds", "1", "--seeds", "2"]),
        (["--data", "x", "y"], ["--data", "x", "y"]),
        (["--models"], ["--models"]),
        (["--models", "--yes"], ["--models", "--yes"]),
    ],
)
def test_a_list_after_one_option_is_the_option_again_and_again(argv: list[str], spread: list[str]) -> None:
    assert spread_lists(argv, LISTS) == spread


@given(st.lists(st.tuples(st.sampled_from(LISTS), st.lists(values, min_size=1, max_size=4)), max_size=4))
def test_every_value_comes_after_its_own_option(typed: list[tuple[str, list[str]]]) -> None:
    argv = [word for option, given in typed for word in (option, *given)]
    spread = spread_lists(argv, LISTS)
    assert list(zip(spread[::2], spread[1::2], strict=True)) == [(o, value) for o, given in typed for value in given]


@given(st.lists(values | st.sampled_from([*LISTS, "--yes", "--data"]), max_size=8))
def test_spreading_twice_changes_nothing_more(argv: list[str]) -> None:
    once = spread_lists(argv, LISTS)
    assert spread_lists(once, LISTS) == once


@given(st.lists(names, min_size=1, max_size=5))
def test_commas_and_blanks_part_names_alike(typed: list[str]) -> None:
    assert split_names([",".join(typed)]) == split_names(typed) == tuple(typed)


variants = st.builds(
    lambda name, params: f"{name}:{','.join(f'{key}={value}' for key, value in params)}",
    names,
    st.lists(st.tuples(names, names), min_size=1, max_size=3),
)


@given(st.lists(names | variants, min_size=1, max_size=4))
def test_the_commas_of_a_variant_stay_with_it(typed: list[str]) -> None:
    assert split_names([",".join(typed)]) == tuple(typed)


def test_a_comma_within_quotes_or_brackets_stays_with_its_value() -> None:
    typed = ["a:x='1, 2',y=[3, {z: 4}]", 'b:x="it\'s, well"', "c:x=don't", "d"]
    assert split_names([",".join(typed)]) == tuple(typed)


def test_a_quote_that_nobody_closes_holds_nothing_together() -> None:
    assert split_names(["a:x='1,b"]) == ("a:x='1", "b")


def test_blanks_and_empty_pieces_are_no_names() -> None:
    assert split_names([" a , ,b,", "", ","]) == ("a", "b")


def test_an_option_that_names_nothing_is_refused() -> None:
    with pytest.raises(UsageError, match=r"--models ',' names nothing"):
        named("--models", [","])
    assert named("--models", None) == ()


@pytest.mark.parametrize(
    "argv",
    [
        ["--run-id", ""],
        ["--run-id", "  "],
        ["--run-id="],
        ["--run-id", "--yes"],
        ["--yes", "--run-id"],
        ["--run-id", "--data=x"],
    ],
)
def test_an_option_without_its_value_is_refused(argv: list[str]) -> None:
    with pytest.raises(UsageError, match="--run-id has no value"):
        refuse_missing_values(argv, ["--run-id"])


def test_a_value_may_look_a_little_like_an_option() -> None:
    refuse_missing_values(["--prompt", "--- think ---", "--seed", "-1"], ["--prompt", "--seed"])


@pytest.mark.parametrize("text", ["", "x", "1.5", "1e3", "nan"])
def test_what_is_not_a_whole_number_is_refused_with_the_option(text: str) -> None:
    with pytest.raises(UsageError, match=r"--budget .* is not a whole number"):
        whole_number("--budget", text)


@pytest.mark.parametrize("text", ["", "x", "nan", "inf", "-inf", "1,5"])
def test_what_is_not_a_finite_number_is_refused_with_the_option(text: str) -> None:
    with pytest.raises(UsageError, match=r"--max-cost .* is not a number"):
        any_number("--max-cost", text)


@given(st.integers())
def test_a_number_is_read_as_it_was_typed(value: int) -> None:
    assert whole_number("--seed", str(value)) == value
    assert any_number("--max-cost", "2.5") == 2.5


def test_seeds_come_from_one_option() -> None:
    assert one_of_seeds(3, None) == (3,)
    assert one_of_seeds(None, ["1", "2,3"]) == (1, 2, 3)
    assert one_of_seeds(None, None) == ()
    with pytest.raises(UsageError, match="both given"):
        one_of_seeds(3, ["1"])


@pytest.mark.parametrize(
    ("answer", "says"), [("y", True), (" YES ", True), ("", False), ("n", False), ("yep", False), ("j", False)]
)
def test_only_a_plain_yes_is_a_yes(answer: str, says: bool) -> None:
    assert confirm("Go on?", is_terminal=True, ask=lambda question: answer) is says


def test_where_nobody_can_answer_the_question_is_an_error() -> None:
    with pytest.raises(UsageError, match=r"Go on\? .*--yes"):
        confirm("Go on?", is_terminal=False, ask=lambda question: pytest.fail("asked"))
