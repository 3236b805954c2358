"""How far the words of an answer and of the expected one agree: F1 over words, order aside.

Normalisation and F1 as in SQuAD's official `evaluate-v2.0.py` (rajpurkar.github.io/SQuAD-explorer): lower
case, ASCII punctuation dropped, the articles a, an, the dropped; if either side is then empty, 1 if both are.
HotpotQA's extra rule (a differing yes, no or noanswer scores 0) is not applied; exact match beside it shows those.
"""

from __future__ import annotations

import re
import string
from collections import Counter
from dataclasses import dataclass
from typing import ClassVar

from utils.metrics.reasons import enumerate_words, quote
from utils.records import Example, Score

_ARTICLES = re.compile(r"\b(?:a|an|the)\b")
_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)


@dataclass(frozen=True)
class TokenF1:
    """F1 of the words of the answer against those of the target, after SQuAD's normalisation."""

    name: ClassVar[str] = "token_f1"

    def __call__(self, example: Example, answer: str) -> Score:
        expected, found = words(example.target), words(answer)
        if not expected or not found:
            return Score(float(expected == found), f"expected {quote(example.target)}, found {quote(answer)}")
        shared = Counter(expected) & Counter(found)
        common = sum(shared.values())
        value = 2 * common / (len(expected) + len(found))
        return Score(value, _reason(example.target, Counter(expected) - shared, Counter(found) - shared))


def words(text: str) -> list[str]:
    """The words of a text in SQuAD's normal form."""
    return _ARTICLES.sub(" ", text.lower().translate(_NO_PUNCTUATION)).split()


def _reason(target: str, missing: Counter[str], extra: Counter[str]) -> str:
    if not missing and not extra:
        return "all expected words and no others"
    parts = [f"expected {quote(target)}"]
    parts += [f"missing words: {_listed(missing)}"] if missing else []
    parts += [f"{sum(extra.values())} needless words: {_listed(extra)}"] if extra else []
    return "; ".join(parts)


def _listed(counts: Counter[str]) -> str:
    return enumerate_words([word[:30] for word in counts])
