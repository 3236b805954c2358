"""This machine as the place where a run is done: its directory, its workers, its terminal."""

from __future__ import annotations

import os
import shlex
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Console

from benchmark_config import MODELS, Settings
from benchmark_task import Launch, check_model
from local import tracing
from local.checkpoint import Checkpoint
from local.live import Plain, Tally, View
from local.preflight import Preflight, preflight
from local.runner import Limits, Runner, Watcher, wait_for_strays, warm_up
from utils.archive import LOCK, Folder, RunArchive, TaskState, local_archive
from utils.bills import Bills
from utils.errors import UsageError
from utils.records import Spend, TaskResult, TaskSpec
from utils.report.overview import Overview
from utils.report.tables import results
from utils.serialization import dumps

COMPLETED, SOME_FAILED, RUN_BUDGET, INTERRUPTED = 0, 1, 3, 130  # exit codes


@dataclass(frozen=True)
class LocalVenue:
    """Worker processes here, files in a directory."""

    checkpoint_dir: str = Settings.checkpoint_dir

    @property
    def root(self) -> Path:
        return Path(self.checkpoint_dir)

    @property
    def flags(self) -> str:
        return where(self.checkpoint_dir)

    def archive(self, run_id: str) -> RunArchive:
        nearest = next(path for path in (self.root, *self.root.absolute().parents) if path.exists())
        if not nearest.is_dir():
            raise UsageError(
                f"--checkpoint-dir {self.checkpoint_dir!r}: {str(nearest)!r} is a file; choose another folder"
            )
        return local_archive(self.root, run_id)

    def known_runs(self) -> list[str]:
        return sorted(path.parent.name for path in self.root.glob("*/plan.json"))

    def check(self, settings: Settings) -> None:
        """Nothing: every limit can be kept here."""

    def check_models(self, names: Sequence[str], params: Mapping[str, Any]) -> None:
        for name in names:
            check_model(name, params)

    def configured_models(self) -> tuple[str, ...]:
        present = tuple(name for name, variable in MODELS.items() if os.environ.get(variable))
        if not present:
            variables = ", ".join(dict.fromkeys(MODELS.values()))
            raise UsageError(f"no model named and no key found ({variables}); set one, or try --models sim/standard")
        return present

    def probe(self, launch: Launch) -> Preflight | None:
        return preflight(launch.tasks, launch.splits)

    def warm_up(self, models: Sequence[str]) -> None:
        warm_up(models)

    def unfinished(
        self, archive: RunArchive, tasks: Sequence[TaskSpec], states: Mapping[str, TaskState]
    ) -> tuple[TaskSpec, ...]:
        # a task may still be running under a worker whose parent died: it is waited for once the run is locked
        return tuple(task for task in tasks if not states[task.task_id].status.is_final)

    def dispatch(self, launch: Launch, settings: Settings, console: Console, *, as_json: bool) -> int:
        """Run what is to be done, show what came of it."""
        interrupted = spent_up = False
        exporter = tracing.begin(launch, settings, console) if launch.tasks else None
        if launch.tasks:
            link = exporter.link if exporter else lambda task_id: ""
            tally = Tally(launch.plan.tasks, finished_results(launch), time.monotonic, link, paid_before(launch))
            simulated = any(task.is_simulated for task in launch.plan.tasks)
            title = f"run {launch.plan.run_id}" + (" (simulated)" if simulated else "")
            view = View(tally, console, title) if console.is_terminal else Plain(tally, console)
            watcher = tracing.Told(view, exporter, launch.states) if exporter else view
            try:
                runner = run(self.root, launch, settings, watcher)
            finally:
                view.close()
            interrupted, spent_up = runner.was_interrupted, runner.purse.is_empty
        source = overview_of(launch.archive)
        overview = source.render(stopped=True)
        if not as_json:
            console.print(results(overview))
        if exporter:
            # the table first: nobody should wait for traces to read it
            with console.status("sending traces") if console.is_terminal else nullcontext():
                left = exporter.close().line(overview["run_id"], self.flags)
            console.print(left, style="dim", markup=False, highlight=False, soft_wrap=True)
            overview = source.render(stopped=True)
            launch.archive.write_checkpoint(overview)
        if as_json:
            print(dumps(overview, indent=1))
        else:
            self._say_next(console, overview, spent_up=spent_up)
        if interrupted:
            return INTERRUPTED
        if spent_up:
            return RUN_BUDGET
        return COMPLETED if overview["status"] == "completed" else SOME_FAILED

    def cancel(self, open_run: Callable[[], RunArchive], console: Console) -> int:
        raise UsageError("--cancel-run-id is for runs on Modal; a run on this machine is stopped with Ctrl-C")

    def delete(self, archive: RunArchive, make_sure: Callable[[str], None]) -> None:
        folder = self.root / archive.run_id
        if folder.is_symlink():
            raise UsageError(f"{folder} is a link; delete the run where it really is")
        with locked(self.root, archive.run_id):
            if any(archive.is_alive(f"started/{name}") for name in archive.blobs.list("started")):
                raise UsageError(f"a worker of run {archive.run_id!r} is still at work; stop its process first")
            make_sure(str(folder.resolve()))
            # the plan last: what a kill leaves of the run is known by it, and can be deleted again
            for path in sorted(folder.iterdir(), key=lambda path: path.name.startswith("plan.")):
                if path.is_dir() and not path.is_symlink():
                    shutil.rmtree(path)
                else:
                    path.unlink()
        folder.rmdir()

    def _say_next(self, console: Console, overview: Mapping[str, Any], *, spent_up: bool) -> None:
        """The commands that make sense now."""
        run_id = overview["run_id"]
        lines = [f"python check_results.py --run-id {run_id} --detailed{self.flags}"]
        statuses = {task["status"] for task in overview["tasks"]}
        if not statuses <= {"completed", "failed"}:
            more = " --run-max-cost USD" if spent_up else ""
            lines.append(f"python run_benchmark.py --resume-run-id {run_id}{more}{self.flags}")
        if "failed" in statuses:
            lines.append(f"python run_benchmark.py --retry-failed-run-id {run_id}{self.flags}")
        console.print("next: " + "\n      ".join(lines), highlight=False, soft_wrap=True)


def run(root: Path, launch: Launch, settings: Settings, watcher: Watcher) -> Runner:
    """Do what is to be done. Raises UsageError where the directory is locked or cannot be written."""
    with locked(root, launch.archive.run_id):
        states = wait_for_strays(launch.archive, launch.plan.tasks) if launch.states else {}
        if launch.added is not None:
            launch.archive.save_plan(launch.added)
        for spec, splits in launch.splits:
            launch.archive.save_splits(spec, splits)
        if launch.probed:
            launch.archive.save_probed(launch.probed)
        checkpoint = Checkpoint(launch.archive, overview_of(launch.archive))
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
        runner = Runner(root, launch.archive, checkpoint, limits, watcher, paid)
        try:
            tasks = {task.task_id: states.get(task.task_id, TaskState()) for task in launch.tasks}
            runner.run(launch.tasks, launch.kind, _now(), tasks)
        finally:
            checkpoint.write(stopped=True)
        return runner


@contextmanager
def locked(root: Path, run_id: str) -> Iterator[None]:
    """The run's directory, for this process alone."""
    folder = root / run_id
    try:
        claim = Folder(folder).claim(LOCK, f"{os.getpid()}\n")
    except BlockingIOError:
        owner = (folder / LOCK).read_text().strip()
        raise UsageError(
            f"run {run_id!r} is locked by process {owner}; wait for it, or watch it with "
            f"`python check_results.py --run-id {run_id} --watch{where(str(root))}`"
        ) from None
    except OSError as error:
        raise UsageError(f"cannot write to {folder}: {error.strerror}; choose another --checkpoint-dir") from None
    try:
        yield
    finally:
        claim.release()


def overview_of(archive: RunArchive) -> Overview:
    """A run of this machine, with what can be looked at elsewhere."""
    return Overview(archive, archive.load_plan(), links=tracing.TraceLinks(archive))


def finished_results(launch: Launch) -> dict[str, TaskResult]:
    """The results that the run has already, by task."""
    named = {task_id: state.result for task_id, state in launch.states.items() if state.result}
    again = {task.task_id for task in launch.tasks}
    return {task_id: launch.archive.load_result(name) for task_id, name in named.items() if task_id not in again}


def paid_before(launch: Launch) -> dict[str, Spend]:
    """What earlier dispatches paid for the tasks that are to be done, by task."""
    bills = Bills(launch.archive)
    states = ((task.task_id, launch.states.get(task.task_id, TaskState())) for task in launch.tasks)
    return {task_id: bills.of(state.attempts) for task_id, state in states if state.attempts}


def paid_usd(launch: Launch, states: Mapping[str, TaskState]) -> float:
    """What earlier dispatches paid, in USD. Calls of unknown price count as nothing."""
    attempts = [attempt for state in states.values() for attempt in state.attempts]
    probed = launch.archive.load_probed().usd or 0.0
    return probed + sum(paid.usd or 0.0 for paid in Bills(launch.archive).of_each(attempts).values())


def where(checkpoint_dir: str) -> str:
    """The option that leads a command to a results directory; nothing for the usual one."""
    is_usual = Path(checkpoint_dir) == Path(Settings.checkpoint_dir)
    return "" if is_usual else f" --checkpoint-dir {shlex.quote(checkpoint_dir)}"


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
