"""Learning from good and bad: prompts with their records, accuracy and cross entropy are shown, a better one is asked.

Source: "Automated Prompt Generator", a training loop in which a language model writes prompts from evaluated prompts,
good and bad. Differs: the records are of training rows (a record shows answers, and held-out rows are shown to nobody),
drawn anew each time, as on one fixed sample a lucky prompt is never beaten again; a prompt that does better there is
scored on validation, which decides; the best prompt so far is always shown, with some of its own failures, because the
worst records of the pool are soon the gibberish's alone; `strategy` is obeyed.

    best <- score(seed) on a sample of validation
    pool <- records of the starting prompts on a batch: the seed, a paraphrase, gibberish
    repeat: draw a batch of training rows; score best on it; its records join the pool
            show n records (best_worst: the highest and the lowest cross entropies; random: any), each prompt of theirs
            with its accuracy and mean cross entropy; ask for one better prompt
            score it on the batch; its records join the pool, good or bad: bad prompts are the point
            better than best there (accuracy, then cross entropy, then tokens): score it on the validation sample;
            keep it if it is better there too

Cross entropy (utils/metrics/cross_entropy.py) tells a lucky answer from a sure one, where accuracy sees no difference.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from random import Random
from typing import Any, ClassVar, Literal

from optimizers.base import Extent, Optimizer, forecast, sample_size
from optimizers.editor import Editor, show_all, show_example, show_failure, show_prompt, tag
from optimizers.problem import Problem
from utils.metrics.cross_entropy import SAMPLES
from utils.prompt import Prompt
from utils.records import Budget, Evaluation, Example, Forecast, ItemScore, StopReason
from utils.report.statistics import interval


@dataclass(frozen=True)
class AutomatedGenerator(Optimizer):
    """Show good and bad prompts with their records and cross entropies, ask for a better one."""

    wants_logprobs: ClassVar[bool] = True

    strategy: Literal["random", "best_worst"] = "best_worst"  # which records are shown
    n_records: int = 10
    batch_size: int = 10  # training rows a prompt is evaluated on; the source had one sample of 30
    n_samples: int = 0  # validation rows that a best prompt is scored on; 0: as many as the budget bears
    iterations: int = 200  # the source's runs had about 10
    candidates_per_iteration: int = 1
    failures_shown: int = 4  # of the best prompt's own; 0: the chosen records alone
    gibberish: int = 2  # starting prompts that are bad on purpose, so that bad records exist
    initial_prompts: str = ""  # system texts to start from beside the seed prompt, parted by |; none: a paraphrase

    def __post_init__(self) -> None:
        self.refuse_below(n_records=1, batch_size=1, n_samples=0, iterations=1, candidates_per_iteration=1)
        self.refuse_below(failures_shown=0, gibberish=0)

    def optimize(self, problem: Problem, editor: Editor, rng: Random) -> StopReason:
        sample = problem.validation[: self._sample(len(problem.validation), problem.calls_left)]
        best = problem.score(problem.seed, sample)
        if all(item.ce_source == SAMPLES for item in best.items if item.score is not None):
            problem.warn("no log-probabilities came with the answers: cross entropies are of right and wrong")
        pool = Pool()
        problem.report("training_curve", pool.curve)
        problem.report("records", pool.table)
        batch = problem.draw(self.batch_size, rng)
        pool.add(problem.score(problem.seed, batch))
        for operator, prompt in self._starts(problem, editor):
            best = _try(problem, operator, pool, prompt, best, batch, sample)
        for _ in range(self.iterations):
            batch = problem.draw(self.batch_size, rng)
            before = problem.score(best.prompt, batch)
            pool.add(before)
            data = self._evidence(problem, pool, before, rng)
            parent, score = best.prompt, best.mean
            for _ in range(self.candidates_per_iteration):
                candidate = editor.rewrite("generate", parent, GENERATE, data=data, score=score)
                if candidate:
                    best = _try(problem, "generate", pool, candidate, best, batch, sample)
        return StopReason.MAX_ITERATIONS

    def plan(self, extent: Extent, budget: Budget) -> Forecast:
        sample = self._sample(extent.validation, budget.task_calls)
        batch = min(self.batch_size, extent.train)
        asks = self.iterations * self.candidates_per_iteration
        starts = self.gibberish + (len(self._initial) or 1)
        # every iteration scores the best prompt on a new batch, and again where another candidate has replaced it
        most = sample + batch + starts * (2 * batch + sample) + self.iterations * batch + asks * (2 * batch + sample)
        likely = max(0, budget.task_calls - sample) // (2 * batch)
        return forecast(budget, (sample, most, most), (0, min(likely, asks), 8 * (1 + asks)))

    @property
    def _initial(self) -> list[str]:
        return [text.strip() for text in self.initial_prompts.split("|") if text.strip()]

    def _sample(self, validation: int, calls: int) -> int:
        return min(self.n_samples, validation) if self.n_samples else sample_size(validation, calls)

    def _starts(self, problem: Problem, editor: Editor) -> Iterable[tuple[str, Prompt]]:
        """The starting prompts beside the seed."""
        seed = problem.seed
        given = [replace(seed, system=text) for text in self._initial]
        if not given and (paraphrase := editor.rewrite("start", seed, PARAPHRASE)):
            given = [paraphrase]
        bad = [_gibberish(seed, i) for i in range(self.gibberish)]
        for operator, prompt in [*(("start", each) for each in given), *(("gibberish", each) for each in bad)]:
            objection = problem.objection(prompt)
            if objection:
                problem.log(operator, "invalid", objection, candidate=prompt)
            elif not problem.is_scored(prompt):
                yield operator, prompt

    def _evidence(self, problem: Problem, pool: Pool, before: Evaluation, rng: Random) -> str:
        """What follows the best prompt: its figures and records, then the other prompts whose records were chosen."""
        chosen = pool.choose(self.n_records, self.strategy, rng)
        if len(pool.sources) > 1:
            problem.log("generate", "skip", f"records ranked by {pool.source} alone; there are {sorted(pool.sources)}")
        records = [Record(before.prompt, item) for item in before.failures()[: self.failures_shown]]
        records += [record for record in chosen if record not in records]
        best = before.prompt.id
        others = {record.prompt.id for record in records} - {best}
        parts = []
        for prompt_id in (best, *sorted(others, key=lambda each: pool.rank(pool.trials[each]))):
            trial = pool.trials[prompt_id]
            parts += [] if prompt_id == best else [show_prompt(trial.prompt, trial.mean)]
            parts += [tag("measured", pool.says(trial))]
            parts += [_show(problem, record) for record in records if record.prompt.id == prompt_id]
        return show_all(parts)


def _try(
    problem: Problem,
    operator: str,
    pool: Pool,
    prompt: Prompt,
    best: Evaluation,
    batch: Sequence[Example],
    sample: Sequence[Example],
) -> Evaluation:
    """Evaluates a prompt as far as it is promising; the better one of it and the best."""
    before, after = problem.score_all([best.prompt, prompt], batch)
    pool.add(after)
    passed = pool.rank(after) < pool.rank(before)
    _log(problem, operator, pool, after, before, "the batch", accepted=passed)
    if not passed:
        return best
    trial = problem.score(prompt, sample)
    accepted = pool.rank(trial) < pool.rank(best)
    _log(problem, operator, pool, trial, best, "validation", accepted=accepted)
    return trial if accepted else best


def _log(
    problem: Problem, operator: str, pool: Pool, new: Evaluation, old: Evaluation, where: str, *, accepted: bool
) -> None:
    problem.log(
        operator,
        "accept" if accepted else "reject",
        f"on {where}: {pool.says(new)}; the best has {pool.says(old)}",
        parents=[old.prompt] if operator == "generate" else [],
        candidate=new.prompt,
        numbers={
            "candidate": new.mean,
            "candidate_entropy": pool.entropy(new),
            "best": old.mean,
            "best_entropy": pool.entropy(old),
        },
    )


@dataclass(frozen=True)
class Record:
    """One answer under one prompt."""

    prompt: Prompt
    item: ItemScore

    @property
    def order(self) -> tuple[float, str, str]:
        return (self.item.cross_entropy or 0.0, self.prompt.id, self.item.example_id)


@dataclass
class Pool:
    """Everything that was evaluated, bad prompts included."""

    trials: dict[str, Evaluation] = field(default_factory=dict)
    source: str = ""  # of the cross entropies of most records: only these are ranked
    curve: list[dict[str, Any]] = field(default_factory=list)
    table: list[dict[str, Any]] = field(default_factory=list)

    def add(self, trial: Evaluation) -> None:
        """A prompt's records join the pool."""
        known = self.trials.get(trial.prompt.id)
        seen = {item.example_id for item in known.items} if known else set()
        fresh = tuple(item for item in trial.items if item.example_id not in seen)
        self.trials[trial.prompt.id] = replace(trial, items=(*known.items, *fresh)) if known else trial
        sources = Counter(record.item.ce_source for record in self._records())
        self.source = max(sorted(sources), key=sources.__getitem__, default="")
        span = interval(trial.values)
        self.curve.append(
            {
                "prompt": trial.prompt.id,
                "rows": span.n,
                "accuracy": span.mean,
                "low": span.low,
                "high": span.high,
                "cross_entropy": self.entropy(trial),
            }
        )
        for item in fresh:
            if item.score is not None:
                row = {"prompt": trial.prompt.id, "item": item.example_id, "score": item.score.value}
                self.table.append({**row, "cross_entropy": item.cross_entropy, "source": item.ce_source})

    def rank(self, trial: Evaluation) -> tuple[float, float, float]:
        """Less is better: accuracy, then mean cross entropy, then tokens of an answer."""
        return (-trial.mean, self.entropy(trial), trial.tokens)

    def entropy(self, trial: Evaluation) -> float:
        """Mean cross entropy, as far as it comes from the source of most records."""
        return entropy(trial, self.source)

    def says(self, trial: Evaluation) -> str:
        """The figures of a prompt in words."""
        nats = self.entropy(trial)
        entropies = f"mean cross entropy {nats:.3f}" if nats < math.inf else "unknown cross entropy"
        return f"accuracy {trial.mean:.3f} and {entropies} on {len(trial.values)} rows"

    @property
    def sources(self) -> set[str]:
        """Where the cross entropies come from."""
        return {record.item.ce_source for record in self._records()}

    def choose(self, count: int, strategy: str, rng: Random) -> list[Record]:
        """Records to show; best_worst: half with the highest cross entropies, half with the lowest."""
        records = self._records()
        count = min(count, len(records))
        if strategy == "random":
            return rng.sample(records, count)
        ranked = sorted((r for r in records if r.item.ce_source == self.source), key=lambda r: r.order)
        count = min(count, len(ranked))
        low = count // 2
        return [*reversed(ranked[len(ranked) - (count - low) :]), *ranked[:low]]

    def _records(self) -> list[Record]:
        trials = self.trials.values()
        return [Record(trial.prompt, item) for trial in trials for item in trial.items if item.score is not None]


def entropy(trial: Evaluation, source: str) -> float:
    """Mean cross entropy of the answers for which it comes from this source; infinite where there are none."""
    nats = [i.cross_entropy for i in trial.items if i.cross_entropy is not None and i.ce_source == source]
    return math.fsum(nats) / len(nats) if nats else math.inf


def _show(problem: Problem, record: Record) -> str:
    """One record: the row, the answer, and how sure the model was of the expected one."""
    example, item = problem.find(record.item.example_id), record.item
    assert item.score is not None
    surprise = tag(
        "entropy", "unknown" if item.cross_entropy is None else f"{item.cross_entropy:.3f} ({item.ce_source})"
    )
    shown = show_failure(example, item) if item.score.value < 1.0 else show_example(example)
    head, _, last = shown.rpartition("\n")
    return f"{head}\n{surprise}\n{last}"


def _gibberish(seed: Prompt, number: int) -> Prompt:
    """A prompt that says nothing, with the seed's placeholders."""
    slots = "\n".join(f"{{{name}}}" for name in sorted(seed.placeholders))
    return replace(
        seed, system=GIBBERISH[number % len(GIBBERISH)] * (1 + number // len(GIBBERISH)), user=slots, output=""
    )


GENERATE = """\
Below are prompts with records of what a model answered under them: the best prompt first, bad ones among the rest.
Entropy tells how surprised the model was by the expected answer; less is better. Find out what the good prompts have
that the bad ones lack, and what the failures of the first prompt show to be missing. Write one new prompt that reaches
a higher accuracy and a lower entropy than all of them. It must not hold any text of the rows: no passage, no question,
no answer."""

PARAPHRASE = """\
Paraphrase the prompt below: say the same in other words, a little clearer if you can.
Change the wording, not the task."""

GIBBERISH = (
    "Quorl vant ipsi drum, fellow marnit zub okra sten. Pliv orn hask tunder wemble.",
    "Brask lindo fen quappel tor, ziv ambrit schel. Nupper gant wolm ek drist farn.",
)
