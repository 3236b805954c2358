"""Thompson sampling over a living portfolio of prompts: each training row is one interaction with one prompt.

Source: "Optimizing Prompts with Reinforcement Learning", a notebook on Thompson sampling and evolutionary prompt
optimization; the bandit itself is `optimizers/bandit.py`. Differs: the days are as many as the budget bears (the
notebook's 30); the first day is the seed prompt's alone, so that the other starting prompts are written by an editor
who has seen failures; a day's interactions are sent in groups (`at_once`) whose rewards come back together, because
one call at a time is slow on a real provider (1 is the classic order); mutations see the last failures of the parent;
an arm walks each training row once, as the same answer twice is no evidence; weak arms are retired at 0.15, not 0.05:
with so few interactions, patience costs more than a wrong retirement does.

    arms <- {seed}; after the first day also mutations of it
    each day: calls_per_day times: select an arm, give it the next row of its walk, update it by the score
              evolve: retire, mutate the best                                     see bandit.py
    the arms with the greatest posterior means, of those played ten times, are scored on a sample of validation

All arms walk the same permutation of the training rows, so that they are compared on the same ones. The leader is
scored on the sample on the way too: a budget that ends early leaves something behind.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from random import Random
from typing import Any, Literal

from optimizers.bandit import Arm, Bandit, Evolution, Selection
from optimizers.base import Extent, Optimizer, forecast, sample_size
from optimizers.editor import Editor, show_all, show_failure
from optimizers.problem import Problem
from utils.prompt import Prompt
from utils.records import Budget, Example, Forecast, ItemScore, StopReason


@dataclass(frozen=True)
class Thompson(Optimizer):
    """Share out traffic by Thompson sampling; retire weak prompts, mutate the best one."""

    days: int = 0  # 0: as many as the budget bears
    calls_per_day: int = 10  # interactions between two evolutions
    at_once: int = 5  # interactions sent together, before any of their rewards is known
    n_initial: int = 5  # arms after the first day
    max_arms: int = 8
    min_arms: int = 2
    min_pulls: int = 3  # before an arm may be retired
    retirement_threshold: float = 0.15  # P(arm > best) under which it is; the source has 0.05
    inherit_strength: float = 0.2  # share of its parent's evidence that a newcomer starts with
    failures_shown: int = 4  # of the parent, to the editor; 0: mutations are blind
    reward: Literal["fraction", "success", "bernoulli"] = "fraction"  # a graded score in parts, by threshold, or drawn
    success_threshold: float = 1.0
    finalists: int = 3  # arms that are scored on validation at the end
    n_samples: int = 0  # validation rows for that; 0: as many as the budget bears

    def __post_init__(self) -> None:
        self.refuse_below(days=0, calls_per_day=1, at_once=1, n_initial=1, min_arms=1, min_pulls=0, finalists=1)
        self.refuse_below(max_arms=max(self.min_arms, self.n_initial), failures_shown=0, n_samples=0)
        self.refuse_below(retirement_threshold=0, inherit_strength=0, success_threshold=0)

    def optimize(self, problem: Problem, editor: Editor, rng: Random) -> StopReason:
        sample = problem.validation[: self._sample(len(problem.validation), problem.calls_left)]
        days = self._days(problem.calls_left, len(sample))
        traffic = _Traffic(self, problem, editor, rng)
        checks = {days * part // CHECKS for part in range(1, CHECKS)}
        for day in range(1, days + 1):
            played = 0
            while played < self.calls_per_day and (
                some := traffic.play(min(self.at_once, self.calls_per_day - played))
            ):
                played += some
            if not played:
                break
            if day < days:
                traffic.evolve(self.n_initial if day == 1 else 0)
            if day in checks:
                problem.score(traffic.leaders(1)[0], sample)
        self._choose(
            problem, [problem.score(prompt, sample).prompt for prompt in traffic.leaders(self.finalists)], sample
        )
        return StopReason.MAX_ITERATIONS if day == days else StopReason.EXHAUSTED

    def plan(self, extent: Extent, budget: Budget) -> Forecast:
        n = self._sample(extent.validation, budget.task_calls)
        days = self._days(budget.task_calls, n)
        most = days * self.calls_per_day + (self.finalists + CHECKS - 1) * n
        # an evolution renews up to all arms; a renewal asks three times at most, each for eight calls at most
        return forecast(
            budget,
            (self.calls_per_day + n, most, most),
            (0, self.n_initial + days // 2, 24 * self.max_arms * days),
        )

    def _sample(self, validation: int, calls: int) -> int:
        return min(self.n_samples, validation) if self.n_samples else sample_size(validation, calls)

    def _days(self, calls: int, sample: int) -> int:
        """The days given, or what is left beside the scoring on validation."""
        rest = calls - (self.finalists + CHECKS - 1) * sample
        return self.days or max(1, rest // self.calls_per_day)

    def _choose(self, problem: Problem, leaders: Sequence[Prompt], sample: Sequence[Example]) -> None:
        trials = [problem.score(prompt, sample) for prompt in leaders]  # known by now
        best = max(trials, key=lambda trial: trial.mean)
        for trial in trials:
            problem.log(
                "choose",
                "accept" if trial is best else "reject",
                f"{trial.mean:.3f} on {len(trial.values)} validation rows; the best has {best.mean:.3f}",
                candidate=trial.prompt,
                numbers={"candidate": trial.mean, "best": best.mean},
            )


CHECKS = 3  # parts of a run: after each but the last, the leader is scored on validation
SETTLED = 10  # pulls after which an arm's posterior mean is believed


class _Traffic:
    """The bandit on a problem's training rows: prompts for its arms, rows for its pulls, failures for its editor."""

    def __init__(self, settings: Thompson, problem: Problem, editor: Editor, rng: Random) -> None:
        self._settings, self._problem, self._editor, self._rng = settings, problem, editor, rng
        self._bandit = Bandit(
            settings.retirement_threshold,
            settings.min_pulls,
            settings.max_arms,
            settings.min_arms,
            settings.inherit_strength,
        )
        self._walk = problem.draw(len(problem.train), rng)
        self._prompts: dict[str, Prompt] = {}  # by the text that the bandit knows
        self._walked: dict[str, set[str]] = {}  # rows by arm
        self._unanswered: set[str] = set()  # rows whose call failed
        self._failures: dict[str, list[ItemScore]] = {}
        self._trace: list[dict[str, Any]] = []
        self._evolutions: list[dict[str, Any]] = []
        self._successes: list[float] = []
        self._arms: list[Arm] = []
        for name, values in (
            ("interactions", self._trace),
            ("evolutions", self._evolutions),
            ("cumulative_successes", self._successes),
            ("arms", self._arms),
        ):
            problem.report(name, values)  # the lists grow, so a run that is cut off has its traces
        seed = self._bandit.add(self._text(problem.seed))
        assert seed is not None
        self._enter(seed)

    def play(self, count: int) -> int:
        """So many interactions as one group; how many there were rows for."""
        chosen: list[tuple[Selection, Example]] = []
        for _ in range(count):
            rests = {arm.name: self._rest(arm.name) for arm in self._bandit.alive}
            playable = [name for name, rest in rests.items() if rest]
            if not playable:
                break
            selection = self._bandit.select(self._rng, playable)
            row = rests[selection.arm.name][0]
            chosen.append((selection, row))
            self._walked[selection.arm.name].add(row.id)
        items = self._problem.interact([(self._prompts[each.arm.text], row) for each, row in chosen])
        for (selection, _), item in zip(chosen, items, strict=True):
            self._learn(selection, item)
        return len(chosen)

    def evolve(self, arms: int) -> None:
        """One evolution; on a first day, new arms until there are so many."""
        evolution = self._bandit.evolve(self._mutate)
        self._note(evolution)
        for _ in range(len(self._bandit.alive), arms):
            text = self._mutate(evolution.best)
            more = self._bandit.add(text, evolution.best) if text else None
            if more:
                self._note(replace(evolution, retired=(), born=(more,)))

    def leaders(self, count: int) -> list[Prompt]:
        """The prompts with the greatest posterior means among the settled arms; without one, of all played."""
        played = [arm for arm in self._bandit.arms.values() if arm.alive and arm.pulls]
        settled = [arm for arm in played if arm.pulls >= SETTLED] or played
        ranked = sorted(settled, key=lambda arm: (-arm.mean, -arm.pulls, arm.born))
        return [self._prompts[arm.text] for arm in ranked[:count]]

    def _rest(self, name: str) -> list[Example]:
        """The rows that an arm has yet to walk; one that failed under any prompt is left out."""
        return [row for row in self._walk if row.id not in self._walked[name] and row.id not in self._unanswered]

    def _learn(self, selection: Selection, item: ItemScore) -> None:
        if item.score is None:
            self._unanswered.add(item.example_id)
            return  # the call failed: no evidence for or against the arm
        value = item.score.value
        if value < 1.0:
            self._failures[selection.arm.name].append(item)
        reward = self._reward(value)
        arm = self._bandit.update(selection.arm.name, reward)
        self._successes.append((self._successes[-1] if self._successes else 0.0) + reward)
        self._trace.append(
            {
                "arm": arm.name,
                "item": item.example_id,
                "draws": {name: round(draw, 4) for name, draw in selection.draws.items()},
                "reward": reward,
                "posterior": [arm.alpha, arm.beta],
            }
        )

    def _reward(self, value: float) -> float:
        if self._settings.reward == "fraction":
            return value
        if self._settings.reward == "success":
            return float(value >= self._settings.success_threshold)
        return float(self._rng.random() < value)

    def _mutate(self, parent: Arm) -> str | None:
        """The text of a new prompt made from an arm's, or None."""
        failures = (
            self._failures[parent.name][-self._settings.failures_shown :] if self._settings.failures_shown else []
        )
        prompt = self._prompts[parent.text]
        data = show_all(show_failure(self._problem.find(item.example_id), item) for item in reversed(failures))
        instruction = MUTATE if failures else VARY
        candidate = self._editor.rewrite("mutate", prompt, instruction, data=data, score=parent.mean)
        return None if candidate is None else self._text(candidate)

    def _text(self, prompt: Prompt) -> str:
        text = "\n\n".join((prompt.system, prompt.user, prompt.output))
        self._prompts.setdefault(text, prompt)
        return text

    def _enter(self, arm: Arm) -> None:
        self._arms.append(arm)
        self._walked[arm.name] = set()
        self._failures[arm.name] = []

    def _note(self, evolution: Evolution) -> None:
        best = evolution.best
        for arm in evolution.retired:
            chance = evolution.chances[arm.name]
            self._problem.log(
                "evolve",
                "retire",
                f"{arm.name}: P(better than {best.name}) is {chance:.4f} after {arm.pulls} pulls",
                parents=[self._prompts[best.text]],
                candidate=self._prompts[arm.text],
                numbers={"chance": chance, "threshold": self._settings.retirement_threshold},
            )
        for arm in evolution.born:
            self._enter(arm)
            self._problem.log(
                "evolve",
                "accept",
                f"{arm.name} enters with Beta({arm.alpha:.2f}, {arm.beta:.2f}), from {best.name} ({best.mean:.3f})",
                parents=[self._prompts[best.text]],
                candidate=self._prompts[arm.text],
                numbers={"alpha": arm.alpha, "beta": arm.beta},
            )
        self._evolutions.append(
            {
                "interactions": self._bandit.interactions,
                "best": best.name,
                "chances": dict(evolution.chances),
                "retired": [arm.name for arm in evolution.retired],
                "born": [arm.name for arm in evolution.born],
                "posteriors": {arm.name: [arm.alpha, arm.beta] for arm in self._bandit.alive},
            }
        )


MUTATE = """\
The prompt below is in use; after it stand its latest failures. Write a variation for the same task that would have done
better on them: say what the prompt leaves unsaid. Keep what works, stay brief, copy no example."""

VARY = """\
Paraphrase the prompt below: say the same in other words, a little clearer if you can.
Change the wording, not the task."""
