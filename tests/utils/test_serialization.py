"""One codec: `decode` undoes `encode`, refuses what does not fit, and a hash says what it names."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import utils.journal
import utils.records
from benchmark_config import Settings
from tests import strategies
from tests.strategies import json_values, params, same, texts
from utils.errors import UsageError
from utils.journal import Ending, Waste
from utils.prompt import Prompt
from utils.records import Budget, Completion, Forecast, Message, Request, Table, TaskSpec
from utils.serialization import content_hash, decode, dumps, encode, json_schema, loads

ROOT = Path(__file__).parents[2]


class Colour(StrEnum):
    RED = "red"
    BLUE = "blue"


@dataclass(frozen=True)
class Leaf:
    size: int = 0
    weight: float = 0.0


@dataclass(frozen=True)
class Tree:
    """Every kind of field that the records have."""

    name: str
    colour: Colour = Colour.RED
    leaf: Leaf | None = None
    value: int | float | str | None = None
    kind: Literal["a", "b"] = "a"
    pair: tuple[int, str] = (0, "")
    leaves: tuple[Leaf, ...] = ()
    by_name: Mapping[str, Leaf] = field(default_factory=dict)
    tags: frozenset[str] = frozenset()
    numbers: list[float] = field(default_factory=list)
    extra: Any = None


trees = st.builds(
    Tree,
    texts,
    st.sampled_from(Colour),
    st.none() | (leaves := st.builds(Leaf, st.integers(), st.floats())),
    st.none() | st.integers() | st.floats() | texts,
    st.sampled_from(["a", "b"]),
    st.tuples(st.integers(), texts),
    st.lists(leaves, max_size=2).map(tuple),
    st.dictionaries(texts, leaves, max_size=2),
    st.frozensets(texts, max_size=3),
    st.lists(st.floats(), max_size=3),
    json_values,
)


def test_every_record_type_has_a_generator() -> None:
    modules = (utils.records, utils.journal)
    defined = {
        cls
        for module in modules
        for cls in vars(module).values()
        if dataclasses.is_dataclass(cls) and isinstance(cls, type) and cls.__module__ == module.__name__
    }
    assert defined - set(strategies.RECORDS) == {Forecast, Table, Ending, Waste}


@pytest.mark.parametrize("cls", strategies.RECORDS, ids=lambda cls: cls.__name__)
@settings(max_examples=25)
@given(data=st.data())
def test_a_record_comes_back_from_its_text_to_the_bit(cls: type, data: st.DataObject) -> None:
    record = data.draw(strategies.RECORDS[cls])
    text = dumps(record)
    assert same(loads(cls, text), record)
    assert same(loads(cls, text.encode("utf-8", "surrogatepass")), record)
    assert dumps(loads(cls, dumps(record, indent=1))) == text


@given(trees)
def test_unions_enums_literals_and_fixed_tuples_come_back(tree: Tree) -> None:
    assert same(loads(Tree, dumps(tree)), tree)


@given(strategies.task_results)
@settings(max_examples=25)
def test_the_text_is_valid_json_without_nan_and_on_one_line(result: utils.records.TaskResult) -> None:
    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is not JSON")

    text = dumps(result)
    json.loads(text, parse_constant=refuse)
    assert "\n" not in text


@pytest.mark.parametrize(("value", "text"), [(math.nan, "nan"), (math.inf, "inf"), (-math.inf, "-inf")])
def test_what_json_lacks_is_written_as_a_tagged_float(value: float, text: str) -> None:
    assert encode(value) == {"$float": text}
    assert same(decode(float, {"$float": text}), value)


def test_minus_zero_keeps_its_sign() -> None:
    assert math.copysign(1, loads(float, dumps(-0.0))) == -1


def test_an_integer_is_a_number_and_stays_an_integer_where_both_fit() -> None:
    assert same(decode(float, 1), 1.0)
    assert same(decode(Tree, {"name": "", "value": 1}).value, 1)
    assert same(decode(Tree, {"name": "", "value": 1.0}).value, 1.0)


# --------------------------------------------------------------------------- strictness


def refusal(cls: type, value: Any) -> str:
    with pytest.raises(UsageError) as caught:
        decode(cls, value)
    return str(caught.value)


def test_an_unknown_field_is_refused_with_the_nearest_one() -> None:
    message = refusal(Budget, {"task_cals": 3})
    assert "'task_cals'" in message
    assert "did you mean 'task_calls'?" in message


def test_a_missing_field_is_refused_by_name() -> None:
    assert refusal(Message, {"role": "user"}) == "Message: field 'content' is missing"


def test_a_mistyped_field_is_refused_with_its_path() -> None:
    tree = {"name": "", "leaves": [{"size": 1}, {"size": "2"}]}
    assert refusal(Tree, tree) == 'leaves[1].size: expected int, found "2"'
    assert refusal(Tree, {"name": "", "by_name": {"x": {"weight": None}}}).startswith("by_name.x.weight: expected")


@pytest.mark.parametrize(
    ("field_name", "value"),
    [
        ("name", 1),
        ("name", None),
        ("colour", "green"),
        ("colour", ["red"]),
        ("leaf", []),
        ("leaf", 3),
        ("value", [1]),
        ("kind", "c"),
        ("pair", [1]),
        ("pair", [1, "x", 2]),
        ("pair", ["x", 1]),
        ("leaves", {"size": 1}),
        ("leaves", "ab"),
        ("by_name", []),
        ("numbers", ["1"]),
        ("numbers", [{"$float": "large"}]),
        ("numbers", [{"$float": ["nan"]}]),
        ("numbers", [{"$float": None}]),
        ("extra", {"$float": "large"}),
    ],
)
def test_what_does_not_fit_is_a_usage_error(field_name: str, value: Any) -> None:
    assert refusal(Tree, {"name": "", field_name: value})


@pytest.mark.parametrize("cls", [int, float, str])
@pytest.mark.parametrize("value", [True, False])
def test_a_truth_value_is_no_number_and_no_text(cls: type, value: bool) -> None:
    assert refusal(cls, value)


@pytest.mark.parametrize("value", [0, 1, 1.0, "true", None])
def test_a_number_is_no_truth_value(value: Any) -> None:
    assert refusal(bool, value)


def test_a_float_is_no_integer() -> None:
    assert refusal(int, 1.0)


@pytest.mark.parametrize("text", ["", "{", "nope", '{"a": 1'])
def test_what_is_not_json_is_a_usage_error(text: str) -> None:
    with pytest.raises(UsageError, match="not valid JSON"):
        loads(Budget, text)


@given(json_values)
def test_any_json_is_decoded_or_refused_and_never_a_defect(value: Any) -> None:
    for cls in (Tree, Request, TaskSpec, Completion):
        with suppress(UsageError):
            decode(cls, value)


@pytest.mark.parametrize("value", [object(), b"bytes", {1: 2}, {None: 1}])
def test_what_has_no_json_form_is_a_type_error(value: object) -> None:
    with pytest.raises(TypeError):
        dumps(value)


# --------------------------------------------------------------------------- hashes


@given(json_values, json_values)
def test_a_hash_is_injective(first: Any, second: Any) -> None:
    assert (content_hash(first) == content_hash(second)) == same(first, second)


@given(strategies.prompts, strategies.prompts)
def test_prompts_of_one_id_are_equal(first: Prompt, second: Prompt) -> None:
    assert (first.id == second.id) == (first == second)


@given(params)
def test_a_hash_does_not_depend_on_the_order_of_keys(mapping: dict[str, Any]) -> None:
    assert content_hash(dict(reversed(mapping.items()))) == content_hash(mapping)


def test_a_hash_is_the_same_in_every_process() -> None:
    code = (
        "from utils.records import *; from utils.serialization import content_hash;"
        "print(TaskSpec('d', 'o', 'm', 1, {'b': float('nan'), 'a': ['é', None]}).task_id,"
        " content_hash({'x': frozenset('abcdef')}))"
    )
    said = {
        subprocess.run(
            [sys.executable, "-c", code],
            cwd=ROOT,
            env={**os.environ, "PYTHONHASHSEED": seed},
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        for seed in ("1", "2")
    }
    spec = TaskSpec("d", "o", "m", 1, {"b": math.nan, "a": ["é", None]})
    assert said == {f"{spec.task_id} {content_hash({'x': frozenset('abcdef')})}\n"}


def test_a_hash_does_not_change_from_version_to_version() -> None:
    assert content_hash({"b": [1, 2.5, None, True, "é"], "a": math.nan}) == "e837559b7e92ff32"


# --------------------------------------------------------------------------- schema


def test_the_schema_of_the_settings_takes_the_defaults_and_refuses_the_unknown() -> None:
    jsonschema = pytest.importorskip("jsonschema")
    schema = json_schema(Settings)
    jsonschema.validate(encode(Settings()), schema)
    for bad in ({"sedes": [1]}, {"seeds": "1"}, {"test_mode": 3}):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(bad, schema)
