"""How alike an answer and the expected text are, character by character.

1 - distance / (sum of both lengths), where the distance counts insertions and deletions: what python-Levenshtein calls
`ratio` and Opik's metric of this name computes, so the numbers compare. `rapidfuzz` is imported on the first call.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from utils.metrics.reasons import clip, quote
from utils.records import Example, Score


@dataclass(frozen=True)
class LevenshteinRatio:
    """The similarity of the answer's characters to the target's."""

    name: ClassVar[str] = "levenshtein_ratio"

    def __call__(self, example: Example, answer: str) -> Score:
        from rapidfuzz.distance import Indel

        value = clip(Indel.normalized_similarity(example.target, answer))
        if value == 1.0:
            return Score(1.0, "found the expected text")
        return Score(value, f"{value:.0%} alike: expected {quote(example.target)}, found {quote(answer)}")
