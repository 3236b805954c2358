"""The state of a run as plain data: what `checkpoint.json` and `check_results.py --json` hold.

One dict a task, one for the run. Everything that is shown in a terminal or written for a script is made from it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from utils.archive import Attempt, RunArchive, TaskState
from utils.bills import Bills
from utils.records import RunPlan, Spend, Status, TaskSpec
from utils.serialization import encode

Row = dict[str, Any]

OUTCOME = ("status", "stop_reason", "initial", "final", "gain", "spent", "scoring", "seconds")  # told as it is
LATER: Mapping[str, Any] = {"code": "", "saved": None, "tables": {}}  # what results of earlier versions lack


class Overview:
    """A run as it is now. Results are read once each: looking again costs two listings.

    `read` gives the outcomes in result files by their names, of those that it looks at; `paid` what the attempts of
    tasks without a result have paid, by default as their journals say; `links` the pages on which tasks can be
    looked at.
    """

    def __init__(
        self,
        archive: RunArchive,
        plan: RunPlan,
        *,
        read: Callable[[Sequence[str]], Mapping[str, Row]] | None = None,
        paid: Callable[[Sequence[Attempt]], Mapping[Attempt, Spend]] | None = None,
        links: Callable[[], Mapping[str, Mapping[str, str]]] = lambda: {},
    ) -> None:
        self._archive = archive
        self._plan = plan
        self._blank = {spec.task_id: task_row(spec) for spec in plan.tasks}
        self._outcomes: dict[str, Row] = {}  # by the name of the result file
        self._read = read or self.read_each
        self._paid = paid or Bills(archive).of_each
        self._links = links

    def render(self, *, stopped: bool = False) -> Row:
        """The run and its tasks. `stopped`: nobody is working on it."""
        states = self._archive.states(self._plan.tasks)
        fresh = [state.result for state in states.values() if state.result and state.result not in self._outcomes]
        self._outcomes.update({name: _billed(found) for name, found in self._read(fresh).items()})
        paid = self._paid([attempt for state in states.values() if not state.result for attempt in state.attempts])
        links = self._links()
        probed = self._archive.load_probed().usd
        tasks = [self._row(task_id, states[task_id], paid, links.get(task_id, {})) for task_id in self._blank]
        return {
            "run_id": self._plan.run_id,
            "created": self._plan.created,
            "status": run_status(tasks, stopped=stopped),
            "simulated": any(task["simulated"] for task in tasks),
            "paid": {
                "usd": _sum(paid_by(tasks, simulated=False), probed),
                "usd_simulated": paid_by(tasks, simulated=True),
                "usd_preflight": probed,
            },
            "versions": dict(self._plan.versions),
            "tasks": tasks,
        }

    def _row(self, task_id: str, state: TaskState, paid: Mapping[Attempt, Spend], links: Mapping[str, str]) -> Row:
        seen = {"status": state.status.value, "attempts": len(state.attempts), "links": dict(links)}
        if state.result:
            return {**self._blank[task_id], **seen, **self._outcomes.get(state.result, {"paid": None})}
        so_far = sum((paid[attempt] for attempt in state.attempts if attempt in paid), Spend())
        return {**self._blank[task_id], **seen, "paid": encode(so_far)}

    def read_each(self, names: Sequence[str]) -> dict[str, Row]:
        """The outcomes in result files, read from the archive."""
        return {name: outcome(result) for name, result in self._archive.read_results(names).items()}


def paid_by(tasks: Iterable[Row], *, simulated: bool) -> float | None:
    """USD that tasks on real, or on simulated, models have cost, whatever came of them; None where a price is unknown.

    Also None where the result of a task was not looked at.
    """
    amounts = [task["paid"] and task["paid"]["usd"] for task in tasks if task["simulated"] is simulated]
    return None if None in amounts else sum(amounts, 0.0)


def damaged_row(run_id: str, problem: str) -> Row:
    """What is left to say of a run whose files cannot be read."""
    return {
        "run_id": run_id,
        "created": "",
        "status": "damaged",
        "simulated": False,
        "paid": None,
        "tasks": [],
        "problem": problem,
    }


def run_status(tasks: list[Row], *, stopped: bool) -> str:
    """completed: all are; failed: all are final, some failed; running; else interrupted, and resumable."""
    counts = Counter(task["status"] for task in tasks)
    if counts["completed"] == len(tasks):
        return "completed"
    if counts["completed"] + counts["failed"] == len(tasks):
        return "failed"
    return "running" if counts["running"] or not stopped else "interrupted"


def task_row(spec: TaskSpec, result: Row | None = None) -> Row:
    """One task: what it is, and what came of it (an encoded `TaskResult`) where something did."""
    row: Row = {
        "task_id": spec.task_id,
        "dataset": spec.dataset,
        "optimizer": spec.optimizer,
        "optimizer_params": encode(spec.shown_params),
        "model": spec.model,
        "seed": spec.seed,
        "status": Status.PENDING.value,
        "stop_reason": None,
        "attempts": 0,
        "simulated": spec.is_simulated,
        "initial": None,
        "final": None,
        "gain": None,
        **LATER,
        "spent": None,
        "scoring": None,
        "paid": encode(Spend()),
        "seconds": None,
        "error": None,
        "warnings": [],
        "links": {},
    }
    return row if result is None else {**row, **_billed(outcome(result))}


def outcome(result: Row) -> Row:
    """What a task's row says of its encoded result."""
    error = result["error"]
    return {
        **{key: result[key] for key in OUTCOME},
        **{key: result.get(key, default) for key, default in LATER.items()},
        "error": None if error is None else {"class": error["kind"], "message": error["message"]},
        "warnings": result.get("warnings", []),  # results of before have none
    }


def _billed(outcome: Row) -> Row:
    """An outcome with what its task has cost in all; money of an unknown price stays unknown."""
    search, scoring = (outcome[part]["billed"] for part in ("spent", "scoring"))
    return {**outcome, "paid": {key: _sum(value, scoring[key]) for key, value in search.items()}}


def _sum(one: Any, other: Any) -> float | None:
    """None where one of them is not known, or no number (runs of earlier versions may hold a cost of NaN)."""
    return one + other if isinstance(one, int | float) and isinstance(other, int | float) else None
