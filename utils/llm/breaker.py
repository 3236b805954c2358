"""The circuit breaker of a provider: whether it answers anybody at all.

One question may be unlucky time after time; a provider that leaves every question of every worker without an answer is
down. Then nothing is gained by asking more: one probe at a time is sent, with longer and longer pauses between them,
until one is answered, or until there was no answer for so long that the tasks are better ended than kept waiting.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

OPEN_AFTER = 10  # calls in a row, of all workers, without an answer
FIRST_PAUSE_S = 1.0  # before the first probe; each later pause is twice as long
LONGEST_PAUSE_S = 30.0
PATIENCE_S = 120.0  # without any answer, after which a probe that fails is the last one


@dataclass
class Breaker:
    """Counts failures since the last answer. `clock` gives seconds."""

    clock: Callable[[], float]
    _failures: int = 0
    _since: float = 0.0  # when the first of them came back
    _probes: int = 0  # that failed since it opened

    @property
    def is_open(self) -> bool:
        """True while the provider counts as down."""
        return self._failures >= OPEN_AFTER

    @property
    def silent_s(self) -> float:
        """How long nobody has got an answer; 0 after one."""
        return self.clock() - self._since if self._failures else 0.0

    def answered(self) -> bool:
        """Somebody was answered; True where that is news."""
        had_failures, self._failures, self._probes = bool(self._failures), 0, 0
        return had_failures

    def failed(self, *, is_probe: bool) -> None:
        """A call came back without an answer."""
        if not self._failures:
            self._since = self.clock()
        self._failures += 1
        self._probes += is_probe

    @property
    def pause_s(self) -> float:
        """How long to wait before the next probe."""
        return min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2.0 ** min(self._probes, 30))

    @property
    def is_lost(self) -> bool:
        """True where a probe has failed, and patience with it."""
        return self._probes > 0 and self.silent_s >= PATIENCE_S
