"""A first look at candidates: most are no better than what there is, and a few rows are enough to see it.

Every candidate is scored on a few rows of the sample, then on twice as many, up to the whole sample; it is dropped as
soon as it does worse than the bar on the same rows. The bar has been scored on all of them, so the comparison is paired
and costs the candidate's calls alone. The rows come in another order each time: a bar that was lucky on the first few
does not stand there for ever.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

from optimizers.problem import Problem
from utils.prompt import Prompt
from utils.records import Evaluation, Example


@dataclass(frozen=True)
class Look:
    """What was seen of a candidate: `trial` on the whole sample if it `passed`, else on the rows that dropped it."""

    trial: Evaluation
    passed: bool
    estimate: float  # of the mean on the whole sample: the bar's, moved by the difference on the rows seen

    @property
    def prompt(self) -> Prompt:
        return self.trial.prompt


def screen(
    problem: Problem,
    operator: str,
    candidates: Sequence[Prompt],
    bar: Prompt,
    sample: Sequence[Example],
    first_rows: int,
    rng: Random,
) -> list[Look]:
    """A look at each candidate, in order. Those that `passed` were scored on the whole sample.

    A tie goes on, unless both have nothing right. `first_rows` 0: no look, every candidate takes the whole sample.
    Every look is logged under the operator's name.
    """
    rows = rng.sample(list(sample), len(sample))
    whole = problem.score(bar, sample).mean
    sizes = _sizes(first_rows or len(rows), len(rows))
    looks: dict[str, Look] = {}
    alive = list({candidate.id: candidate for candidate in candidates}.values())
    for size in sizes:
        last = size == len(rows)
        against = problem.score(bar, rows[:size]).mean
        ahead: list[tuple[float, Prompt]] = []
        for candidate in alive:
            trial = problem.score(candidate, rows[:size])
            passed = trial.mean > against or (trial.mean == against > 0) or not first_rows
            estimate = trial.mean if last else min(1.0, max(0.0, whole + trial.mean - against))
            looks[candidate.id] = Look(trial, passed or last, estimate)
            if size == sizes[0] or not (passed or last):
                fate = "it has them all" if last else "it goes on" if passed else "it is dropped"
                problem.log(  # the first rows always, so that no budget ends before the prompt is noted
                    operator,
                    "accept" if passed else "reject",
                    f"{trial.mean:.3f} against {against:.3f} on {size} rows: {fate}",
                    parents=[bar],
                    candidate=candidate,
                    numbers={"candidate": trial.mean, "bar": against, "rows": size},
                )
            if passed:
                ahead.append((-trial.mean, candidate))
        # the most promising first: a budget that ends here ends on the others
        alive = [candidate for _, candidate in sorted(ahead, key=lambda pair: pair[0])]
    return list(looks.values())


def _sizes(first: int, whole: int) -> list[int]:
    """first, 2 first, 4 first, ... whole; a last step of less than a half is taken with the one before.

    >>> _sizes(8, 50)
    [8, 16, 50]
    """
    sizes = []
    while 2 * first <= whole:
        sizes.append(first)
        first *= 2
    return [*sizes, whole]
