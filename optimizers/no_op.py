"""The seed prompt, unchanged: the control that every optimizer must beat.

score(seed) on validation
"""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from optimizers.base import Extent, Optimizer
from optimizers.editor import Editor
from optimizers.problem import Problem
from utils.records import Budget, Forecast, StopReason


@dataclass(frozen=True)
class NoOp(Optimizer):
    """The seed prompt, unchanged: what any optimizer must beat."""

    def optimize(self, problem: Problem, editor: Editor, rng: Random) -> StopReason:
        problem.score(problem.seed)
        return StopReason.EXHAUSTED

    def plan(self, extent: Extent, budget: Budget) -> Forecast:
        calls = min(extent.validation, budget.task_calls)
        return Forecast((calls, calls, calls))
