"""What a plan will cost, before it is run: calls, tokens, money and time, as low, likely and high.

Calls come from each optimizer's own `plan`, prompt tokens from the data itself, prices from the provider table. Where a
price is not known the money is unknown, never 0. Time is that of the workers, one task after another: the waiting of
each task for its models, and the computing of all on the processors that there are.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from utils.records import Forecast, Request, Role

Range = tuple[float, float, float]  # low, likely, high
LIKELY = 1

CHARACTERS_A_TOKEN = 4  # of English; a tokenizer would say more exactly, for one model
ANSWER_TOKENS: Range = (20, 150, 400)
SIMULATED_ANSWER_TOKENS: Range = (20, 65, 400)
REWRITTEN_TOKENS: Range = (0, 50, 500)  # what an editor adds to a prompt
EDIT_TOKENS_IN: Range = (300, 900, 4000)
EDIT_TOKENS_OUT: Range = (80, 300, 1000)
SIMULATED_EDIT_TOKENS_OUT: Range = (80, 130, 1000)
JUDGE_FRAME_TOKENS: Range = (200, 300, 500)  # the rubric and the expected answer; the judge reads the answer as well
VERDICT_TOKENS: Range = (10, 60, 200)
THOUGHT: Range = (0.1, 0.5, 1.0)  # shares of its thinking budget that a model uses on an answer
FIRST_TOKEN_S, TOKENS_A_SECOND = 0.3, 80.0  # of a real model, and of a simulated one that takes its time
TASK_CPU_S = 0.4  # a worker's start, its rows, its result
CALL_CPU_S = 0.004  # a call's way there and back: journal, score, an optimizer's share; a simulated answer too
AXES = ("dataset", "optimizer", "model")

Price = tuple[float, float] | None  # USD a token read and a token written; None: unknown


@dataclass(frozen=True)
class Need:
    """What one task will ask for.

    `scoring` are the calls of the final choice and the test; `tokens_in` is the mean length of a rendered prompt,
    `demo_tokens` what the optimizer's demos add to it. A judged task asks the judge about every answer. `simulated`:
    all its models are, and its money is play money. `thinking` are the tokens that a call of each role may think;
    `pace` is what its seconds are multiplied with: 0 for a simulated model that does not sleep. `batch` are the calls
    that an optimizer has to make at a time. `cell` says which part of the grid it is, by axis.
    """

    forecast: Forecast
    scoring: tuple[int, int, int]
    tokens_in: float
    price: Price
    editor_price: Price
    simulated: bool
    demo_tokens: Range = (0.0, 0.0, 0.0)
    is_judged: bool = False
    judge_price: Price = None
    thinking: Mapping[Role, int] = field(default_factory=dict)
    pace: Mapping[Role, float] = field(default_factory=dict)
    batch: int = 20
    cell: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Places:
    """What a run has at a time."""

    workers: int = 5
    in_flight: int = 32  # calls, over all workers
    processors: int = 1


@dataclass(frozen=True)
class Estimate:
    """The sum over all tasks; `usd` is real money, `usd_simulated` play money."""

    tasks: int
    task_calls: Range
    optimizer_calls: Range
    tokens: Range
    usd: Range | None
    seconds: float
    judge_calls: Range = (0.0, 0.0, 0.0)
    usd_simulated: Range = (0.0, 0.0, 0.0)
    parts: Mapping[str, Mapping[str, Estimate]] = field(default_factory=dict)  # axis -> name -> what it is of the whole

    def as_dict(self) -> dict[str, Any]:
        counts = {
            "task_calls": self.task_calls,
            "optimizer_calls": self.optimizer_calls,
            "judge_calls": self.judge_calls,
            "tokens": self.tokens,
        }
        return {
            "tasks": self.tasks,
            **{name: _named(values, 0) for name, values in counts.items()},
            "usd": None if self.usd is None else _named(self.usd, 6),
            "usd_simulated": _named(self.usd_simulated, 6),
            "seconds": round(self.seconds, 1),
            **{f"by_{axis}": {name: part.as_dict() for name, part in of.items()} for axis, of in self.parts.items()},
        }


def prompt_tokens(requests: Iterable[Request]) -> float:
    """Mean tokens of rendered prompts, at four characters a token."""
    lengths = [sum(len(message.content) for message in request.messages) for request in requests]
    return sum(lengths) / max(1, len(lengths)) / CHARACTERS_A_TOKEN


def estimate(needs: Sequence[Need], places: Places) -> Estimate:
    """The cost of all tasks, and of each dataset, optimizer and model among them."""
    named = {axis: {need.cell[axis]: None for need in needs if axis in need.cell} for axis in AXES}
    parts = {
        axis: {name: _added([need for need in needs if need.cell.get(axis) == name], places) for name in names}
        for axis, names in named.items()
    }
    return replace(_added(needs, places), parts=parts)


def _added(needs: Iterable[Need], places: Places) -> Estimate:
    calls = {role: [0.0] * 3 for role in Role}
    tokens, real, play = [0.0] * 3, [0.0] * 3, [0.0] * 3
    priced, waits, computed = True, list[float](), 0.0
    for need in needs:
        usd = play if need.simulated else real
        waited, asked_for = _time(need, places)
        waits.append(waited)
        computed += asked_for
        for i in range(3):
            for role, asked, tokens_in, tokens_out, price in _uses(need, i):
                calls[role][i] += asked
                tokens[i] += asked * (tokens_in + tokens_out)
                priced = priced and price is not None
                if price is not None:
                    usd[i] += asked * (tokens_in * price[0] + tokens_out * price[1])
    return Estimate(
        len(waits),
        _range(calls[Role.TASK]),
        _range(calls[Role.OPTIMIZER]),
        _range(tokens),
        _range(real) if priced else None,
        _span(waits, places) + computed / places.processors,
        _range(calls[Role.JUDGE]),
        _range(play),
    )


def _time(need: Need, places: Places) -> tuple[float, float]:
    """Seconds that a task waits for its models, and seconds that it keeps a processor busy."""
    at_a_time = max(1, min(need.batch, places.in_flight // max(1, min(places.workers, places.in_flight))))
    waited, calls = 0.0, 0.0
    for role, asked, _, tokens_out, _ in _uses(need, LIKELY):
        calls += asked
        takes = need.pace.get(role, 1.0) * (FIRST_TOKEN_S + tokens_out / TOKENS_A_SECOND)
        waited += asked * takes / (1 if role is Role.OPTIMIZER else at_a_time)  # edits come one after another
    return waited, TASK_CPU_S + calls * CALL_CPU_S


def _span(waits: Sequence[float], places: Places) -> float:
    """Seconds from the first task to the last: shared by the workers, and never less than the longest."""
    return max(sum(waits) / max(1, min(places.workers, places.in_flight)), max(waits, default=0.0))


def _uses(need: Need, i: int) -> Iterator[tuple[Role, float, float, float, Price]]:
    """Who is asked how often, with how many tokens in and out, at which price: least (0), likely (1) or most (2)."""
    answers = need.forecast.task_calls[i] + need.scoring[i]
    edits = need.forecast.optimizer_calls[i]
    grown = REWRITTEN_TOKENS[i] if need.forecast.optimizer_calls[2] else 0.0
    prompt = need.tokens_in + need.demo_tokens[i] + grown
    answered = SIMULATED_ANSWER_TOKENS[i] if need.simulated else ANSWER_TOKENS[i]
    written = SIMULATED_EDIT_TOKENS_OUT[i] if need.simulated else EDIT_TOKENS_OUT[i]
    thought = {role: THOUGHT[i] * need.thinking.get(role, 0) for role in Role}
    yield Role.TASK, answers, prompt, answered + thought[Role.TASK], need.price
    yield (
        Role.OPTIMIZER,
        edits,
        EDIT_TOKENS_IN[i] + need.tokens_in,
        written + thought[Role.OPTIMIZER],
        need.editor_price,
    )
    if need.is_judged:
        read = need.tokens_in + JUDGE_FRAME_TOKENS[i] + answered
        yield Role.JUDGE, answers, read, VERDICT_TOKENS[i] + thought[Role.JUDGE], need.judge_price


def _named(values: Range, digits: int) -> dict[str, float]:
    rounded = (round(value, digits) if digits else round(value) for value in values)
    return dict(zip(("low", "likely", "high"), rounded, strict=True))


def _range(values: list[float]) -> Range:
    return (values[0], values[1], values[2])
