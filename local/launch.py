"""A local run from its settings to its end: open or make the plan, ask, lock, run, write the checkpoint.

One rule for new, resumed, retried and extended runs: the plan (what was planned, and what is asked for now) minus what
is done; a retry adds what failed. A finished run asked for again has nothing to do, and says so.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import secrets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from benchmark_config import Settings
from benchmark_task import Work, check, check_model, expand, load_work, need
from local.checkpoint import Checkpoint
from local.runner import Limits, Runner, Watcher, wait_for_strays, warm_up
from utils.archive import Claim, Kind, RunArchive, TaskState, local_archive
from utils.dataset_specs.base import Splits
from utils.errors import UsageError
from utils.journal import Entry, read_line
from utils.records import RunPlan, Status, TaskResult, TaskSpec
from utils.report.estimate import Estimate, Need, estimate
from utils.report.overview import Overview
from utils.serialization import encode

VERSIONED = ("litellm", "datasets", "numpy", "optuna")


@dataclass(frozen=True)
class Launch:
    """A run that is ready to go: its plan, what is to be done, and why."""

    archive: RunArchive
    root: Path
    plan: RunPlan
    added: RunPlan | None  # to be written before the first dispatch: the plan itself, or an extension
    kind: Kind
    tasks: tuple[TaskSpec, ...]
    states: dict[str, TaskState]
    splits: tuple[tuple[TaskSpec, Splits], ...]  # rows to be kept with the run
    estimate: Estimate
    notes: tuple[str, ...]


def plan_new(settings: Settings) -> Launch:
    """The launch of a grid. A run of this id that exists is resumed, and extended by what is new."""
    root = Path(settings.checkpoint_dir)
    tasks = expand(settings)
    warm_up([task.model for task in tasks])
    run_id = settings.run_id or new_run_id(tasks)
    check_run_id(run_id)
    archive = local_archive(root, run_id)
    asked = RunPlan(run_id, _now(), tasks, encode(settings), versions())
    if not archive.exists():
        return _launch(settings, archive, root, asked, asked, Kind.NEW, tasks, {})
    plan = archive.load_plan()
    known = {task.task_id for task in plan.tasks}
    extra = tuple(task for task in tasks if task.task_id not in known)
    whole = replace(plan, tasks=(*plan.tasks, *extra))
    states = archive.states(whole.tasks)
    open_tasks = tuple(task for task in whole.tasks if not states[task.task_id].status.is_final)
    added = replace(asked, tasks=extra) if extra else None
    return _launch(settings, archive, root, whole, added, Kind.EXTEND if extra else Kind.RESUME, open_tasks, states)


def plan_again(settings: Settings, run_id: str, *, retry: bool) -> Launch:
    """The launch of what a run has not done: everything unfinished, or (retry) what failed."""
    root = Path(settings.checkpoint_dir)
    archive = local_archive(root, run_id)
    plan = archive.load_plan()
    states = archive.states(plan.tasks)
    if retry:
        tasks = tuple(task for task in plan.tasks if states[task.task_id].status is Status.FAILED)
        if not tasks:
            raise UsageError(
                f"run {run_id!r} has no failed task; --resume-run-id {run_id} goes on with unfinished ones"
            )
    else:
        tasks = tuple(task for task in plan.tasks if not states[task.task_id].status.is_final)
    warm_up([task.model for task in tasks])
    for model in dict.fromkeys(name for task in tasks for name in (task.model, task.optimizer_model) if name):
        check_model(model, tasks[0].model_params)
    return _launch(settings, archive, root, plan, None, Kind.RETRY if retry else Kind.RESUME, tasks, states)


def run(launch: Launch, settings: Settings, watcher: Watcher) -> Runner:
    """Do what is to be done. Raises UsageError where the directory is locked or cannot be written."""
    with locked(launch):
        states = wait_for_strays(launch.archive, launch.plan.tasks) if launch.states else {}
        if launch.added is not None:
            launch.archive.save_plan(launch.added)
        for spec, splits in launch.splits:
            launch.archive.save_splits(spec, splits)
        checkpoint = Checkpoint(launch.archive, Overview(launch.archive, launch.archive.load_plan()))
        limits = Limits(
            settings.max_concurrent,
            settings.max_in_flight,
            settings.task_timeout,
            settings.run_max_cost,
            settings.cache,
            settings.log_level,
        )
        paid = paid_usd(launch, states) if settings.run_max_cost is not None else 0.0
        runner = Runner(launch.root, launch.archive, checkpoint, limits, watcher, paid)
        try:
            tasks = {task.task_id: states.get(task.task_id, TaskState()) for task in launch.tasks}
            runner.run(launch.tasks, launch.kind, _now(), tasks)
        finally:
            checkpoint.write(stopped=True)
        return runner


@contextmanager
def locked(launch: Launch) -> Iterator[None]:
    """The run's directory, for this process alone."""
    folder = launch.root / launch.archive.run_id
    try:
        folder.mkdir(parents=True, exist_ok=True)
        claim = Claim(folder / "lock", f"{os.getpid()}\n")
    except BlockingIOError:
        owner = (folder / "lock").read_text().strip()
        raise UsageError(
            f"run {launch.archive.run_id!r} is locked by process {owner}; wait for it, or watch it with "
            f"`python check_results.py --run-id {launch.archive.run_id} --watch`"
        ) from None
    except OSError as error:
        raise UsageError(f"cannot write to {folder}: {error.strerror}; choose another --checkpoint-dir") from None
    try:
        yield
    finally:
        claim.release()


def finished_results(launch: Launch) -> dict[str, TaskResult]:
    """The results that the run has already, by task."""
    named = {task_id: state.result for task_id, state in launch.states.items() if state.result}
    again = {task.task_id for task in launch.tasks}
    return {task_id: launch.archive.load_result(name) for task_id, name in named.items() if task_id not in again}


def paid_usd(launch: Launch, states: dict[str, TaskState]) -> float:
    """What earlier dispatches paid: every call in every journal, once. Calls of unknown price count as nothing."""
    paid = 0.0
    for state in states.values():
        seen: set[tuple[str, int]] = set()
        for attempt in state.attempts:
            for line in launch.archive.read_journal(attempt).split("\n"):
                entry = read_line(line)
                if isinstance(entry, Entry) and (entry.key, entry.occurrence) not in seen:
                    seen.add((entry.key, entry.occurrence))
                    paid += entry.billed.usd or 0.0
    return paid


def new_run_id(tasks: Sequence[TaskSpec]) -> str:
    """run_YYYYMMDD_HHMMSS_xxxx: the time, and four random hex digits."""
    return f"run_{datetime.now():%Y%m%d_%H%M%S}_{secrets.token_hex(2)}"


def check_run_id(run_id: str) -> None:
    """Raises UsageError for an id that could not be the name of a folder."""
    if not run_id.replace("-", "").replace("_", "").replace(".", "").isalnum() or run_id.startswith("."):
        raise UsageError(f"--run-id {run_id!r}: use letters, digits, '_', '-' and '.'")


def versions() -> dict[str, str]:
    """What a result may depend on."""
    found = {"python": platform.python_version()}
    for name in VERSIONED:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def _launch(
    settings: Settings,
    archive: RunArchive,
    root: Path,
    plan: RunPlan,
    added: RunPlan | None,
    kind: Kind,
    tasks: tuple[TaskSpec, ...],
    states: dict[str, TaskState],
) -> Launch:
    """Check every task against its data before anything is spent."""
    works: dict[str, Work] = {}
    needs: dict[str, Need] = {}
    chosen: list[Need] = []
    kept: list[tuple[TaskSpec, Splits]] = []
    for task in tasks:
        # everything but optimizer, model and seed decides the work; all but the seed decides the need
        base = replace(task, optimizer="", optimizer_params={}, seed=0)
        work = works.get(base.task_id) or load_work(task, archive.load_splits(task))
        if base.task_id not in works:
            check(task, work)
            works[base.task_id] = work
            kept.append((task, work.splits))
        cell = replace(task, seed=0).task_id
        needs[cell] = needs.get(cell) or need(task, work)
        chosen.append(needs[cell])
    hashes = {work.dataset.name: work.splits.data_hash for work in works.values()}
    for name, found in hashes.items():
        if plan.data_hashes.get(name, found) != found:
            raise UsageError(
                f"the rows of {name!r} are not those that run {plan.run_id!r} began with; bring them back or start anew"
            )
    if added is not None:
        added = replace(added, data_hashes=hashes)
    places = max(1, settings.max_in_flight) if tasks and not tasks[0].model.startswith("sim/") else os.cpu_count() or 1
    notes = tuple(dict.fromkeys(note for work in works.values() for note in work.splits.notes))
    return Launch(archive, root, plan, added, kind, tasks, states, tuple(kept), estimate(chosen, places), notes)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
