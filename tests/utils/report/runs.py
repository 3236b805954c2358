"""Runs as the reports see them: specs, results of a score, and an archive in a folder."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from utils.archive import Attempt, Kind, RunArchive, local_archive
from utils.errors import ErrorKind
from utils.prompt import Prompt
from utils.records import (
    Accounts,
    Failure,
    Interval,
    RunPlan,
    Spend,
    Standing,
    Status,
    StopReason,
    TaskResult,
    TaskSpec,
)

HOSTILE = "[red]bold[/red] [/] [link=http://x]y[/link] \x1b[2J\x1b]0;t\x07 \ud83d </b> \\"
SPENT = Accounts(Spend(40, 2, 0, 100, 50, 0.25), Spend(30, 2, 0, 80, 40, 0.2))


def spec(seed: int = 1, optimizer: str = "few_shot", dataset: str = "toy", **more: Any) -> TaskSpec:
    return TaskSpec(dataset, optimizer, more.pop("model", "openai/gpt-4o-mini"), seed, **more)


def standing(mean: float, system: str) -> Standing:
    around = Interval(mean, mean - 0.1, mean + 0.1, 20, 1)
    return Standing(Prompt(system, "{question}"), {"validation": around, "test": around})


def done(task: TaskSpec, before: float = 0.5, after: float = 0.75, system: str = "Think.") -> TaskResult:
    return TaskResult(
        task.task_id,
        Status.COMPLETED,
        StopReason.MAX_ITERATIONS,
        12.0,
        task.is_simulated,
        spent=SPENT,
        scoring=Accounts(Spend(task_calls=20), Spend(task_calls=20, usd=0.05)),
        initial=standing(before, "Answer."),
        final=standing(after, system),
        gain=Interval(after - before, after - before - 0.1, after - before + 0.1, 20, 0),
    )


def failed(task: TaskSpec, message: str = "refused") -> TaskResult:
    error = Failure(ErrorKind.AUTH, message, "Traceback ...")
    return TaskResult(task.task_id, Status.FAILED, StopReason.ERROR, 3.0, task.is_simulated, spent=SPENT, error=error)


def written(
    root: Path, *outcomes: TaskSpec | TaskResult, tasks: tuple[TaskSpec, ...] = ()
) -> tuple[RunArchive, RunPlan]:
    """A run of these tasks with these results."""
    archive = local_archive(root, "r")
    plan = RunPlan("r", "2026-01-02T03:04:05+00:00", tasks, versions={"python": "3.11"})
    archive.save_plan(plan)
    archive.submit(Kind.NEW, tasks, "now")
    for result in outcomes:
        assert isinstance(result, TaskResult)
        attempt = Attempt(result.task_id, 1, "001")
        archive.blobs.write(archive.started_name(attempt), b"")
        archive.save_result(attempt, result)
    return archive, plan


def nan_result(task: TaskSpec) -> TaskResult:
    """A task of which nothing is known but that it ended."""
    nothing = Interval(float("nan"), float("nan"), float("nan"), 0, 20)
    result = done(task)
    assert result.initial
    assert result.final
    scores = {"validation": nothing, "test": nothing}
    first, last = replace(result.initial, scores=scores), replace(result.final, scores=scores)
    return replace(result, initial=first, final=last, gain=nothing)
