"""What an attempt connects a task to, and what comes of it: a result that says what it is worth, or a failure."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random

import pytest

from benchmark_task import Place, Work, _door, attempt, load_work, run_task
from optimizers.base import Extent, Optimizer
from optimizers.editor import Editor
from optimizers.problem import Problem
from tests.local.command import MODEL
from tests.models import Scripted
from tests.servers.openai_server import OpenAIServer
from utils.archive import Attempt, Kind, RunArchive, local_archive
from utils.door import Door
from utils.errors import CallError, ErrorKind
from utils.journal import Entry, Journal, read_line
from utils.ledger import Ledger
from utils.llm.base import LLM
from utils.records import (
    Budget,
    Forecast,
    Request,
    Role,
    RunPlan,
    Status,
    StopReason,
    TaskResult,
    TaskSpec,
)


@pytest.mark.parametrize(
    ("model", "params", "is_shared"),
    [
        ("openai/gpt-4o-mini", {}, True),
        ("openai/o3-mini", {}, False),
        ("anthropic/claude-sonnet-4-5", {"thinking_budget": 2000}, False),
        ("sim/standard", {}, False),
    ],
)
def test_only_answers_that_are_really_asked_for_at_temperature_0_are_shared(
    model: str, params: dict[str, int], is_shared: bool, tmp_path: Path
) -> None:
    shared = []

    def wrap(connected: LLM, task_id: str) -> LLM:
        shared.append(connected.name)
        return connected

    spec = TaskSpec("gsm8k", "no_op", model, 1, model_params=params, data="sample", test_mode=True)
    place = Place(local_archive(tmp_path, "r"), Attempt(spec.task_id, 1, "001"), wrap=wrap)
    _door(spec, load_work(spec), place, place.archive.journal(place.attempt)).close()
    assert bool(shared) is is_shared


def tried(archive: RunArchive, spec: TaskSpec, number: int, earlier: tuple[Attempt, ...] = ()) -> TaskResult:
    """The n-th attempt of a task; those after the first are retries."""
    place = Place(archive, Attempt(spec.task_id, number, "001"), earlier, retried_at=number if earlier else 0)
    result = attempt(spec, place)
    assert result is not None
    return result


def run_of(folder: Path, spec: TaskSpec) -> RunArchive:
    archive = local_archive(folder, "r")
    archive.save_plan(RunPlan("r", "2026-01-02T03:04:05+00:00", (spec,)))
    archive.submit(Kind.NEW, (spec,), "now")
    return archive


def asked(archive: RunArchive, at: Attempt, *roles: Role) -> set[tuple[str, int]]:
    """The calls that an attempt really made."""
    entries = [entry for entry in map(read_line, archive.read_journal(at).split("\n")) if isinstance(entry, Entry)]
    return {(entry.key, entry.occurrence) for entry in entries if entry.role in roles}


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[OpenAIServer]:
    """The provider of `MODEL` in this process."""
    with OpenAIServer() as provider:
        monkeypatch.setenv("OPENAI_BASE_URL", provider.url)
        monkeypatch.setenv("OPENAI_API_KEY", "none")
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        yield provider


def test_a_retry_of_a_task_that_got_no_edit_asks_for_other_edits(tmp_path: Path, server: OpenAIServer) -> None:
    spec = TaskSpec("gsm8k", "hill_climb", MODEL, 1, data="sample", test_mode=True, budget=Budget(200))
    archive = run_of(tmp_path, spec)
    first, second = (Attempt(spec.task_id, number, "001") for number in (1, 2))

    server.settings.answer = lambda body: "I would rather not."  # to examples and to the optimizer
    failed = tried(archive, spec, 1)
    assert (failed.status, failed.stop_reason) == (Status.FAILED, StopReason.OPTIMIZER_FAILED)
    assert failed.error
    assert failed.error.kind is ErrorKind.MALFORMED
    assert "the optimizer model gave no edit that could be tried, 12 were asked" in failed.error.message

    server.settings.answer = lambda body: (
        json.dumps({"system": f"Think {server.app.counter} times."}) if "response_format" in body else "no"
    )
    completed = tried(archive, spec, 2, (first,))
    assert (completed.status, completed.warnings) == (Status.COMPLETED, ())
    assert not asked(archive, first, *Role) & asked(archive, second, *Role), "what was answered is not asked again"
    paid = completed.spent.billed + completed.scoring.billed
    edits = [asked(archive, each, Role.OPTIMIZER) for each in (first, second)]
    assert all(edits)
    assert paid.optimizer_calls == sum(map(len, edits))


@dataclass(frozen=True)
class Louder(Optimizer):
    """One rewrite, which the model takes well."""

    def optimize(self, problem: Problem, editor: Editor, rng: Random) -> StopReason:
        problem.score_all([problem.seed, replace(problem.seed, system="LOUD")])
        return StopReason.MAX_ITERATIONS

    def plan(self, extent: Extent, budget: Budget) -> Forecast:
        return Forecast((0, 0, 0))


def test_baseline_test_and_gain_are_of_the_same_rows_and_the_others_are_named() -> None:
    spec = TaskSpec("gsm8k", "no_op", "scripted", 1, data="sample")
    work: Work = load_work(spec)
    rows = work.splits.test
    targets = {example.id: example.target for example in (*work.splits.validation, *rows)}
    refused = {"quiet": rows[0].id, "loud": rows[1].id}

    def answer(request: Request, count: int) -> str | CallError:
        voice = "loud" if request.messages[0].content == "LOUD" else "quiet"
        if request.item == refused[voice]:
            return CallError(ErrorKind.CONTENT_FILTER, "declined")
        is_right = voice == "loud" or request.item == rows[1].id  # what only the seed answers, it answers right
        return f"#### {targets[request.item]}" if is_right else "no idea"

    with closing(Door({Role.TASK: Scripted(answer)}, Journal(lambda line: None), Ledger(spec.budget))) as door:
        result = run_task(spec, work, Louder(), door)
    assert result.initial
    assert result.final
    assert result.gain
    before, after = result.initial.scores["test"], result.final.scores["test"]
    assert (before.n, before.failed) == (after.n, after.failed) == (len(rows) - 2, 2)
    assert (before.mean, after.mean, result.gain.mean) == (0.0, 1.0, 1.0)
    assert result.warnings == (
        f"2 of {len(rows)} test rows not answered for both prompts, in no mean: {rows[0].id}, {rows[1].id}",
    )
