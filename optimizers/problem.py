"""The problem an optimizer works on: score a prompt on examples, within a budget.

Holds train and validation, never a test example. Behind `score` live the rules that are the same for every optimizer:
a prompt is checked before a call is spent on it, nothing is scored twice, a failed call is an error and not a zero, too
many of them end the task. What was scored is remembered; the best prompts are read off it.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from random import Random
from typing import Any

from utils.door import Door
from utils.errors import CallError, ErrorKind
from utils.metrics.base import JudgedMetric, Metric
from utils.metrics.cross_entropy import cross_entropy
from utils.prompt import Demo, Prompt, diff
from utils.records import Completion, Evaluation, Example, ItemScore, Request, Role, Score, Split, Step, Table
from utils.report.flaws import JUDGED, WHOLE, Calls, flaw_of, refuse_cut, refuse_unanswered
from utils.tracing.records import Recorder

logger = logging.getLogger("optimizer")

SPAN = 12  # words: a prompt with so long a run of words from a held-out row has copied it
LONGEST_THINKING = 4000  # characters of a thinking text that are kept for critiques
PULL = 5  # rows: so strongly is a mean over few rows pulled towards the seed's
WORD = re.compile(r"\w+")

Utility = Callable[[float, float, Evaluation], float]  # of a mean score and mean tokens an answer, beside the seed's


@dataclass(frozen=True)
class Rules:
    """What every candidate and every evaluation must keep to."""

    max_prompt_tokens: int = 8000  # of the templates, at four characters a token
    max_failed_share: float = 0.1  # of all task calls; where more of them fail, the task does


class Problem:
    """One dataset, one task model, one budget, as an optimizer sees them.

    `spans` are hashes of the 12-word runs of validation and test rows: enough to find a copied row, not to read one.
    `recorder` is told of every trial and every step; it is there for traces, and nothing is read back from it.
    """

    def __init__(
        self,
        seed: Prompt,
        train: Sequence[Example],
        validation: Sequence[Example],
        metrics: Sequence[Metric | JudgedMetric],
        door: Door,
        *,
        params: Mapping[str, Any] | None = None,
        spans: frozenset[int] = frozenset(),
        rules: Rules | None = None,
        recorder: Recorder | None = None,
    ) -> None:
        self.seed = seed
        self.train = tuple(train)
        self.validation = tuple(validation)
        self.steps: list[Step] = []
        self.curve: list[tuple[int, float]] = []
        self._metrics = tuple(metrics)
        self._door = door
        self._params = dict(params or {"temperature": 0})
        self._rules = rules or Rules()
        self.calls = Calls(self._rules.max_failed_share)
        self._recorder = recorder or Recorder()
        self.reported: dict[str, object] = {}
        self.tables: dict[str, Table] = {}
        self.warnings: list[str] = []
        self._train_by_id = {example.id: example for example in self.train}
        self._train_spans = spans_of(self.train)
        self._held_out = spans - spans_in(_texts(seed))
        self._scored: dict[tuple[str, str], ItemScore] = {}
        self._prompts: dict[str, Prompt] = {}
        self._nominated: dict[str, Prompt] = {}

    @property
    def objective(self) -> str:
        """The name of the metric that is optimized."""
        return self._metrics[0].name

    @property
    def calls_left(self) -> int:
        """Task calls that the budget still holds: for choosing sample sizes, never for counting."""
        ledger = self._door.ledger
        return max(0, ledger.budget.task_calls - ledger.logical.task_calls) if ledger.budget else 10**9

    # ------------------------------------------------------------------ spending

    def score(self, prompt: Prompt, examples: Sequence[Example] | None = None) -> Evaluation:
        """The prompt's scores on these examples (default: all of validation).

        Only what was not scored before is asked and charged. An example that is one of the prompt's own demos is left
        out. Raises BudgetExhausted before the first call, TaskError where too many calls failed, ValueError for a
        prompt that `objection` rejects.
        """
        return self.score_all([prompt], examples)[0]

    def score_all(self, prompts: Sequence[Prompt], examples: Sequence[Example] | None = None) -> list[Evaluation]:
        """Several prompts on the same examples, as one batch: reserved whole, sent at once."""
        chosen = self.validation if examples is None else tuple(examples)
        split = Split.TRAIN if chosen and chosen[0].id in self._train_by_id else Split.VALIDATION
        wanted = self._ask((prompt, example) for prompt in prompts for example in _outside(prompt, chosen))
        self._prompts.update({prompt.id: prompt for prompt in prompts})
        evaluations = [self._evaluation(prompt, split, chosen) for prompt in prompts]
        for evaluation in evaluations:
            self._recorder.trial(evaluation)
        self.calls.check()
        for evaluation in evaluations:
            refuse_unanswered(evaluation, WHOLE)
            if evaluation.prompt.id == self.seed.id and len(evaluation.items) >= JUDGED:
                refuse_cut(evaluation)  # what is so of the seed prompt is so of all; a candidate may be long-winded
        if split is Split.VALIDATION and wanted:
            self._extend_curve(prompts)
        return evaluations

    def interact(self, pairs: Sequence[tuple[Prompt, Example]]) -> list[ItemScore]:
        """One answer for each pair, sent as one batch: interactions one by one, where no prompt has a trial of its own.

        As in `score`, nothing is asked twice, and too many failures end the task. A failed one is an item with its
        error.
        """
        self._ask(pairs)
        self._prompts.update({prompt.id: prompt for prompt, _ in pairs})
        items = [self._scored[prompt.id, example.id] for prompt, example in pairs]
        self._recorder.interactions([prompt for prompt, _ in pairs], items)
        self.calls.check()
        return items

    def _ask(self, pairs: Iterable[tuple[Prompt, Example]]) -> bool:
        """Score what was not scored before; True if there was something."""
        wanted: dict[tuple[str, str], tuple[Prompt, Example]] = {}
        checked: set[str] = set()
        for prompt, example in pairs:
            objection = "" if prompt.id in checked else self.objection(prompt)
            if objection:
                raise ValueError(f"prompt {prompt.id} cannot be scored: {objection}")
            checked.add(prompt.id)
            if (prompt.id, example.id) not in self._scored:
                wanted.setdefault((prompt.id, example.id), (prompt, example))
        scores = ask_scores(self._door, list(wanted.values()), self._metrics, self._params)
        self._scored.update(zip(wanted, scores, strict=True))
        self.calls.add(scores)
        return bool(wanted)

    def race(self, prompts: Sequence[Prompt], *, start: int = 8, keep: float = 0.5) -> Evaluation:
        """The winner of successive halving on validation: all on a few examples, the better half on twice as many.

        Beats equal allocation when one of many is to be picked. Ties keep the earlier prompt.
        """
        field = list({prompt.id: prompt for prompt in prompts}.values())
        size = min(start, len(self.validation))
        while True:
            trials = self.score_all(field, self.validation[:size])
            if len(field) == 1 or size == len(self.validation):
                return max(trials, key=lambda trial: trial.mean)
            ranked = sorted(trials, key=lambda trial: -trial.mean)  # stable: of equals the earlier stays
            kept = {trial.prompt.id for trial in ranked[: max(1, int(len(trials) * keep))]}
            field = [prompt for prompt in field if prompt.id in kept]
            size = min(2 * size, len(self.validation))

    # ------------------------------------------------------------------ free of charge

    def draw(self, size: int, rng: Random) -> tuple[Example, ...]:
        """A batch of training examples, without replacement."""
        return tuple(rng.sample(self.train, min(size, len(self.train))))

    def demo(self, example: Example) -> Demo:
        """A training example as a worked example for a prompt."""
        if example.id not in self._train_by_id:
            raise ValueError(f"example {example.id} is not a training row; demos never come from held-out rows")
        return Demo(example.id, example.inputs, example.target)

    def is_scored(self, prompt: Prompt) -> bool:
        """True where the prompt was scored before: asking again would teach nothing."""
        return prompt.id in self._prompts

    def objection(self, prompt: Prompt) -> str:
        """Why no call may be spent on this prompt; empty if there is nothing against it."""
        if not (prompt.system + prompt.user).strip():
            return "it is empty"
        missing = self.seed.placeholders - prompt.placeholders
        if missing:
            return f"placeholder {{{min(missing)}}} is missing"
        if sum(map(len, _texts(prompt))) > 4 * self._rules.max_prompt_tokens:
            return f"it is longer than {self._rules.max_prompt_tokens} tokens"
        spans = spans_in(_texts(prompt))
        if spans & self._held_out:
            return f"it holds {SPAN} words in a row of a held-out example"
        if (spans & self._train_spans) - spans_in(_texts(self.seed)):
            return f"it holds {SPAN} words in a row of a training example outside its demos"
        strangers = [demo.example_id for demo in prompt.demos if demo.example_id not in self._train_by_id]
        if strangers:
            return f"demo {strangers[0]} is not a training example"
        return ""

    def log(
        self,
        operator: str,
        decision: str,
        reason: str,
        *,
        parents: Sequence[Prompt] = (),
        candidate: Prompt | None = None,
        numbers: Mapping[str, float] | None = None,
    ) -> None:
        """Note one decision: accept, reject, retire, duplicate, malformed, invalid or skip."""
        spent = self._door.ledger.logical
        logger.info("%s: %s: %s", operator, decision, reason)
        ids = tuple(parent.id for parent in parents)
        change = diff(parents[0], candidate) if parents and candidate else ""
        step = Step(len(self.steps), operator, decision, reason, ids, candidate, change, numbers or {}, spent)
        self.steps.append(step)
        self._recorder.step(step)

    def find(self, example_id: str) -> Example:
        """A training example by its id: what an editor may be shown. KeyError for any other."""
        return self._train_by_id[example_id]

    def report(self, name: str, value: object) -> None:
        """Keep something of the optimizer's own with the result: a curve, a front, a table. Plain data or records."""
        self.reported[name] = value

    def warn(self, sentence: str) -> None:
        """Have a sentence shown beside the result, once: something that whoever reads the figures must know."""
        if sentence not in self.warnings:
            self.warnings.append(sentence)

    def show(self, name: str, table: Table) -> None:
        """The same for a table that is small enough to be part of every look at the run."""
        self.tables[name] = table

    # ------------------------------------------------------------------ what was found

    def nominate(self, prompts: Sequence[Prompt]) -> None:
        """Have these in the final choice, the most promising first, whatever they scored on validation, if anything.

        For an optimizer whose evidence is of training rows. The latest nomination counts, so it stands however the
        search ends.
        """
        self._nominated = {prompt.id: prompt for prompt in prompts if prompt.id != self.seed.id}

    def finalists(self, count: int, utility: Utility | None = None) -> list[Prompt]:
        """The seed, the nominated prompts, then the most promising: of the greatest utility (none: mean score).

        A mean over few examples is pulled towards the seed's, as if five more had scored like it, so that luck on a
        small sample does not carry a prompt to the end. Ties: the shorter prompt, then the earlier one.
        """
        worth = utility or (lambda score, tokens, seed: score)
        seed = self._validated(self.seed)
        ranked = []
        for order, prompt in enumerate(self._prompts.values()):
            trial = self._validated(prompt)
            if prompt.id not in (self.seed.id, *self._nominated) and trial.values:
                pull = PULL / (len(trial.values) + PULL) if seed.values else 0.0
                score = (1 - pull) * trial.mean + (pull * seed.mean if pull else 0.0)
                tokens = (1 - pull) * trial.tokens + (pull * seed.tokens if pull else 0.0)
                ranked.append((-worth(score, tokens, seed), prompt.length, order, prompt))
        best = [row[-1] for row in sorted(ranked, key=lambda row: row[:-1])]
        return [self.seed, *[*self._nominated.values(), *best][:count]]

    def _validated(self, prompt: Prompt) -> Evaluation:
        scored = [example for example in self.validation if (prompt.id, example.id) in self._scored]
        return self._evaluation(prompt, Split.VALIDATION, scored)

    def _evaluation(self, prompt: Prompt, split: Split, examples: Sequence[Example]) -> Evaluation:
        items = tuple(self._scored[prompt.id, example.id] for example in _outside(prompt, examples))
        return Evaluation(prompt, split, items)

    def _extend_curve(self, prompts: Sequence[Prompt]) -> None:
        trials = [self._validated(prompt) for prompt in prompts]
        means = [trial.mean for trial in trials if 2 * len(trial.values) >= len(self.validation)]
        best = max(means, default=None)
        if best is not None and (not self.curve or best > self.curve[-1][1]):
            self.curve.append((self._door.ledger.logical.task_calls, best))


def ask_scores(
    door: Door,
    pairs: Sequence[tuple[Prompt, Example]],
    metrics: Sequence[Metric | JudgedMetric],
    params: Mapping[str, Any],
) -> list[ItemScore]:
    """The scores of these prompts on these examples, in order; the first metric is the objective."""
    requests = [
        Request(prompt.render(example.inputs), params, item=example.id, prompt=prompt.id) for prompt, example in pairs
    ]
    answers = door.ask(Role.TASK, requests)
    columns = [_grade(door, metric, pairs, answers) for metric in metrics]
    return [
        _item(
            example,
            answer,
            [column[row] for column in columns],
            [metric.name for metric in metrics],
            with_entropy=bool(params.get("logprobs")),
        )
        for row, ((_, example), answer) in enumerate(zip(pairs, answers, strict=True))
    ]


def spans_of(examples: Iterable[Example]) -> frozenset[int]:
    """Hashes of the 12-word runs of the examples' texts."""
    return spans_in(text for example in examples for text in (*example.inputs.values(), example.target))


def spans_in(texts: Iterable[str]) -> frozenset[int]:
    """Hashes of the 12-word runs of these texts, case and punctuation aside."""
    found: set[int] = set()
    for text in texts:
        words = WORD.findall(text.casefold())
        found.update(hash(tuple(words[i : i + SPAN])) for i in range(len(words) - SPAN + 1))
    return frozenset(found)


def _texts(prompt: Prompt) -> tuple[str, ...]:
    return (prompt.system, prompt.user, prompt.output, prompt.demo_template)


def _outside(prompt: Prompt, examples: Sequence[Example]) -> Sequence[Example]:
    shown = {demo.example_id for demo in prompt.demos}
    return [example for example in examples if example.id not in shown] if shown else examples


Graded = Score | CallError


def _grade(
    door: Door,
    metric: Metric | JudgedMetric,
    pairs: Sequence[tuple[Prompt, Example]],
    answers: Sequence[Completion | CallError],
) -> list[Graded]:
    """One metric over all answers; an answer that never came stays its error."""
    examples = [example for _, example in pairs]
    if not isinstance(metric, JudgedMetric):
        rows = zip(examples, answers, strict=True)
        return [answer if isinstance(answer, CallError) else metric(example, answer.text) for example, answer in rows]
    asked = [row for row, answer in enumerate(answers) if isinstance(answer, Completion)]
    texts = {row: answer.text for row, answer in enumerate(answers) if isinstance(answer, Completion)}
    # with the ids of prompt and row, so that a trace finds whose answer was judged; they are not part of the key
    questions = [
        replace(metric.question(examples[row], texts[row]), prompt=pairs[row][0].id, item=examples[row].id)
        for row in asked
    ]
    replies = door.ask(Role.JUDGE, questions)
    graded: list[Graded] = [a if isinstance(a, CallError) else CallError(ErrorKind.INTERNAL, "") for a in answers]
    for row, reply in zip(asked, replies, strict=True):
        graded[row] = reply if isinstance(reply, CallError) else _read(metric, examples[row], texts[row], reply)
    return graded


def _read(metric: JudgedMetric, example: Example, answer: str, reply: Completion) -> Graded:
    try:
        return metric.read(example, answer, reply)
    except CallError as error:
        return error


def _item(
    example: Example,
    answer: Completion | CallError,
    graded: Sequence[Graded],
    names: Sequence[str],
    *,
    with_entropy: bool,
) -> ItemScore:
    text = None if isinstance(answer, CallError) else answer.text
    tokens = 0 if isinstance(answer, CallError) else answer.usage.tokens_out
    objective = graded[0]
    if isinstance(objective, CallError):
        return ItemScore(example.id, text, None, objective.kind, objective.message, tokens)
    pairs = zip(names[1:], graded[1:], strict=True)
    also = {name: score.value for name, score in pairs if isinstance(score, Score)}
    assert isinstance(answer, Completion), "what was graded was answered"
    item = ItemScore(
        example.id,
        text,
        objective,
        tokens_out=tokens,
        also=also,
        flaw=flaw_of(answer, objective),
        thinking=answer.thinking[:LONGEST_THINKING],
    )
    if not with_entropy:
        return item
    nats, source = cross_entropy(example, answer, objective)
    return replace(item, cross_entropy=nats, ce_source=source)
