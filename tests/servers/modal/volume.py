"""One volume on disk: what commit and reload mean, and what happens to a file that two containers wrote.

In mode "snapshot" a container works on a private copy. A commit pushes the files that it changed, file by file, and the
last writer wins; a reload pulls what others pushed. In mode "shared" every container has the volume itself, and writes
are seen at once: less like Modal, but a start copies nothing, which matters with thousands of files.
"""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from threading import Lock
from uuid import uuid4

from modal_proto import api_pb2 as pb

Signature = tuple[int, int, int]  # size, mtime in ns, inode: a file with another one was written in between
Files = dict[str, Signature]


@dataclass
class Statistics:
    """What was done to a volume, and what it cost."""

    commits: int = 0
    commit_files: int = 0
    commit_bytes: int = 0
    conflicting_overwrites: int = 0  # pushed over a version that its writer had not seen: somebody's content is gone
    reloads: int = 0
    lists: int = 0
    listed: int = 0
    reads: int = 0
    read_bytes: int = 0
    puts: int = 0
    removed: int = 0


@dataclass(frozen=True)
class Entry:
    """A file or a folder, its path relative to the volume."""

    path: str
    is_folder: bool
    size: int
    mtime: int


@dataclass
class Copy:
    """A container's copy, and the state of both sides when it last looked."""

    folder: Path
    mine: Files
    theirs: Files


class Volume:
    """A folder with everybody's files, and the copies of the containers that mount it."""

    def __init__(self, id: str, name: str, version: pb.VolumeFsVersion.ValueType, folder: Path, mode: str) -> None:
        self.id, self.name, self.version = id, name, version
        self.is_shared = mode == "shared"
        self.master = folder / "master"
        self.statistics = Statistics()
        self._copies_folder = folder / "copies"
        self._aside = folder / "aside"  # files are written here and moved, so that nobody sees half of one
        self._copies: dict[str, Copy] = {}
        self._lock = Lock()  # commits run on threads, and each takes several looks at the master
        for needed in (self.master, self._copies_folder, self._aside):
            needed.mkdir(parents=True, exist_ok=True)

    # ------------------------------------------------------------------- inside

    def attach(self, container_id: str) -> Path:
        """The folder to mount for this container: the volume as it is now."""
        if self.is_shared:
            return self.master
        with self._lock:
            folder = self._copies_folder / container_id
            shutil.copytree(self.master, folder, symlinks=True)
            self._copies[container_id] = Copy(folder, scan(folder), scan(self.master))
            return folder

    def detach(self, container_id: str) -> None:
        """Forgets the container's copy, and with it what was not committed."""
        with self._lock:
            if copy := self._copies.pop(container_id, None):
                shutil.rmtree(copy.folder, ignore_errors=True)

    def commit(self, container_id: str) -> int:
        """Pushes what the container changed; returns the number of files."""
        with self._lock:
            self.statistics.commits += 1
            copy = self._copies.get(container_id)
            return self._push(copy) if copy else 0

    def reload(self, container_id: str) -> None:
        """Pulls what others pushed, after a commit of the container's own changes."""
        with self._lock:
            self.statistics.reloads += 1
            copy = self._copies.get(container_id)
            if copy is None:
                return
            self._push(copy)
            theirs = scan(self.master)
            for path, signature in theirs.items():
                if copy.mine.get(path, ())[:2] != signature[:2]:
                    (copy.folder / path).parent.mkdir(parents=True, exist_ok=True)
                    shutil.copy2(self.master / path, copy.folder / path, follow_symlinks=False)
            for path in copy.mine.keys() - theirs.keys():
                (copy.folder / path).unlink(missing_ok=True)
            copy.mine, copy.theirs = scan(copy.folder), theirs

    def _push(self, copy: Copy) -> int:
        now, master = scan(copy.folder), scan(self.master)
        written = [path for path, signature in now.items() if copy.mine.get(path) != signature]
        for path in written:
            if path in master and master[path] != copy.theirs.get(path):
                self.statistics.conflicting_overwrites += 1
            aside = self._aside / uuid4().hex
            try:
                shutil.copy2(copy.folder / path, aside, follow_symlinks=False)
            except FileNotFoundError:  # removed again by its writer since the scan
                continue
            copy.theirs[path] = self._publish(aside, self.master / path)
            self.statistics.commit_bytes += now[path][0]
        removed = copy.mine.keys() - now.keys()
        for path in removed:
            (self.master / path).unlink(missing_ok=True)
            copy.theirs.pop(path, None)
        copy.mine = now
        self.statistics.commit_files += len(written) + len(removed)
        return len(written) + len(removed)

    def open_file(self, container_id: str, pid: int) -> str | None:
        """The path of a file of the container's copy that this process holds open, if there is one."""
        copy = self._copies.get(container_id)
        if copy is None:
            return None
        paths = {signature[2]: path for path, signature in scan(copy.folder).items()}
        for handle in Path(f"/proc/{pid}/fd").iterdir():
            try:
                inode = handle.stat().st_ino
            except OSError:  # closed meanwhile
                continue
            if inode in paths:
                return paths[inode]
        return None

    # ------------------------------------------------------------------- outside

    def path(self, path: str) -> Path:
        """Where this path of the volume is; FileNotFoundError for one that leads out of it."""
        parts = [part for part in PurePosixPath(path.strip("/")).parts if part != "."]
        if ".." in parts:
            raise FileNotFoundError(path)
        return self.master.joinpath(*parts)

    def entries(self, path: str, *, recursive: bool) -> Iterator[Entry]:
        """What is at the path; of a file, itself. FileNotFoundError if nothing is."""
        root = self.path(path)
        self.statistics.lists += 1
        prefix = str(root.relative_to(self.master))
        if root.is_file():
            found = root.stat()
            yield Entry(prefix, False, found.st_size, int(found.st_mtime))
            return
        folders = ["" if prefix == "." else f"{prefix}/"]
        while folders:
            folder = folders.pop()
            with os.scandir(self.master / folder) as inside:
                for item in sorted(inside, key=lambda item: item.name):
                    try:
                        found = item.stat(follow_symlinks=False)
                    except FileNotFoundError:  # removed meanwhile
                        continue
                    is_folder = stat.S_ISDIR(found.st_mode)
                    size = 0 if is_folder else found.st_size
                    self.statistics.listed += 1
                    yield Entry(folder + item.name, is_folder, size, int(found.st_mtime))
                    if recursive and is_folder:
                        folders.append(f"{folder}{item.name}/")

    def write(self, path: str, content: bytes, mode: int) -> None:
        """Writes a file, over one that is there."""
        aside = self._aside / uuid4().hex
        aside.write_bytes(content)
        if mode:
            aside.chmod(mode & 0o7777)
        with self._lock:
            self._publish(aside, self.path(path))
            self.statistics.puts += 1

    def remove(self, path: str, *, recursive: bool) -> None:
        """Removes a file, or a folder with all in it; IsADirectoryError for a folder if not `recursive`."""
        found = self.path(path)
        if not found.is_dir():
            found.unlink()
        elif recursive:
            shutil.rmtree(found)
        else:
            raise IsADirectoryError(path)
        self.statistics.removed += 1

    @staticmethod
    def _publish(aside: Path, target: Path) -> Signature:
        target.parent.mkdir(parents=True, exist_ok=True)
        aside.replace(target)
        return signature_of(target.lstat())


def scan(root: Path) -> Files:
    """Every file below the folder, by its relative path."""
    files: Files = {}
    folders = [""]
    while folders:
        folder = folders.pop()
        try:
            inside = list(os.scandir(root / folder))
        except FileNotFoundError:  # removed meanwhile
            continue
        for item in inside:
            if item.is_dir(follow_symlinks=False):
                folders.append(f"{folder}{item.name}/")
                continue
            try:
                files[folder + item.name] = signature_of(item.stat(follow_symlinks=False))
            except FileNotFoundError:
                continue
    return files


def signature_of(found: os.stat_result) -> Signature:
    return found.st_size, found.st_mtime_ns, found.st_ino
