"""The money of a run, kept by the parent: paid so far, set aside for tries that are on their way, and the limit.

A try is sent when the most that it can cost fits beside all that is set aside. So the limit holds whatever the answers
cost, and near it fewer are on their way at a time, down to one: what has come back leaves room for the next. Only where
nothing is on its way, and one try still does not fit, is the purse empty.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Hashable, Iterator
from dataclasses import dataclass, field


@dataclass
class Purse:
    """Who asks is anything hashable: a worker. The first to ask is the first to be answered."""

    limit: float | None  # USD; None: there is none
    paid: float = 0.0
    is_empty: bool = False  # one try did not fit: nothing is granted any more
    _granted: list[tuple[Hashable, float]] = field(default_factory=list)
    _asked: deque[tuple[Hashable, float]] = field(default_factory=deque)

    def ask(self, who: Hashable, usd: float) -> None:
        """Somebody wants to send a try that costs so much at most."""
        self._asked.append((who, usd))

    def answers(self) -> Iterator[tuple[Hashable, bool]]:
        """Those who can be answered now, and whether they may send."""
        while self._asked:
            who, usd = self._asked[0]
            if not self.is_empty and not self._has_room(usd):
                if self._granted:
                    return  # what is on its way may leave room
                self.is_empty = True
            self._asked.popleft()
            if not self.is_empty:
                self._granted.append((who, usd))
            yield who, not self.is_empty

    def settle(self, who: Hashable, reserved: float, paid: float) -> None:
        """A try came to its end: what was set aside for it is free, less what it cost."""
        if (who, reserved) in self._granted:
            self._granted.remove((who, reserved))
        self.paid += paid

    def forget(self, who: Hashable) -> None:
        """Somebody is gone: what was set aside for them may have been paid, and counts as paid."""
        self.paid += math.fsum(usd for other, usd in self._granted if other == who)
        self._granted = [(other, usd) for other, usd in self._granted if other != who]
        self._asked = deque((other, usd) for other, usd in self._asked if other != who)

    def _has_room(self, usd: float) -> bool:
        if self.limit is None:
            return True
        return math.fsum([self.paid, usd, *(granted for _, granted in self._granted)]) <= self.limit
