"""A run on disk or on a volume: who writes what, under which name.

    plan.json, plan.<m>.json                     the plan and its extensions; the run is their union
    data/<dataset>-<hash>.json                   the rows that are used, so that a run needs no hub to go on
    probed/<n>.json                              what the first calls before a dispatch cost
    submissions/<n>.json                         n-th dispatch: new, resume, retry or extend, and its task ids
    started/<task_id>@<n>.<k>                    an attempt began
    journal/<task_id>@<n>.<k>.jsonl              its model calls
    trace/<task_id>@<n>.<k>.jsonl                its trials and steps, for whoever sends traces
    traced/<task_id>.json                        what a tracing server has taken of the task
    results/<task_id>@<n>.<k>.completed.json     or .failed.json
    details/<task_id>@<n>.<k>.json               its bulk: every step, and the test scores row by row
    logs/optimization_<task_id>.log
    checkpoint.json                              rendered from the above, never the source of truth
    lock                                         claimed by the process that works on the run

Every file has one writer and is written once, or appended to by that writer. The state of all tasks follows from two
listings and the submissions. `Blobs` knows bytes, `RunArchive` alone knows this layout.
"""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path
from typing import Any, Literal, Protocol, TypeVar

from utils.disk import DISK, Claim, Disk, Log
from utils.errors import Damaged, ErrorKind, UsageError
from utils.records import Failure, RunPlan, Spend, Splits, Status, StopReason, TaskResult, TaskSpec
from utils.serialization import content_hash, decode, dumps, encode, from_value, parse, to_file

T = TypeVar("T")

LOCK = "lock"  # held by whoever works on the run
UNREADABLE = (IsADirectoryError, NotADirectoryError, PermissionError)
SUBMISSION = re.compile(r"(\d+)\.json")
SHOWN = {"status", "stop_reason", "initial", "final", "gain", "spent", "scoring", "seconds", "error"}  # of a result
ATTEMPT = re.compile(r"(?P<task>.+)@(?P<submission>\d+)\.(?P<name>\w+?)(\.(completed|failed)\.json)?$")


class Appender(Protocol):
    """Writes lines to the end of a file."""

    def __call__(self, text: str) -> None:
        """Write, through to the operating system: it survives this process."""

    def sync(self) -> None:
        """What was written so far survives a power cut."""

    def close(self) -> None:
        """Sync, and let go of the file."""


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

    def appender(self, name: str) -> Appender:
        """The end of a file of lines, created if missing; a torn last line is cut off."""

    def sync(self, name: str) -> None:
        """What stands in a file survives a power cut, whoever wrote it. Nothing where there is no such file."""

    def list(self, folder: str) -> list[str]:
        """The names in a folder, sorted; empty if there is no such folder."""


class Unwritten:
    """The blobs of a run that is only thought of: there are none, and none can be written."""

    def read(self, name: str) -> bytes:
        raise FileNotFoundError(name)

    def read_all(self, names: Sequence[str]) -> dict[str, bytes]:
        return {name: self.read(name) for name in names}

    def read_on(self, name: str, offset: int) -> bytes:
        raise FileNotFoundError(name)

    def write(self, name: str, content: bytes) -> None:
        raise PermissionError(f"{name}: this run is not to be written")

    create = write

    def appender(self, name: str) -> Appender:
        raise PermissionError(f"{name}: this run is not to be written")

    def sync(self, name: str) -> None:
        """Nothing is there."""

    def list(self, folder: str) -> list[str]:
        return []


class Folder:
    """Blobs in a directory. Writes go to a file beside and are renamed: a reader sees the old or the new, whole.

    What was written survives a power cut when `write` or `claim` returns; what was appended, when it was synced.
    """

    def __init__(self, root: Path, disk: Disk = DISK) -> None:
        self.root = root
        self.disk = disk

    def read(self, name: str) -> bytes:
        return self.disk.read(self.root / name)

    def read_all(self, names: Sequence[str]) -> dict[str, bytes]:
        return {name: self.read(name) for name in names}

    def read_on(self, name: str, offset: int) -> bytes:
        return self.disk.read(self.root / name, offset)

    def write(self, name: str, content: bytes) -> None:
        path = self.root / name
        self.disk.rename(self._write_aside(path, content), path)
        self.disk.sync(path.parent)

    def create(self, name: str, content: bytes) -> None:
        path = self.root / name
        aside = self._write_aside(path, content)
        try:
            self.disk.link(aside, path)
        except FileExistsError:
            if self.disk.read(path) != content:
                raise
        finally:
            self.disk.remove(aside)
        self.disk.sync(path.parent)

    def _write_aside(self, path: Path, content: bytes) -> Path:
        self.disk.make_folder(path.parent)
        aside = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}")
        self.disk.write(aside, content)
        self.disk.sync(aside)
        return aside

    def appender(self, name: str) -> Appender:
        return _Open(self.open_log(name))

    def sync(self, name: str) -> None:
        with suppress(FileNotFoundError):
            self.disk.sync(self.root / name)

    def open_log(self, name: str) -> Log:
        """A file of lines, open at its end; there after a power cut. A torn last line, left by a kill, is cut off."""
        path = self.root / name
        self.disk.make_folder(path.parent)
        log = self.disk.open_log(path)
        written = self.disk.read(path)
        if not written.endswith(b"\n"):
            self.disk.cut(path, written.rfind(b"\n") + 1)
        self.disk.sync(path.parent)
        return log

    def list(self, folder: str) -> list[str]:
        return sorted(name for name in self.disk.names(self.root / folder) if not name.startswith("."))

    def claim(self, name: str, content: str = "") -> Claim:
        """A lock that lasts as long as this process. Raises BlockingIOError while another one holds it."""
        path = self.root / name
        self.disk.make_folder(path.parent)
        claim = self.disk.claim(path, content)
        self.disk.sync(path)
        self.disk.sync(path.parent)
        return claim

    def is_claimed(self, name: str) -> bool:
        """True while a living process holds the claim."""
        return self.disk.is_claimed(self.root / name)


class _Open:
    """The appender of a file that stays open."""

    def __init__(self, log: Log) -> None:
        self._log = log

    def __call__(self, text: str) -> None:
        self._log.write(text.encode("utf-8", "surrogatepass"))

    def sync(self) -> None:
        self._log.sync()

    def close(self) -> None:
        try:
            self._log.sync()
        finally:
            self._log.close()


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
            self.blobs.create(_plan_name(number), to_file(plan))
        except FileExistsError:
            raise UsageError(
                f"run {self.run_id!r} was planned by another command in this moment; give yours again: it goes on with"
                " what is left"
            ) from None

    def exists(self) -> bool:
        """True once the plan is written."""
        return bool(self._plans())

    def load_plan(self) -> RunPlan:
        """The union of the plan and its extensions, tasks in the order in which they were named.

        A directory that was renamed is the run of its new name. Raises Damaged.
        """
        names = self._plans()
        if not names:
            raise UsageError(f"unknown run {self.run_id!r}; `python check_results.py --list-runs` lists what there is")
        for number, name in enumerate(names, 1):
            if name != _plan_name(number):
                raise Damaged(f"run {self.run_id!r}: {_plan_name(number)} is missing; bring it back")
        plans = [self._load_plan(name) for name in names]
        tasks = {task.task_id: task for plan in plans for task in plan.tasks}
        hashes = {name: value for plan in plans for name, value in plan.data_hashes.items()}
        code = {name: value for plan in plans for name, value in plan.code.items()}
        # the commit that was read first stays
        revisions = {name: value for plan in reversed(plans) for name, value in plan.revisions.items()}
        return replace(
            plans[0],
            run_id=self.run_id,
            tasks=tuple(tasks.values()),
            data_hashes=hashes,
            revisions=revisions,
            code=code,
        )

    def _load_plan(self, name: str) -> RunPlan:
        """One plan file; a task of it is read strictly, since every field of a task decides its result."""
        with self._named(name):
            value = parse(self.blobs.read(name))
            tasks = decode(tuple[TaskSpec, ...], value.pop("tasks", None) if isinstance(value, dict) else None, "tasks")
            return replace(from_value(RunPlan, {**value, "tasks": []}), tasks=tasks)

    def _plans(self) -> list[str]:
        names = [name for name in self.blobs.list("") if re.fullmatch(r"plan(\.\d+)?\.json", name)]
        return sorted(names, key=lambda name: int(name.split(".")[1]) if name.count(".") == 2 else 1)

    # ------------------------------------------------------------------ rows

    def save_splits(self, spec: TaskSpec, splits: Splits) -> None:
        """Keep the rows that a task uses, once."""
        name = _data_name(spec)
        if name.rpartition("/")[2] not in self.blobs.list("data"):
            with suppress(FileExistsError):  # whoever was first has set the rows of this run
                self.blobs.create(name, to_file(splits))

    def load_splits(self, spec: TaskSpec) -> Splits | None:
        """The rows kept for a task; None if there are none."""
        try:
            return self._load(Splits, _data_name(spec))
        except FileNotFoundError:
            return None

    # ------------------------------------------------------------------ before the first dispatch

    def save_probed(self, paid: Spend) -> None:
        """Enter what the first calls of a dispatch cost."""
        self.blobs.create(f"probed/{len(self.blobs.list('probed')) + 1}.json", to_file(paid))

    def load_probed(self) -> Spend:
        """The same, of all dispatches."""
        return sum((self._load(Spend, f"probed/{name}") for name in self.blobs.list("probed")), Spend())

    # ------------------------------------------------------------------ dispatch

    def submissions(self, *, after: int = 0) -> list[Submission]:
        """All dispatches, or those after a number, in order."""
        return [self._load(Submission, f"submissions/{number}.json") for number in self._dispatched() if number > after]

    def _dispatched(self) -> list[int]:
        return sorted(int(match[1]) for match in map(SUBMISSION.fullmatch, self.blobs.list("submissions")) if match)

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
                self.blobs.create(f"submissions/{number}.json", to_file(submission))
            except FileExistsError:  # another dispatch took the number in this moment
                continue
            return submission

    def started_name(self, attempt: Attempt) -> str:
        """The file that says an attempt began."""
        return f"started/{attempt}"

    # ------------------------------------------------------------------ calls and results

    def journal(self, attempt: Attempt) -> Appender:
        """Where an attempt writes its model calls."""
        return self.blobs.appender(self.journal_name(attempt))

    def journal_name(self, attempt: Attempt) -> str:
        """The file of an attempt's model calls."""
        return f"journal/{attempt}.jsonl"

    def read_journal(self, attempt: Attempt) -> str:
        """The text of an attempt's journal; empty if it asked nothing. Raises Damaged where it is no text."""
        try:
            written = self.blobs.read(self.journal_name(attempt))
        except FileNotFoundError:
            return ""
        whole, newline, torn = written.rpartition(b"\n")
        try:
            return (whole + newline).decode("utf-8", "surrogatepass") + torn.decode("utf-8", "replace")
        except UnicodeDecodeError as error:
            line = whole.count(b"\n", 0, error.start) + 1
            raise Damaged(
                f"{self.journal_name(attempt)}, line {line} cannot be read: it is no UTF-8; bring the file back"
            ) from None

    def take_over(self, attempt: Attempt) -> str:
        """The same for whoever goes on from there: a result that is built on these lines must not survive them."""
        self.blobs.sync(self.journal_name(attempt))
        return self.read_journal(attempt)

    def recording(self, attempt: Attempt) -> Appender:
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
            self.blobs.write(f"details/{attempt}.json", to_file(result))
        self.blobs.write(
            f"results/{attempt}.{result.status.value}.json", to_file(replace(result, steps=(), items={}, reported={}))
        )
        return result

    def load_result(self, name: str) -> TaskResult:
        """The result in a file that `states` named, without its bulk; where it cannot be read, a failure says so."""
        try:
            return self._load(TaskResult, f"results/{name}")
        except Damaged as error:
            return _damaged(name, error)

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
        try:
            read = self.blobs.read_all([f"results/{name}" for name in names])
            values = {path.removeprefix("results/"): parse(content) for path, content in read.items()}
        except (UsageError, *UNREADABLE):
            return {name: encode(self.load_result(name)) for name in names}
        # anything else but a result, whose fields are looked at one by one for a look that takes no time
        strange = [name for name, value in values.items() if not isinstance(value, dict) or not value.keys() >= SHOWN]
        return values | {name: encode(self.load_result(name)) for name in strange}

    def load_details(self, name: str) -> TaskResult:
        """The same result whole. A failed attempt has no more to tell than its result file."""
        try:
            return self._load(TaskResult, f"details/{_parse(name)}.json")
        except (FileNotFoundError, Damaged):
            return self.load_result(name)

    def log_name(self, task_id: str) -> str:
        """The log of a task, relative to the run."""
        return f"logs/optimization_{task_id}.log"

    def write_checkpoint(self, overview: Mapping[str, Any]) -> None:
        """The state of the run for people and scripts."""
        self.blobs.write("checkpoint.json", dumps(overview, indent=1).encode("utf-8", "surrogatepass"))

    def _load(self, cls: type[T], name: str) -> T:
        """The record in a file. Raises FileNotFoundError, or Damaged with the file's name."""
        with self._named(name):
            return from_value(cls, parse(self.blobs.read(name)))

    @contextmanager
    def _named(self, name: str) -> Iterator[None]:
        try:
            yield
        except UsageError as error:
            raise Damaged(f"run {self.run_id!r}: {name} cannot be read: {error}") from None
        except UNREADABLE as error:
            raise Damaged(f"run {self.run_id!r}: {name} cannot be read: {error.strerror}") from None

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
        names = (name for name in self.blobs.list("results") if name.endswith((".completed.json", ".failed.json")))
        ended = [(attempt, name) for name in names if (attempt := _parse(name))]
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


def local_archive(root: Path, run_id: str, disk: Disk = DISK) -> RunArchive:
    """The archive of a run in a directory; attempts hold claims on their started files."""
    folder = Folder(root / run_id, disk)
    return RunArchive(folder, run_id, folder.is_claimed)


def _damaged(name: str, error: Damaged) -> TaskResult:
    attempt = _parse(name)
    message = f"{error}; delete it and resume: its calls are in the journal and cost nothing"
    failure = Failure(ErrorKind.DAMAGED, message)
    return TaskResult(
        attempt.task_id if attempt else name, Status.FAILED, StopReason.ERROR, 0.0, simulated=False, error=failure
    )


def _plan_name(number: int) -> str:
    return "plan.json" if number == 1 else f"plan.{number}.json"


def _data_name(spec: TaskSpec) -> str:
    """Tasks with the same source of rows share a file."""
    return f"data/{spec.dataset}-{content_hash([spec.data, spec.dataset_csv, spec.test_mode], 8)}.json"


def _parse(name: str) -> Attempt | None:
    match = ATTEMPT.match(name)
    return Attempt(match["task"], int(match["submission"]), match["name"]) if match else None
