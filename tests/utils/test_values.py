"""What people write becomes what a plan can hold, or is refused."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from utils.errors import UsageError
from utils.serialization import decode, dumps
from utils.values import DEEPEST, LARGEST, read_value

scalars = st.none() | st.booleans() | st.integers(-LARGEST, LARGEST) | st.floats(allow_nan=False, allow_infinity=False)
texts = st.text(st.characters(exclude_categories=["C"], exclude_characters="\u2028\u2029\x85\ufeff"))
plain = st.recursive(scalars | texts, lambda inner: st.lists(inner) | st.dictionaries(texts, inner), max_leaves=8)


@given(plain)
def test_whatever_json_says_is_read_as_json_means_it(value: Any) -> None:
    assert read_value(json.dumps(value), "x") == value


@given(st.text(max_size=40))
def test_any_text_is_read_into_something_that_a_plan_can_hold_or_refused_in_one_line(text: str) -> None:
    refusal, value = "", None
    try:
        value = read_value(text, "where")
    except UsageError as error:
        refusal = str(error)
    assert not refusal or (refusal.startswith("where: ") and len(refusal) < 600)
    assert decode(object, json.loads(dumps(value))) == value


@pytest.mark.parametrize(
    ("text", "value"),
    [("3", 3), ("on", True), ("1e-3", 0.001), ("a b", "a b"), ("'2026-11-21'", "2026-11-21"), ("[1, 2]", [1, 2])],
)
def test_values_as_they_are_typed(text: str, value: Any) -> None:
    assert read_value(text, "x") == value


def test_nesting_is_read_as_deep_as_it_is_allowed() -> None:
    assert read_value("[" * DEEPEST + "]" * DEEPEST, "x")
    with pytest.raises(UsageError, match="nested more than 20 deep"):
        read_value("[" * (DEEPEST + 1) + "]" * (DEEPEST + 1), "x")


def test_an_alias_bomb_is_refused_before_it_unfolds() -> None:
    lines = ["a0: &a0 [x, x]", *(f"a{i}: &a{i} [*a{i - 1}, *a{i - 1}]" for i in range(1, 40))]
    with pytest.raises(UsageError, match=r"it holds the alias '\*a0'; write the value out"):
        read_value("\n".join(lines), "x")


def test_a_refusal_names_the_place_within_the_value() -> None:
    with pytest.raises(UsageError, match="--config: a: b: inf is not a finite number"):
        read_value("{a: {b: [1, .inf]}}", "--config")
