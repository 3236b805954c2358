"""A provider in the place of the network: it answers litellm's calls, has bad days, and keeps its own books.

What it says follows from the question alone, so a run can be compared with another one of the same grid: the answer,
and whether the question is refused for good or the answer cut. What befalls a call does not: it may be turned away (429
with Retry-After), fail (500), bring an answer that is none (and is billed), or hang. The same question meets at most
`WORST` such faults, so every call is settled in the end. Answers are billed when they are given, whether or not anybody
is there to receive them.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

from tests.simulation.world import Process, World

WORST = 2  # faults of one question, over the whole schedule
LATENCY_S = (0.05, 2.0)
RETRY_AFTER_S = (2, 10)


@dataclass(frozen=True)
class Weather:
    """The share of calls that meet a fault, and which questions are never answered in full."""

    throttled: float = 0.0
    error: float = 0.0
    malformed: float = 0.0
    hanging: float = 0.0
    refused_of: int = 0  # one question of so many is refused; 0: none
    cut_of: int = 0  # one answer of so many is cut

    @property
    def lasting(self) -> Weather:
        """What belongs to the questions, whatever the day."""
        return Weather(refused_of=self.refused_of, cut_of=self.cut_of)


@dataclass(eq=False)
class Call:
    """A call as the provider saw it."""

    question: str  # a hash of the messages, and of everything else that decides the answer
    is_shared: bool  # at temperature 0: its answer may stand for the same question of another task
    process: Process
    at: float
    outcome: str = "answered"  # or malformed, throttled, error, hanging, refused
    tokens: tuple[int, int] = (0, 0)  # billed: read and written
    delivered_at: float | None = None
    not_before: float = 0.0  # of a throttled call: when the provider wants to be asked again


@dataclass
class Provider:
    """The server and its ledger."""

    world: World
    weather: Weather = Weather()
    calls: list[Call] = field(default_factory=list)
    _faults: Counter[str] = field(default_factory=Counter)

    @property
    def billed(self) -> tuple[int, int]:
        """Tokens read and written, of every answer it gave."""
        return (sum(call.tokens[0] for call in self.calls), sum(call.tokens[1] for call in self.calls))

    async def acompletion(self, **params: Any) -> Any:
        """What `litellm.acompletion` gives back or raises."""
        question = _digest(params)
        call = Call(question, params.get("temperature") == 0, self.world.process, self.world.now)
        self.calls.append(call)
        call.outcome = self._fate(question)
        text = _answer(question, params)
        is_cut = call.outcome == "answered" and _is_one_of(self.weather.cut_of, question[8:])
        text = text[: len(text) // 2] if is_cut else text
        if call.outcome in ("answered", "malformed"):
            call.tokens = (_size(params["messages"]), 1 + len(text) // 4)
        await asyncio.sleep(1e6 if call.outcome == "hanging" else self.world.rng.uniform(*LATENCY_S))
        call.delivered_at = self.world.now
        if call.outcome == "throttled":
            seconds = self.world.rng.randint(*RETRY_AFTER_S)
            call.not_before = self.world.now + seconds
            raise _failure(429, "slow down", {"retry-after": str(seconds)})
        if call.outcome == "error":
            raise _failure(500, "oh no", {})
        if call.outcome == "refused":
            raise _failure(400, "flagged by the content filter", {})
        finish = "length" if is_cut else "stop"
        return _response(params, None if call.outcome == "malformed" else text, finish, call.tokens)

    def _fate(self, question: str) -> str:
        draw, weather = self.world.rng.random(), self.weather
        if self._faults[question] < WORST:
            for fault in ("throttled", "error", "malformed", "hanging"):
                share = getattr(weather, fault)
                if draw < share:
                    self._faults[question] += 1
                    return fault
                draw -= share
        return "refused" if _is_one_of(weather.refused_of, question) else "answered"


def _digest(params: Mapping[str, Any]) -> str:
    said = [params["model"], params["messages"], params.get("temperature"), params.get("response_format")]
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()


def _is_one_of(count: int, question: str) -> bool:
    return bool(count) and int(question[:8], 16) % count == 0


def _answer(question: str, params: Mapping[str, Any]) -> str:
    number = int(question[:8], 16)
    if "response_format" not in params:
        return f"The answer is {'ABCD'[number % 4]}."
    properties = params["response_format"]["json_schema"]["schema"]["properties"]
    user = params["messages"][1]["content"].partition("<user>\n")[2].partition("\n</user>")[0]
    return json.dumps({"system": f"Wording {number}.", **({"user": user} if "user" in properties else {})})


def _size(messages: Any) -> int:
    return 3 + sum(4 + len(message["content"]) // 4 for message in messages)


def _response(params: Mapping[str, Any], text: str | None, finish: str, tokens: tuple[int, int]) -> Any:
    message = SimpleNamespace(content=text)
    usage = SimpleNamespace(prompt_tokens=tokens[0], completion_tokens=tokens[1])
    choice = SimpleNamespace(message=message, finish_reason=finish, logprobs=None)
    return SimpleNamespace(choices=[choice], usage=usage, model=params["model"])


def _failure(status: int, text: str, headers: Mapping[str, str]) -> Exception:
    import httpx
    import litellm

    response = httpx.Response(status, headers=dict(headers), request=httpx.Request("POST", "http://simulated"))
    kinds = {429: litellm.RateLimitError, 500: litellm.InternalServerError, 400: litellm.BadRequestError}
    return kinds[status](text, llm_provider="openai", model="simulated", response=response)
