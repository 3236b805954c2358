"""How sure a mean is: intervals of scores, and of paired differences.

Scores lie in [0, 1] and are often 0 or 1, so intervals are Wilson's: never outside [0, 1], never without width.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist, fmean, variance

from utils.records import Evaluation, Interval, ItemScore

Z95 = NormalDist().inv_cdf(0.975)


def interval(values: Sequence[float], failed: int = 0, z: float = Z95) -> Interval:
    """Mean of scores in [0, 1] with its Wilson interval.

    For graded scores n is replaced by the number of yes-or-no items that would be as uncertain, p(1-p)/s^2 with the
    sample variance s^2, which gives Wilson's own interval back for scores of 0 and 1. No values: NaN.
    Source: E. B. Wilson, Probable inference, 1927; effective n: N. Dean and M. Pagano, 2015.
    """
    n = len(values)
    if not n:
        return Interval(math.nan, math.nan, math.nan, 0, failed)
    p = math.fsum(values) / n
    spread = variance(values) * (n - 1) / n if n > 1 else 0.0
    binary = p * (1 - p)
    size = n * binary / spread if spread > 0 and binary > 0 else float(n)
    centre = (p + z * z / (2 * size)) / (1 + z * z / size)
    half = z / (1 + z * z / size) * math.sqrt(binary / size + z * z / (4 * size * size))
    return Interval(p, max(0.0, min(p, centre - half)), min(1.0, max(p, centre + half)), n, failed)


def interval_of(evaluation: Evaluation) -> Interval:
    """The interval of a trial."""
    return interval(evaluation.values, evaluation.failed)


def paired_gain(before: Sequence[ItemScore], after: Sequence[ItemScore], z: float = Z95) -> Interval:
    """Mean difference of two prompts on the items that both answered, with its interval; `failed` counts the others.

    With fewer than two pairs, or no difference at all, nothing can be said of the spread: the interval is that of one
    item changing its mind either way.
    """
    first = {item.example_id: item.score.value for item in before if item.score is not None}
    second = {item.example_id: item.score.value for item in after if item.score is not None}
    differences = [second[key] - first[key] for key in first if key in second]
    n = len(differences)
    failed = max(len(before), len(after)) - n
    if not n:
        return Interval(math.nan, math.nan, math.nan, 0, failed)
    mean = fmean(differences)
    spread = math.sqrt(variance(differences) / n) if n > 1 else 1.0
    half = z * max(spread, 1 / n)
    return Interval(mean, max(-1.0, mean - half), min(1.0, mean + half), n, failed)
