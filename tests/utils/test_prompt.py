"""A prompt becomes messages in one pass, and data is never read as a template."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.strategies import COLUMNS, TRICKY, demos, prompts, rows, texts
from utils.prompt import DEMOS, PLACEHOLDER, Demo, Prompt, diff, fill
from utils.records import Message

ONE = Demo("t1", {"question": "2+2?"}, "4")
TWO = Demo("t2", {"question": "3+3?"}, "6")


def said(prompt: Prompt, **inputs: str) -> list[tuple[str, str]]:
    return [(message.role, message.content) for message in prompt.render(inputs)]


# --------------------------------------------------------------------------- substitution


def test_a_json_literal_in_a_template_survives() -> None:
    template = 'Reply as {"answer": {"value": 0}, "why": "{question}"}'
    assert fill(template, {"question": "q"}) == 'Reply as {"answer": {"value": 0}, "why": "q"}'


def test_braces_in_data_survive() -> None:
    assert said(Prompt(user="{question}"), question='{"a": {x}} {{y}}') == [("user", '{"a": {x}} {{y}}')]


def test_a_placeholder_in_data_is_not_filled_again() -> None:
    prompt = Prompt(system="{context}", user="{question}")
    inputs = {"context": "{question} {demos}", "question": "{context}"}
    assert said(prompt, **inputs) == [("system", "{question} {demos}"), ("user", "{context}")]


def test_an_unknown_placeholder_stays_as_it_is() -> None:
    assert said(Prompt(user="{question} {other} {0} {} {a b}"), question="q") == [("user", "q {other} {0} {} {a b}")]


@given(st.lists(st.sampled_from([*TRICKY, "text ", "{context}"])).map("".join), rows)
def test_every_known_placeholder_is_filled_once_and_nothing_else_changes(template: str, row: dict[str, str]) -> None:
    parts = PLACEHOLDER.split(template)  # texts at even places, names at odd ones
    expected = "".join(part if place % 2 == 0 else row.get(part, f"{{{part}}}") for place, part in enumerate(parts))
    assert fill(template, row) == expected


@given(texts)
def test_a_template_without_values_stays_as_it_is(template: str) -> None:
    assert fill(template, {}) == template


# --------------------------------------------------------------------------- messages


def test_the_output_text_stands_after_the_input() -> None:
    prompt = Prompt(user="{question}", output="Say only the {context}.")
    assert said(prompt, question="q", context="c") == [("user", "q\n\nSay only the c.")]


def test_without_a_system_text_there_is_no_system_message() -> None:
    assert said(Prompt(user="x")) == [("user", "x")]


@given(prompts, rows)
def test_messages_are_an_optional_system_text_and_the_input(prompt: Prompt, row: dict[str, str]) -> None:
    roles = [message.role for message in prompt.render(row)]
    assert roles in (["user"], ["system", "user"])
    assert all(message.content for message in prompt.render(row) if message.role == "system")


@given(prompts, rows)
def test_rendering_is_a_function_of_prompt_and_row(prompt: Prompt, row: dict[str, str]) -> None:
    assert prompt.render(row) == prompt.render(dict(reversed(row.items())))


@given(texts, st.lists(demos, min_size=1, max_size=2))
def test_adding_demos_leaves_the_system_text_as_it_is(system: str, shown: list[Demo]) -> None:
    prompt = Prompt(system=system.replace("{", ""), user="x")
    (_, before), (_, after) = ("", prompt.system), said(prompt.with_demos(shown))[0]
    assert after.startswith(before)


# --------------------------------------------------------------------------- demos


def test_demos_without_a_slot_stand_at_the_end_of_the_system_text() -> None:
    prompt = Prompt(system="Add.", user="{question}", demos=(ONE, TWO))
    system = "Add.\n\nquestion: 2+2?\nAnswer: 4\n\nquestion: 3+3?\nAnswer: 6"
    assert said(prompt, question="1+1?") == [("system", system), ("user", "1+1?")]


def test_demos_without_a_system_text_become_one() -> None:
    assert said(Prompt(user="x", demos=(ONE,))) == [("system", "question: 2+2?\nAnswer: 4"), ("user", "x")]


def test_demos_fill_their_slot_and_stand_nowhere_else() -> None:
    shown = "question: 2+2?\nAnswer: 4"
    assert said(Prompt("a {demos} b", "x", demos=(ONE,))) == [("system", f"a {shown} b"), ("user", "x")]
    assert said(Prompt("a", "{demos}\nx", demos=(ONE,))) == [("system", "a"), ("user", f"{shown}\nx")]


def test_a_slot_without_demos_is_empty() -> None:
    assert said(Prompt("a{demos}", "x")) == [("system", "a"), ("user", "x")]


def test_a_slot_in_the_output_text_is_none() -> None:
    messages = said(Prompt("a", "x", "{demos}", demos=(ONE,)))
    assert "".join(content for _, content in messages).count("2+2?") == 1


def test_a_demo_template_shows_inputs_and_target_in_its_own_form() -> None:
    prompt = Prompt("{demos}", "x", demos=(ONE,), demo_template='{"q": "{question}", "a": "{target}"}')
    assert said(prompt)[0] == ("system", '{"q": "2+2?", "a": "4"}')


def test_a_placeholder_in_a_demo_is_not_filled() -> None:
    demo = Demo("t", {"question": "{target} {context}"}, "{question}")
    prompt = Prompt("{demos}", "{context}", demos=(demo,), demo_template="{question}|{target}")
    assert said(prompt, context="c") == [("system", "{target} {context}|{question}"), ("user", "c")]


def test_a_demo_shows_columns_whose_names_no_placeholder_can_have() -> None:
    demo = Demo("t", {"my tone": "dry", "user_input": "hi"}, "bye")
    assert said(Prompt("", "x", demos=(demo,)))[0] == ("system", "my tone: dry\nuser_input: hi\nAnswer: bye")


@given(st.lists(demos, min_size=1, max_size=3), st.booleans())
def test_every_demo_is_shown_once(shown: list[Demo], slot: bool) -> None:
    marked = [replace(demo, target=f"<<{place}>>") for place, demo in enumerate(shown)]
    prompt = Prompt("{demos}" if slot else "", "x", demos=tuple(marked))
    text = "".join(message.content for message in prompt.render({}))
    assert [text.count(demo.target) for demo in marked] == [1] * len(marked)


# --------------------------------------------------------------------------- identity


def test_the_placeholders_are_the_columns_that_the_templates_name() -> None:
    prompt = Prompt("{a} {demos}", "{b} {a}", "{c} {1} {x y}")
    assert prompt.placeholders == {"a", "b", "c"}


def test_two_texts_do_not_make_a_placeholder_together() -> None:
    assert Prompt("{que", "stion}", "").placeholders == frozenset()


@pytest.mark.parametrize(
    "change",
    [
        {"system": "b"},
        {"user": "b"},
        {"output": "b"},
        {"demos": (ONE,)},
        {"demos": (TWO, ONE)},
        {"demo_template": "b"},
        {"system": "xa", "user": ""},
    ],
)
def test_a_change_of_any_part_is_another_prompt(change: dict[str, object]) -> None:
    prompt = Prompt("a", "x", "o", (ONE, TWO))
    assert replace(prompt, **change).id != prompt.id


def test_equal_prompts_have_one_id() -> None:
    assert Prompt("a", "b").id == Prompt("a", "b").id == replace(Prompt("a", "c"), user="b").id


@given(prompts, st.lists(demos, max_size=2))
def test_the_length_counts_all_texts_and_demos(prompt: Prompt, shown: list[Demo]) -> None:
    bare = prompt.with_demos(())
    inside = sum(len(demo.target) + sum(map(len, demo.inputs.values())) for demo in shown)
    assert bare.length == len(bare.system) + len(bare.user) + len(bare.output)
    assert prompt.with_demos(shown).length == bare.length + inside
    assert prompt.with_demos(shown).demos == tuple(shown)


def test_the_reserved_slot_is_no_column() -> None:
    assert DEMOS not in COLUMNS
    assert Message("user", "q") == Prompt(user="{question}").render({"question": "q"})[-1]


@given(prompts, prompts)
def test_prompts_differ_where_a_text_or_a_demo_does(old: Prompt, new: Prompt) -> None:
    shown = [[p.system.splitlines(), p.user.splitlines(), p.output.splitlines()] for p in (old, new)]
    ids = [[demo.example_id for demo in p.demos] for p in (old, new)]
    assert (diff(old, new) == "") == (shown[0] == shown[1] and ids[0] == ids[1])


def test_a_difference_names_the_text_it_is_in() -> None:
    changed = diff(Prompt("Answer.", "{question}", demos=(ONE,)), Prompt("Answer.\nThink.", "{question}", demos=(TWO,)))
    lines = changed.splitlines()
    assert [line for line in lines if line.startswith(("+++", "---"))] == [
        "--- system",
        "+++ system",
        "--- demos",
        "+++ demos",
    ]
    assert {"+Think.", f"-{ONE.example_id}", f"+{TWO.example_id}"} <= set(lines)
