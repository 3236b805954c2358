"""How every test waits for another thread or process: for a fact, never for a time."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

PATIENCE_S = 600.0  # the end of waiting for what does not come; nothing is expected to take so long, however busy
LOOK_EVERY_S = 0.01


def until(holds: Callable[[], object], failure: str | Callable[[], str] = "") -> None:
    """Return once it holds. AssertionError, with what it means or what can be told then, where it never does."""
    end = time.monotonic() + PATIENCE_S
    while not holds():
        assert time.monotonic() < end, f"not so after {PATIENCE_S:g} s: {failure() if callable(failure) else failure}"
        time.sleep(LOOK_EVERY_S)


def ended(call: Callable[[], T]) -> T:
    """What the call returns or raises; a call that waits for what never comes fails instead of holding the test."""
    came: list[T] = []
    raised: list[BaseException] = []

    def work() -> None:
        try:
            came.append(call())
        except BaseException as error:
            raised.append(error)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(PATIENCE_S)
    assert not thread.is_alive(), f"not back after {PATIENCE_S:g} s"
    if raised:
        raise raised[0]
    return came[0]
