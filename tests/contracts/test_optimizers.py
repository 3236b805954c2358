"""The laws that every optimizer keeps, on a problem of ten examples a split; a new row is tested by existing.

1. A budget is never exceeded.
2. Killed after any answer, and resumed: the result of the uninterrupted run; nothing answered is asked again.
3. Replaying a whole journal makes no call and gives the same result, even if the model would answer otherwise by now.
4. The result does not depend on how many calls are in flight, nor on the order in which answers come.
5. The same seed takes the same path.
6. Malformed replies of the editor are survived, and told; without one that can be used, there is no result.
7. The final prompt is never worse than the seed prompt on validation.
8. No request to the optimizer model holds a validation or test row.
9. Every prompt that was scored is in the log of steps, with a decision and its reason.
10. `plan().high` is never exceeded.
"""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmark_config import OPTIMIZERS
from benchmark_task import Work, build_optimizer, run_task
from tests.models import Scripted
from utils.dataset_specs.base import DatasetSpec, Sizes
from utils.door import Door
from utils.errors import CallError, ErrorKind, NoEdits
from utils.journal import Journal
from utils.ledger import Ledger
from utils.metrics.exact_match import ExactMatch
from utils.prompt import Prompt
from utils.records import Budget, Example, Request, Role, Splits, StopReason, TaskResult, TaskSpec
from utils.serialization import content_hash, encode

VARIANTS = {"few_shot": {"max_trials": 6}, "balanced": {"first_rows": 4}}  # small enough for the budgets below
WORDS = tuple(
    "amber birch cedar dune ember fjord grove heath inlet jetty knoll larch moor north ocean pine quay reef".split()  # noqa: SIM905
)


def example(split: str, number: int) -> Example:
    """A row whose text has a run of 12 words of its own."""
    rng = Random(f"{split}{number}")
    return Example(f"{split}{number}", {"question": " ".join(rng.sample(WORDS, 14))}, rng.choice(("yes", "no")), ())


SPLITS = Splits(*(tuple(example(split, i) for i in range(10)) for split in ("train", "val", "test")), data_hash="x")
SEED = Prompt(system="Answer yes or no.", user="{question}")
DATASET = DatasetSpec("toy", "", 1, "", (), {}, Sizes(10, 10, 10), SEED, (ExactMatch(),), lambda row: row)
WORK = Work(DATASET, SPLITS, SEED, (ExactMatch(),))

ALL = pytest.mark.parametrize("name", OPTIMIZERS)


def spec_of(name: str, budget: int = 60, seed: int = 7) -> TaskSpec:
    params = VARIANTS.get(name, {})
    return TaskSpec("toy", name, "scripted", seed, params, budget=Budget(budget, budget), data="sample")


def fits(schema: dict, text: str, number: int = 0) -> object:
    """Some value of a JSON schema, made of a text."""
    if "enum" in schema:
        return schema["enum"][number % len(schema["enum"])]
    if schema["type"] == "object":
        parts = enumerate(schema["properties"].items())
        return {
            name: fits(part, f"{text} {name}" if name != "user" else "Q: {question}", i) for i, (name, part) in parts
        }
    if schema["type"] == "array":
        return [
            fits(schema.get("items", {"type": "string"}), f"{text} {i}", i) for i in range(schema.get("minItems", 1))
        ]
    return {"string": text, "number": 0.5, "integer": 1, "boolean": True}[schema["type"]]


def steady(request: Request, count: int) -> str:
    """A function of the request alone."""
    digest = content_hash([request.messages, request.sample])
    if request.schema is not None:
        return json.dumps(
            fits(request.schema, f"Be {WORDS[int(digest[:4], 16) % len(WORDS)]} {digest[:6]} and answer.")
        )
    return "yes" if int(digest[:4], 16) % 3 else "no"


def fickle(request: Request, count: int) -> str:
    """Another answer each time it is asked."""
    return steady(replace(request, sample=request.sample * 10_007 + count), count)


class Killed(BaseException):
    """The process is gone, as far as the journal is concerned."""


class Tape:
    """A journal file in memory; `room` is how many lines may be written before the kill."""

    def __init__(self, earlier: str = "", room: int | None = None) -> None:
        self.earlier = earlier
        self.text = ""
        self.room = room

    def append(self, line: str) -> None:
        if self.room is not None and self.text.count("\n") >= self.room:
            raise Killed
        self.text += line

    def journal(self) -> Journal:
        journal = Journal(self.append)
        journal.read(self.earlier)
        return journal


def run(spec: TaskSpec, model: Scripted, tape: Tape, in_flight: int = 1) -> tuple[TaskResult, Door]:
    door = Door(
        {Role.TASK: model, Role.OPTIMIZER: model},
        tape.journal(),
        Ledger(spec.budget),
        in_flight=in_flight,
        clock=lambda: 0.0,
        wall=lambda: 0.0,
    )
    try:
        return run_task(spec, WORK, build_optimizer(spec), door), door
    finally:
        door.close()


def outcome(result: TaskResult) -> object:
    """Everything but the time it took."""
    return encode(replace(result, seconds=0.0))


@ALL
@settings(max_examples=15)
@given(budget=st.integers(min_value=10, max_value=500))
def test_neither_a_budget_nor_the_plan_is_ever_exceeded(name: str, budget: int) -> None:
    spec, model = spec_of(name, budget), Scripted(fickle)
    result, _ = run(spec, model, Tape())
    assert result.spent.logical.task_calls <= budget
    assert result.spent.logical.optimizer_calls <= budget
    assert len(model.requests) == result.spent.billed.calls + result.scoring.billed.calls
    forecast = build_optimizer(spec).plan(WORK.extent, spec.budget)
    assert result.spent.logical.task_calls <= forecast.task_calls[2]
    assert result.spent.logical.optimizer_calls <= forecast.optimizer_calls[2]
    assert forecast.task_calls == tuple(sorted(forecast.task_calls))
    assert forecast.optimizer_calls == tuple(sorted(forecast.optimizer_calls))


@ALL
@settings(max_examples=8)
@given(limit=st.floats(min_value=0.01, max_value=0.5), tokens=st.integers(min_value=2_000, max_value=200_000))
def test_money_and_tokens_are_never_exceeded(name: str, limit: float, tokens: int) -> None:
    spec = replace(spec_of(name, 500), budget=Budget(500, 500, tokens, limit))
    result, _ = run(spec, Scripted(fickle), Tape())
    spent = result.spent.logical
    assert spent.usd <= limit
    assert spent.tokens_in + spent.tokens_out <= tokens


@ALL
@pytest.mark.parametrize("torn", [False, True], ids=["between lines", "within a line"])
def test_killed_after_any_answer_and_resumed_is_as_if_uninterrupted(name: str, torn: bool) -> None:
    spec = spec_of(name)
    tape = Tape()
    whole, _ = run(spec, Scripted(steady), tape)
    lines = tape.text.splitlines(keepends=True)
    for kill in range(0, len(lines), 3 if len(lines) > 60 else 1):
        cut = Tape(room=kill)
        with pytest.raises(Killed):
            run(spec, Scripted(steady), cut)
        rest = Tape(cut.text + (lines[kill][: len(lines[kill]) // 2] if torn else ""))
        model = Scripted(steady)
        resumed, _ = run(spec, model, rest)
        assert outcome(resumed) == outcome(whole)
        more = rest.text.removeprefix(lines[0]) if cut.text else rest.text  # each file says its format
        assert cut.text + more == tape.text
        kept = max(1, cut.text.count("\n"))  # the first line is the journal's format, written with the first call
        assert len(model.requests) == len(lines) - kept


@ALL
def test_replaying_a_journal_makes_no_call_and_gives_the_same_result(name: str) -> None:
    spec = spec_of(name)
    tape = Tape()
    first, _ = run(spec, Scripted(fickle), tape)
    model = Scripted(lambda request, count: CallError(ErrorKind.INTERNAL, "nothing may be asked"))
    again, _ = run(spec, model, Tape(tape.text))
    assert model.requests == []
    assert outcome(again) == outcome(first)


class Jumbled(Scripted):
    """Answers in an order of its own."""

    def __init__(self, seed: int) -> None:
        super().__init__(steady)
        self._order = Random(seed)

    async def complete(self, request: Request):
        for _ in range(self._order.randrange(6)):
            await asyncio.sleep(0)
        return await super().complete(request)


@ALL
@pytest.mark.parametrize("in_flight", [3, 16])
def test_the_result_does_not_depend_on_concurrency(name: str, in_flight: int) -> None:
    spec = spec_of(name)
    alone, _ = run(spec, Scripted(steady), Tape())
    together, _ = run(spec, Jumbled(in_flight), Tape(), in_flight)
    assert outcome(together) == outcome(alone)


@ALL
def test_the_same_seed_takes_the_same_path(name: str) -> None:
    first, second = (run(spec_of(name), Scripted(steady), Tape())[0] for _ in range(2))
    assert outcome(first) == outcome(second)


@ALL
def test_malformed_replies_are_survived(name: str) -> None:
    broken = Random(1)

    def clumsy(request: Request, count: int) -> str | CallError:
        if request.schema is not None and broken.random() < 0.1:
            return broken.choice(["", "Sorry, I cannot.", '{"system": "half', "{'system': 1}", "[1, 2]"])
        return fickle(request, count)

    result, _ = run(spec_of(name, 500), Scripted(clumsy), Tape())
    assert result.final is not None
    told = [step for step in result.steps if step.decision == "malformed"]
    assert bool(told) == bool(result.warnings)


EDITED = pytest.mark.parametrize("name", [name for name in OPTIMIZERS if name not in ("no_op", "few_shot")])


@EDITED
@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (CallError(ErrorKind.TRANSIENT, "HTTP 503"), ErrorKind.TRANSIENT),
        (CallError(ErrorKind.CONTENT_FILTER, "declined"), ErrorKind.CONTENT_FILTER),
        ("I would rather not.", ErrorKind.MALFORMED),
        ("{}", ErrorKind.MALFORMED),
        ("", ErrorKind.MALFORMED),
    ],
    ids=["down", "refuses", "prose", "no keys", "empty"],
)
def test_an_optimizer_model_that_gives_no_edit_fails_the_task(
    name: str, answer: str | CallError, kind: ErrorKind
) -> None:
    def mute(request: Request, count: int) -> str | CallError:
        return answer if request.schema is not None else steady(request, count)

    model = Scripted(mute)
    with pytest.raises(NoEdits) as caught:
        run(spec_of(name, 5000), model, Tape())
    assert caught.value.kind is kind
    assert len(model.requests) < 1000  # an editor that never delivers costs little, however much there is to spend


@EDITED
def test_an_optimizer_goes_on_when_most_replies_cannot_be_read(name: str) -> None:
    luck = Random(3)

    def clumsy(request: Request, count: int) -> str:
        bad = request.schema is not None and luck.random() < 0.6
        return "I would rather not." if bad else fickle(request, count)

    result, _ = run(spec_of(name, 500), Scripted(clumsy), Tape())
    assert result.stop_reason is not StopReason.OPTIMIZER_FAILED
    assert len([warning for warning in result.warnings if warning.startswith("edits failed")]) == 1
    assert sum(step.decision in ("accept", "reject") for step in result.steps) > 3


@pytest.mark.parametrize("name", ["no_op", "few_shot"])
def test_what_needs_no_edit_has_a_result_without_one(name: str) -> None:
    def mute(request: Request, count: int) -> str | CallError:
        return CallError(ErrorKind.TRANSIENT, "HTTP 503") if request.schema is not None else steady(request, count)

    result, _ = run(spec_of(name), Scripted(mute), Tape())
    assert result.warnings == (() if name == "no_op" else ("edits failed 1 of 1 (transient)",))


@ALL
@settings(max_examples=10)
@given(seed=st.integers(min_value=0, max_value=10_000), budget=st.integers(min_value=10, max_value=200))
def test_the_final_prompt_is_never_worse_than_the_seed_on_validation(name: str, seed: int, budget: int) -> None:
    result, _ = run(spec_of(name, budget, seed), Scripted(fickle), Tape())
    scores = {which: getattr(result, which).scores["validation"].mean for which in ("initial", "final")}
    assert scores["final"] >= scores["initial"]


@ALL
def test_the_optimizer_model_never_reads_a_held_out_row(name: str) -> None:
    model = Scripted(fickle)
    run(spec_of(name, 200), model, Tape())
    said = "\n".join(m.content for request in model.requests if request.schema for m in request.messages)
    assert not [row.id for row in (*SPLITS.validation, *SPLITS.test) if row.inputs["question"] in said]


@ALL
def test_every_scored_prompt_is_in_the_log(name: str) -> None:
    result, _ = run(spec_of(name, 200), (model := Scripted(fickle)), Tape())
    scored = {request.prompt for request in model.requests if request.schema is None}
    logged = {step.candidate.id for step in result.steps if step.candidate}
    assert scored - {SEED.id} <= logged
    assert all(step.decision and step.reason for step in result.steps)
