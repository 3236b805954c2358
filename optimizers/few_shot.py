"""Few-shot examples chosen by a surrogate model: which training rows to show, how many, in which order.

Source: the few-shot Bayesian optimizer of the opik-optimizer package, version 3. Differs: a linear Thompson surrogate
by default (TPE and random are kept); trials are scored on a sample of validation that fits the budget; the best three
by posterior mean are scored on the rest of validation instead of taking the noisy maximum; the baseline must be beaten.

    slot, template <- one call to the editor (else: at the end of the system text, "name: value" lines)
    baseline <- score(seed) on validation
    repeat: set S <- surrogate; y <- score(seed with S as demos) on the sample; tell the surrogate (S, y)
    of the three sets with the greatest posterior mean: score on all of validation; keep the best if it beats baseline
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from random import Random
from typing import Any, ClassVar, Literal

from optimizers.base import Extent, Optimizer
from optimizers.editor import Ask, Editor, show_all, show_example, show_prompt
from optimizers.problem import Problem
from optimizers.surrogates import Chosen, LinearThompson, RandomSets, Surrogate, TPESets, columnar_index
from utils.errors import UsageError
from utils.prompt import DEMOS, PLACEHOLDER, TARGET, Prompt
from utils.records import Budget, Evaluation, Forecast, StopReason

SLOT = f"{{{DEMOS}}}"
FINALISTS = 3  # sets that are scored on all of validation
LEAST_SAMPLE = 20  # validation examples a trial is scored on, if there are as many


@dataclass(frozen=True)
class FewShot(Optimizer):
    """Choose few-shot examples by Bayesian optimization."""

    needs_edits: ClassVar[bool] = (
        False  # the editor only says where examples go; without it they follow the system text
    )

    min_examples: int = 2  # shown in a prompt
    max_examples: int = 7
    max_trials: int = 30  # sets scored
    n_samples: int = 0  # validation examples a trial is scored on; 0: as many as the budget bears
    surrogate: Literal["linear", "tpe", "random"] = "linear"
    startup: int = 5  # random sets before the surrogate is asked
    columnar: bool = True  # tpe: choose by values of categorical columns, where there are some

    def __post_init__(self) -> None:
        if not 1 <= self.min_examples <= self.max_examples:
            raise UsageError(
                f"min_examples {self.min_examples} and max_examples {self.max_examples}; give 1 <= min <= max"
            )
        for name in ("max_trials", "startup"):
            if getattr(self, name) < 1:
                raise UsageError(f"{name} is {getattr(self, name)}; give 1 or more")
        if self.surrogate == "tpe" and find_spec("optuna") is None:
            raise UsageError("surrogate tpe needs optuna: pip install optuna")
        if self.n_samples < 0:
            raise UsageError(f"n_samples is {self.n_samples}; give a number of validation examples, or 0")

    def optimize(self, problem: Problem, editor: Editor, rng: Random) -> StopReason:
        surrogate = self._surrogate(problem)
        baseline = problem.score(problem.seed)
        base = self._with_slot(problem, editor, rng)
        sample = problem.validation[: self._sample_size(len(problem.validation), problem.calls_left)]
        tried: dict[Chosen, Prompt] = {}
        for _ in range(self.max_trials):
            chosen = surrogate.ask(rng)
            prompt = base.with_demos(problem.demo(problem.train[i]) for i in chosen)
            repeated = chosen in tried
            trial = problem.score(prompt, sample)
            surrogate.tell(chosen, trial.mean, 0 if repeated else len(trial.values))
            tried[chosen] = prompt
            self._log(problem, chosen, trial, repeated)
        ranked = sorted(tried, key=lambda chosen: -surrogate.posterior_mean(chosen))  # stable: ties keep the earlier
        finalists = [problem.score(tried[chosen]) for chosen in ranked[:FINALISTS]]
        best = max(finalists, key=lambda final: (final.mean, -final.prompt.length))
        accepted = best.mean > baseline.mean
        problem.log(
            "select",
            "accept" if accepted else "reject",
            f"best of {len(finalists)} finalists: {best.mean:.3f} against the baseline's {baseline.mean:.3f}",
            parents=[problem.seed],
            candidate=best.prompt if accepted else problem.seed,
            numbers={"candidate": best.mean, "baseline": baseline.mean},
        )
        return StopReason.MAX_ITERATIONS

    def plan(self, extent: Extent, budget: Budget) -> Forecast:
        v = extent.validation
        sample = self._sample_size(v, max(0, budget.task_calls - v))
        calls = min(budget.task_calls, v + self.max_trials * sample + FINALISTS * (v - sample))
        asks = min(2, budget.task_calls if budget.optimizer_calls is None else budget.optimizer_calls)
        return Forecast((min(v, calls), calls, calls), (0, min(1, asks), asks))

    def _surrogate(self, problem: Problem) -> Surrogate:
        size = len(problem.train)
        low, high = self.min_examples, self.max_examples
        if self.surrogate == "random":
            return RandomSets(size, low, high)
        if self.surrogate == "tpe":
            groups = columnar_index([example.inputs for example in problem.train]) if self.columnar else {}
            return TPESets(size, low, high, startup=min(10, max(1, self.max_trials // 4)), groups=groups)
        return LinearThompson(
            size, low, high, startup=self.startup, strata=[example.target for example in problem.train]
        )

    def _sample_size(self, v: int, calls_left: int) -> int:
        """So many validation examples a trial that all trials and the finalists fit: t n + 3 (v - n) <= calls left."""
        if self.n_samples:
            return min(self.n_samples, v)
        fit = (calls_left - FINALISTS * v) // max(1, self.max_trials - FINALISTS)
        return max(min(LEAST_SAMPLE, v), min(fit, v))

    def _with_slot(self, problem: Problem, editor: Editor, rng: Random) -> Prompt:
        """The seed with a place for demos and a template of one; the editor's if it is sound, else our own."""
        seed = problem.seed
        if SLOT in seed.system + seed.user:
            return seed
        shown = show_all(show_example(example) for example in problem.draw(2, rng))
        names = ", ".join(f"{{{name}}}" for name in problem.train[0].inputs)
        instruction = PLACE % (names, f"{{{TARGET}}}")
        reply = editor.ask("place_demos", Ask(instruction, f"{show_prompt(seed)}\n\n{shown}", SCHEMA))
        placed = _placed(seed, reply, frozenset(problem.train[0].inputs)) if reply else None
        if placed is None or problem.objection(placed):
            problem.log("place_demos", "skip", "no sound place from the editor: demos follow the system text")
            return replace(seed, system=f"{seed.system}\n\n{SLOT}".lstrip())
        problem.log("place_demos", "accept", "the editor's place and template", parents=[seed], candidate=placed)
        return placed

    def _log(self, problem: Problem, chosen: Sequence[int], trial: Evaluation, repeated: bool) -> None:
        order = ", ".join(problem.train[i].id for i in chosen)
        problem.log(
            "choose_demos",
            "duplicate" if repeated else "accept",
            f"{trial.mean:.3f} on {len(trial.values)} examples with demos {order}",
            parents=[problem.seed],
            candidate=trial.prompt,
            numbers={"mean": trial.mean, "n": len(trial.values), "k": len(chosen)},
        )


def _placed(seed: Prompt, reply: dict[str, Any], columns: frozenset[str]) -> Prompt | None:
    """The seed with the editor's slot and template; None where the template shows no target or names no column."""
    template = str(reply["template"]).strip()
    named = set(PLACEHOLDER.findall(template))
    if TARGET not in named or not named - {TARGET} or named - {TARGET} - columns:
        return None
    if reply["slot"] == "user":
        return replace(seed, user=f"{SLOT}\n\n{seed.user}", demo_template=template)
    return replace(seed, system=f"{seed.system}\n\n{SLOT}".lstrip(), demo_template=template)


SCHEMA = {
    "type": "object",
    "properties": {"slot": {"type": "string", "enum": ["system", "user"]}, "template": {"type": "string"}},
    "required": ["slot", "template"],
    "additionalProperties": False,
}

PLACE = """\
Worked examples will be added to the prompt below. Say where they go: `slot` is "system" (after the system text) or
"user" (before the input). Write `template`, the form in which one example is shown. It may use only the placeholders
%s for the input and must use %s for the expected answer."""
