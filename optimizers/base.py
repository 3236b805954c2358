"""What an optimizer is: hyper-parameters, and one method that spends a budget to find a better prompt.

An optimizer is plain sequential code. It reaches the world only through the `Problem` (score a prompt on examples) and
the `Editor` (ask the optimizer model). It keeps no books: budgets, retries, concurrency, the journal and the best
prompt so far live behind those two. Its randomness comes from the `rng` it is given.

Adding one: a file here, and a row in `benchmark_config.OPTIMIZERS`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from random import Random

from optimizers.editor import Editor
from optimizers.problem import Problem
from utils.records import Budget, Forecast, StopReason


@dataclass(frozen=True)
class Extent:
    """How large a problem is: examples in each split that an optimizer may use."""

    train: int
    validation: int


@dataclass(frozen=True)
class Optimizer(ABC):
    """Hyper-parameters are the fields. The first line of the class's docstring is what `--list` shows."""

    @abstractmethod
    def optimize(self, problem: Problem, editor: Editor, rng: Random) -> StopReason:
        """Look for a better prompt until done; the harness finds the best one in what was scored.

        A spent budget ends this from inside `problem.score` or the editor; no loop needs a counter.
        """

    @abstractmethod
    def plan(self, extent: Extent, budget: Budget) -> Forecast:
        """How many calls this will make, before any cache: for the estimate. `high` is never exceeded."""
