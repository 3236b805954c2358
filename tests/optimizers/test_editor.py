"""The editor: bad replies are survived, logged and bounded in number; data stays data."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import pytest
from hypothesis import given

from optimizers.editor import (
    MAX_BARREN_STEPS,
    MAX_DUPLICATE_RETRIES,
    MAX_FIRST_BARREN_STEPS,
    Ask,
    Editor,
    edited,
    prompt_schema,
    show_example,
    show_failure,
    show_prompt,
    tag,
)
from optimizers.problem import Problem
from tests.models import Scripted, constant, failing, listed
from tests.strategies import texts
from utils.door import Door
from utils.errors import CallError, ErrorKind, NoEdits, OptimizerFailed
from utils.journal import Journal
from utils.ledger import Ledger
from utils.metrics.exact_match import ExactMatch
from utils.prompt import Prompt
from utils.records import Example, ItemScore, Request, Role, Score, StopReason

SEED = Prompt(system="Answer.", user="{question}")
ROWS = tuple(Example(f"t{i}", {"question": f"{i}?"}, "yes") for i in range(3))
ASK = Ask("Say something.", "data", {"type": "object", "properties": {"say": {"type": "string"}}, "required": ["say"]})
OLD = json.dumps({"system": "Answer."})


def new(number: int = 0) -> str:
    return json.dumps({"system": f"Wording {number}."})


@dataclass
class Desk:
    """An editor with all that is around it."""

    problem: Problem
    editor: Editor
    model: Scripted

    @property
    def decisions(self) -> list[str]:
        return [step.decision for step in self.problem.steps]

    def rewrite(self) -> Prompt | None:
        return self.editor.rewrite("mutate", SEED, "Rewrite.")


@contextmanager
def opened(model: Scripted, seed: int = 7, take: int = 0) -> Iterator[Desk]:
    models = {Role.TASK: constant("yes"), Role.OPTIMIZER: model}
    door = Door(models, Journal(lambda line: None), Ledger())
    problem = Problem(SEED, ROWS, ROWS[:0], (ExactMatch(),), door)
    try:
        yield Desk(problem, Editor(door, problem, seed=seed, take=take), model)
    finally:
        door.close()


# --------------------------------------------------------------------------- a good reply


def test_a_rewrite_keeps_what_the_reply_leaves_out() -> None:
    with opened(constant('{"system": "  Think. "}')) as desk:
        assert desk.rewrite() == Prompt("Think.", "{question}")
        assert len(desk.model.requests) == 1
        assert desk.decisions == []


def test_the_request_holds_instruction_data_and_form() -> None:
    with opened(constant(new())) as desk:
        desk.editor.rewrite("mutate", SEED, "Make it shorter.", data="<failure>x</failure>", score=0.5)
    [request] = desk.model.requests
    said = request.messages[-1].content
    for part in ("Make it shorter.", '<prompt score="0.500">', "<system>\nAnswer.\n</system>", "<failure>x</failure>"):
        assert part in said
    assert request.schema == prompt_schema(SEED)
    assert json.dumps(request.schema) in said
    assert (request.params["temperature"], request.params["max_tokens"]) == (1.0, 4096)


def test_the_form_offers_the_texts_that_the_prompt_has() -> None:
    assert set(prompt_schema(Prompt("a", "b"))["properties"]) == {"system", "user"}
    assert set(prompt_schema(Prompt(user="b", output="c"))["properties"]) == {"system", "user", "output"}


def test_an_edit_changes_texts_and_nothing_else() -> None:
    assert edited(SEED, {"system": "x", "demos": [1], "user": None, "extra": "y"}) == Prompt("x", "{question}")


# --------------------------------------------------------------------------- malformed


def test_one_repair_call_is_made_and_says_what_was_wrong() -> None:
    with opened(listed('{"saying": 1}', '{"say": "now"}')) as desk:
        assert desk.editor.ask("speak", ASK) == {"say": "now"}
        first, repair = desk.model.requests
        assert repair.messages[: len(first.messages)] == first.messages
        assert [message.role for message in repair.messages[-2:]] == ["assistant", "user"]
        assert repair.messages[-2].content == '{"saying": 1}'
        assert "the reply has no key 'say'" in repair.messages[-1].content
        assert desk.decisions == []


def test_a_reply_that_stays_malformed_is_logged_with_its_text_and_survived() -> None:
    with opened(constant("I would rather not.")) as desk:
        assert desk.editor.ask("speak", ASK) is None
        assert len(desk.model.requests) == 2
        assert desk.decisions == ["malformed"]
        assert "I would rather not." in desk.problem.steps[0].reason


@pytest.mark.parametrize(
    "answers",
    [[CallError(ErrorKind.CONTENT_FILTER, "declined")], ["nonsense", CallError(ErrorKind.TRANSIENT, "lost")]],
    ids=["the call", "the repair"],
)
def test_a_failed_call_is_logged_and_survived(answers: list[str | CallError]) -> None:
    with opened(listed(*answers)) as desk:
        assert desk.editor.ask("speak", ASK) is None
        assert desk.decisions == ["malformed"]


@pytest.mark.parametrize("reply", ["", "[" * 20_000, '{"say": "\\ud83d"}', "\x00", "{}" * 1000])
def test_no_reply_is_a_defect(reply: str) -> None:
    with opened(constant(reply)) as desk:
        desk.editor.ask("speak", ASK)


def test_one_bad_reply_of_several_costs_only_itself() -> None:
    def answer(request: Request, count: int) -> str:
        return "nonsense" if "two" in request.messages[1].content else '{"say": "ok"}'

    asks = [Ask(word, "", ASK.schema) for word in ("one", "two", "three")]
    with opened(Scripted(answer)) as desk:
        assert desk.editor.ask_all("speak", asks) == [{"say": "ok"}, None, {"say": "ok"}]
        assert len(desk.model.requests) == 4


def test_an_error_that_stops_the_provider_is_not_survived() -> None:
    with opened(failing(ErrorKind.QUOTA)) as desk, pytest.raises(CallError):
        desk.rewrite()


# --------------------------------------------------------------------------- duplicates and barren steps


def test_a_duplicate_is_asked_again_until_something_is_new() -> None:
    with opened(listed(OLD, OLD, new())) as desk:
        assert desk.rewrite() == Prompt("Wording 0.", "{question}")
        assert desk.decisions == ["duplicate", "duplicate"]


def test_duplicates_are_asked_again_at_most_three_times() -> None:
    with opened(constant(OLD)) as desk:
        assert desk.rewrite() is None
        assert len(desk.model.requests) == 1 + MAX_DUPLICATE_RETRIES == 4
        assert desk.decisions == ["duplicate"] * 4


def test_whatever_was_scored_before_is_a_duplicate() -> None:
    with opened(constant(new(1))) as desk:
        desk.problem.score(Prompt("Wording 1.", "{question}"), ROWS)
        assert desk.rewrite() is None


def test_an_invalid_proposal_is_logged_and_not_asked_again() -> None:
    with opened(constant('{"system": "x", "user": "no placeholder"}')) as desk:
        assert desk.rewrite() is None
        assert len(desk.model.requests) == 1
        [step] = desk.problem.steps
        assert (step.decision, step.reason) == ("invalid", "placeholder {question} is missing")
        assert step.parents == (SEED.id,)


JUNK = ["nonsense", OLD, '{"system": "x", "user": "y"}']


@pytest.mark.parametrize("reply", JUNK)
def test_an_editor_that_never_delivers_is_given_up_after_three_steps(reply: str) -> None:
    with opened(constant(reply)) as desk:
        assert [desk.rewrite() for _ in range(MAX_FIRST_BARREN_STEPS - 1)] == [None, None]
        with pytest.raises(OptimizerFailed) as caught:
            desk.rewrite()
        assert len(desk.model.requests) <= 3 * 4 * 2
    assert caught.value.reason == StopReason.OPTIMIZER_FAILED
    assert str(caught.value) == "3 proposal steps in a row gave no valid new prompt"


@pytest.mark.parametrize("reply", JUNK)
def test_an_editor_that_has_delivered_is_given_time_and_not_for_ever(reply: str) -> None:
    with opened(Scripted(lambda request, count: reply if count else new())) as desk:
        assert desk.rewrite()
        assert [desk.rewrite() for _ in range(MAX_BARREN_STEPS - 1)] == [None] * (MAX_BARREN_STEPS - 1)
        with pytest.raises(OptimizerFailed):
            desk.rewrite()
        desk.editor.refuse_no_edits(StopReason.OPTIMIZER_FAILED)  # a search that could search


def test_a_fruitful_step_starts_the_count_of_barren_ones_anew() -> None:
    barren = [OLD] * 4
    with opened(listed(*barren * 2, new(1), *barren * 12, new(2), *barren * 12)) as desk:
        found = [desk.rewrite() for _ in range(2 + 1 + 12 + 1 + 12)]
    assert [place for place, prompt in enumerate(found) if prompt] == [2, 15]


def test_a_reply_that_cannot_be_read_is_asked_for_again_within_the_step() -> None:
    with opened(listed("no", "nor now", CallError(ErrorKind.TRANSIENT, "lost"), new())) as desk:
        assert desk.rewrite() == Prompt("Wording 0.", "{question}")
        assert desk.decisions == ["malformed", "malformed"]
        assert desk.editor.edits == (2, 3)


# --------------------------------------------------------------------------- a search that could not search


def refused(model: Scripted, steps: int = 1) -> NoEdits:
    with opened(model) as desk:
        reason = StopReason.BUDGET_CALLS
        try:
            for _ in range(steps):
                desk.rewrite()
        except OptimizerFailed as stop:
            reason = StopReason(stop.reason)
        with pytest.raises(NoEdits) as caught:
            desk.editor.refuse_no_edits(reason)
        return caught.value


@pytest.mark.parametrize("kind", [ErrorKind.TRANSIENT, ErrorKind.CONTENT_FILTER, ErrorKind.BAD_REQUEST])
def test_edits_that_all_failed_are_an_error_of_their_kind(kind: ErrorKind) -> None:
    error = refused(failing(kind, "HTTP 500"))
    assert error.kind is kind
    assert str(error) == "the optimizer model gave no edit that could be tried, 4 were asked: HTTP 500"


@pytest.mark.parametrize(
    ("reply", "why"),
    list(zip(JUNK, ["the reply holds no JSON object", "repeats a prompt", "{question} is missing"], strict=True)),
)
def test_junk_is_an_error_of_class_malformed(reply: str, why: str) -> None:
    error = refused(constant(reply), steps=MAX_FIRST_BARREN_STEPS)
    assert error.kind is ErrorKind.MALFORMED
    assert why in str(error)


def test_the_kind_is_that_of_most_failures() -> None:
    lost, declined = (CallError(kind, kind) for kind in (ErrorKind.TRANSIENT, ErrorKind.CONTENT_FILTER))
    assert refused(listed(lost, declined, declined, "junk", "junk")).kind is ErrorKind.CONTENT_FILTER


def test_one_edit_is_enough_for_a_warning_with_the_count() -> None:
    lost = CallError(ErrorKind.TRANSIENT, "lost")
    with opened(listed(lost, new(), lost, "junk", "junk", new(1))) as desk:
        assert desk.rewrite()
        assert desk.rewrite()
        desk.editor.refuse_no_edits(StopReason.MAX_ITERATIONS)
        assert desk.editor.warnings == ("edits failed 3 of 5 (transient, malformed)",)


def test_nothing_asked_is_nothing_failed() -> None:
    with opened(failing()) as desk:
        desk.editor.refuse_no_edits(StopReason.EXHAUSTED)
        assert desk.editor.warnings == ()


def test_a_critique_that_fails_is_no_barren_step() -> None:
    with opened(failing()) as desk:
        for _ in range(10):
            assert desk.editor.ask("criticise", ASK) is None


# --------------------------------------------------------------------------- samples


def samples(seed: int, take: int = 0) -> list[int]:
    with opened(Scripted(lambda request, count: new(count)), seed, take) as desk:
        for _ in range(3):
            desk.rewrite()
        desk.editor.ask_all("speak", [ASK, ASK])
        return [request.sample for request in desk.model.requests]


def test_another_take_of_a_seed_asks_for_other_samples() -> None:
    asked = [samples(3, take) for take in (0, 1, 2)] + [samples(4)]
    assert len(set().union(*asked)) == sum(len(set(some)) for some in asked)


def test_no_two_askings_of_the_same_are_one_question() -> None:
    with opened(Scripted(lambda request, count: new(count))) as desk:
        for _ in range(5):
            desk.rewrite()
        desk.editor.ask_all("speak", [ASK] * 3)
        keys = [request.key("m") for request in desk.model.requests]
    assert len(set(keys)) == len(keys)


def test_two_seeds_never_ask_for_the_same_sample() -> None:
    asked = [samples(seed) for seed in (0, 1, 42)]
    assert not set(asked[0]) & set(asked[1]) | set(asked[1]) & set(asked[2])


def test_the_same_seed_asks_for_the_same_samples() -> None:
    assert samples(3) == samples(3)


def test_an_editors_question_is_never_shared_by_a_cache() -> None:
    with opened(constant(new())) as desk:
        desk.rewrite()
    assert not desk.model.requests[0].is_deterministic


# --------------------------------------------------------------------------- data


@given(texts, texts, texts)
def test_data_never_closes_a_tag(question: str, target: str, reason: str) -> None:
    row = Example("t0", {"question": f"{question}</input></failure>"}, f"{target}</")
    item = ItemScore("t0", f"</answer>{reason}", Score(0.0, f"{reason}</reason>"))
    shown = show_failure(row, item)
    assert shown.count("</") == 6
    assert show_example(row).count("</") == 3
    assert show_prompt(Prompt(f"{question}</prompt>", target, reason)).count("</") == 1 + 1 + bool(target) + bool(
        reason
    )


def test_what_is_not_a_closing_tag_is_shown_as_it_is() -> None:
    assert tag("a", "x < y / z <b> 1</2") == "<a>\nx < y / z <b> 1<\\/2\n</a>"


def test_an_error_is_no_evidence() -> None:
    with pytest.raises(AssertionError):
        show_failure(ROWS[0], ItemScore("t0", error=ErrorKind.TRANSIENT))
