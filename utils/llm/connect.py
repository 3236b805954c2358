"""A model's name becomes a client: its provider, its gate, its retries.

What a model is made of is left to `simulated` and `litellm_engine`, which are imported when a name of theirs comes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from utils.llm.base import LLM
from utils.llm.bulletin import Bulletin
from utils.llm.resilience import Gate, Resilient, RetryPolicy
from utils.records import Completion, Example, Message, Request
from utils.serialization import content_hash

SIMULATED = "sim"


def provider_of(model: str) -> str:
    """The provider of a model: what stands before the first slash, else what litellm makes of the bare name."""
    prefix, slash, _ = model.partition("/")
    if slash:
        return prefix
    from utils.llm.litellm_engine import provider  # on first use: costs seconds

    return provider(model)


def gate_name(model: str, params: Mapping[str, Any]) -> str:
    """What limits are shared by: the provider, or the address where one is given, for it has limits of its own."""
    base = params.get("api_base")
    return f"{provider_of(model)} at {base}" if base else provider_of(model)


def thinking_tokens(model: str, params: Mapping[str, Any]) -> tuple[float, float, float]:
    """Tokens of thinking in one answer: least, likely, most. For estimates; answers are bounded by the engine."""
    if provider_of(model) == SIMULATED:
        return (0.0, 0.0, 0.0)
    from utils.llm import litellm_engine

    return litellm_engine.thinking_tokens(model, params)


def context_tokens(model: str, params: Mapping[str, Any]) -> int:
    """The tokens that a request to a model may have; 0 where nobody knows."""
    if model.startswith(f"{SIMULATED}/"):
        from utils.llm.simulated.settings import settings_for

        return settings_for(model, params).context
    from utils.llm import litellm_engine

    return litellm_engine.context_tokens(model)


def takes_temperature(model: str, params: Mapping[str, Any]) -> bool:
    """True where a call at temperature 0 is sent as one; some models know no temperature, or think at 1 only."""
    if provider_of(model) == SIMULATED:
        return True
    from utils.llm import litellm_engine

    return litellm_engine.takes_temperature(model, params)


def connect(
    model: str,
    params: Mapping[str, Any],
    *,
    gates: dict[str, Gate],
    policy: RetryPolicy | None = None,
    in_flight: int,
    kind: Literal["chat", "embedding"] = "chat",
    examples: Sequence[Example] = (),
    bulletins: Path | None = None,
) -> LLM:
    """The model, with retries, behind its provider's gate in `gates`, which is made if it is not there.

    `params` lie under each request's own. `in_flight` bounds the calls of a new gate; an existing one keeps its bound.
    `examples` are what a simulated model knows the answers of. `bulletins` is the folder in which the processes of a
    run tell each other of a provider's pauses.
    """
    policy = policy or RetryPolicy()
    name = gate_name(model, params)
    if name not in gates:
        provider = provider_of(model)
        bulletin = None
        if bulletins is not None and provider != SIMULATED:
            # a hash, because an address may hold what no file name should
            bulletin = Bulletin(bulletins / f"{provider}-{content_hash(name, 8)}.jsonl")
        gates[name] = Gate(in_flight, bulletin=bulletin)
    return Resilient(_bare(model, params, kind, examples, policy.timeout_s), gates[name], policy)


@dataclass(frozen=True)
class Probe:
    """What one real call found: where it went, and what came back."""

    address: str
    answer: Completion  # with its cost


HELLO = Request((Message("user", "Reply with the word: ready"),), {"temperature": 0})
PROBED = RetryPolicy(attempts=3, throttled_attempts=3, malformed_attempts=2, total_s=60.0, timeout_s=30.0)


def probe(
    model: str,
    params: Mapping[str, Any],
    request: Request = HELLO,
    *,
    examples: Sequence[Example] = (),
    policy: RetryPolicy = PROBED,
) -> Probe:
    """One real call to a model, with a few retries. Raises CallError.

    `params` lie under the request's own. What lost tries may have cost is in no books: this is before there are any.
    """

    async def ask() -> Completion:
        connected = connect(model, params, gates={}, policy=policy, in_flight=1, examples=examples)
        try:
            return await connected.complete(request)
        finally:
            await connected.close()

    return Probe(address(model, params), asyncio.run(ask()))


def address(model: str, params: Mapping[str, Any]) -> str:
    """Where calls to a model go, without credentials."""
    if provider_of(model) == SIMULATED:
        return "this machine (simulated)"
    from utils.llm import litellm_engine

    return litellm_engine.address(model, params)


def _bare(model: str, params: Mapping[str, Any], kind: str, examples: Sequence[Example], timeout_s: float) -> LLM:
    if provider_of(model) == SIMULATED:
        from utils.llm.simulated import simulated_model

        return simulated_model(model, params, examples, kind)
    from utils.llm.litellm_engine import EmbeddingModel, LiteLLMModel

    if kind == "embedding":
        return EmbeddingModel(model, params, timeout_s=timeout_s)
    return LiteLLMModel(model, params, timeout_s=timeout_s)
