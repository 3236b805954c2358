"""Balanced prompt optimization: accuracy and short answers, in turns drawn by weight.

Source: "Balanced Prompt Optimization System", a system built on TextGrad (Yuksekgonul et al., "TextGrad: Automatic
'Differentiation' via Text", 2024). Differs: one question to the editor for each critique, and one for the update with
all of them, where TextGrad's graph asks twice as often; right answers get no accuracy critique; validation is on, on a
sample that the budget bears, and the prompt before a step is not scored again; most bad steps are found out on ten rows
of the sample, which pays for more epochs; a reply that cannot be read costs its step, not the run. Thinking is switched
on for the model (`--model-params`); its tokens are read off each answer.

    w <- accuracy_weight / (accuracy_weight + efficiency_weight);  x <- seed;  score(x) on a sample of validation
    each epoch: focus <- accuracy with probability w, else efficiency; shuffle the training rows
        each step: score x on the next batch
            critiques <- one a row: what the prompt lacks (wrong answers), or what makes the answer long
            y <- rewrite of x by the critiques
            score(y) on a few rows of the sample, then on all; x <- y unless the rule reverts it on either
    Pareto set <- of all validated prompts, more accuracy or fewer tokens
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Literal

from optimizers.base import Extent, Optimizer, forecast, sample_size
from optimizers.editor import Ask, Editor, show_all, show_example, show_failure, show_prompt, tag
from optimizers.problem import Problem
from utils.errors import UsageError
from utils.prompt import Prompt
from utils.records import Budget, Evaluation, Example, Forecast, ItemScore, Split, Standing, StopReason, Table

Focus = Literal["accuracy", "efficiency"]
COLUMNS = (
    "on",
    "weights",
    "initial acc",
    "final acc",
    "improvement",
    "initial tokens",
    "final tokens",
    "reduction",
    "reduction %",
)
PARETO = ("prompt", "accuracy", "tokens", "text")  # on the validation sample
FORFEIT = 2.0  # more than any two values of J are apart, given the accuracy of one of them


@dataclass(frozen=True)
class Balanced(Optimizer):
    """Critiques of wrong and of long answers in turns, by the weights of accuracy and efficiency."""

    accuracy_weight: float = 0.7  # share of the epochs, beside efficiency_weight
    efficiency_weight: float = 0.3
    batch_size: int = 3  # training rows a step
    max_epochs: int = 60
    steps_per_epoch: int = 3
    run_validation: bool = True  # after each step, with a way back; off: every step is kept
    rule: Literal["focus", "accuracy", "weighted"] = "focus"  # by which a step is taken back
    tolerance: float = 0.0  # accuracy that a shorter answer may cost, under the rule `focus`
    first_rows: int = 10  # of the sample, on which the rule may take a step back already; 0: none
    n_samples: int = 0  # validation rows a prompt is scored on; 0: as many as the budget bears

    def __post_init__(self) -> None:
        self.refuse_below(accuracy_weight=0, efficiency_weight=0, batch_size=1, max_epochs=1, steps_per_epoch=1)
        self.refuse_below(tolerance=0, first_rows=0, n_samples=0)
        if not self.accuracy_weight + self.efficiency_weight > 0:
            raise UsageError("accuracy_weight and efficiency_weight are both 0; give at least one above 0")

    @property
    def weight(self) -> float:
        """w: the share of accuracy, in [0, 1]."""
        return self.accuracy_weight / (self.accuracy_weight + self.efficiency_weight)

    def optimize(self, problem: Problem, editor: Editor, rng: Random) -> StopReason:
        sample = problem.validation[: self._sample(len(problem.validation), problem.calls_left)]
        record = Record(self, problem, problem.score(problem.seed, sample))
        x = problem.seed
        faultless = 0  # training rows in a row without a failure
        for _ in range(self.max_epochs):
            focus: Focus = "accuracy" if rng.random() < self.weight else "efficiency"
            record.begin(focus)
            rows = problem.draw(len(problem.train), rng)
            for step in range(self.steps_per_epoch):
                batch = problem.score(x, _batch(rows, step, self.batch_size))
                shown = batch.failures() if focus == "accuracy" else _answered(batch)
                if not shown:
                    problem.log(focus, "skip", "no_failures in the batch", parents=[x])
                    faultless += len(batch.items)
                    if self.weight == 1 and faultless >= len(problem.train):
                        return StopReason.TARGET_REACHED
                    continue
                faultless = 0
                y = self._step(problem, editor, focus, x, shown)
                if y is None:
                    continue
                if not self.run_validation:
                    problem.log(focus, "accept", "kept without validation", parents=[x], candidate=y)
                    x = y
                    continue
                if not self._falls_early(problem, record, focus, y, sample, rng):
                    x = record.judge(focus, problem.score(y, sample))
            if x.id != record.kept.prompt.id:
                record.keep(problem.score(x, sample))
        return StopReason.MAX_ITERATIONS

    def plan(self, extent: Extent, budget: Budget) -> Forecast:
        sample = self._sample(extent.validation, budget.task_calls)
        batch = min(self.batch_size, extent.train)
        steps = self.max_epochs * self.steps_per_epoch
        validations = steps if self.run_validation else self.max_epochs
        most = sample + steps * batch + validations * sample
        # a critique a row, each with at most one repair; a rewrite asks at most four times, each with one repair
        return forecast(budget, (sample, most, most), (0, steps * (batch + 1), steps * (2 * batch + 8)))

    def reverts(self, focus: Focus, old: Evaluation, new: Evaluation, seed_tokens: float) -> bool:
        """True if the rule takes the step from `old` to `new` back."""
        if self.rule == "accuracy" or (self.rule == "focus" and focus == "accuracy"):
            return new.mean < old.mean
        if self.rule == "focus":
            return not (new.mean >= old.mean - self.tolerance and new.tokens < old.tokens)
        return self.worth(new.mean, new.tokens, seed_tokens) < self.worth(old.mean, old.tokens, seed_tokens)

    def worth(self, score: float, tokens: float, seed_tokens: float) -> float:
        """J = w accuracy + (1 - w) clip(1 - T/T0, -1, 1)."""
        saved = 1 - tokens / seed_tokens if seed_tokens else 0.0
        return self.weight * score + (1 - self.weight) * max(-1.0, min(1.0, saved))

    def utility(self, score: float, tokens: float, seed: Evaluation) -> float:
        """J; what is less accurate than the seed prompt, by more than the tolerance, is worth less than it."""
        lost = seed.values and score < seed.mean - self.tolerance
        return self.worth(score, tokens, seed.tokens) - (FORFEIT if lost else 0.0)

    def tables(self, initial: Standing, final: Standing) -> Mapping[str, Table]:
        """The source's columns, of the prompt that is delivered, on validation and on test."""
        rows = tuple(self._row(split.value, initial, final) for split in (Split.VALIDATION, Split.TEST))
        return {"columns": Table(COLUMNS, rows)}

    def _row(self, split: str, initial: Standing, final: Standing) -> tuple[object, ...]:
        first, last = initial.scores[split].mean, final.scores[split].mean
        before, after = initial.tokens[split], final.tokens[split]
        percent = 100 * (before - after) / before if before else 0.0
        weights = f"{self.weight:.2g}/{1 - self.weight:.2g}"
        return (split, weights, first, last, last - first, before, after, before - after, percent)

    def _step(
        self, problem: Problem, editor: Editor, focus: Focus, x: Prompt, shown: Sequence[ItemScore]
    ) -> Prompt | None:
        """The prompt after one textual gradient step; None where the editor had nothing new."""
        instruction, update = TEXTS[focus]
        cases = [_show(focus, problem.find(item.example_id), item) for item in shown]
        asks = [Ask(instruction, f"{show_prompt(x)}\n\n{case}", CRITIQUE) for case in cases]
        replies = editor.ask_all(f"{focus} critique", asks)
        pairs = zip(cases, replies, strict=True)
        gradient = [f"{case}\n{tag('critique', reply['critique'])}" for case, reply in pairs if reply]
        if not gradient:
            return editor.accept(focus, x, None)
        return editor.rewrite(focus, x, update, data=show_all(gradient))

    def _falls_early(
        self, problem: Problem, record: Record, focus: Focus, y: Prompt, sample: Sequence[Example], rng: Random
    ) -> bool:
        """True if a few rows of the sample are enough for the rule to take the step back."""
        if not 0 < self.first_rows < len(sample):
            return False
        rows = rng.sample(sample, self.first_rows)  # others each time: a lucky few would stand for ever
        new, old = problem.score_all([y, record.kept.prompt], rows)
        falls = self.reverts(focus, old, new, record.first.tokens)
        # what goes on is noted as well: a budget may end before the rest of the sample
        record.log(f"{focus} look", "reject" if falls else "accept", new, old)
        return falls

    def _sample(self, validation: int, calls: int) -> int:
        return min(self.n_samples, validation) if self.n_samples else sample_size(validation, calls)


class Record:
    """The prompt kept so far and all that was validated, reported after every change: a budget may end any time."""

    def __init__(self, optimizer: Balanced, problem: Problem, first: Evaluation) -> None:
        self.optimizer = optimizer
        self.problem = problem
        self.first = self.kept = first
        self.trials = [first]
        self.focuses: list[Focus] = []
        self._report()

    def begin(self, focus: Focus) -> None:
        """A new epoch."""
        self.focuses.append(focus)
        self._report()

    def judge(self, focus: Focus, new: Evaluation) -> Prompt:
        """The prompt to go on with: the new one, unless the rule reverts it."""
        reverted = self.optimizer.reverts(focus, self.kept, new, self.first.tokens)
        self.log(focus, "reject" if reverted else "accept", new, self.kept)
        self._add(new, keep=not reverted)
        return self.kept.prompt

    def log(self, operator: str, decision: str, new: Evaluation, old: Evaluation) -> None:
        """What the rule said of two prompts on the same rows."""
        self.problem.log(
            operator,
            decision,
            f"{new.mean:.3f} at {new.tokens:.0f} tokens against {old.mean:.3f} at {old.tokens:.0f}"
            f" on {len(new.items)} rows, rule {self.optimizer.rule}",
            parents=[old.prompt],
            candidate=new.prompt,
            numbers={
                "accuracy": new.mean,
                "tokens": new.tokens,
                "kept_accuracy": old.mean,
                "kept_tokens": old.tokens,
            },
        )

    def keep(self, new: Evaluation) -> None:
        """A prompt that is kept whatever it shows."""
        self._add(new, keep=True)

    def _add(self, new: Evaluation, *, keep: bool) -> None:
        self.trials.append(new)
        self.kept = new if keep else self.kept
        self._report()

    def _report(self) -> None:
        self.problem.report("focus", list(self.focuses))
        self.problem.report("last", self.kept.prompt)  # the one of the greatest utility is delivered, perhaps another
        front = tuple((trial.prompt.id, trial.mean, trial.tokens, trial.prompt) for trial in pareto(self.trials))
        self.problem.show("pareto", Table(PARETO, front))


def pareto(trials: Sequence[Evaluation]) -> list[Evaluation]:
    """The trials that no other beats in accuracy without more tokens, or in tokens without less accuracy."""
    front: list[Evaluation] = []
    for trial in sorted(trials, key=lambda trial: (trial.tokens, -trial.mean)):  # stable: of equals the earlier stays
        if not front or trial.mean > front[-1].mean:
            front.append(trial)
    return front


def _batch(rows: Sequence[Example], step: int, size: int) -> list[Example]:
    """The rows of a step: without replacement as long as there are any, then from the beginning again."""
    size = min(size, len(rows))
    return [rows[(step * size + i) % len(rows)] for i in range(size)]


def _answered(batch: Evaluation) -> tuple[ItemScore, ...]:
    return tuple(item for item in batch.items if item.score is not None)


def _show(focus: Focus, example: Example, item: ItemScore) -> str:
    """A case for a critique: the answer, with the thinking before it where it is shown."""
    thinking = f"{tag('thinking', item.thinking)}\n" if item.thinking else ""
    if focus == "accuracy":
        return f"{show_failure(example, item).removesuffix('</failure>')}{thinking}</failure>"
    shown = show_example(example).removesuffix("</example>")
    return f"{shown}{thinking}{tag('answer', item.answer or '')}\n{tag('tokens', str(item.tokens_out))}\n</example>"


CRITIQUE = {
    "type": "object",
    "properties": {"critique": {"type": "string"}},
    "required": ["critique"],
    "additionalProperties": False,
}

CRITIQUE_ACCURACY = """\
A model answered one question with the prompt below, and its answer is wrong. Compare it with the expected answer and
name what the prompt should have said so that this kind of question is answered rightly. Two sentences at most; do not
solve the question yourself and do not write a prompt."""

CRITIQUE_EFFICIENCY = """\
A model answered one question with the prompt below; `tokens` is what the answer took, thinking included. Say what in
the prompt made the answer longer than it had to be, and how the same answer could be reached with shorter reasoning and
fewer tokens. Nothing that the right answer depends on may go. Two sentences at most; do not write a prompt."""

UPDATE = """\
Change the prompt below as the critiques ask. Each stands under the case that it is about; follow what they have in
common, and leave what they do not speak of as it is. %s The new prompt is clear and concise, balances right answers
against their cost, and copies none of the cases."""

UPDATE_ACCURACY = UPDATE % "The aim of this step: more right answers."
UPDATE_EFFICIENCY = UPDATE % "The aim of this step: fewer tokens in the answers, and not one right answer less."

TEXTS: dict[Focus, tuple[str, str]] = {
    "accuracy": (CRITIQUE_ACCURACY, UPDATE_ACCURACY),
    "efficiency": (CRITIQUE_EFFICIENCY, UPDATE_EFFICIENCY),
}
