"""How the double misbehaves: rules, of which the first that fits a request is applied to it.

The ways in which a real backend was seen to fail are combinations: never answers (`hang`), closes (`drop`), refuses
(`status`); `apply` stores the request first, so that only the reply is lost.
"""

from __future__ import annotations

import random
import re
import threading
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any


@dataclass
class Fault:
    """One rule. The first two say which requests it fits, the next four what is done, the last three how often."""

    path: str = ""  # regular expression, sought in the path after .../api/
    method: str = ""  # empty: all
    status: int = 0  # answered, with these headers
    headers: Mapping[str, str] = field(default_factory=dict)
    drop: bool = False  # close without an answer
    hang: float = 0.0  # seconds without an answer, then close
    apply: bool = False  # store first: the reply is lost after the commit
    p: float = 1.0
    after: int = 0  # so many fitting requests are let through first
    count: int | None = None  # then it strikes so many times; None: for ever

    @property
    def breaks(self) -> bool:
        """Whether the client does not get the usual answer."""
        return bool(self.status or self.drop or self.hang)

    def strikes(self, method: str, path: str, rng: random.Random) -> bool:
        """Whether this request is struck; counts it if so."""
        if self.method not in ("", method) or not re.search(self.path, path):
            return False
        if self.after > 0:
            self.after -= 1
            return False
        if self.count == 0 or rng.random() >= self.p:
            return False
        if self.count is not None:
            self.count -= 1
        return True


class Faults:
    """The rules in force, drawn by a seeded generator: the same requests in the same order meet the same faults."""

    def __init__(self, seed: int = 0) -> None:
        self._rng = random.Random(seed)
        self._lock = threading.Lock()
        self._rules: list[Fault] = []

    def set(self, rules: Sequence[Mapping[str, Any]]) -> None:
        """Replaces the rules; a misspelt field is refused, since a fault that never strikes makes a test pass."""
        known = [each.name for each in fields(Fault)]
        if strange := sorted({name for rule in rules for name in rule} - set(known)):
            raise ValueError(f"unknown fields of a fault {strange}; known: {', '.join(known)}")
        with self._lock:
            self._rules = [Fault(**rule) for rule in rules]

    def rules(self) -> list[dict[str, Any]]:
        """The rules as they stand, `after` and `count` being what is left of them."""
        with self._lock:
            return [asdict(rule) for rule in self._rules]

    def pick(self, method: str, path: str) -> Fault:
        """The fault that strikes this request; one that does nothing if none does."""
        with self._lock:
            return next((rule for rule in self._rules if rule.strikes(method, path, self._rng)), Fault())
