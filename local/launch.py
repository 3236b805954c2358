"""What a run is to do, worked out before anything is spent: its plan, the tasks to dispatch, the estimate.

One rule for new, resumed, retried and extended runs: the plan (what was planned, and what is asked for now) minus what
is done; a retry adds what failed. A finished run asked for again has nothing to do, and says so.
"""

from __future__ import annotations

import difflib
import os
import re
import secrets
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from benchmark_config import MODELS, Settings
from benchmark_task import (
    Launch,
    Venue,
    Work,
    check,
    check_model,
    code_of,
    expand,
    load_work,
    need,
    unpriced_model,
    versions,
)
from utils.archive import Kind, RunArchive, TaskState, Unwritten
from utils.errors import ErrorKind, MissingKey, UsageError, unknown
from utils.records import RunPlan, Splits, Status, TaskSpec
from utils.report.estimate import Need, Places, estimate
from utils.serialization import decode, dumps, encode

MOST_NAMED = 3  # modules in one error line
RUN_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
LIMITS = (
    "max_concurrent",
    "max_in_flight",
    "task_timeout",
    "call_timeout",
    "run_max_cost",
    "cache",
    "tracing",
    "trace_items",
    "log_level",
)  # may change


def plan_new(settings: Settings, venue: Venue, *, accept_changed_code: bool = False, is_dry: bool = False) -> Launch:
    """The launch of a grid. A run of this id that exists is resumed, and extended by what is new.

    `is_dry`: no model will be asked, so that a missing key is a note.
    """
    run_id = settings.run_id or new_run_id()
    refuse_bad_id(run_id, "--run-id")
    # a new run that will not be started is nobody's yet: its price can be told without a key, or a token of Modal's
    is_thought_of = is_dry and not settings.run_id
    archive = RunArchive(Unwritten(), run_id, lambda _: False) if is_thought_of else venue.archive(run_id)
    settings = replace(settings, models=settings.models or _models(venue, is_dry=is_dry))
    missing = _check_models(venue, settings.named_models, settings.model_params, is_dry=is_dry)
    tasks = expand(settings)
    venue.warm_up(settings.named_models)
    asked = RunPlan(run_id, _now(), tasks, encode(settings), versions())
    if not archive.exists():
        launch = _launch(settings, archive, asked, asked, Kind.NEW, tasks, {})
        return replace(launch, notes=(*launch.notes, *missing))
    plan = archive.load_plan()
    refuse_other_terms(plan, tasks)
    known = {task.task_id for task in plan.tasks}
    extra = tuple(task for task in tasks if task.task_id not in known)
    whole = replace(plan, tasks=(*plan.tasks, *extra))
    states = archive.states(whole.tasks)
    open_tasks = venue.unfinished(archive, whole.tasks, states)
    changed = changed_code(plan, open_tasks, is_accepted=accept_changed_code)
    added = replace(asked, tasks=extra) if extra or changed else None
    return _launch(settings, archive, whole, added, Kind.EXTEND if extra else Kind.RESUME, open_tasks, states)


def plan_again(
    settings: Settings,
    venue: Venue,
    run_id: str,
    *,
    retry: bool,
    errors: Sequence[str] = (),
    accept_changed_code: bool = False,
) -> Launch:
    """The launch of what a run has not done: everything unfinished, or (retry) what failed.

    `errors` restricts a retry to failures of these classes.
    """
    archive = open_run(venue, run_id, "--retry-failed-run-id" if retry else "--resume-run-id")
    plan = archive.load_plan()
    states = archive.states(plan.tasks)
    if retry:
        tasks = _failed(archive, plan, states, errors)
        if not tasks:
            of_class = f" of class {' or '.join(errors)}" if errors else ""
            raise UsageError(
                f"run {run_id!r} has no failed task{of_class}; --resume-run-id {run_id} goes on with unfinished ones"
            )
    else:
        tasks = venue.unfinished(archive, plan.tasks, states)
    if tasks:
        venue.warm_up([task.model for task in tasks])
        named = dict.fromkeys(name for task in tasks for name in task.models)
        venue.check_models(tuple(named), tasks[0].model_params)  # all tasks of a run have the same
    changed = changed_code(plan, tasks, is_accepted=accept_changed_code)
    added = RunPlan(plan.run_id, _now(), (), plan.settings, versions()) if changed else None
    return _launch(settings, archive, plan, added, Kind.RETRY if retry else Kind.RESUME, tasks, states)


def changed_code(plan: RunPlan, tasks: Sequence[TaskSpec], *, is_accepted: bool) -> list[str]:
    """The modules that decide the results of these tasks and are not what the run was planned with.

    Raises UsageError for them, unless the user has accepted that the run becomes one of two programs.
    """
    changed = sorted(name for name, now in _code(tasks).items() if plan.code.get(name, now) != now)
    if changed and not is_accepted:
        more = f" and {len(changed) - MOST_NAMED} more" if len(changed) > MOST_NAMED else ""
        raise UsageError(
            f"the code of {', '.join(changed[:MOST_NAMED])}{more} is not what run {plan.run_id!r} was planned with, and"
            " its results would be of two programs; bring it back, give another --run-id, or go on with"
            " --accept-changed-code"
        )
    return changed


def _code(tasks: Sequence[TaskSpec]) -> dict[str, str]:
    return {name: now for task in tasks for name, now in code_of(task).items()}


def _models(venue: Venue, *, is_dry: bool) -> tuple[str, ...]:
    """The models of the table that the workers can ask; where none will be asked and none can, all of it."""
    try:
        return venue.configured_models()
    except UsageError:
        if not is_dry:
            raise
        return tuple(MODELS)


def _check_models(venue: Venue, names: Sequence[str], params: Mapping[str, Any], *, is_dry: bool) -> list[str]:
    """Raises UsageError for a model that could not be asked; where none will be, the missing keys are notes."""
    if not is_dry:
        venue.check_models(names, params)
        return []
    missing = []
    for name in names:
        try:
            check_model(name, params)
        except MissingKey as error:
            missing.append(f"{error}, before it can run")
    return missing


def _failed(
    archive: RunArchive, plan: RunPlan, states: Mapping[str, TaskState], errors: Sequence[str]
) -> tuple[TaskSpec, ...]:
    kinds = [kind.value for kind in ErrorKind]
    for name in errors:
        if name not in kinds:
            raise unknown("error class", name, kinds)
    failed = [task for task in plan.tasks if states[task.task_id].status is Status.FAILED]
    if not errors:
        return tuple(failed)
    results = archive.read_results([states[task.task_id].result for task in failed])
    return tuple(task for task in failed if results[states[task.task_id].result]["error"]["kind"] in errors)


def settings_again(asked: Mapping[str, Any], venue: Venue, run_id: str, option: str) -> Settings:
    """The settings to resume or retry a run with: its own limits, and over them what is asked for now.

    What the plan is made of cannot change: an option that says otherwise is refused, not ignored.
    """
    plan = open_run(venue, run_id, option).load_plan()
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
        "--split": task.split,
        "--prompt": task.prompt and (task.prompt.user or task.prompt.system),
        "--output-prompt": task.prompt and task.prompt.output,
        "--metric": task.metric,
        "--model-params": dict(task.model_params),
        "--optimizer-model": task.optimizer_model,
        "--judge-model": task.judge_model,
        "--budget": task.budget.task_calls,
        "--max-tokens": task.budget.tokens,
        "--max-cost": task.budget.usd,
        "--max-seconds": task.budget.seconds,
        "--max-failed-share": task.max_failed_share,
    }


def _shown(value: Any) -> str:
    if value is None or value in ("", [], {}):
        return "none"
    return " ".join(map(str, value)) if isinstance(value, list) else dumps(value)


def refuse_bad_id(run_id: str, option: str) -> None:
    """Raises UsageError for an id that cannot name a folder."""
    if not RUN_ID.fullmatch(run_id):
        raise UsageError(
            f"{option} {run_id!r} cannot name a folder; use letters, digits, '_', '-' and '.', first a letter or digit"
        )


def open_run(venue: Venue, run_id: str, option: str) -> RunArchive:
    """The archive of a run that exists. Raises UsageError with the nearest known id."""
    refuse_bad_id(run_id, option)
    archive = venue.archive(run_id)
    if not archive.exists():
        known = venue.known_runs()
        near = difflib.get_close_matches(run_id, known, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"{len(known)} runs are there;"
        raise UsageError(
            f"unknown run {run_id!r}; {hint} `python check_results.py --list-runs{venue.flags}` lists them"
        )
    return archive


def new_run_id() -> str:
    """run_YYYYMMDD_HHMMSS_xxxx: the time, and four random hex digits."""
    return f"run_{datetime.now():%Y%m%d_%H%M%S}_{secrets.token_hex(2)}"


def _launch(
    settings: Settings,
    archive: RunArchive,
    plan: RunPlan,
    added: RunPlan | None,
    kind: Kind,
    tasks: tuple[TaskSpec, ...],
    states: Mapping[str, TaskState],
) -> Launch:
    """Check every task against its data before anything is spent."""
    works: dict[str, Work] = {}
    needs: dict[str, Need] = {}
    chosen: list[Need] = []
    kept: list[tuple[TaskSpec, Splits]] = []
    for task in tasks:
        # everything but optimizer, model and seed decides the work; all but the seed decides the need
        base = replace(task, optimizer="", optimizer_params={}, seed=0)
        work = works.get(base.task_id) or load_work(task, archive.load_splits(task), plan.revisions)
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
        revisions = {name: commit for work in works.values() for name, commit in work.splits.revisions.items()}
        added = replace(added, data_hashes=hashes, revisions=revisions, code=_code(tasks))
    places = Places(settings.max_concurrent, settings.max_in_flight, os.cpu_count() or 1)
    notes = fold_notes(note for work in works.values() for note in work.splits.notes)
    return Launch(archive, plan, added, kind, tasks, states, tuple(kept), estimate(chosen, places), notes)


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
