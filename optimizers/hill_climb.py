"""Hill climbing on failures: the bar that every elaborate method is held against.

    best <- score(seed) on a sample of validation
    repeat: draw a batch of training rows; score best on it; show a few of its failures and ask for one rewrite;
            a rewrite that does better on the batch is scored on the sample; keep it if it is strictly better there

The batch decides first because it is small: most rewrites are no better, and are found out at a part of the price.
"""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from optimizers.base import Extent, Optimizer, forecast, sample_size
from optimizers.editor import Editor, show_all, show_failure
from optimizers.problem import Problem
from utils.prompt import Prompt
from utils.records import Budget, Evaluation, Forecast, StopReason


@dataclass(frozen=True)
class HillClimb(Optimizer):
    """Show a few failures, ask for one rewrite, keep it if validation improves."""

    batch_size: int = 10  # training rows that a rewrite must do better on first
    failures_shown: int = 4
    n_samples: int = 0  # validation rows a rewrite is scored on; 0: as many as the budget bears
    max_rounds: int = 200

    def __post_init__(self) -> None:
        self.refuse_below(batch_size=1, failures_shown=1, n_samples=0, max_rounds=1)

    def optimize(self, problem: Problem, editor: Editor, rng: Random) -> StopReason:
        sample = problem.validation[: self._sample(len(problem.validation), problem.calls_left)]
        best = problem.score(problem.seed, sample)
        faultless = 0  # training rows in a row without a failure
        for _ in range(self.max_rounds):
            batch = problem.draw(self.batch_size, rng)
            before = problem.score(best.prompt, batch)
            shown = before.failures()[: self.failures_shown]
            if not shown:
                problem.log("rewrite", "skip", "no_failures in the batch", parents=[best.prompt])
                faultless += len(batch)
                if faultless >= len(problem.train):
                    return StopReason.TARGET_REACHED
                continue
            faultless = 0
            data = show_all(show_failure(problem.find(item.example_id), item) for item in shown)
            candidate = editor.rewrite("rewrite", best.prompt, REWRITE, data=data, score=best.mean)
            if candidate is None:
                continue
            after = problem.score(candidate, batch)
            if after.mean <= before.mean:
                _log(problem, candidate, after, before, "the batch", "reject")
                continue
            trial = problem.score(candidate, sample)
            accepted = trial.mean > best.mean
            _log(problem, candidate, trial, best, "validation", "accept" if accepted else "reject")
            best = trial if accepted else best
        return StopReason.MAX_ITERATIONS

    def plan(self, extent: Extent, budget: Budget) -> Forecast:
        sample = self._sample(extent.validation, budget.task_calls)
        batch = min(self.batch_size, extent.train)
        most = sample + self.max_rounds * (2 * batch + sample)
        rounds = max(0, budget.task_calls - sample) // (2 * batch) + 1
        # a round asks once, and again for a duplicate or to repair a reply: at most eight times
        return forecast(budget, (sample, most, most), (0, min(rounds, self.max_rounds), 8 * self.max_rounds))

    def _sample(self, validation: int, calls: int) -> int:
        return min(self.n_samples, validation) if self.n_samples else sample_size(validation, calls)


def _log(problem: Problem, candidate: Prompt, new: Evaluation, old: Evaluation, where: str, decision: str) -> None:
    problem.log(
        "rewrite",
        decision,
        f"{new.mean:.3f} against {old.mean:.3f} on {where}",
        parents=[old.prompt],
        candidate=candidate,
        numbers={"candidate": new.mean, "incumbent": old.mean},
    )


REWRITE = """\
The prompt below went wrong on the examples after it. Find out what it does not say that would have prevented the
failures, and rewrite it so that it says so. Keep what works, stay brief, copy no example."""
