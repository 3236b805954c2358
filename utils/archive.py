"""A run on disk or on a volume: who writes what, under which name.

    plan.json, plan.<m>.json                     the plan and its extensions; the run is their union
    data/<dataset>-<hash>.json                   the rows that are used, so that a run needs no hub to go on
    submissions/<n>.json                         n-th dispatch: new, resume, retry or extend, and its task ids
    started/<task_id>@<n>.<k>                    an attempt began
    journal/<task_id>@<n>.<k>.jsonl              its model calls
    trace/<task_id>@<n>.<k>.jsonl                its trials and steps, for whoever sends traces
    traced/<task_id>.json                        what a tracing server has taken of the task
    results/<task_id>@<n>.<k>.completed.json     or .failed.json
    details/<task_id>@<n>.<k>.json               its bulk: every step, and the test scores row by row
    logs/optimization_<task_id>.log
    checkpoint.json                              rendered from the above, never the source of truth

Every file has one writer and is written once, or appended to by that writer. The state of all tasks follows from two
listings and the submissions. `Blobs` knows bytes, `RunArchive` alone knows this layout.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path
from typing import Any, Literal, Protocol

from utils.errors import UsageError
from utils.records import RunPlan, Splits, Status, TaskResult, TaskSpec
from utils.serialization import content_hash, dumps, loads

ATTEMPT = re.compile(r"(?P<task>.+)@(?P<submission>\d+)\.(?P<name>\w+?)(\.(completed|failed)\.json)?$")


class Blobs(Protocol):
    """Bytes under names with slashes."""

    def read(self, name: str) -> bytes:
        """Raises FileNotFoundError."""

    def read_all(self, names: Sequence[str]) -> dict[str, bytes]:
        """The contents of many files, by name. Raises FileNotFoundError."""

    def read_on(self, name: str, offset: int) -> bytes:
        """A file from a byte on, for whoever follows it. Raises FileNotFoundError."""

    def write(self, name: str, content: bytes) -> None:
        """Whole or not at all: a reader never sees a part."""

    def create(self, name: str, content: bytes) -> None:
        """The same for what is written once. Raises FileExistsError where something else stands there already."""

    def appender(self, name: str) -> Callable[[str], None]:
        """Writes text to the end of a file, through to the operating system; created if missing."""

    def list(self, folder: str) -> list[str]:
        """The names in a folder, sorted; empty if there is no such folder."""


class Folder:
    """Blobs in a directory. Writes go to a file beside and are renamed: a reader sees the old or the new, whole."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def read(self, name: str) -> bytes:
        return (self.root / name).read_bytes()

    def read_all(self, names: Sequence[str]) -> dict[str, bytes]:
        return {name: self.read(name) for name in names}

    def read_on(self, name: str, offset: int) -> bytes:
        with (self.root / name).open("rb") as file:
            file.seek(offset)
            return file.read()

    def write(self, name: str, content: bytes) -> None:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        aside = path.with_name(f".{path.name}.{os.getpid()}")
        aside.write_bytes(content)
        aside.replace(path)

    def create(self, name: str, content: bytes) -> None:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        aside = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}")
        aside.write_bytes(content)
        try:
            os.link(aside, path)  # unlike a rename it takes nobody's place
        except FileExistsError:
            if path.read_bytes() != content:
                raise
        finally:
            aside.unlink()

    def appender(self, name: str) -> Callable[[str], None]:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)

        def append(text: str) -> None:
            view = memoryview(text.encode("utf-8", "surrogatepass"))
            while view:
                view = view[os.write(descriptor, view) :]

        return append

    def list(self, folder: str) -> list[str]:
        try:
            return sorted(entry.name for entry in os.scandir(self.root / folder) if not entry.name.startswith("."))
        except FileNotFoundError:
            return []


class Kind(StrEnum):
    """Why tasks were dispatched."""

    NEW = "new"
    RESUME = "resume"
    RETRY = "retry"
    EXTEND = "extend"
    CANCEL = "cancel"  # its tasks are taken back: no earlier dispatch may begin them


@dataclass(frozen=True)
class Submission:
    """One dispatch of tasks."""

    number: int
    kind: Kind
    created: str
    task_ids: tuple[str, ...]
    mark: str = ""  # tells two of one moment apart, where several may dispatch


@dataclass(frozen=True)
class Attempt:
    """One try of one task: `submission` and `name` make its files unique."""

    task_id: str
    submission: int
    name: str

    def __str__(self) -> str:
        return f"{self.task_id}@{self.submission}.{self.name}"


@dataclass(frozen=True)
class TaskState:
    """What the file names say of a task."""

    status: Status = Status.PENDING
    attempts: tuple[Attempt, ...] = ()  # in the order in which they began
    result: str = ""  # name of the result file, where there is one


@dataclass(frozen=True)
class RunArchive:
    """The files of one run."""

    blobs: Blobs
    run_id: str
    is_alive: Callable[[str], bool] = field(default=lambda _: False)  # asked with the name of a started file

    # ------------------------------------------------------------------ the plan

    def save_plan(self, plan: RunPlan) -> None:
        """Write the plan, or an extension of it, once. Raises UsageError where another command just did."""
        number = len(self._plans()) + 1
        try:
            self.blobs.create("plan.json" if number == 1 else f"plan.{number}.json", _text(plan))
        except FileExistsError:
            raise UsageError(
                f"run {self.run_id!r} was planned by another command in this moment; give yours again: it goes on with"
                " what is left"
            ) from None

    def exists(self) -> bool:
        """True once the plan is written."""
        return bool(self._plans())

    def load_plan(self) -> RunPlan:
        """The union of the plan and its extensions, tasks in the order in which they were named."""
        names = self._plans()
        if not names:
            raise UsageError(f"unknown run {self.run_id!r}; `python check_results.py --list-runs` lists what there is")
        plans = [loads(RunPlan, self.blobs.read(name)) for name in names]
        tasks = {task.task_id: task for plan in plans for task in plan.tasks}
        hashes = {name: value for plan in plans for name, value in plan.data_hashes.items()}
        return replace(plans[0], tasks=tuple(tasks.values()), data_hashes=hashes)

    def _plans(self) -> list[str]:
        names = [name for name in self.blobs.list("") if re.fullmatch(r"plan(\.\d+)?\.json", name)]
        return sorted(names, key=lambda name: int(name.split(".")[1]) if name.count(".") == 2 else 1)

    # ------------------------------------------------------------------ rows

    def save_splits(self, spec: TaskSpec, splits: Splits) -> None:
        """Keep the rows that a task uses, once."""
        name = _data_name(spec)
        if name.rpartition("/")[2] not in self.blobs.list("data"):
            with suppress(FileExistsError):  # whoever was first has set the rows of this run
                self.blobs.create(name, _text(splits))

    def load_splits(self, spec: TaskSpec) -> Splits | None:
        """The rows kept for a task; None if there are none."""
        try:
            return loads(Splits, self.blobs.read(_data_name(spec)))
        except FileNotFoundError:
            return None

    # ------------------------------------------------------------------ dispatch

    def submissions(self, *, after: int = 0) -> list[Submission]:
        """All dispatches, or those after a number, in order."""
        return [
            loads(Submission, self.blobs.read(f"submissions/{number}.json"))
            for number in self._dispatched()
            if number > after
        ]

    def _dispatched(self) -> list[int]:
        return sorted(int(name.split(".")[0]) for name in self.blobs.list("submissions"))

    def retried_at(self) -> dict[str, int]:
        """The latest retry of each task that was retried: what failed before it is asked again."""
        retries = (submission for submission in self.submissions() if submission.kind is Kind.RETRY)
        return {task_id: submission.number for submission in retries for task_id in submission.task_ids}

    def submit(self, kind: Kind, tasks: Iterable[TaskSpec], created: str, mark: str = "") -> Submission:
        """Write down that these tasks are dispatched now, under a number that no other dispatch has."""
        task_ids = tuple(task.task_id for task in tasks)
        number = max(self._dispatched(), default=0)
        while True:
            number += 1
            submission = Submission(number, kind, created, task_ids, mark)
            try:
                self.blobs.create(f"submissions/{number}.json", _text(submission))
            except FileExistsError:  # another dispatch took the number in this moment
                continue
            return submission

    def started_name(self, attempt: Attempt) -> str:
        """The file that says an attempt began."""
        return f"started/{attempt}"

    # ------------------------------------------------------------------ calls and results

    def journal(self, attempt: Attempt) -> Callable[[str], None]:
        """Where an attempt writes its model calls."""
        return self.blobs.appender(f"journal/{attempt}.jsonl")

    def read_journal(self, attempt: Attempt) -> str:
        """The text of an attempt's journal; empty if it asked nothing."""
        try:
            written = self.blobs.read(f"journal/{attempt}.jsonl")
        except FileNotFoundError:
            return ""
        whole, newline, torn = written.rpartition(b"\n")
        return (whole + newline).decode("utf-8", "surrogatepass") + torn.decode("utf-8", "replace")

    def recording(self, attempt: Attempt) -> Callable[[str], None]:
        """Where an attempt writes its trials and steps."""
        return self.blobs.appender(f"trace/{attempt}.jsonl")

    def read_on(self, kind: Literal["journal", "trace"], attempt: Attempt, offset: int) -> bytes:
        """What stands in a file of an attempt from a byte on; empty if there is nothing (yet)."""
        try:
            return self.blobs.read_on(f"{kind}/{attempt}.jsonl", offset)
        except FileNotFoundError:
            return b""

    def save_traced(self, task_id: str, content: bytes) -> None:
        """Keep what a tracing server has taken of a task; written by the one who sends."""
        self.blobs.write(f"traced/{task_id}.json", content)

    def read_traced(self, task_id: str) -> bytes:
        """The same as it was kept last; empty if nothing was sent."""
        try:
            return self.blobs.read(f"traced/{task_id}.json")
        except FileNotFoundError:
            return b""

    def save_result(self, attempt: Attempt, result: TaskResult) -> TaskResult:
        """Write a finished attempt down, once, and give it back; its bulk first, and apart: status reads little."""
        if result.steps or result.items:
            self.blobs.write(f"details/{attempt}.json", _text(result))
        self.blobs.write(
            f"results/{attempt}.{result.status.value}.json", _text(replace(result, steps=(), items={}, reported={}))
        )
        return result

    def load_result(self, name: str) -> TaskResult:
        """The result in a file that `states` named, without its bulk."""
        return loads(TaskResult, self.blobs.read(f"results/{name}"))

    def result_of(self, attempt: Attempt) -> TaskResult | None:
        """What came of an attempt; None if nothing did (yet)."""
        for status in (Status.COMPLETED, Status.FAILED):
            try:
                return self.load_result(f"{attempt}.{status.value}.json")
            except FileNotFoundError:
                continue
        return None

    def read_results(self, names: Sequence[str]) -> dict[str, dict[str, Any]]:
        """Many results in their encoded form, by name: for a look at thousands of them."""
        read = self.blobs.read_all([f"results/{name}" for name in names])
        return {path.removeprefix("results/"): json.loads(content) for path, content in read.items()}

    def load_details(self, name: str) -> TaskResult:
        """The same result whole. A failed attempt has no more to tell than its result file."""
        try:
            return loads(TaskResult, self.blobs.read(f"details/{_parse(name)}.json"))
        except FileNotFoundError:
            return self.load_result(name)

    def log_name(self, task_id: str) -> str:
        """The log of a task, relative to the run."""
        return f"logs/optimization_{task_id}.log"

    def write_checkpoint(self, overview: Mapping[str, Any]) -> None:
        """The state of the run for people and scripts."""
        self.blobs.write("checkpoint.json", dumps(overview, indent=1).encode("utf-8", "surrogatepass"))

    # ------------------------------------------------------------------ state

    def states(self, tasks: Sequence[TaskSpec]) -> dict[str, TaskState]:
        """The state of every task, from two listings and the submissions: linear in their number."""
        latest = {task_id: item.number for item in self.submissions() for task_id in item.task_ids}
        started: dict[str, list[Attempt]] = {}
        for begun in filter(None, map(_parse, self.blobs.list("started"))):
            started.setdefault(begun.task_id, []).append(begun)
        for attempts in started.values():
            attempts.sort(key=lambda attempt: (attempt.submission, attempt.name))
        completed: dict[str, str] = {}
        failed: dict[str, str] = {}
        ended = [(attempt, name) for name in self.blobs.list("results") if (attempt := _parse(name))]
        for attempt, name in sorted(ended, key=lambda pair: (pair[0].submission, pair[0].name)):
            if name.endswith(".completed.json"):
                # a worker that outlived its parent may have finished the task too: the first result stands
                completed.setdefault(attempt.task_id, name)
            elif attempt.submission == latest.get(attempt.task_id):
                failed[attempt.task_id] = name
        return {
            task.task_id: self._state(tuple(started.get(task.task_id, ())), completed, failed, task.task_id)
            for task in tasks
        }

    def _state(
        self, started: tuple[Attempt, ...], completed: Mapping[str, str], failed: Mapping[str, str], task_id: str
    ) -> TaskState:
        if task_id in completed:
            return TaskState(Status.COMPLETED, started, completed[task_id])
        if task_id in failed:
            return TaskState(Status.FAILED, started, failed[task_id])
        running = any(self.is_alive(self.started_name(attempt)) for attempt in started)
        return TaskState(Status.RUNNING if running else Status.PENDING, started)


class Claim:
    """A file that is locked as long as its owner lives: a kill lets go of it, whatever the signal."""

    def __init__(self, path: Path, content: str = "", *, patience: int = 20, pause_s: float = 0.05) -> None:
        """Raises BlockingIOError while another process holds it; a look by `is_claimed` is waited out."""
        path.parent.mkdir(parents=True, exist_ok=True)
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        for tries_left in reversed(range(patience)):
            try:
                fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if not tries_left:
                    os.close(self._descriptor)
                    raise
                time.sleep(pause_s)
        os.ftruncate(self._descriptor, 0)
        os.write(self._descriptor, content.encode())

    def release(self) -> None:
        os.close(self._descriptor)


def is_claimed(path: Path) -> bool:
    """True while a living process holds the claim."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def local_archive(root: Path, run_id: str) -> RunArchive:
    """The archive of a run in a directory; attempts hold claims on their started files."""
    folder = Folder(root / run_id)
    return RunArchive(folder, run_id, lambda name: is_claimed(folder.root / name))


def _data_name(spec: TaskSpec) -> str:
    """Tasks with the same source of rows share a file."""
    return f"data/{spec.dataset}-{content_hash([spec.data, spec.dataset_csv, spec.test_mode], 8)}.json"


def _parse(name: str) -> Attempt | None:
    match = ATTEMPT.match(name)
    return Attempt(match["task"], int(match["submission"]), match["name"]) if match else None


def _text(value: Any) -> bytes:
    return dumps(value).encode("utf-8", "surrogatepass")
