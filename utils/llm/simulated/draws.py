"""Randomness as a function of its key: the same numbers in every process and on every machine.

Nothing here has state. A draw is named by what decides it (model, text, item, sample), never by when it is made.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Sequence
from statistics import NormalDist
from typing import TypeVar

T = TypeVar("T")

_EIGHT = struct.Struct("<8Q")
_SCALE = 2.0**-53
_NORMAL = NormalDist().inv_cdf


def digest(*parts: str) -> str:
    """A short name for a text or a tuple of texts."""
    return hashlib.blake2b("\x1f".join(parts).encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()


def uniforms(*parts: str) -> tuple[float, ...]:
    """Eight independent draws from the open interval (0, 1)."""
    raw = hashlib.blake2b("\x1f".join(parts).encode("utf-8", "surrogatepass"), digest_size=64).digest()
    return tuple(((word >> 11) + 0.5) * _SCALE for word in _EIGHT.unpack(raw))


def normal(uniform: float) -> float:
    """The standard normal deviate at this quantile."""
    return _NORMAL(uniform)


def pick(options: Sequence[T], uniform: float) -> T:
    """The option that a uniform draw falls on."""
    return options[min(int(uniform * len(options)), len(options) - 1)]


def pick_weighted(options: Sequence[T], weights: Sequence[float], uniform: float) -> T:
    """The option that a uniform draw falls on, each as wide as its weight."""
    mark = uniform * sum(weights)
    for option, weight in zip(options, weights, strict=True):
        mark -= weight
        if mark < 0:
            return option
    return options[-1]


class Stream:
    """An endless row of draws for one key, for code that cannot know how many it needs."""

    def __init__(self, *parts: str) -> None:
        self._key = "\x1f".join(parts)
        self._block = 0
        self._left: list[float] = []

    def uniform(self) -> float:
        """The next draw from (0, 1)."""
        if not self._left:
            self._left = list(uniforms(self._key, str(self._block)))
            self._block += 1
        return self._left.pop()

    def chance(self, probability: float) -> bool:
        """True with this probability."""
        return self.uniform() < probability

    def pick(self, options: Sequence[T]) -> T:
        """One of the options, all alike."""
        return pick(options, self.uniform())

    def pick_weighted(self, options: Sequence[T], weights: Sequence[float]) -> T:
        """One of the options, by weight."""
        return pick_weighted(options, weights, self.uniform())

    def shuffled(self, options: Sequence[T]) -> list[T]:
        """The options in a drawn order."""
        return [option for _, _, option in sorted((self.uniform(), i, option) for i, option in enumerate(options))]
