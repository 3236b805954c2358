"""A Ctrl-C where no run is going on: one line and exit code 130, never a traceback."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager

INTERRUPTED = 130  # exit code


def leave(number: int, frame: object) -> None:
    """A handler for the time of imports: an exception in the middle of one may be caught, or printed, by anybody."""
    _say()
    os._exit(INTERRUPTED)


def interrupt(number: int, frame: object) -> None:
    """The handler after them. The line is said here: whoever catches the exception may make an exit code of it."""
    _say()
    raise KeyboardInterrupt


@contextmanager
def held_back() -> Iterator[None]:
    """No interrupt reaches a process that is started meanwhile, now or later; here it comes when this is over."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _say() -> None:
    os.write(2, b"interrupted\n")
