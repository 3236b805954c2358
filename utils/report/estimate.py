"""What a plan will cost, before it is run: calls, tokens, money and time, as low, likely and high.

Calls come from each optimizer's own `plan`, prompt tokens from the data itself, prices from the provider table. Where a
price is not known the money is unknown, never 0.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from utils.records import Forecast, Request

Range = tuple[float, float, float]  # low, likely, high

CHARACTERS_A_TOKEN = 4  # of English; a tokenizer would say more exactly, for one model
ANSWER_TOKENS: Range = (20, 150, 400)
EDIT_TOKENS_IN: Range = (300, 900, 4000)
EDIT_TOKENS_OUT: Range = (80, 300, 1000)
CALL_S = 1.5  # of a real model; of a simulated one far less
SIMULATED_CALL_S = 0.001


@dataclass(frozen=True)
class Need:
    """What one task will ask for.

    `scoring` are the calls of the final choice and the test; `tokens_in` is the mean length of a rendered prompt;
    prices are USD a token for input and output, None where unknown.
    """

    forecast: Forecast
    scoring: tuple[int, int, int]
    tokens_in: float
    price: tuple[float, float] | None
    editor_price: tuple[float, float] | None
    simulated: bool


@dataclass(frozen=True)
class Estimate:
    """The sum over all tasks."""

    tasks: int
    task_calls: Range
    optimizer_calls: Range
    tokens: Range
    usd: Range | None
    seconds: float

    def as_dict(self) -> dict[str, Any]:
        names = ("low", "likely", "high")
        ranges = {"task_calls": self.task_calls, "optimizer_calls": self.optimizer_calls, "tokens": self.tokens}
        shown = {name: dict(zip(names, map(round, values), strict=True)) for name, values in ranges.items()}
        usd = None if self.usd is None else dict(zip(names, (round(v, 6) for v in self.usd), strict=True))
        return {"tasks": self.tasks, **shown, "usd": usd, "seconds": round(self.seconds)}


def prompt_tokens(requests: Iterable[Request]) -> float:
    """Mean tokens of rendered prompts, at four characters a token."""
    lengths = [sum(len(message.content) for message in request.messages) for request in requests]
    return sum(lengths) / max(1, len(lengths)) / CHARACTERS_A_TOKEN


def estimate(needs: Iterable[Need], places: int) -> Estimate:
    """The cost of all tasks, run `places` calls at a time."""
    task_calls, optimizer_calls, tokens, usd = [0.0] * 3, [0.0] * 3, [0.0] * 3, [0.0] * 3
    priced, seconds, count = True, 0.0, 0
    for need in needs:
        count += 1
        priced = priced and need.price is not None and need.editor_price is not None
        seconds += _likely_seconds(need) / max(1, places)
        for i in range(3):
            calls, edits = need.forecast.task_calls[i] + need.scoring[i], need.forecast.optimizer_calls[i]
            task_calls[i] += calls
            optimizer_calls[i] += edits
            tokens[i] += calls * (need.tokens_in + ANSWER_TOKENS[i]) + edits * (EDIT_TOKENS_IN[i] + EDIT_TOKENS_OUT[i])
            if need.price and need.editor_price:
                usd[i] += calls * (need.tokens_in * need.price[0] + ANSWER_TOKENS[i] * need.price[1])
                usd[i] += edits * (EDIT_TOKENS_IN[i] * need.editor_price[0] + EDIT_TOKENS_OUT[i] * need.editor_price[1])
    return Estimate(
        count, _range(task_calls), _range(optimizer_calls), _range(tokens), _range(usd) if priced else None, seconds
    )


def _likely_seconds(need: Need) -> float:
    calls = need.forecast.task_calls[1] + need.scoring[1] + need.forecast.optimizer_calls[1]
    return calls * (SIMULATED_CALL_S if need.simulated else CALL_S)


def _range(values: list[float]) -> Range:
    return (values[0], values[1], values[2])
