"""What `check_results.py` shows of the runs on this machine."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.console import Console

from local.launch import open_run
from utils.archive import is_claimed
from utils.errors import UsageError
from utils.report.overview import Overview
from utils.report.tables import results, runs_table, tasks_table
from utils.serialization import dumps

COMPLETED, NOT_COMPLETED = 0, 1
WIDE = 120  # columns where there is no terminal that could be narrower
SILENT_S = 600.0  # without any change: worth a word
EVERY_S = 2.0


def show_runs(root: str, *, as_json: bool) -> int:
    """A line for each run, oldest first."""
    folder = Path(root)
    if not folder.is_dir():
        raise UsageError(f"--checkpoint-dir {root!r} is not a folder; name the one that runs are in")
    names = sorted(path.parent.name for path in folder.glob("*/plan.json"))
    overviews = [_open(root, name).render(stopped=not _is_locked(root, name)) for name in names]
    overviews.sort(key=lambda overview: overview["created"])
    if as_json:
        keys = ("run_id", "created", "status", "simulated")
        rows = [{**{k: o[k] for k in keys}, "tasks": len(o["tasks"])} for o in overviews]
        print(dumps(rows, indent=1))
    elif overviews:
        _console().print(runs_table(overviews))
    else:
        _console().print(f"no runs in {folder.resolve()}", highlight=False)
    return COMPLETED


def show_run(root: str, run_id: str, *, detailed: bool, as_json: bool) -> int:
    """A run as it is now."""
    overview = _open(root, run_id).render(stopped=not _is_locked(root, run_id))
    _show(_console(), overview, detailed=detailed, as_json=as_json)
    return _exit_code(overview)


def watch_run(
    root: str,
    run_id: str,
    *,
    detailed: bool,
    as_json: bool,
    sleep: Callable[[float], None] = time.sleep,
    clock: Callable[[], float] = time.monotonic,
) -> int:
    """A run on every change of it, until all its tasks are final or nobody is working on it."""
    source, console = _open(root, run_id), _console()
    before, changed_at, warned = None, clock(), False
    while True:
        is_stopped = not _is_locked(root, run_id)
        overview = source.render(stopped=is_stopped)
        statuses = [(task["status"], task["attempts"]) for task in overview["tasks"]]
        if statuses != before:
            before, changed_at, warned = statuses, clock(), False
            if console.is_terminal and not as_json:
                console.clear()
            _show(console, overview, detailed=detailed, as_json=as_json)
        if is_stopped:
            return _exit_code(overview)
        if not warned and clock() - changed_at > SILENT_S:
            warned = True
            console.print(f"nothing has changed for {SILENT_S / 60:.0f} minutes; see the logs in {root}/{run_id}/logs")
        sleep(EVERY_S)


def _open(root: str, run_id: str) -> Overview:
    archive = open_run(Path(root), run_id, "--run-id")
    return Overview(archive, archive.load_plan())


def _is_locked(root: str, run_id: str) -> bool:
    return is_claimed(Path(root) / run_id / "lock")


def _show(console: Console, overview: dict[str, Any], *, detailed: bool, as_json: bool) -> None:
    if as_json:
        print(dumps(overview, indent=1), flush=True)
    else:
        console.print(tasks_table(overview) if detailed else results(overview))


def _exit_code(overview: dict[str, Any]) -> int:
    return COMPLETED if overview["status"] == "completed" else NOT_COMPLETED


def _console() -> Console:
    console = Console()
    if not console.is_terminal:
        console.width = max(console.width, WIDE)
    return console
