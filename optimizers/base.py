"""What an optimizer is: hyper-parameters, and one method that spends a budget to find a better prompt.

An optimizer is plain sequential code. It reaches the world only through the `Problem` (score a prompt on examples) and
the `Editor` (ask the optimizer model). It keeps no books: budgets, retries, concurrency, the journal and the best
prompt so far live behind those two. Its randomness comes from the `rng` it is given.

Adding one: a file here, and a row in `benchmark_config.OPTIMIZERS`.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from random import Random
from typing import ClassVar

from optimizers.editor import Editor
from optimizers.problem import Problem
from utils.errors import UsageError
from utils.prompt import Prompt
from utils.records import Budget, Evaluation, Forecast, Standing, StopReason, Table

LEAST_SAMPLE = 20  # validation rows a trial is scored on, if there are as many


@dataclass(frozen=True)
class Extent:
    """How large a problem is: examples in each split that an optimizer may use."""

    train: int
    validation: int


@dataclass(frozen=True)
class Optimizer(ABC):
    """Hyper-parameters are the fields. The first line of the class's docstring is what `--list` shows.

    `wants_logprobs`: the harness asks the task model for log-probabilities, where it gives them. `needs_edits`: without
    the optimizer model there is no search, so a task in which it delivered nothing has failed.
    """

    wants_logprobs: ClassVar[bool] = False
    needs_edits: ClassVar[bool] = True

    @abstractmethod
    def optimize(self, problem: Problem, editor: Editor, rng: Random) -> StopReason:
        """Look for a better prompt until done; the harness finds the best one in what was scored.

        A spent budget ends this from inside `problem.score` or the editor; no loop needs a counter.
        """

    @abstractmethod
    def plan(self, extent: Extent, budget: Budget) -> Forecast:
        """How many calls this will make, before any cache: for the estimate. `high` is never exceeded."""

    def check(self, metrics: Sequence[str]) -> None:  # noqa: B027 most parameters fit every task
        """Raises UsageError where the parameters do not fit a task with these metrics; the first is the objective."""

    def utility(self, score: float, tokens: float, seed: Evaluation) -> float:
        """What a prompt with this mean score and these mean tokens an answer is worth, beside the seed prompt's trial.

        The final choice is the prompt of the greatest utility on validation; the score alone, unless an optimizer says
        otherwise.
        """
        return score

    def tables(self, initial: Standing, final: Standing) -> Mapping[str, Table]:
        """Tables about the prompt that is delivered, by name, to be shown with the result; most have none."""
        return {}

    def refuse_below(self, **least: float) -> None:
        """Raises UsageError for the first named parameter that is under its least value."""
        for name, value in least.items():
            if getattr(self, name) < value:
                raise UsageError(f"{name} is {getattr(self, name)}; give {value:g} or more")


def given_texts(given: str | tuple[str, ...]) -> list[str]:
    """The prompts that a parameter gives: a list, or a text parted by lines of `---`, without such a line by `|`."""
    if isinstance(given, str):
        given = tuple(re.split(r"^-{3,}\s*$", given, flags=re.MULTILINE))
        given = tuple(given[0].split("|")) if len(given) == 1 else given
    return [text.strip() for text in given if text.strip()]


def with_text(seed: Prompt, text: str) -> Prompt:
    """A prompt of the user's in the place of the seed's: its system text, or the whole if it names a column."""
    written = Prompt(user=text)
    return written if written.placeholders else replace(seed, system=text)


def sample_size(validation: int, calls: int) -> int:
    """Validation rows to score one trial on, where `calls` are to be shared by about twenty trials."""
    return min(validation, max(LEAST_SAMPLE, calls // 20))


def forecast(budget: Budget, task_calls: tuple[int, int, int], optimizer_calls: tuple[int, int, int]) -> Forecast:
    """What an optimizer would ask for, cut to what the budget lets it: low, likely, high."""
    edits = budget.task_calls if budget.optimizer_calls is None else budget.optimizer_calls

    def cut(numbers: tuple[int, int, int], limit: int) -> tuple[int, int, int]:
        low, likely, high = (min(number, limit) for number in numbers)
        return (min(low, likely), min(likely, high), high)

    return Forecast(cut(task_calls, budget.task_calls), cut(optimizer_calls, edits))
