"""A local run from its settings to its end: open or make the plan, ask, lock, run, write the checkpoint.

One rule for new, resumed, retried and extended runs: the plan (what was planned, and what is asked for now) minus what
is done; a retry adds what failed. A finished run asked for again has nothing to do, and says so.
"""

from __future__ import annotations

import difflib
import importlib.metadata
import os
import platform
import re
import secrets
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmark_config import Settings
from benchmark_task import Work, check, check_model, expand, load_work, need, unpriced_model
from local.checkpoint import Checkpoint
from local.runner import Limits, Runner, Watcher, wait_for_strays, warm_up
from utils.archive import Claim, Kind, RunArchive, TaskState, local_archive
from utils.errors import UsageError
from utils.journal import Entry, read_line
from utils.records import RunPlan, Splits, Status, TaskResult, TaskSpec
from utils.report.estimate import Estimate, Need, estimate
from utils.report.overview import Overview
from utils.serialization import decode, dumps, encode

RUN_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
LIMITS = (
    "max_concurrent",
    "max_in_flight",
    "task_timeout",
    "call_timeout",
    "run_max_cost",
    "cache",
    "log_level",
)  # may change
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
    run_id = settings.run_id or new_run_id()
    archive = archive_at(root, run_id, "--run-id")
    tasks = expand(settings)
    warm_up([task.model for task in tasks])
    asked = RunPlan(run_id, _now(), tasks, encode(settings), versions())
    if not archive.exists():
        return _launch(settings, archive, root, asked, asked, Kind.NEW, tasks, {})
    plan = archive.load_plan()
    refuse_other_terms(plan, tasks)
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
    archive = open_run(root, run_id, "--retry-failed-run-id" if retry else "--resume-run-id")
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
    named = (name for task in tasks for name in (task.model, task.optimizer_model, task.judge_model))
    for model in dict.fromkeys(filter(None, named)):
        check_model(model, tasks[0].model_params)  # all tasks of a run have the same
    return _launch(settings, archive, root, plan, None, Kind.RETRY if retry else Kind.RESUME, tasks, states)


def settings_again(asked: Mapping[str, Any], run_id: str, option: str) -> Settings:
    """The settings to resume or retry a run with: its own limits, and over them what is asked for now.

    What the plan is made of cannot change: an option that says otherwise is refused, not ignored.
    """
    root = Path(asked.get("checkpoint_dir", Settings.checkpoint_dir))
    plan = open_run(root, run_id, option).load_plan()
    recorded = {**plan.settings, "run_id": plan.run_id}
    for key, value in asked.items():
        if key not in (*LIMITS, "checkpoint_dir") and value != recorded.get(key):
            raise UsageError(
                f"--{key.replace('_', '-')} {_shown(value)} contradicts the plan of run {run_id!r}, which has"
                f" {_shown(recorded.get(key))}; leave the option out, or start another run"
            )
    return decode(Settings, {**{key: recorded[key] for key in LIMITS if key in recorded}, **asked})


def refuse_other_terms(plan: RunPlan, tasks: Sequence[TaskSpec]) -> None:
    """Raises UsageError where tasks are asked for on other terms than the run's: one table could not compare them."""
    before, now = _terms(plan.tasks[0]), _terms(tasks[0])
    for option, value in now.items():
        if value != before[option]:
            raise UsageError(
                f"{option} {_shown(value)} is not what run {plan.run_id!r} was planned with, {_shown(before[option])};"
                " give another --run-id: datasets, optimizers, models and seeds can be added to a run, nothing else"
            )


def _terms(task: TaskSpec) -> dict[str, Any]:
    """What all tasks of a run have in common, by option."""
    return {
        "--test-mode": task.test_mode,
        "--data": task.data,
        "--dataset-csv": task.dataset_csv,
        "--prompt": task.prompt and (task.prompt.user or task.prompt.system),
        "--metric": task.metric,
        "--model-params": dict(task.model_params),
        "--optimizer-model": task.optimizer_model,
        "--judge-model": task.judge_model,
        "--budget": task.budget.task_calls,
        "--max-tokens": task.budget.tokens,
        "--max-cost": task.budget.usd,
        "--max-seconds": task.budget.seconds,
    }


def _shown(value: Any) -> str:
    if value is None or value in ("", [], {}):
        return "none"
    return " ".join(map(str, value)) if isinstance(value, list) else dumps(value)


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
            settings.call_timeout,
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
            f"`python check_results.py --run-id {launch.archive.run_id} --watch{where(str(launch.root))}`"
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


def archive_at(root: Path, run_id: str, option: str) -> RunArchive:
    """The archive of a run that may not exist yet. Raises UsageError for an id or a directory that cannot be."""
    if not RUN_ID.fullmatch(run_id):
        raise UsageError(
            f"{option} {run_id!r} cannot name a folder; use letters, digits, '_', '-' and '.', first a letter or digit"
        )
    nearest = next(path for path in (root, *root.absolute().parents) if path.exists())
    if not nearest.is_dir():
        raise UsageError(f"--checkpoint-dir {str(root)!r}: {str(nearest)!r} is a file; choose another folder")
    return local_archive(root, run_id)


def open_run(root: Path, run_id: str, option: str) -> RunArchive:
    """The archive of a run that exists. Raises UsageError with the nearest known id."""
    archive = archive_at(root, run_id, option)
    if not archive.exists():
        known = [path.parent.name for path in root.glob("*/plan.json")]
        near = difflib.get_close_matches(run_id, known, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else f"; {len(known)} runs are there"
        raise UsageError(
            f"unknown run {run_id!r} in {str(root)!r}{hint}"
            f" `python check_results.py --list-runs{where(str(root))}` lists them"
        )
    return archive


def where(checkpoint_dir: str) -> str:
    """The option that leads a command to a results directory; nothing for the usual one."""
    is_usual = Path(checkpoint_dir) == Path(Settings.checkpoint_dir)
    return "" if is_usual else f" --checkpoint-dir {shlex.quote(checkpoint_dir)}"


def new_run_id() -> str:
    """run_YYYYMMDD_HHMMSS_xxxx: the time, and four random hex digits."""
    return f"run_{datetime.now():%Y%m%d_%H%M%S}_{secrets.token_hex(2)}"


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
            if settings.run_max_cost is not None and (unpriced := unpriced_model(task, work)):
                raise UsageError(
                    f"--run-max-cost cannot be kept: the price of {unpriced!r} is not known; limit the tasks with"
                    " --max-tokens or --budget"
                )
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
    notes = fold_notes(note for work in works.values() for note in work.splits.notes)
    return Launch(archive, root, plan, added, kind, tasks, states, tuple(kept), estimate(chosen, places), notes)


def fold_notes(notes: Iterable[str]) -> tuple[str, ...]:
    """Notes of the form `name: text`, a line a text with all the names that it holds for.

    >>> fold_notes(["gsm8k: bundled", "ai2_arc: bundled", "gsm8k: short"])
    ('gsm8k, ai2_arc: bundled', 'gsm8k: short')
    """
    names: dict[str, list[str]] = {}
    for note in dict.fromkeys(notes):
        name, _, text = note.partition(": ")
        names.setdefault(text, []).append(name)
    return tuple(f"{', '.join(of)}: {text}" if text else of[0] for text, of in names.items())


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
