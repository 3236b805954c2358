"""Waiting for a condition: what every test does that needs something to have happened elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable

PATIENCE_S = 180.0  # a busy machine is no failure
LOOK_EVERY_S = 0.01


def until(holds: Callable[[], object], failure: str, patience_s: float = PATIENCE_S) -> None:
    """Return once the condition holds. AssertionError, with what it means, where it does not come to that."""
    end = time.monotonic() + patience_s
    while not holds():
        assert time.monotonic() < end, f"{failure} ({patience_s:.0f} s)"
        time.sleep(LOOK_EVERY_S)
