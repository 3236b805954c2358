"""Whether an answer is the expected text, case, outer punctuation and blanks aside.

Only quotes, brackets, emphasis and sentence marks are dropped, and only at the ends: `C#` is not `C`, `-5` is not `5`,
`60%` is not `60`. A text of nothing but such marks is compared as it stands.
"""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass
from typing import ClassVar

from utils.metrics.reasons import quote
from utils.records import Example, Score

OUTER = " \t\n.,;:!?…\"'`´‘’“”«»()[]{}*_。，！？"


@dataclass(frozen=True)
class ExactMatch:
    """1 if the answer equals the target in normal form, else 0."""

    name: ClassVar[str] = "exact_match"

    def __call__(self, example: Example, answer: str) -> Score:
        expected, found = normal(example.target), normal(answer)
        if expected == found:
            return Score(1.0, "found the expected text")
        reason = f"expected {quote(example.target)}, found {quote(answer)}"
        if expected and f" {expected} " in f" {found} ":
            reason = f"expected {quote(example.target)} alone, found it among other words: {quote(answer)}"
        return Score(0.0, reason)


def normal(text: str) -> str:
    """The text in lower case, blanks collapsed, without marks at its ends.

    >>> normal(' "New  York". ')
    'new york'
    """
    line = " ".join(unicodedata.normalize("NFC", text).casefold().split())
    return line.strip(OUTER) or line
