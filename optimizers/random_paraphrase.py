"""Best of blind rewrites: the control for everything that claims to learn from scores or failures.

    best <- score(seed) on validation
    repeat: ask for one paraphrase of the seed; keep it if it scores strictly higher

The editor sees the seed prompt alone: no score, no failure, no example. What this gains is luck and the text noise of
prompts, measured with the same selection as everybody else's.
"""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from optimizers.base import Extent, Optimizer
from optimizers.editor import Editor
from optimizers.problem import Problem
from utils.errors import UsageError
from utils.records import Budget, Forecast, StopReason


@dataclass(frozen=True)
class RandomParaphrase(Optimizer):
    """Best of blind rewrites of the seed prompt: what luck alone gains."""

    max_candidates: int = 30  # rewrites tried

    def __post_init__(self) -> None:
        if self.max_candidates < 1:
            raise UsageError(f"random_paraphrase: max_candidates is {self.max_candidates}; give 1 or more")

    def optimize(self, problem: Problem, editor: Editor, rng: Random) -> StopReason:
        best = problem.score(problem.seed)
        for _ in range(self.max_candidates):
            candidate = editor.rewrite("paraphrase", problem.seed, PARAPHRASE)
            if candidate is None:
                continue
            trial = problem.score(candidate)
            decision = "accept" if trial.mean > best.mean else "reject"
            problem.log(
                "paraphrase",
                decision,
                f"{trial.mean:.3f} against {best.mean:.3f} on validation",
                parents=[problem.seed],
                candidate=candidate,
                numbers={"candidate": trial.mean, "best": best.mean},
            )
            best = max(best, trial, key=lambda evaluation: evaluation.mean)
        return StopReason.MAX_ITERATIONS

    def plan(self, extent: Extent, budget: Budget) -> Forecast:
        fit = max(0, budget.task_calls // extent.validation - 1)
        tries = min(self.max_candidates, fit)
        calls = extent.validation * (1 + tries)
        # one ask a candidate, at most four with duplicates, each with at most one repair; the ask that finds the
        # budget spent is made as well
        asks = min(self.max_candidates, tries + 1)
        limit = budget.task_calls if budget.optimizer_calls is None else budget.optimizer_calls
        return Forecast((extent.validation, calls, calls), (0, min(asks, limit), min(8 * self.max_candidates, limit)))


PARAPHRASE = """\
Paraphrase the prompt below: say the same in other words, a little clearer if you can.
Change the wording, not the task."""
