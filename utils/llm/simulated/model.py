"""A simulated model behind the protocol of every other model.

It decides what a request is: a question about a known example goes to the task model, a schema with a score to the
judge, everything else to the optimizer model. Landscape, wording and edits live next door; faults, time, tokens and
prices are put together here.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from utils.errors import CallError, ErrorKind, UsageError
from utils.llm.simulated.draws import Stream, digest, uniforms
from utils.llm.simulated.faults import Faults
from utils.llm.simulated.features import count_tokens
from utils.llm.simulated.judge import cosine, grade
from utils.llm.simulated.landscape import Item, Landscape
from utils.llm.simulated.lexicon import REFUSALS
from utils.llm.simulated.optimizer_model import reply
from utils.llm.simulated.reading import ROLES
from utils.llm.simulated.settings import Settings, settings_for
from utils.llm.simulated.task_model import Chance, answer_text, decide, latency_s, logprobs, tokens_out
from utils.records import Completion, Example, Request, TokenLogprob, Usage

KINDS = ("chat", "embedding")
TOP_LOGPROBS = 5
_EXPECTED = re.compile(r"<expected>\n?(.*?)\n?</expected>", re.DOTALL)
_ANSWER = re.compile(r"<answer>\n?(.*?)\n?</answer>", re.DOTALL)


class SimulatedModel:
    """One simulated model that knows the answers to these examples, as far as its ability goes."""

    def __init__(
        self,
        name: str,
        settings: Settings,
        examples: Sequence[Example],
        kind: str,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
    ) -> None:
        self.settings = settings
        self._sleep = sleep
        self.landscape = Landscape(examples, settings, name)
        self._name = name
        self._kind = kind
        self._faults = Faults(settings)

    @property
    def name(self) -> str:
        """The model as named on the command line."""
        return self._name

    async def complete(self, request: Request) -> Completion:
        """The answer to one request. Raises CallError."""
        tokens_in = _tokens_in(request)
        if tokens_in > self.settings.context:
            message = f"{self._name}: {tokens_in} tokens are more than the {self.settings.context} that it reads"
            raise CallError(ErrorKind.CONTEXT_LENGTH, message)
        fate = self._faults.check(request.key(self._name)) if self._faults.any else ""
        completion = self._answer(request, tokens_in, fate)
        if self.settings.realtime:
            await self._sleep(completion.latency_s)
        return completion

    def ceiling(self, request: Request) -> tuple[Usage, float]:
        """The tokens of this request, counted exactly, with the longest answer it allows; and their price."""
        usage = Usage(_tokens_in(request), self._limit(request))
        return usage, self._price(usage)

    async def close(self) -> None:
        """Nothing to let go of."""

    def _answer(self, request: Request, tokens_in: int, fate: str) -> Completion:
        if self._kind == "embedding":
            first, second = _two(request)
            usage = Usage(tokens_in, 0)
            return self._completion(repr(cosine(first, second)), usage, 0.02, None, "stop")
        if _is_grading(request):
            return self._spoken(request, tokens_in, fate, self._judge(request))
        if request.item and request.schema is None:
            return self._task(request, self._item(request), tokens_in, fate)
        key = request.key(self._name)
        stream = Stream("optimizer", self._name, key)
        return self._spoken(request, tokens_in, fate, reply(request, self.settings.q, self.settings.malformed, stream))

    def _task(self, request: Request, item: Item, tokens_in: int, fate: str) -> Completion:
        params = request.params
        temperature = params.get("temperature")
        chance = Chance(self.settings.temperature if temperature is None else float(temperature), request.sample)
        text, shown = self.landscape.recover(request.messages, item)
        outcome = decide(self.landscape, item, self.landscape.view(text), shown, chance)
        said, answer = answer_text(self.landscape, outcome)
        tokens, hidden = tokens_out(outcome)
        if fate == "refusal":
            said = REFUSALS[int(outcome.draw[5] * len(REFUSALS))]
        listed: tuple[TokenLogprob, ...] | None = None
        if params.get("logprobs") and self.settings.logprobs and not fate:
            listed = logprobs(outcome, said, answer, int(params.get("top_logprobs") or TOP_LOGPROBS))
        said, tokens, finish = _cut(said, tokens, self._limit(request), fate)
        usage = Usage(tokens_in, tokens, reasoning=min(hidden, tokens))
        return self._completion(said, usage, latency_s(tokens, outcome.draw[7]), listed, finish)

    def _item(self, request: Request) -> Item:
        item = self.landscape.items.get(request.item)
        if item is None:
            raise CallError(ErrorKind.BAD_REQUEST, f"{self._name} knows no example {request.item!r}")
        return item

    def _spoken(self, request: Request, tokens_in: int, fate: str, text: str) -> Completion:
        """A reply whose tokens are those of its text."""
        key = digest(request.key(self._name))
        if fate == "refusal":
            text = REFUSALS[0]
        text, tokens, finish = _cut(text, max(1, count_tokens(text)), self._limit(request), fate)
        return self._completion(
            text, Usage(tokens_in, tokens, reasoning=0), latency_s(tokens, uniforms("latency", key)[0]), None, finish
        )

    def _judge(self, request: Request) -> str:
        """A score with its reason, for the expected text and the answer that the request shows in tags."""
        text = "\n\n".join(message.content for message in request.messages if message.role == "user")
        expected, answer = _last(_EXPECTED, text), _last(_ANSWER, text)
        key = digest(self._name, text)
        score, reason = grade(expected, answer, key, self.settings.judge_bias, self.settings.judge_noise)
        return json.dumps({"score": score, "reason": reason}, ensure_ascii=False)

    def _limit(self, request: Request) -> int:
        asked = request.params.get("max_completion_tokens") or request.params.get("max_tokens")
        return int(asked or self.settings.max_tokens)

    def _price(self, usage: Usage) -> float:
        return (usage.tokens_in * self.settings.price_in + usage.tokens_out * self.settings.price_out) / 1e6

    def _completion(
        self,
        text: str,
        usage: Usage,
        latency: float,
        listed: tuple[TokenLogprob, ...] | None,
        finish: str,
    ) -> Completion:
        seconds = latency * self.settings.latency
        return Completion(text, usage, self._price(usage), seconds, finish, listed, model=self._name)


def simulated_model(
    name: str,
    params: Mapping[str, Any],
    examples: Sequence[Example],
    kind: str = "chat",
    sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
) -> SimulatedModel:
    """The simulated model of this name. Raises UsageError for an unknown name, parameter or kind."""
    if kind not in KINDS:
        raise UsageError(f"{name}: a model is of kind {' or '.join(KINDS)}, not {kind!r}")
    return SimulatedModel(name, settings_for(name, params), examples, kind, sleep)


def _is_grading(request: Request) -> bool:
    properties = request.schema.get("properties", {}) if request.schema else {}
    return "score" in properties and not any(role in properties for role in ROLES)


def _tokens_in(request: Request) -> int:
    return 3 + sum([4 + (len(message.content) + 3) // 4 for message in request.messages])


def _cut(text: str, tokens: int, limit: int, fate: str) -> tuple[str, int, str]:
    """The text with its tokens, shortened in proportion where the limit or a fault ends it early."""
    allowed = min(limit, max(1, tokens // 2)) if fate == "truncation" else limit
    if tokens <= allowed and fate != "truncation":
        return text, tokens, "stop"
    kept = text[: len(text) * allowed // tokens] if tokens > allowed else text[: len(text) // 2]
    return kept, min(tokens, allowed), "length"


def _two(request: Request) -> tuple[str, str]:
    if len(request.messages) != 2:
        raise CallError(ErrorKind.BAD_REQUEST, f"an embedding needs two texts, not {len(request.messages)}")
    return request.messages[0].content, request.messages[1].content


def _last(pattern: re.Pattern[str], text: str) -> str:
    found = pattern.findall(text)
    return str(found[-1]).replace("<\\/", "</") if found else ""
