"""The ladder of parses: each rung, and what no rung can stand on."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from optimizers.replies import MalformedReply, misfit, parse
from tests.strategies import json_values, texts

SCHEMA = {
    "type": "object",
    "properties": {
        "system": {"type": "string"},
        "score": {"type": "number"},
        "count": {"type": "integer"},
        "slot": {"type": "string", "enum": ["system", "user"]},
        "edits": {
            "type": "array",
            "minItems": 1,
            "items": {"type": "object", "properties": {"find": {"type": "string"}}, "required": ["find"]},
        },
        "sure": {"type": "boolean"},
    },
    "required": ["system"],
}
WANTED = {"system": 'Say "{question}" [1].'}
TEXT = json.dumps(WANTED)


@pytest.mark.parametrize(
    "reply",
    [
        TEXT,
        f"\n  {TEXT}\n",
        f"Here it is:\n```json\n{TEXT}\n```\nGood luck!",
        f"```\n{TEXT}\n```",
        f"```json\n{json.dumps(WANTED, indent=2)}\n```",
        f"```text\nno\n```\nand\n```json\n{TEXT}\n```",
        f"Sure! {TEXT} Keep {{question}} in it.",
        f"I kept {{question}} as it was. {TEXT}",
        f"As in [1] and [the paper], {{}} I propose: {TEXT}",
        f"Thoughts: [1, 2]\n{TEXT}",
        f"{TEXT} {{'system': 'second'}}",
    ],
    ids=[
        "strict",
        "blanks",
        "fence",
        "bare fence",
        "indented",
        "second fence",
        "first",
        "braces",
        "cites",
        "list",
        "last",
    ],
)
def test_the_object_is_found(reply: str) -> None:
    assert parse(reply, SCHEMA) == WANTED


def test_the_strictest_reading_that_fits_wins() -> None:
    assert parse('{"system": "{\\"system\\": \\"inner\\"}"}', SCHEMA) == {"system": '{"system": "inner"}'}
    assert parse('See {"system": "draft"}:\n```json\n{"system": "final"}\n```', SCHEMA) == {"system": "final"}


def test_braces_inside_a_string_do_not_end_the_object() -> None:
    assert parse('Well: {"system": "a } b { c ] \\" d"} etc.', SCHEMA) == {"system": 'a } b { c ] " d'}


@pytest.mark.parametrize(
    ("reply", "problem"),
    [
        ("", "the reply holds no JSON object"),
        ("I cannot help with that.", "the reply holds no JSON object"),
        ('{"system": "cut o', "the reply holds no JSON object"),
        ("{'system': 'python'}", "the reply holds no JSON object"),
        ("[1, 2]", "the reply is not of type object"),
        ('"text"', "the reply is not of type object"),
        ("null", "the reply is not of type object"),
        ("{}", "the reply has no key 'system'"),
        ('{"system": null}', "the reply.system is not of type string"),
        ('{"system": ["x"]}', "the reply.system is not of type string"),
        ('{"system": "x", "slot": "top"}', "the reply.slot is not one of ['system', 'user']"),
        ('{"system": "x", "edits": []}', "the reply.edits has fewer than 1 items"),
        ('{"system": "x", "edits": [{"find": "a"}, {}]}', "the reply.edits[1] has no key 'find'"),
        ('{"system": "x", "score": true}', "the reply.score is not of type number"),
        ('{"system": "x", "count": false}', "the reply.count is not of type integer"),
        ('{"system": "x", "count": 1.5}', "the reply.count is not of type integer"),
        ('{"system": "x", "sure": 1}', "the reply.sure is not of type boolean"),
    ],
)
def test_what_does_not_fit_is_malformed_and_says_why(reply: str, problem: str) -> None:
    with pytest.raises(MalformedReply) as caught:
        parse(reply, SCHEMA)
    assert str(caught.value) == problem


@pytest.mark.parametrize("constant", ["NaN", "Infinity", "-Infinity"])
def test_a_number_that_is_none_is_malformed(constant: str) -> None:
    with pytest.raises(MalformedReply):
        parse(f'{{"system": "x", "score": {constant}}}', SCHEMA)


@pytest.mark.parametrize(
    "reply", ["[" * 20_000, '{"a":' * 20_000, "{" * 20_000 + TEXT, "```json\n" + "[" * 20_000 + "```"]
)
def test_nesting_beyond_reason_is_malformed_and_no_crash(reply: str) -> None:
    with pytest.raises(MalformedReply):
        parse(reply, SCHEMA)


@given(texts | st.text(st.sampled_from('{}[]",:`\n a1'), max_size=40))
def test_any_text_is_read_or_malformed(text: str) -> None:
    try:
        reply = parse(text, SCHEMA)
    except MalformedReply:
        return
    assert misfit(reply, SCHEMA) == ""


@given(st.dictionaries(st.text(max_size=5), json_values, max_size=3), st.text("abc .!\n", max_size=20))
def test_an_object_is_found_whatever_prose_stands_around_it(value: dict[str, Any], prose: str) -> None:
    text = json.dumps(value)
    if not any(constant in text for constant in ("NaN", "Infinity")):
        assert parse(f"{prose}{text}{prose}", {"type": "object"}) == value
        assert parse(f"{prose}\n```json\n{text}\n```{prose}", {"type": "object"}) == value


@given(json_values)
def test_without_a_form_everything_fits(value: object) -> None:
    assert misfit(value, {}) == ""
