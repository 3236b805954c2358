"""A disk in memory that knows what would survive a power cut, and stops a run where it is told to.

Every operation that changes something takes a moment, in which others go on, and is a crash point: it has a number, by
which a `Crash` names it. There it is lost, torn (a part of what was to be written) or whole, and then either the
process that did it is gone, or every process, or the power. At a power cut goes what was not synced: of a file's
content all but a part of what was added since, of the names all those changes that came after some moment and whose
folder was not synced since.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

from tests.simulation.world import Process, World

OPERATION_S = 0.002  # at most, on the virtual clock


class Extent(StrEnum):
    """How much of the operation at a crash point is done."""

    LOST = "lost"
    TORN = "torn"
    WHOLE = "whole"


class Scope(StrEnum):
    """Who is gone at a crash point."""

    PROCESS = "process"  # who did the operation
    ALL = "all"  # every process, as by `killall -9`
    POWER = "power"  # every process, and what was not synced


@dataclass(frozen=True)
class Crash:
    """The end of some or all at one operation: the n-th of its kind, from 0."""

    number: int
    extent: Extent
    scope: Scope
    kind: str = ""  # as in `Point.kind`; empty: of any


@dataclass(frozen=True)
class Point:
    """An operation that was done: a place where a run can be stopped."""

    kind: str  # what is done and in which folder: "rename results"
    name: str
    process: str
    at: float

    def __str__(self) -> str:
        return f"{self.kind} ({self.name}, by {self.process})"


class Points:
    """The crash points of a schedule, in their order, and where it is to be stopped."""

    def __init__(self, world: World, crashes: tuple[Crash, ...] = ()) -> None:
        self._world = world
        self._crashes = {(crash.kind, crash.number): crash for crash in crashes}
        self._counts: Counter[str] = Counter()
        self.passed: list[Point] = []
        self.crashed: list[tuple[Point, Crash]] = []

    def reach(self, kind: str, name: str) -> Crash | None:
        """The crash that is to happen at this operation, which takes a moment."""
        process = self._world.process
        crash = self._crashes.get((kind, self._counts[kind])) or self._crashes.get(("", len(self.passed)))
        point = Point(kind, name, process.name, self._world.now)
        self.passed.append(point)
        self._counts[kind] += 1
        self._world.block(timeout=self._world.rng.uniform(0, OPERATION_S))
        if crash is not None:
            self.crashed.append((point, crash))
        return crash


@dataclass(eq=False)
class File:
    """Content, and how much of it is safe."""

    content: bytes = b""
    synced: bytes = b""
    owner: Process | None = None  # who holds the lock on it


Change = tuple[tuple[Path, "File | None"], ...]  # names and what they stand for from now on: done at once, or not


@dataclass
class Disk:
    """The same operations as `utils.disk.Disk`, on files that are in memory."""

    world: World
    points: Points
    root: Path = Path("/")  # of the run: points are named from here
    names_: dict[Path, File] = field(default_factory=dict)
    folders: set[Path] = field(default_factory=lambda: {Path("/")})
    replaced: list[Path] = field(default_factory=list)  # names that were given to another file
    beside: list[Callable[[], None]] = field(default_factory=list)  # what else happens when the power goes
    _safe: dict[Path, File] = field(default_factory=dict)
    _unsafe: list[Change] = field(default_factory=list)

    # ------------------------------------------------------------------ reading

    def read(self, path: Path, offset: int = 0) -> bytes:
        return self._at(path).content[offset:]

    def names(self, folder: Path) -> list[str]:
        inside = {path.name for path in self.names_ if path.parent == folder}
        return sorted(inside | {path.name for path in self.folders if path.parent == folder and path != folder})

    def is_claimed(self, path: Path) -> bool:
        file = self.names_.get(path)
        return file is not None and file.owner is not None and not file.owner.is_dead

    # ------------------------------------------------------------------ writing

    def make_folder(self, folder: Path) -> None:
        if folder not in self.folders:
            self.make_folder(folder.parent)
            crash = self._reach("mkdir", folder)
            if crash is None or crash.extent is not Extent.LOST:
                self.folders.add(folder)
            self._stop(crash)

    def write(self, path: Path, content: bytes) -> None:
        crash = self._reach("write", path)
        if crash is None or crash.extent is not Extent.LOST:
            file = self._made(path)
            file.content = self._part(crash, content)
        self._stop(crash)

    def rename(self, path: Path, target: Path) -> None:
        crash = self._reach("rename", target)
        if crash is None or crash.extent is not Extent.LOST:
            file = self._at(path)
            if target in self.names_:
                self.replaced.append(target)
            self._change((path, None), (target, file))
        self._stop(crash)

    def link(self, path: Path, target: Path) -> None:
        crash = self._reach("link", target)
        if crash is None or crash.extent is not Extent.LOST:
            if target in self.names_:
                raise FileExistsError(17, "exists", str(target))
            self._change((target, self._at(path)))
        self._stop(crash)

    def remove(self, path: Path) -> None:
        crash = self._reach("remove", path)
        if crash is None or crash.extent is not Extent.LOST:
            self._at(path)
            self._change((path, None))
        self._stop(crash)

    def sync(self, path: Path) -> None:
        crash = self._reach("sync", path)
        if crash is None or crash.extent is not Extent.LOST:
            if path in self.folders:
                self._sync_names(path)
            else:
                file = self._at(path)
                file.synced = file.content
        self._stop(crash)

    def open_log(self, path: Path) -> Log:
        if path not in self.names_:
            crash = self._reach("create", path)
            if crash is None or crash.extent is not Extent.LOST:
                self._made(path)
            self._stop(crash)
        return Log(self, self._at(path), path)

    def append(self, file: File, path: Path, content: bytes) -> int:
        crash = self._reach("append", path)
        if crash is None or crash.extent is not Extent.LOST:
            file.content += self._part(crash, content)
        self._stop(crash)
        return len(file.content)

    def sync_log(self, file: File, path: Path) -> None:
        crash = self._reach("sync", path)
        if crash is None or crash.extent is not Extent.LOST:
            file.synced = file.content
        self._stop(crash)

    def cut(self, path: Path, size: int) -> None:
        crash = self._reach("cut", path)
        if crash is None or crash.extent is not Extent.LOST:
            file = self._at(path)
            file.content = file.content[:size]
        self._stop(crash)

    def claim(self, path: Path, content: str = "", **_: Any) -> Claim:
        crash = self._reach("claim", path)
        if crash is None or crash.extent is not Extent.LOST:
            if self.is_claimed(path):
                raise BlockingIOError(11, "claimed", str(path))
            file = self._made(path)
            file.owner = self.world.process
            file.content = self._part(crash, content.encode())
        self._stop(crash)
        return Claim(self._at(path), self.world.process)

    # ------------------------------------------------------------------ what is safe

    def cut_power(self) -> None:
        """Forget what was not synced, or a part of it."""
        rng = self.world.rng
        for happens in self.beside:
            happens()
        for change in self._unsafe[: rng.randint(0, len(self._unsafe))]:
            _apply(self._safe, change)
        self._unsafe.clear()
        self.names_ = dict(self._safe)
        for file in {id(file): file for file in self.names_.values()}.values():
            if file.content != file.synced:
                kept = file.synced if file.content.startswith(file.synced) else b""
                file.content = file.content[: rng.randint(len(kept), len(file.content))]
            file.synced = file.content

    # ------------------------------------------------------------------ below

    def _at(self, path: Path) -> File:
        if path not in self.names_:
            raise FileNotFoundError(2, "no such file", str(path))
        return self.names_[path]

    def _made(self, path: Path) -> File:
        if path.parent not in self.folders:
            raise FileNotFoundError(2, "no such folder", str(path.parent))
        if path not in self.names_:
            self._change((path, File()))
        return self.names_[path]

    def _change(self, *names: tuple[Path, File | None]) -> None:
        _apply(self.names_, names)
        self._unsafe.append(names)

    def _sync_names(self, folder: Path) -> None:
        left = []
        for change in self._unsafe:
            if any(path.parent == folder for path, _ in change):
                _apply(self._safe, change)
            else:
                left.append(change)
        self._unsafe = left

    def _part(self, crash: Crash | None, content: bytes) -> bytes:
        if crash is not None and crash.extent is Extent.TORN:
            return content[: self.world.rng.randrange(len(content))] if content else b""
        return content

    def _reach(self, verb: str, path: Path) -> Crash | None:
        within = path.relative_to(self.root).parts if path.is_relative_to(self.root) else ()
        where = within[0] if len(within) > 1 else "run"
        names = " names" if path in self.folders else ""
        return self.points.reach(f"{verb}{names} {where}", path.name)

    def _stop(self, crash: Crash | None) -> None:
        if crash is not None:
            self.stop(crash.scope)

    def stop(self, scope: Scope) -> None:
        """Some or all are gone. Raises Killed."""
        if scope is Scope.PROCESS:
            self.world.end(self.world.process)
        if scope is Scope.POWER:
            self.cut_power()
        self.world.end_all()


@dataclass
class Log:
    """The end of a file, for one process."""

    disk: Disk
    file: File
    path: Path

    def write(self, content: bytes) -> int:
        return self.disk.append(self.file, self.path, content)

    def sync(self) -> None:
        self.disk.sync_log(self.file, self.path)

    def close(self) -> None:
        """Nothing is open."""


@dataclass
class Claim:
    """A lock, for as long as its owner lives."""

    file: File
    owner: Process

    def release(self) -> None:
        if self.file.owner is self.owner and not self.owner.is_dead:
            self.file.owner = None


def _apply(names: dict[Path, File], change: Change) -> None:
    for path, file in change:
        if file is None:
            names.pop(path, None)
        else:
            names[path] = file
