"""What a plan will cost, before it is run: calls, tokens, money and time, as low, likely and high.

Calls come from each optimizer's own `plan`, prompt tokens from the data itself, prices from the provider table. Where a
price is not known the money is unknown, never 0.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from utils.records import Forecast, Request, Role

Range = tuple[float, float, float]  # low, likely, high
LIKELY = 1

CHARACTERS_A_TOKEN = 4  # of English; a tokenizer would say more exactly, for one model
ANSWER_TOKENS: Range = (20, 150, 400)
REWRITTEN_TOKENS: Range = (0, 50, 500)  # what an editor adds to a prompt
EDIT_TOKENS_IN: Range = (300, 900, 4000)
EDIT_TOKENS_OUT: Range = (80, 300, 1000)
JUDGE_FRAME_TOKENS: Range = (200, 300, 500)  # the rubric and the expected answer; the judge reads the answer as well
VERDICT_TOKENS: Range = (10, 60, 200)
CALL_S = 1.5  # of a real model; of a simulated one far less
SIMULATED_CALL_S = 0.001

Price = tuple[float, float] | None  # USD a token read and a token written; None: unknown


@dataclass(frozen=True)
class Need:
    """What one task will ask for.

    `scoring` are the calls of the final choice and the test; `tokens_in` is the mean length of a rendered prompt,
    `demo_tokens` what the optimizer's demos add to it. A judged task asks the judge about every answer. `simulated`:
    all its models are, and its money is play money.
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
        }


def prompt_tokens(requests: Iterable[Request]) -> float:
    """Mean tokens of rendered prompts, at four characters a token."""
    lengths = [sum(len(message.content) for message in request.messages) for request in requests]
    return sum(lengths) / max(1, len(lengths)) / CHARACTERS_A_TOKEN


def estimate(needs: Iterable[Need], places: int) -> Estimate:
    """The cost of all tasks, run `places` calls at a time."""
    calls = {role: [0.0] * 3 for role in Role}
    tokens, real, play = [0.0] * 3, [0.0] * 3, [0.0] * 3
    priced, seconds, count = True, 0.0, 0
    for need in needs:
        count += 1
        usd = play if need.simulated else real
        pace = SIMULATED_CALL_S if need.simulated else CALL_S
        for i in range(3):
            for role, asked, tokens_in, tokens_out, price in _uses(need, i):
                calls[role][i] += asked
                tokens[i] += asked * (tokens_in + tokens_out)
                seconds += asked * pace / max(1, places) if i == LIKELY else 0.0
                priced = priced and price is not None
                if price is not None:
                    usd[i] += asked * (tokens_in * price[0] + tokens_out * price[1])
    return Estimate(
        count,
        _range(calls[Role.TASK]),
        _range(calls[Role.OPTIMIZER]),
        _range(tokens),
        _range(real) if priced else None,
        seconds,
        _range(calls[Role.JUDGE]),
        _range(play),
    )


def _uses(need: Need, i: int) -> Iterator[tuple[Role, float, float, float, Price]]:
    """Who is asked how often, with how many tokens in and out, at which price: least (0), likely (1) or most (2)."""
    answers = need.forecast.task_calls[i] + need.scoring[i]
    edits = need.forecast.optimizer_calls[i]
    grown = REWRITTEN_TOKENS[i] if need.forecast.optimizer_calls[2] else 0.0
    prompt = need.tokens_in + need.demo_tokens[i] + grown
    yield Role.TASK, answers, prompt, ANSWER_TOKENS[i], need.price
    yield Role.OPTIMIZER, edits, EDIT_TOKENS_IN[i] + need.tokens_in, EDIT_TOKENS_OUT[i], need.editor_price
    if need.is_judged:
        read = need.tokens_in + JUDGE_FRAME_TOKENS[i] + ANSWER_TOKENS[i]
        yield Role.JUDGE, answers, read, VERDICT_TOKENS[i], need.judge_price


def _named(values: Range, digits: int) -> dict[str, float]:
    rounded = (round(value, digits) if digits else round(value) for value in values)
    return dict(zip(("low", "likely", "high"), rounded, strict=True))


def _range(values: list[float]) -> Range:
    return (values[0], values[1], values[2])
