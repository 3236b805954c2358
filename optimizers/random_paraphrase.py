"""Best of blind edits: the control for everything that claims to learn from scores or failures.

    best <- score(seed) on a sample of validation
    repeat: ask for one variation of the seed; score it on the sample; keep it if it is strictly better

The editor sees the seed prompt alone: no score, no failure, no example. It may reword, add and leave out as it likes,
so luck can find what the seed lacks. What this gains is that luck, with the same selection as everybody else's.
"""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from optimizers.base import Extent, Optimizer, forecast, sample_size
from optimizers.editor import Editor
from optimizers.problem import Problem
from optimizers.screening import screen
from utils.records import Budget, Forecast, StopReason


@dataclass(frozen=True)
class RandomParaphrase(Optimizer):
    """Best of blind edits of the seed prompt: what luck alone gains."""

    max_candidates: int = 200  # variations tried
    first_rows: int = 8  # of the sample, for a first look at a variation; 0: none
    n_samples: int = 0  # validation rows of a whole trial; 0: as many as the budget bears

    def __post_init__(self) -> None:
        self.refuse_below(max_candidates=1, first_rows=0, n_samples=0)

    def optimize(self, problem: Problem, editor: Editor, rng: Random) -> StopReason:
        sample = problem.validation[: self._sample(len(problem.validation), problem.calls_left)]
        best = problem.score(problem.seed, sample)
        for _ in range(self.max_candidates):
            candidate = editor.rewrite("vary", problem.seed, VARY)
            if candidate is None:
                continue
            (look,) = screen(problem, "vary", [candidate], best.prompt, sample, self.first_rows, rng)
            if look.passed and look.trial.mean > best.mean:
                best = look.trial
        return StopReason.MAX_ITERATIONS

    def plan(self, extent: Extent, budget: Budget) -> Forecast:
        sample = self._sample(extent.validation, budget.task_calls)
        first = min(self.first_rows, sample) or sample
        likely = sample + self.max_candidates * min(2 * first, sample)
        most = sample * (1 + self.max_candidates)
        # the ask that finds the budget spent is made as well
        asks = min(self.max_candidates, max(0, budget.task_calls - sample) // first + 1)
        # a variation is asked for once, and again for a duplicate or to repair a reply: at most eight times
        return forecast(budget, (sample, likely, most), (0, asks, 8 * self.max_candidates))

    def _sample(self, validation: int, calls: int) -> int:
        return min(self.n_samples, validation) if self.n_samples else sample_size(validation, calls)


VARY = """\
Write a variation of the prompt below, for the same task. You see no result of it, so this is a guess: change the
wording, add what might help, or leave something out."""
