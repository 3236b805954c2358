"""What the workers of a run tell each other about a provider: that it wants to be left alone and for how long, that a
call got no answer, or that one did after others had not.

A file a provider in the run's folder, a line a notice, appended by whoever learns of something and read on by all
before each send. Nobody waits for a lock, and whoever is killed leaves nothing held. A notice that cannot be written
costs its sharing alone: the worker itself keeps to it.
"""

from __future__ import annotations

import itertools
import logging
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from utils.disk import DISK, Disk
from utils.errors import UsageError
from utils.serialization import decode, dumps, parse

logger = logging.getLogger("utils.llm.bulletin")


@dataclass(frozen=True)
class Notice:
    """One thing that a worker learned of a provider."""

    at: float  # wall clock, unix seconds
    pause_s: float = 0.0  # the provider asked for a pause of this length, for all
    has_answered: bool | None = None  # a call got an answer, or none; None: it tells of neither
    by: str = ""  # the worker that posted it

    def left_s(self, now: float) -> float:
        """What is left of the pause; never more than all of it, should the clock have been set back."""
        return max(0.0, min(self.pause_s, self.at + self.pause_s - now))


_numbers = itertools.count()  # of the bulletins of this process


class Bulletin:
    """The notices on one provider. Each object reads on from where its last look ended."""

    def __init__(self, path: Path, *, clock: Callable[[], float] = time.time, disk: Disk = DISK) -> None:
        self._path = path
        self._clock = clock
        self._disk = disk
        self._read_to = 0  # bytes, up to the end of a line
        self._begun = clock()
        self._name = f"{os.getpid()}.{next(_numbers)} since {self._begun}"

    def now(self) -> float:
        """The wall clock that notices are dated by."""
        return self._clock()

    def post(self, *, pause_s: float = 0.0, has_answered: bool | None = None) -> None:
        """Tell all workers."""
        notice = Notice(self._clock(), pause_s, has_answered, self._name)
        try:
            self._disk.make_folder(self._path.parent)
            log = self._disk.open_log(self._path)
            try:
                # on a line of its own, whatever a power cut left of the last one
                log.write(f"\n{dumps(notice)}\n".encode())
            finally:
                log.close()
        except OSError as error:
            logger.warning("other workers cannot be told of a provider: %s", error)

    def news(self) -> list[Notice]:
        """What others posted since the last look."""
        try:
            content = self._disk.read(self._path, self._read_to)
        except OSError:  # as a rule: nobody had anything to tell yet
            return []
        whole, newline, _ = content.rpartition(b"\n")
        self._read_to += len(whole) + len(newline)
        notices = (_notice(line) for line in whole.split(b"\n"))
        return [notice for notice in notices if notice is not None and notice.by != self._name]

    def is_of_now(self, notice: Notice) -> bool:
        """True for what was posted in this worker's time: who answered yesterday says nothing of today."""
        return notice.at >= self._begun


def _notice(line: bytes) -> Notice | None:
    """A line's notice; None where it holds none. What cannot be read is no reason to stop a run."""
    try:
        return decode(Notice, parse(line), newer=True)
    except UsageError:
        return None
