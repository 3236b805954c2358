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
    binary = p * (1 - p)
    size = float(n)
    if n > 1 and binary > 0 and not set(values) <= {0.0, 1.0}:
        # the variance itself is a guess from n values: Student's quantile says how much wider that makes it
        spread = variance(values) * (student(n - 1, z) / z) ** 2
        size = max(size, n * binary / spread) if spread > 0 else size
    centre = (p + z * z / (2 * size)) / (1 + z * z / size)
    half = z / (1 + z * z / size) * math.sqrt(binary / size + z * z / (4 * size * size))
    return Interval(p, max(0.0, min(p, centre - half)), min(1.0, max(p, centre + half)), n, failed)


def student(degrees: int, z: float = Z95) -> float:
    """Student's quantile at the normal quantile z, for so many degrees of freedom; 1 % low at 2, good from 3.

    Source: M. Abramowitz and I. Stegun, Handbook of Mathematical Functions, 26.7.5.
    """
    terms = (
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
        (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92160,
    )
    return z + math.fsum(term / float(degrees) ** power for power, term in enumerate(terms, start=1))


def interval_of(evaluation: Evaluation) -> Interval:
    """The interval of a trial."""
    return interval(evaluation.values, evaluation.failed)


def answered_by_all(trials: Sequence[Evaluation]) -> frozenset[str]:
    """The ids of the items that every one of these prompts answered: what their means are compared on."""
    answered = [{item.example_id for item in trial.items if item.score is not None} for trial in trials]
    return frozenset(set.intersection(*answered)) if answered else frozenset()


def paired_gain(before: Sequence[ItemScore], after: Sequence[ItemScore], z: float = Z95) -> Interval:
    """Mean difference of two prompts on the items that both answered, with its interval; `failed` counts the others.

    With fewer than two pairs, or no difference at all, nothing can be said of the spread: the interval is that of one
    item changing its mind either way.
    """
    first = {item.example_id: item.score.value for item in before if item.score is not None}
    second = {item.example_id: item.score.value for item in after if item.score is not None}
    differences = [second[key] - first[key] for key in first if key in second]
    return _mean_difference(differences, max(len(before), len(after)), scale=1.0, bound=1.0, z=z)


def paired_saving(before: Sequence[ItemScore], after: Sequence[ItemScore], z: float = Z95) -> Interval:
    """The share of the first prompt's tokens that the second does without, on the items that both answered.

    0.8 is a fifth of the tokens, -1 twice as many. The interval is that of the mean difference, with the first mean
    taken as known.
    """
    first = {item.example_id: item.tokens_out for item in before if item.score is not None}
    second = {item.example_id: item.tokens_out for item in after if item.score is not None}
    shared = [key for key in first if key in second]
    whole = fmean(first[key] for key in shared) if shared else 0.0
    differences = [float(first[key] - second[key]) for key in shared] if whole else []
    return _mean_difference(differences, max(len(before), len(after)), scale=whole or 1.0, bound=math.inf, z=z)


def _mean_difference(differences: Sequence[float], items: int, *, scale: float, bound: float, z: float) -> Interval:
    """The mean of paired differences in units of `scale`, within +-`bound`, with Student's interval."""
    n = len(differences)
    if not n:
        return Interval(math.nan, math.nan, math.nan, 0, items)
    mean = fmean(differences) / scale
    spread = math.sqrt(variance(differences) / n) / scale if n > 1 else 1.0
    half = max((student(n - 1, z) if n > 1 else z) * spread, z / n)
    return Interval(mean, max(-bound, mean - half), min(bound, mean + half), n, items - n)
