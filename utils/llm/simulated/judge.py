"""The simulated judge and the simulated embedding: overlap of words, said with some bias and noise.

They measure whether judged metrics are wired up, never whether an answer is good.
"""

from __future__ import annotations

import math
import re
from collections import Counter

from utils.llm.simulated.draws import normal, uniforms

_WORDS = re.compile(r"\w+")


def cosine(first: str, second: str) -> float:
    """The cosine of two bags of words, in [0, 1]; 0 if one is empty."""
    a, b = _bag(first), _bag(second)
    dot = sum(count * b[word] for word, count in a.items())
    norm = math.sqrt(sum(n * n for n in a.values()) * sum(n * n for n in b.values()))
    return round(dot / norm, 12) if norm else 0.0


def grade(expected: str, answer: str, key: str, bias: float, noise: float) -> tuple[float, str]:
    """A score in [0, 1] for an answer, and a sentence why: word overlap with the expected text, biased and noisy."""
    a, b = _bag(expected), _bag(answer)
    common = sum((a & b).values())
    overlap = 2 * common / (sum(a.values()) + sum(b.values())) if a or b else 0.0
    score = overlap + bias + noise * normal(uniforms("judge", key)[0])
    missing = [word for word in a if word not in b][:3]
    reason = f"The answer lacks {', '.join(missing)}." if missing else "The answer holds all that was expected."
    return round(min(max(score, 0.0), 1.0), 3), reason


def _bag(text: str) -> Counter[str]:
    return Counter(_WORDS.findall(text.lower()))
