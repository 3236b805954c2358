"""The first calls of a paid run, before it begins: does each model answer, from where, how well, and for how much.

A task model answers the first rows of its datasets with the seed prompt, as it will be asked later; a model that only
edits or judges gets one short question. What that cost is told, and entered into the run.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from benchmark_task import SIMULATED, Work, load_work
from utils.errors import CallError, UsageError
from utils.llm.base import LLM
from utils.llm.connect import connect
from utils.llm.resilience import Gate, RetryPolicy
from utils.metrics.base import JudgedMetric
from utils.records import Completion, Example, Message, Request, Role, Score, Spend, Splits, TaskSpec
from utils.report.tables import duration, figure, money

ROWS = 3  # of a dataset
SHOWN = 2  # answers, beside their targets, where all rows score the same
LONGEST = 100  # characters of an answer
POLICY = RetryPolicy(attempts=2, throttled_attempts=3, total_s=60.0, timeout_s=30.0)
PING = Request((Message("user", "Reply with the word OK."),))


@dataclass(frozen=True)
class Probe:
    """What one model said to one request."""

    model: str
    request: Request
    spec: TaskSpec
    work: Work | None = None  # of a task model: what it was asked about
    example: Example | None = None
    answer: Completion | CallError | None = None

    @property
    def score(self) -> float | None:
        """Of a task model's answer; None where there is none, or only a judge could tell."""
        if not (self.work and self.example and isinstance(self.answer, Completion)):
            return None
        metric = self.work.metrics[0]
        if isinstance(metric, JudgedMetric):
            return None
        score = metric(self.example, self.answer.text)
        return score.value if isinstance(score, Score) else float(score)


@dataclass(frozen=True)
class Preflight:
    """All probes of a run."""

    probes: tuple[Probe, ...]

    @property
    def paid(self) -> Spend:
        answers = (probe.answer for probe in self.probes)
        each = (Spend.of(Role.TASK, a.usage, a.cost_usd) for a in answers if isinstance(a, Completion))
        return sum(each, Spend())

    def of(self, model: str) -> list[Probe]:
        return [probe for probe in self.probes if probe.model == model]

    def lines(self) -> Iterator[str]:
        """A line a model, and more where a seed prompt is all right or all wrong."""
        for model in dict.fromkeys(probe.model for probe in self.probes):
            yield _line(model, self.of(model))
            for dataset in dict.fromkeys(probe.spec.dataset for probe in self.of(model) if probe.work):
                yield from _alike(model, [p for p in self.of(model) if p.work and p.spec.dataset == dataset])

    def as_dicts(self) -> list[dict[str, Any]]:
        """The same for scripts, a dictionary a model."""
        return [_row(model, self.of(model)) for model in dict.fromkeys(probe.model for probe in self.probes)]


def preflight(tasks: Sequence[TaskSpec], splits: Sequence[tuple[TaskSpec, Splits]]) -> Preflight | None:
    """Ask every model that is not simulated; None where all are. Raises UsageError for one that does not answer."""
    asked = list(_probes(tasks, splits))
    if not asked:
        return None
    done = Preflight(tuple(asyncio.run(_ask_all(asked))))
    for model in dict.fromkeys(probe.model for probe in done.probes):
        errors = [probe.answer for probe in done.of(model) if isinstance(probe.answer, CallError)]
        if len(errors) == len(done.of(model)):
            raise UsageError(
                f"{model} at {_address(model, tasks[0].model_params)} does not answer: {errors[0].kind}:"
                f" {errors[0].message}; nothing was started. Mend it, leave the model out, or go on with --no-probe"
            )
    return done


def _probes(tasks: Sequence[TaskSpec], splits: Sequence[tuple[TaskSpec, Splits]]) -> Iterator[Probe]:
    kept = {spec.dataset: (spec, rows) for spec, rows in splits}
    asked: set[str] = set()
    for dataset, model in dict.fromkeys((task.dataset, task.model) for task in tasks):
        if model.startswith(SIMULATED) or dataset not in kept:
            continue
        asked.add(model)
        spec, rows = kept[dataset]
        work = load_work(spec, rows)
        params = {"temperature": 0, **spec.model_params}
        for row in work.splits.validation[:ROWS]:
            yield Probe(model, Request(work.seed.render(row.inputs), params=params), spec, work, row)
    others = dict.fromkeys(name for task in tasks for name in task.models if not name.startswith(SIMULATED))
    yield from (Probe(name, PING, tasks[0]) for name in others if name not in asked)


async def _ask_all(probes: Sequence[Probe]) -> list[Probe]:
    gates: dict[str, Gate] = {}
    models: dict[str, LLM] = {}
    for probe in probes:
        if probe.model not in models:
            own = probe.spec.model_params if probe.work else {}
            models[probe.model] = connect(probe.model, own, gates=gates, policy=POLICY, in_flight=8)

    async def ask(probe: Probe) -> Probe:
        answer: Completion | CallError
        try:
            answer = await models[probe.model].complete(probe.request)
        except CallError as error:
            answer = error
        return Probe(probe.model, probe.request, probe.spec, probe.work, probe.example, answer)

    try:
        return list(await asyncio.gather(*map(ask, probes)))
    finally:
        for model in models.values():
            await model.close()


def _address(model: str, params: Mapping[str, Any]) -> str:
    from utils.llm.litellm_engine import address  # a real model: its engine is loaded already

    return address(model, params)


def _row(model: str, probes: Sequence[Probe]) -> dict[str, Any]:
    answers = [probe.answer for probe in probes if isinstance(probe.answer, Completion)]
    prices = [answer.cost_usd for answer in answers]
    scores = [probe.score for probe in probes if probe.score is not None]
    return {
        "model": model,
        "address": _address(model, probes[0].spec.model_params),
        "calls": len(probes),
        "answered": len(answers),
        "answer": answers[0].text[:LONGEST] if answers else None,
        "score": sum(scores) / len(scores) if scores else None,
        "usd": None if None in prices else sum(price or 0.0 for price in prices),
        "seconds": sum(answer.latency_s for answer in answers) / len(answers) if answers else None,
    }


def _line(model: str, probes: Sequence[Probe]) -> str:
    row = _row(model, probes)
    score = "" if row["score"] is None else f", score {figure(row['score'], '.3f')}"
    unanswered = row["calls"] - row["answered"]
    lost = f", {unanswered} of {row['calls']} not answered" if unanswered else ""
    return (
        f"preflight: {model} at {row['address']} answers {_quoted(row['answer'] or '')} in {duration(row['seconds'])}"
        f"{score}, {money(row['usd'])} for {row['answered']} calls{lost}"
    )


def _alike(model: str, probes: Sequence[Probe]) -> Iterator[str]:
    """Where all first rows are wrong, or all right: a prompt or a metric that does not fit looks like this."""
    scores = {probe.score for probe in probes}
    if len(scores) == 1 and scores <= {0.0, 1.0} and len(probes) > 1:
        name = probes[0].spec.dataset
        yield f"  {name}: the seed prompt scores {scores.pop():.3f} on the first {len(probes)} rows, for example"
        for probe in probes[:SHOWN]:
            assert probe.example
            assert isinstance(probe.answer, Completion)
            yield f"    {_quoted(probe.answer.text)} where {_quoted(probe.example.target)} is expected"


def _quoted(text: str) -> str:
    flat = " ".join(text.split())
    return repr(flat if len(flat) <= LONGEST else f"{flat[: LONGEST - 1]}…")
