"""`checkpoint.json`: the state of a run for people and scripts, rendered from its files, never read back.

Written at most once a second, and never so often that writing takes more than a tenth of the time: a large run's
checkpoint costs more, so it is written less often. Always written at the end.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any

from utils.archive import RunArchive
from utils.report.overview import Overview

logger = logging.getLogger("benchmark")

LEAST_PAUSE_S = 1.0
SHARE = 0.1


class Checkpoint:
    """Renders the run and writes it down."""

    def __init__(self, archive: RunArchive, overview: Overview, clock: Callable[[], float] = time.monotonic) -> None:
        self._archive = archive
        self._overview = overview
        self._clock = clock
        self._next = 0.0
        self._is_told = False

    def write_if_due(self) -> None:
        if self._clock() >= self._next:
            self.write(stopped=False)

    def write(self, *, stopped: bool) -> dict[str, Any]:
        """Write now; returns what was written."""
        began = self._clock()
        overview = self._overview.render(stopped=stopped)
        try:
            self._archive.write_checkpoint(overview)
        except OSError as error:  # it says what other files say: a run does not end for it
            if not self._is_told:
                logger.warning("checkpoint.json cannot be written: %s", error.strerror)
            self._is_told = True
        took = self._clock() - began
        self._next = began + max(LEAST_PAUSE_S, took / SHARE)
        return overview
