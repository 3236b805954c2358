"""The file system, as a run uses it: every file that its state rests on is touched through a `Disk` and no other way.

What each operation promises across a power cut is said here, and nothing else may be relied on. So another `Disk` can
stand in for it that stops at any of these operations and forgets whatever was not synced.
"""

from __future__ import annotations

import errno
import fcntl
import os
import time
from pathlib import Path
from typing import Protocol

from utils.errors import UsageError

NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO)  # nothing more can be written here now
PRIVATE_FILE, PRIVATE_FOLDER = 0o600, 0o700  # prompts and rows are their owner's alone


class Log(Protocol):
    """A file that is written at its end."""

    def write(self, content: bytes) -> int:
        """Append, through to the operating system: it survives this process. The size of the file after it."""

    def sync(self) -> None:
        """What was written so far survives a power cut, once the folder is synced too."""

    def close(self) -> None:
        """Let go of the file."""


class Claim(Protocol):
    """A lock on a file, held as long as its owner lives: a kill lets go of it, whatever the signal."""

    def release(self) -> None:
        """Let go of it."""


class Disk:
    """The operating system's own. No operation follows a symbolic link at the end of a path."""

    def read(self, path: Path, offset: int = 0) -> bytes:
        """A file from a byte on. Raises FileNotFoundError."""
        with open(_open(path, os.O_RDONLY), "rb") as file:
            file.seek(offset)
            return file.read()

    def names(self, folder: Path) -> list[str]:
        """What stands in a folder, in no order; nothing if there is no such folder."""
        try:
            return os.listdir(folder)
        except FileNotFoundError:
            return []

    def make_folder(self, folder: Path) -> None:
        """A folder with all above it, there after a power cut too. One that exists is left as it is."""
        if folder.is_dir():
            return
        self.make_folder(folder.parent)
        try:
            folder.mkdir(PRIVATE_FOLDER)
        except FileExistsError:
            if not folder.is_dir():
                raise
        self.sync(folder.parent)

    def write(self, path: Path, content: bytes) -> None:
        """A new file, or an old one anew. A kill or a power cut may leave any part of it."""
        with open(_open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), "wb") as file:
            file.write(content)

    def rename(self, path: Path, target: Path) -> None:
        """In one step, taking the place of what is there. Survives a power cut once the folder is synced."""
        os.replace(path, target)

    def link(self, path: Path, target: Path) -> None:
        """A second name of a file, in one step. Raises FileExistsError: unlike a rename it takes nobody's place."""
        os.link(path, target)

    def remove(self, path: Path) -> None:
        """A name is gone."""
        path.unlink()

    def sync(self, path: Path) -> None:
        """The content of a file, or the names in a folder, survive a power cut."""
        descriptor = _open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def open_log(self, path: Path) -> Log:
        """A file to be written at its end; made if it is not there."""
        return _Log(_open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT))

    def cut(self, path: Path, size: int) -> None:
        """Drop what stands behind the first bytes of a file."""
        os.truncate(path, size)

    def claim(self, path: Path, content: str = "", *, patience: int = 20, pause_s: float = 0.05) -> Claim:
        """Lock a file for this process, and write into it. Raises BlockingIOError while another one holds it.

        A look by `is_claimed` is waited out.
        """
        descriptor = _open(path, os.O_RDWR | os.O_CREAT)
        for tries_left in reversed(range(patience)):
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if not tries_left:
                    os.close(descriptor)
                    raise
                time.sleep(pause_s)
        os.ftruncate(descriptor, 0)
        os.write(descriptor, content.encode())
        return _Claim(descriptor)

    def is_claimed(self, path: Path) -> bool:
        """True while a living process holds the claim."""
        try:
            descriptor = _open(path, os.O_RDONLY)
        except FileNotFoundError:
            return False
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(descriptor)
        return False


class CommittedDisk(Disk):
    """A disk whose files survive by a commit of all of them at once, not by a sync of each."""

    def sync(self, path: Path) -> None:
        """Nothing: the commit is what makes it last."""


DISK = Disk()


class _Log:
    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def write(self, content: bytes) -> int:
        view = memoryview(content)
        while view:
            view = view[os.write(self._descriptor, view) :]
        return os.fstat(self._descriptor).st_size

    def sync(self) -> None:
        os.fsync(self._descriptor)

    def close(self) -> None:
        os.close(self._descriptor)


class _Claim:
    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def release(self) -> None:
        os.close(self._descriptor)


def _open(path: Path, flags: int) -> int:
    try:
        return os.open(path, flags | os.O_CLOEXEC | os.O_NOFOLLOW, PRIVATE_FILE)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise UsageError(f"{path} is a symbolic link; put the file itself in its place") from None
        raise
