"""Runs on Modal, looked at from anywhere: two listings, and the results that are new since the last look."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import modal
from rich.console import Console
from rich.progress import Progress

from modal_utils.coordinator import ModalVenue, find_alive
from modal_utils.deployment import APP, COLLECT, VOLUME, explained, link
from modal_utils.storage import AT_ONCE, RUNS, Calls, entries, limited, load_calls, load_links, load_paid, load_summary
from utils.archive import Folder, RunArchive
from utils.errors import Damaged, UsageError
from utils.report.overview import Overview, damaged_row

MANY = 300  # new results from which on a container reads them for us
COLLECT_S = 120.0

Row = dict[str, Any]

logger = logging.getLogger("benchmark")


class ModalRuns:
    """The runs on the volume."""

    where = f"the volume {VOLUME!r} on Modal"

    def __init__(self, venue: ModalVenue, open_run: Callable[[str], RunArchive]) -> None:
        self._venue = venue
        self._open_run = open_run

    def overviews(self) -> list[Row]:
        """All runs, from the names of their files and what was summarized: no result is read for a list."""
        with explained():
            return [self._overview_or_damage(run_id) for run_id in self._venue.known_runs()]

    def open(self, run_id: str) -> ModalLook:
        with explained():
            return ModalLook(self._open_run(run_id))

    def _overview_or_damage(self, run_id: str) -> Row:
        """A run, or what stands in the way of looking at it: one that is damaged hides no other."""
        try:
            return self._overview(run_id)
        except Damaged as error:
            return damaged_row(run_id, str(error))

    def _overview(self, run_id: str) -> Row:
        found = self._venue.archive(run_id)
        is_busy = _Pools(load_calls(found)).are_busy()
        archive = RunArchive(found.blobs, run_id, lambda _: is_busy)
        known = load_summary(archive)
        overview = Overview(
            archive,
            archive.load_plan(),
            read=lambda names: {name: known[name] for name in names if name in known},
            paid=partial(load_paid, archive),
        )
        return overview.render(stopped=not is_busy)


class ModalLook:
    """A run on the volume; somebody works on it as long as one of its calls is queued or running."""

    every_s = 10.0

    def __init__(self, archive: RunArchive) -> None:
        self._busy = True
        # a task that has begun is running as long as any of the run's containers are
        self._archive = RunArchive(archive.blobs, archive.run_id, lambda _: self._busy)
        self._plan = self._archive.load_plan()
        self._summary: dict[str, Row] | None = None
        self._calls: dict[str, str] = {}
        self._pools = _Pools([])
        self._limited = 0  # tasks that wait for more money
        paid = partial(load_paid, self._archive)
        self._overview = Overview(self._archive, self._plan, read=self._read, paid=paid, links=self._links)

    def render(self) -> tuple[Row, bool]:
        with explained():
            calls = load_calls(self._archive)
            self._calls = {task_id: call for part in calls for task_id, call in part.ids.items()}
            self._pools = _Pools(calls)
            self._busy = True
            overview = self._overview.render()
            left = [task["task_id"] for task in overview["tasks"] if task["status"] in ("pending", "running")]
            self._busy = bool(left) and (self._pools.are_busy() or self._is_any_alive(left))
            if left and not self._busy:
                overview = self._overview.render(stopped=True)
            self._limited = self._count_limited(left) if not self._busy else 0
            return {**overview, "stopped_by_run_max_cost": self._limited}, not self._busy

    def _count_limited(self, tasks: Sequence[str]) -> int:
        """How many of these tasks wait for more money: the last attempt of each ended at the run's limit."""
        names = limited(self._archive)
        if not names:
            return 0
        states = self._archive.states([task for task in self._plan.tasks if task.task_id in tasks])
        return sum(str(state.attempts[-1]) in names for state in states.values() if state.attempts)

    def _is_any_alive(self, tasks: Sequence[str]) -> bool:
        """Asks the calls themselves: what a pool says of itself may lag."""
        asked = [self._calls[task_id] for task_id in tasks if task_id in self._calls][:AT_ONCE]
        return bool(asyncio.run(find_alive(asked)))

    def note(self) -> str:
        if self._limited:
            return (
                f"the run's limit of money is reached, {self._limited} of its tasks wait for more: `python"
                f" run_benchmark.py --modal --resume-run-id {self._plan.run_id} --run-max-cost USD`"
            )
        return self._pools.note()

    def advice(self) -> str:
        return (
            f"{self._pools.note() or 'its pool is gone'}; a container that cannot start leaves no result: see its log,"
            f" or resume with `python run_benchmark.py --modal --resume-run-id {self._plan.run_id}`"
        )

    def _links(self) -> dict[str, dict[str, str]]:
        links = {task_id: {"log": link(call)} for task_id, call in self._calls.items()}
        for task_id, url in load_links(self._archive).items():
            links.setdefault(task_id, {})["traces"] = url
        return links

    def _read(self, names: Sequence[str]) -> dict[str, Row]:
        """The outcomes of new results: from the summary, by a container where they are many, else one by one."""
        if self._summary is None:
            self._summary = load_summary(self._archive)
        if sum(name not in self._summary for name in names) > MANY:
            self._summary = self._collect()
        known = {name: self._summary[name] for name in names if name in self._summary}
        left = [name for name in names if name not in known]
        return {**known, **self._overview.read_each(left)}

    def _collect(self) -> dict[str, Row]:
        """The summary that a container makes now; an older one where none can, and the rest is read from here."""
        try:
            modal.Function.from_name(APP, COLLECT).spawn(self._plan.run_id).get(timeout=COLLECT_S)
        except modal.exception.AuthError:
            raise
        except Exception:  # not deployed, out of quota, too slow: whatever it is, the results can be read without it
            logger.info("the results are read one by one", exc_info=True)
        return load_summary(self._archive)


class _Pools:
    """The containers that a run's dispatches were queued for."""

    def __init__(self, calls: Sequence[Calls]) -> None:
        self._ids = list(dict.fromkeys(part.pool for part in calls))
        self._backlog = self._running = self._containers = 0

    def are_busy(self) -> bool:
        """True where an input is queued or running."""
        stats = []
        for pool in self._ids:
            try:
                stats.append(modal.Function.from_id(pool).get_current_stats())
            except modal.exception.NotFoundError:
                continue  # deployed anew, and drained since
        self._backlog = sum(stat.backlog for stat in stats)
        self._running = sum(stat.num_running_inputs for stat in stats)
        self._containers = sum(stat.num_total_runners for stat in stats)
        return self._backlog + self._running > 0

    def note(self) -> str:
        if not self._backlog + self._running:
            return ""
        return (
            f"{self._containers} containers, {self._running} tasks running, {self._backlog:,} waiting:"
            f" {link(self._ids[-1])}"
        )


def pull(venue: ModalVenue, run_id: str, folder: str, console: Console) -> int:
    """Copy a run from the volume into a local results directory; what is there already is not copied again."""
    target = Path(folder) / run_id
    with explained():
        files = [entry for entry in entries(venue.volume, f"{RUNS}/{run_id}", recursive=True) if _is_file(entry)]
        if not files:
            raise UsageError(f"unknown run {run_id!r}; `python check_results.py --modal --list-runs` lists them")
        inside = {entry.path.partition(f"{RUNS}/{run_id}/")[2]: entry.size for entry in files}
        inside = {name: size for name, size in inside.items() if not name.rpartition("/")[2].startswith(".")}
        wanted = [name for name, size in inside.items() if not _is_there(target / name, size)]
        blobs, here = venue.archive(run_id).blobs, Folder(target)
        with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
            task = bar.add_task("copying", total=len(wanted))
            for start in range(0, len(wanted), AT_ONCE):
                for name, content in blobs.read_all(wanted[start : start + AT_ONCE]).items():
                    here.write(name, content)
                    bar.advance(task)
    console.print(
        f"run {run_id}: {len(wanted):,} of {len(inside):,} files copied to {target}\n"
        f"next: python check_results.py --run-id {run_id} --checkpoint-dir {folder}",
        highlight=False,
        soft_wrap=True,
    )
    return 0


def _is_file(entry: modal.types.FileEntry) -> bool:
    return entry.type.name == "FILE"


def _is_there(path: Path, size: int) -> bool:
    return path.is_file() and path.stat().st_size == size
