"""The Volume as `Blobs`: mounted in a container, and through Modal's client from anywhere else.

A run is the folder `runs/<run_id>` of the volume, in the layout of `utils.archive`, and more kinds of files:

    calls/<n>.<chunk>.json      the function calls of the n-th dispatch, by task
    paid/<task_id>@<n>.<k>.json     what an attempt has paid so far, by its journal, which is too long for a look
    limited/<task_id>@<n>.<k>       an attempt ended because the run's money did: it can be resumed
    links/<n>.json                  the pages of its tasks in Opik, where traces are sent
    summaries/<count>-<x>.json.gz   the rows of so many results, made by `collect`: a cache, so that a look reads little

Every file has one writer and is written once; journals and logs are appended to by the one attempt they belong to.
"""

from __future__ import annotations

import gzip
import io
import json
import secrets
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path

import modal

from modal_utils.deployment import explained
from utils.archive import Appender, Attempt, Folder, RunArchive
from utils.disk import CommittedDisk, Disk
from utils.records import Spend, TaskResult
from utils.report.overview import Row, outcome
from utils.serialization import dumps, loads

RUNS = "runs"
AT_ONCE = 32  # files read at a time


class Mounted(Folder):
    """Blobs in a mounted volume: others see what is written after `commit`, and we what they wrote after `reload`.

    A volume cannot be reloaded while a file on it is open, so files are opened for each append.
    """

    def __init__(
        self, root: Path, commit: Callable[[], None], reload: Callable[[], None], disk: Disk | None = None
    ) -> None:
        super().__init__(root, disk or CommittedDisk())
        self.commit = commit
        self.reload = reload
        self.is_dirty = False  # something was written since the last commit
        self._appended: dict[str, int] = {}  # bytes of the files that grow here
        self._published: dict[str, int] = {}  # the same, as others see them

    def read_on(self, name: str, offset: int) -> bytes:
        """Of a file that grows here what is published: the rest may be lost with this container, and come otherwise."""
        if name not in self._appended:
            return super().read_on(name, offset)
        return super().read_on(name, offset)[: max(0, self._published.get(name, 0) - offset)]

    def write(self, name: str, content: bytes) -> None:
        super().write(name, content)
        self.is_dirty = True

    def create(self, name: str, content: bytes) -> None:
        """No link, as a folder makes: the container sees nobody else's writes, and its names are its own."""
        try:
            is_other = self.read(name) != content
        except FileNotFoundError:
            is_other = False
        if is_other:
            raise FileExistsError(name)
        self.write(name, content)

    def appender(self, name: str) -> Appender:
        return _Reopened(self, name)

    def append(self, name: str, content: bytes) -> None:
        """Write to the end of a file, and let go of it."""
        log = self.open_log(name) if name not in self._appended else self.disk.open_log(self.root / name)
        with closing(log):
            self._appended[name] = log.write(content)
        self.is_dirty = True

    def publish(self) -> None:
        """Commit what was written, if anything was."""
        if self.is_dirty:
            self.is_dirty = False  # first: what is written meanwhile is for the next time
            appended = dict(self._appended)
            try:
                self.commit()
            except BaseException:  # a commit may be interrupted by Modal's signals too
                self.is_dirty = True
                raise
            self._published = appended


class _Reopened:
    """The appender of a file that is opened for each line; it lasts once it is published."""

    def __init__(self, blobs: Mounted, name: str) -> None:
        self._blobs = blobs
        self._name = name

    def __call__(self, text: str) -> None:
        self._blobs.append(self._name, text.encode("utf-8", "surrogatepass"))

    def sync(self) -> None:
        """Nothing: a commit carries a line with everything before it."""

    def close(self) -> None:
        """Nothing is open."""


class Remote:
    """Blobs of one run through Modal's client."""

    def __init__(self, volume: modal.Volume, folder: str) -> None:
        self._volume = volume
        self._folder = folder

    def read(self, name: str) -> bytes:
        with explained():
            return b"".join(self._volume.read_file(f"{self._folder}/{name}"))

    def read_all(self, names: Sequence[str]) -> dict[str, bytes]:
        with ThreadPoolExecutor(AT_ONCE) as pool:
            return dict(zip(names, pool.map(self.read, names), strict=True))

    def read_on(self, name: str, offset: int) -> bytes:
        return self.read(name)[offset:]

    def write(self, name: str, content: bytes) -> None:
        with explained():
            self._put(name, content, force=True)

    def create(self, name: str, content: bytes) -> None:
        with suppress(FileExistsError), explained():
            self._put(name, content, force=False)
        # a look back: of two writers one is told, and one whose answer was lost on its way is told for nothing
        if self.read(name) != content:
            raise FileExistsError(name)

    def _put(self, name: str, content: bytes, *, force: bool) -> None:
        with self._volume.batch_upload(force=force) as batch:
            batch.put_file(io.BytesIO(content), f"/{self._folder}/{name}")

    def appender(self, name: str) -> Appender:
        raise io.UnsupportedOperation(f"{name} cannot be appended to from outside: only its container does that")

    def sync(self, name: str) -> None:
        """Nothing: what is on a volume lasts."""

    def list(self, folder: str) -> list[str]:
        path = f"{self._folder}/{folder}".rstrip("/")
        names = (entry.path.rpartition("/")[2] for entry in entries(self._volume, path))
        return sorted(name for name in names if not name.startswith("."))


def entries(volume: modal.Volume, path: str, *, recursive: bool = False) -> list[modal.types.FileEntry]:
    """What a folder of the volume holds; nothing if there is no such folder."""
    with explained():
        try:
            return volume.listdir(path, recursive=recursive)
        except (FileNotFoundError, modal.exception.NotFoundError):
            return []


# --------------------------------------------------------------------------- what only runs on Modal have


@dataclass(frozen=True)
class Calls:
    """A part of the function calls of one dispatch, and the pool of containers that they are queued for."""

    submission: int
    pool: str  # id of the function variant: it can be asked how many containers it has
    ids: Mapping[str, str]  # task id -> function call id


@dataclass(frozen=True)
class Started:
    """What a started file tells."""

    call: str  # function call id
    container: str
    at: str  # ISO-8601, UTC


def save_calls(archive: RunArchive, calls: Calls, chunk: int) -> None:
    """Write a part of a dispatch's calls down, once."""
    archive.blobs.create(f"calls/{calls.submission}.{chunk:05d}.json", dumps(calls).encode())


def load_calls(archive: RunArchive) -> list[Calls]:
    """All that is known of a run's calls, oldest first."""
    names = sorted(archive.blobs.list("calls"), key=lambda name: [int(part) for part in name.split(".")[:2]])
    read = archive.blobs.read_all([f"calls/{name}" for name in names])
    return [loads(Calls, content) for content in read.values()]


def latest_calls(archive: RunArchive) -> dict[str, tuple[int, str]]:
    """The last call of each task, of those that were written down, and the dispatch that made it."""
    return {task_id: (calls.submission, call) for calls in load_calls(archive) for task_id, call in calls.ids.items()}


def save_paid(archive: RunArchive, attempt: Attempt, paid: Spend) -> None:
    """Say what an attempt has paid so far; written again and again by the one who pays."""
    archive.blobs.write(f"paid/{attempt}.json", dumps(paid).encode())


def load_paid(archive: RunArchive, attempts: Iterable[Attempt]) -> dict[Attempt, Spend]:
    """What these attempts have paid, of those that have said so."""
    names = set(archive.blobs.list("paid"))
    wanted = {f"paid/{attempt}.json": attempt for attempt in attempts if f"{attempt}.json" in names}
    return {wanted[name]: loads(Spend, content) for name, content in archive.blobs.read_all(list(wanted)).items()}


def save_limited(archive: RunArchive, attempt: Attempt) -> None:
    """Say that an attempt ended at the run's limit of money."""
    archive.blobs.create(f"limited/{attempt}", b"")


def limited(archive: RunArchive) -> set[str]:
    """The names of the attempts that ended at the run's limit."""
    return set(archive.blobs.list("limited"))


def save_links(archive: RunArchive, submission: int, links: Mapping[str, str]) -> None:
    """Keep where the traces of a dispatch's tasks are to be, by task."""
    archive.blobs.create(f"links/{submission}.json", dumps(dict(links)).encode())


def load_links(archive: RunArchive) -> dict[str, str]:
    """Where the traces of tasks are, by task."""
    read = archive.blobs.read_all([f"links/{name}" for name in archive.blobs.list("links")])
    return {task_id: url for content in read.values() for task_id, url in json.loads(content).items()}


def save_started(archive: RunArchive, attempt: Attempt, started: Started) -> None:
    """Say that an attempt began, and which call it answers."""
    archive.blobs.create(archive.started_name(attempt), dumps(started).encode())


# --------------------------------------------------------------------------- a look at thousands of results


def summarize(blobs: Mounted, run_id: str) -> str:
    """Fold all results that a run has into one file; its name."""
    blobs.reload()
    archive = RunArchive(blobs, run_id)
    names = blobs.list("results")
    rows = {name: outcome(result) for name, result in archive.read_results(names).items()}
    name = f"summaries/{len(names):07d}-{secrets.token_hex(4)}.json.gz"
    blobs.write(name, gzip.compress(json.dumps(rows, separators=(",", ":")).encode(), compresslevel=1))
    blobs.publish()
    return name


def load_summary(archive: RunArchive) -> dict[str, Row]:
    """The rows of the fullest summary, by the names of the result files; empty if there is none."""
    names = archive.blobs.list("summaries")
    if not names:
        return {}
    rows: dict[str, Row] = json.loads(gzip.decompress(archive.blobs.read(f"summaries/{names[-1]}")))
    return rows


def save_result_to_volume(archive: RunArchive, attempt: Attempt, result: TaskResult, blobs: Mounted) -> TaskResult:
    """Write a finished attempt down, publish it with everything before it, and give it back."""
    archive.save_result(attempt, result)
    blobs.publish()
    return result
