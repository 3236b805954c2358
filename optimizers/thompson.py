"""Thompson sampling over a living portfolio of prompts: an interaction is a training row given to one prompt.

Source: "Optimizing Prompts with Reinforcement Learning", a notebook on Thompson sampling and evolutionary prompt
optimization; the bandit itself is `optimizers/bandit.py`. Differs: the days are as many as the budget bears (the
notebook's 30); without prompts from the user the first day is the seed prompt's alone, so that the others are written
by an editor who has seen failures; a day's interactions are sent in groups (`at_once`) whose rewards come back
together, because one call at a time is slow on a real provider (1 is the classic order); mutations see the last
failures of the parent.

    arms <- {seed, the user's prompts}; none given: after the first day also mutations of the seed
    as often as the budget bears: select an arm, give it the next row of its walk, update it by the score
        every calls_per_day interactions: retire, mutate the best                      see bandit.py
    nominate the arms with the greatest posterior means, of those played ten times, for the final choice

All arms walk the same circle of training rows, a newcomer from a place of its own, as every newcomer's first few rows
would else be the same, easy or hard. A row that is replayed for the same prompt has the answer it had, for nothing, and
counts as an interaction. So a portfolio on few rows goes on shifting its traffic, and posteriors tell the truth about
these rows, not about others: the final choice is made on validation. The leaders are nominated after every group, so
any end finds them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from random import Random
from typing import Any, Literal

from optimizers.bandit import Arm, Bandit, Evolution, Selection
from optimizers.base import Extent, Optimizer, forecast, given_texts, with_text
from optimizers.editor import Editor, show_all, show_failure
from optimizers.problem import Problem
from utils.errors import OptimizerFailed, UsageError
from utils.prompt import Prompt
from utils.records import Budget, Example, Forecast, ItemScore, StopReason

SETTLED = 10  # pulls after which an arm's posterior mean is believed


@dataclass(frozen=True)
class Thompson(Optimizer):
    """Share out traffic by Thompson sampling; retire weak prompts, mutate the best one."""

    prompts: str | tuple[str, ...] = ()  # to start from beside the seed prompt: a list, or a text (see `given_texts`)
    days: int = 0  # 0: as many as the budget bears
    calls_per_day: int = 10  # interactions between two evolutions
    at_once: int = 5  # interactions sent together, before any of their rewards is known
    n_initial: int = 5  # arms after the first day, where no prompts are given
    max_arms: int = 8
    min_arms: int = 2
    min_pulls: int = 3  # before an arm may be retired
    retirement_threshold: float = 0.15  # P(arm > best) under which it is; the source has 0.05
    inherit_strength: float = 0.2  # share of its parent's evidence that a newcomer starts with
    failures_shown: int = 4  # of the parent, to the editor; 0: mutations are blind
    reward: Literal["fraction", "success", "bernoulli"] = "fraction"  # a graded score in parts, by threshold, or drawn
    success_threshold: float = 1.0

    def __post_init__(self) -> None:
        self.refuse_below(days=0, calls_per_day=1, at_once=1, n_initial=1, min_arms=1, min_pulls=0)
        first = 1 + len(self._given) if self._given else self.n_initial
        self.refuse_below(max_arms=max(self.min_arms, first), failures_shown=0)
        self.refuse_below(retirement_threshold=0, inherit_strength=0, success_threshold=0)

    def optimize(self, problem: Problem, editor: Editor, rng: Random) -> StopReason:
        traffic = _Traffic(self, problem, editor, rng)
        interactions = self._interactions(problem.calls_left)
        evolves_at = self.calls_per_day if self._given else self._opening(interactions)
        played = 0
        while played < interactions:
            some = traffic.play(min(self.at_once, evolves_at - played, interactions - played))
            if not some:
                return StopReason.EXHAUSTED  # no row is left that can be answered
            played += some
            if played == evolves_at < interactions:
                traffic.evolve(0 if self._given or played > self.calls_per_day else self.n_initial)
                evolves_at += self.calls_per_day
        return StopReason.MAX_ITERATIONS

    def plan(self, extent: Extent, budget: Budget) -> Forecast:
        most = self._interactions(budget.task_calls)
        days = 1 + most // self.calls_per_day
        # an evolution renews up to all arms; a renewal asks three times at most, each for eight calls at most
        edits = (0, self.n_initial + days // 2, 24 * self.max_arms * (1 + days))
        return forecast(budget, (min(most, extent.train), most, most), edits)

    @property
    def _given(self) -> list[str]:
        return given_texts(self.prompts)

    def _interactions(self, calls: int) -> int:
        return self.days * self.calls_per_day or calls

    def _opening(self, interactions: int) -> int:
        """The first day, which is the seed prompt's: a day, or a quarter of a budget that bears hardly more."""
        return min(self.calls_per_day, max(1, interactions // 4))


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
        self._steps: dict[str, int] = {}  # how far each arm has walked
        self._unanswered: set[str] = set()  # rows whose call failed
        self._failures: dict[str, dict[str, ItemScore]] = {}  # by arm and row, the latest last
        self._trace: list[dict[str, Any]] = []
        self._evolutions: list[dict[str, Any]] = []
        self._successes: list[float] = []
        self._arms: list[Arm] = []
        self._is_editor_gone = False
        for name, values in (
            ("interactions", self._trace),
            ("evolutions", self._evolutions),
            ("cumulative_successes", self._successes),
            ("arms", self._arms),
        ):
            problem.report(name, values)  # the lists grow, so a run that is cut off has its traces
        self._start(problem.seed)
        for number, text in enumerate(given_texts(settings.prompts), 1):
            prompt = with_text(problem.seed, text)
            if objection := problem.objection(prompt):
                raise UsageError(f"thompson: prompt {number} of `prompts` cannot be used: {objection}")
            if self._start(prompt):
                problem.log("start", "accept", "given by the user", candidate=prompt)

    def play(self, count: int) -> int:
        """So many interactions as one group; 0 where no row can be answered."""
        rows = [row for row in self._walk if row.id not in self._unanswered]
        if not rows:
            return 0
        chosen: list[tuple[Selection, Example]] = []
        for _ in range(count):
            selection = self._bandit.select(self._rng)
            chosen.append((selection, rows[self._steps[selection.arm.name] % len(rows)]))
            self._steps[selection.arm.name] += 1
        items = self._problem.interact([(self._prompts[each.arm.text], row) for each, row in chosen])
        for (selection, _), item in zip(chosen, items, strict=True):
            self._learn(selection, item)
        self._problem.nominate(self.leaders())
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

    def leaders(self) -> list[Prompt]:
        """The prompts played, best first: the greatest posterior mean among the settled, then by a careful mean.

        The careful one is a standard deviation lower, so that one lucky pull leads nowhere.
        """
        played = [arm for arm in self._bandit.alive if arm.pulls]
        settled = [arm for arm in played if arm.pulls >= SETTLED]
        first = max(settled, key=lambda arm: (arm.mean, arm.pulls, -arm.born), default=None)
        rest = sorted((arm for arm in played if arm is not first), key=lambda arm: arm.deviation - arm.mean)
        return [self._prompts[arm.text] for arm in ([first] if first else []) + rest]

    def _learn(self, selection: Selection, item: ItemScore) -> None:
        if item.score is None:
            self._unanswered.add(item.example_id)
            return  # the call failed: no evidence for or against the arm
        value = item.score.value
        if value < 1.0:
            failures = self._failures[selection.arm.name]
            failures.pop(item.example_id, None)
            failures[item.example_id] = item
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
        """The text of a new prompt made from an arm's, or None. An editor that gave up is not asked again."""
        if self._is_editor_gone:
            return None
        shown = self._settings.failures_shown
        failures = list(self._failures[parent.name].values())[-shown:] if shown else []
        prompt = self._prompts[parent.text]
        data = show_all(show_failure(self._problem.find(item.example_id), item) for item in reversed(failures))
        instruction = MUTATE if failures else VARY
        try:
            candidate = self._editor.rewrite("mutate", prompt, instruction, data=data, score=parent.mean)
        except OptimizerFailed as stop:
            if len(self._arms) < 2:
                raise  # one prompt alone is no portfolio
            self._is_editor_gone = True
            self._problem.log("mutate", "skip", f"the portfolio stays as it is: {stop}", parents=[prompt])
            return None
        return None if candidate is None else self._text(candidate)

    def _start(self, prompt: Prompt) -> bool:
        """An arm with the prior of one that nothing is known of; False where its text is one already."""
        arm = self._bandit.add(self._text(prompt))
        if arm:
            self._enter(arm)
        return arm is not None

    def _text(self, prompt: Prompt) -> str:
        text = "\n\n".join((prompt.system, prompt.user, prompt.output))
        self._prompts.setdefault(text, prompt)
        return text

    def _enter(self, arm: Arm) -> None:
        self._arms.append(arm)
        self._steps[arm.name] = self._rng.randrange(len(self._walk)) if arm.parent else 0
        self._failures[arm.name] = {}

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
