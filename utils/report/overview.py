"""The state of a run as plain data: what `checkpoint.json` and `check_results.py --json` hold.

One dict a task, one for the run. Everything that is shown in a terminal or written for a script is made from it.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

from utils.archive import RunArchive, TaskState
from utils.records import RunPlan, Status, TaskResult, TaskSpec
from utils.serialization import encode

Row = dict[str, Any]


class Overview:
    """A run as it is now. Results are read once each: looking again costs two listings."""

    def __init__(self, archive: RunArchive, plan: RunPlan) -> None:
        self._archive = archive
        self._plan = plan
        self._rows: dict[str, Row] = {}  # by the name of the result file

    def render(self, *, stopped: bool = False) -> Row:
        """The run and its tasks. `stopped`: nobody is working on it."""
        states = self._archive.states(self._plan.tasks)
        tasks = [self._row(spec, states[spec.task_id]) for spec in self._plan.tasks]
        return {
            "run_id": self._plan.run_id,
            "created": self._plan.created,
            "status": run_status(tasks, stopped=stopped),
            "simulated": any(task["simulated"] for task in tasks),
            "versions": dict(self._plan.versions),
            "tasks": tasks,
        }

    def _row(self, spec: TaskSpec, state: TaskState) -> Row:
        if not state.result:
            return {**task_row(spec, None), "status": state.status.value, "attempts": len(state.attempts)}
        if state.result not in self._rows:
            self._rows[state.result] = task_row(spec, self._archive.load_result(state.result))
        return {**self._rows[state.result], "attempts": len(state.attempts)}


def run_status(tasks: list[Row], *, stopped: bool) -> str:
    """completed: all are; failed: all are final, some failed; running; else interrupted, and resumable."""
    counts = Counter(task["status"] for task in tasks)
    if counts["completed"] == len(tasks):
        return "completed"
    if counts["completed"] + counts["failed"] == len(tasks):
        return "failed"
    return "running" if counts["running"] or not stopped else "interrupted"


def task_row(spec: TaskSpec, result: TaskResult | None) -> Row:
    """One task: what it is, and what came of it where something did."""
    row: Row = {
        "task_id": spec.task_id,
        "dataset": spec.dataset,
        "optimizer": spec.optimizer,
        "optimizer_params": encode(spec.optimizer_params),
        "model": spec.model,
        "seed": spec.seed,
        "status": Status.PENDING.value,
        "stop_reason": None,
        "attempts": 0,
        "simulated": spec.is_simulated,
        "initial": None,
        "final": None,
        "gain": None,
        "spent": None,
        "scoring": None,
        "seconds": None,
        "error": None,
    }
    return row if result is None else {**row, **_outcome(result)}


def _outcome(result: TaskResult) -> Row:
    failure = result.error
    return {
        "status": result.status.value,
        "stop_reason": result.stop_reason.value,
        "initial": encode(result.initial),
        "final": encode(result.final),
        "gain": encode(result.gain),
        "spent": encode(result.spent),
        "scoring": encode(result.scoring),
        "seconds": result.seconds,
        "error": None if failure is None else {"class": failure.kind.value, "message": failure.message},
    }
