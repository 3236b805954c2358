"""What `check_results.py` shows: runs as a list, one run, one run on every change of it.

Where runs are looked at, here or on Modal, is a `Source`; the screen is the same.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Collection
from typing import Any, Protocol

from rich.console import Console
from rich.progress import Progress
from rich.text import Text

from local.launch import open_run
from local.venue import LocalVenue, overview_of
from utils.archive import LOCK, Folder, RunArchive
from utils.errors import Unreachable, UsageError
from utils.report.overview import damaged_row
from utils.report.tables import Screenful, results, runs_table, tasks_table, watched
from utils.serialization import dumps
from utils.tracing.exporter import parse_items, push
from utils.tracing.target import decide

COMPLETED, NOT_COMPLETED, RUN_BUDGET = 0, 1, 3
WIDE = 120  # columns where there is no terminal that could be narrower
SPARE = 3  # lines of a screen, for a note and the cursor
SILENT_S = 600.0  # without any change: worth a word
AWAY_S = 3600.0  # without any answer: a watch ends

Row = dict[str, Any]


class Look(Protocol):
    """One run, that can be looked at again and again."""

    every_s: float  # seconds between two looks

    def render(self) -> tuple[Row, bool]:
        """The run as it is now, and whether nobody is working on it."""

    def note(self) -> str:
        """A line on those who work on it; empty if there is nothing to say."""

    def advice(self) -> str:
        """Where to look when nothing has changed for long."""


class Source(Protocol):
    """A place that holds runs."""

    where: str  # in words

    def overviews(self) -> list[Row]:
        """All runs."""

    def open(self, run_id: str) -> Look:
        """One run. Raises UsageError where there is none of that id."""


def show_runs(source: Source, *, as_json: bool) -> int:
    """A line for each run, oldest first."""
    overviews = sorted(source.overviews(), key=lambda overview: str(overview["created"]))
    if as_json:
        print(dumps([_line(overview) for overview in overviews], indent=1))
    elif overviews:
        console = _console()
        console.print(runs_table(overviews))
        for overview in overviews:
            if problem := overview.get("problem"):
                console.print(Text(problem, style="red"), soft_wrap=True)
    else:
        _console().print(f"there is no run yet in {source.where}", markup=False, highlight=False)
    return COMPLETED


def show_run(look: Look, *, detailed: bool, as_json: bool) -> int:
    """A run as it is now."""
    overview, _ = look.render()
    _show(_console(), look, overview, detailed=detailed, as_json=as_json)
    return _exit_code(overview)


def watch_run(
    look: Look,
    *,
    detailed: bool,
    as_json: bool,
    sleep: Callable[[float], None] = time.sleep,
    clock: Callable[[], float] = time.monotonic,
) -> int:
    """A run on every change of it, until all its tasks are final or nobody is working on it."""
    console = _console()
    is_screen = console.is_terminal and not as_json and not detailed
    before, drawn, changed_at, warned = None, None, clock(), False
    pace = Pace(clock)
    while True:
        overview, is_stopped = _look_patiently(look, console, sleep, clock)
        is_over = is_stopped or overview["status"] in ("completed", "failed")
        statuses = [(task["status"], task["attempts"]) for task in overview["tasks"]]
        is_news = statuses != before
        if is_news:
            before, changed_at, warned = statuses, clock(), False
        if is_screen and not is_over:
            eta_s, figures = pace.eta_s(overview), (statuses, [task["paid"] for task in overview["tasks"]])
            if figures != drawn:
                drawn = figures
                console.clear()
                console.print(Screenful(watched(overview, eta_s), SPARE), Text(look.note(), style="dim"), crop=False)
        elif is_news or is_screen:
            if is_screen:
                console.clear()
            _show(console, look, overview, detailed=detailed, as_json=as_json)
        if is_over:
            return _exit_code(overview)
        if not warned and clock() - changed_at > SILENT_S:
            warned = True
            console.print(f"nothing has changed for {SILENT_S / 60:.0f} minutes; {look.advice()}", highlight=False)
        sleep(look.every_s)


class Pace:
    """How fast tasks come to their end, since somebody has been watching."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._first: tuple[float, int] | None = None

    def eta_s(self, overview: Row) -> float | None:
        """Seconds to the end; None before a first task has ended."""
        left = sum(task["status"] in ("pending", "running") for task in overview["tasks"])
        if self._first is None:
            self._first = (self._clock(), left)
        began, before = self._first
        return (self._clock() - began) / (before - left) * left if before > left else None


def _look_patiently(
    look: Look, console: Console, sleep: Callable[[float], None], clock: Callable[[], float]
) -> tuple[Row, bool]:
    """A look, tried again while nobody answers. Raises Unreachable when that has lasted for too long."""
    began, is_said = clock(), False
    while True:
        try:
            return look.render()
        except Unreachable as error:
            if clock() - began > AWAY_S:
                raise
            if not is_said:
                console.print(f"{error}: looking again every {look.every_s:g} s", markup=False, highlight=False)
                is_said = True
            sleep(look.every_s)


def push_run(archive: RunArchive, items: str, flags: str, busy: Callable[[], Collection[str]] = tuple) -> int:
    """Send what Opik has not taken of a run; the exit code: 0 when everything is there.

    `flags` lead a command to the run, `busy` names the tasks that others work on, and whose traces they send.
    """
    console = _console()
    chosen = parse_items(items)
    decision = decide(True, os.environ)
    assert decision.target is not None, "demanded, so it is there or an error"
    console.print(decision.line, style="dim", markup=False, highlight=False, soft_wrap=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("sending", total=None)
        left = push(
            archive,
            archive.load_plan(),
            decision.target,
            items=chosen,
            busy=busy(),
            tell=lambda done, total: bar.update(task, completed=done, total=total),
        )
    console.print(left.line(archive.run_id, flags), markup=False, highlight=False, soft_wrap=True)
    return NOT_COMPLETED if left.left else COMPLETED


class LocalRuns:
    """The runs in a results directory."""

    def __init__(self, checkpoint_dir: str) -> None:
        self._venue = LocalVenue(checkpoint_dir)
        self.where = str(self._venue.root.resolve())

    def overviews(self) -> list[Row]:
        if self._venue.root.exists() and not self._venue.root.is_dir():
            raise UsageError(f"--checkpoint-dir {self._venue.checkpoint_dir!r} is a file; name the folder of the runs")
        return [self._overview(run_id) for run_id in self._venue.known_runs()]

    def _overview(self, run_id: str) -> Row:
        """A run, or what stands in the way of looking at it: one that is damaged hides no other."""
        try:
            return self.open(run_id).render()[0]
        except UsageError as error:
            problem = str(error)
        except OSError as error:
            problem = f"run {run_id!r}: {error.filename or 'its files'}: {error.strerror}"
        return damaged_row(run_id, problem)

    def open(self, run_id: str) -> LocalLook:
        return LocalLook(self._venue, run_id)


class LocalLook:
    """A run in a directory; somebody works on it as long as its lock is held."""

    every_s = 2.0

    def __init__(self, venue: LocalVenue, run_id: str) -> None:
        self._folder = Folder(venue.root / run_id)
        archive = open_run(venue, run_id, "--run-id")
        self._overview = overview_of(archive)

    def render(self) -> tuple[Row, bool]:
        is_stopped = not self._folder.is_claimed(LOCK)
        return self._overview.render(stopped=is_stopped), is_stopped

    def note(self) -> str:
        return ""

    def advice(self) -> str:
        return f"see the logs in {self._folder.root}/logs"


def _show(console: Console, look: Look, overview: Row, *, detailed: bool, as_json: bool) -> None:
    if as_json:
        print(dumps(overview, indent=1), flush=True)
        return
    # addresses are longer than a line: a terminal wraps them, a pipe gets them whole
    console.print(tasks_table(overview) if detailed else results(overview), crop=False)
    if note := look.note():
        console.print(Text(note, style="dim"), soft_wrap=True)


def _line(overview: Row) -> Row:
    """A run in a list, with what its line in the table has."""
    statuses = [task["status"] for task in overview["tasks"]]
    counts = {"tasks": len(statuses), "completed": statuses.count("completed"), "failed": statuses.count("failed")}
    return {**{key: overview[key] for key in ("run_id", "created", "status", "simulated", "paid")}, **counts}


def _exit_code(overview: Row) -> int:
    if overview.get("stopped_by_run_max_cost"):
        return RUN_BUDGET
    return COMPLETED if overview["status"] == "completed" else NOT_COMPLETED


def _console() -> Console:
    console = Console()
    if not console.is_terminal:
        console.width = max(console.width, WIDE)
    return console
