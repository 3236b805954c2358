"""Every provider that litellm knows, behind our protocol; the one owner of that import.

`LiteLLMModel` answers chat requests, `EmbeddingModel` compares two texts. Both send once: retries are `resilience`'s.
What is known without asking a provider is here too: whether a name exists, which environment variables it needs, its
price.

litellm 1.105 raises the same class for very different failures (a body that is no JSON may come as a 500, an exhausted
account as a rate limit), so `_failure` also reads what the error says. The tests hold a real server against it.
"""

from __future__ import annotations

import asyncio
import difflib
import functools
import json
import logging
import math
import os
import re
import time
import warnings
import weakref
from collections.abc import Awaitable, Iterable, Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

from utils.errors import CallError, ErrorKind, MissingKey, UsageError
from utils.imports import HEAVY, hidden
from utils.llm.base import Unusable, answer_limit, thinking_room, token_ceiling
from utils.llm.resilience import Throttled
from utils.records import Completion, Request, TokenLogprob, Usage
from utils.redaction import redact, refuse_secrets

log = logging.getLogger(__name__)

TIMEOUT_S = 120.0
MESSAGE_LENGTH = 300  # characters of an error's message
LEAST_BYTES_A_TOKEN = 2  # of ordinary text (English has about four); bounds usage that a provider did not tell
MOST_TOKENS = 10_000_000  # no model reads or writes as many in a call: a larger count is none
LIKELY_SHARE = 8  # of the room for thinking a usual answer takes one so-manieth
DEAREST_TOKEN_USD = 0.01  # ten times the dearest model; with a dollar for fees, a cost above it is none

# Open servers that take a JSON schema whatever model they run; litellm's table can only speak for models it lists.
SCHEMA_PROVIDERS = frozenset({"hosted_vllm", "ollama", "ollama_chat"})
# Run by the user, paid to nobody. litellm would ask the server about a model that is not in its table, while we wait.
FREE_PROVIDERS = frozenset({"ollama", "ollama_chat"})


@functools.cache
def _litellm() -> Any:
    """The litellm package, imported on first use and made quiet: about 3 s of CPU and 190 MB."""
    os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # else it fetches its price table over the network
    # litellm's callbacks import opik wherever it is installed, and do without where they cannot: 1.2 s and 40 MB
    with HEAVY, hidden("opik"), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about its own code; a first response builds pydantic models that warn too
        import litellm

        litellm.ModelResponse()
    # of a provider's own figures that are of an odd type: they are looked at below
    warnings.filterwarnings("ignore", "Pydantic serializer warnings", UserWarning)
    litellm.suppress_debug_info = True
    litellm.telemetry = False
    litellm.drop_params = True
    litellm.num_retries = 0
    for name in ("LiteLLM", "LiteLLM Router", "LiteLLM Proxy"):
        logging.getLogger(name).setLevel(logging.CRITICAL)  # whatever it logs also comes back as an exception
    for name in ("httpx", "openai", "aiohttp"):
        logging.getLogger(name).setLevel(logging.WARNING)
    return litellm


def preload() -> None:
    """Imports litellm now rather than at the first call: for a process whose children are to have it."""
    _litellm()


# --------------------------------------------------------------------------- what is known beforehand


def provider(model: str) -> str:
    """The provider that litellm would send this model to. Raises UsageError for a name it cannot place."""
    litellm = _litellm()
    try:
        return str(litellm.get_llm_provider(model)[1])
    except litellm.BadRequestError:
        raise UsageError(_unplaced(model, litellm)) from None


def _unplaced(model: str, litellm: Any) -> str:
    prefix, slash, _ = model.partition("/")
    providers = [str(getattr(item, "value", item)) for item in litellm.provider_list]
    candidates, word = (providers, prefix) if slash else ([*litellm.model_cost], model)
    near = difflib.get_close_matches(word, candidates, n=1, cutoff=0.6)
    what = f"unknown model {model!r}: no provider {prefix!r};" if slash else f"unknown model {model!r};"
    hint = f" did you mean {near[0]!r}?" if near else ""
    return f"{what}{hint} write provider/model, as in openai/gpt-4o-mini"


def knows(model: str) -> None:
    """Nothing, where litellm can place the name; UsageError with a suggestion where it cannot."""
    provider(model)


# Providers whose one key is where everybody has it: said without litellm, which takes seconds to import.
PLAIN_KEYS: Mapping[str, tuple[str, ...]] = {
    "openai": ("OPENAI_API_KEY",),
    "anthropic": ("ANTHROPIC_API_KEY",),
    "gemini": ("GOOGLE_API_KEY", "GEMINI_API_KEY"),
    "mistral": ("MISTRAL_API_KEY",),
    "deepseek": ("DEEPSEEK_API_KEY",),
    "xai": ("XAI_API_KEY",),
    "groq": ("GROQ_API_KEY",),
    "openrouter": ("OPENROUTER_API_KEY",),
}


def missing_key(model: str, params: Mapping[str, Any] | None = None) -> str | None:
    """The environment variables without which no call can succeed, as words; None where nothing is missing."""
    if keys := PLAIN_KEYS.get(model.partition("/")[0]):
        return None if any(os.environ.get(key) for key in keys) else " or ".join(keys)
    name, base = provider(model), (params or {}).get("api_base")
    if name in FREE_PROVIDERS:
        return None  # has a default address and no key
    if name == "hosted_vllm":
        return None if base or os.environ.get("HOSTED_VLLM_API_BASE") else "HOSTED_VLLM_API_BASE"
    if any(os.environ.get(variable) for variable in OTHER_CREDENTIALS.get(name, ())):
        return None
    missing = list(_litellm().validate_environment(model, api_base=base)["missing_keys"])
    if base:
        missing = [variable for variable in missing if not variable.endswith("_API_BASE")]
    return " and ".join(missing) or None


# Ways to be signed in that litellm's check does not see, though its calls do.
OTHER_CREDENTIALS: Mapping[str, tuple[str, ...]] = {
    "bedrock": (
        "AWS_PROFILE",
        "AWS_BEARER_TOKEN_BEDROCK",
        "AWS_WEB_IDENTITY_TOKEN_FILE",
        "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
        "AWS_CONTAINER_CREDENTIALS_FULL_URI",
    ),
    "vertex_ai": ("GOOGLE_APPLICATION_CREDENTIALS", "VERTEXAI_CREDENTIALS", "VERTEX_PROJECT"),
    "azure": ("AZURE_AD_TOKEN",),
}


def check(model: str, params: Mapping[str, Any] | None = None) -> None:
    """Nothing, where a call could be sent. UsageError: an unknown name, a missing key, a key among the parameters."""
    refuse_secrets(params or {}, f"parameters of {model}")
    if taken := sorted(OURS & set(params or {})):
        raise UsageError(f"parameters of {model}: {taken[0]!r} is the harness's to set; leave it out")
    if missing := missing_key(model, params):
        hint = ""
        is_openai = model.startswith("openai/") or ("/" not in model and provider(model) == "openai")
        if is_openai and _custom_base(params):
            hint = "; a local server that needs no key still wants one set: OPENAI_API_KEY=anything"
        raise MissingKey(f"model {model!r} needs {missing} in the environment{hint}", missing)


OURS = frozenset(
    (
        "messages",
        "model",
        "stream",
        "n",
        "timeout",
        "num_retries",
        "max_retries",
        "drop_params",
        "input",
        "mock_response",
    )
)


def _custom_base(params: Mapping[str, Any] | None) -> bool:
    return bool(
        (params or {}).get("api_base") or os.environ.get("OPENAI_BASE_URL") or os.environ.get("OPENAI_API_BASE")
    )


# Where a model is asked that nobody says otherwise of, and how to say otherwise; litellm knows the other hosts itself.
HOSTS: Mapping[str, str] = {
    "openai": "https://api.openai.com/v1",
    "anthropic": "https://api.anthropic.com",
    "gemini": "https://generativelanguage.googleapis.com",
    "openrouter": "https://openrouter.ai/api/v1",
    "ollama": "http://localhost:11434",
    "ollama_chat": "http://localhost:11434",
}


def address(model: str, params: Mapping[str, Any] | None = None) -> str:
    """Where calls to this model go, without credentials: a URL, or the provider's name where nothing else is known."""
    name = provider(model)
    variables = [f"{name.removesuffix('_chat').upper()}_{suffix}" for suffix in ("BASE_URL", "API_BASE")]
    told = [(params or {}).get("api_base"), *(os.environ.get(variable) for variable in variables)]
    known = _litellm().get_llm_provider(model)[3]
    url = str(next(filter(None, (*told, HOSTS.get(name), known)), name))
    scheme, mark, rest = url.partition("://")
    host, slash, path = rest.partition("/")
    return f"{scheme}{mark}{host.rpartition('@')[2]}{slash}{path.partition('?')[0]}".rstrip("/")


@functools.cache
def _priced(model: str) -> Mapping[str, Any] | None:
    """The row of litellm's price table; None where it has none for this model, or none by tokens."""
    litellm = _litellm()
    try:
        name, owner = litellm.get_llm_provider(model)[:2]
    except litellm.BadRequestError:
        return None
    if owner in FREE_PROVIDERS:
        row: dict[str, Any] = {"input_cost_per_token": 0.0, "output_cost_per_token": 0.0}
        # Kept in the table, because litellm looks the model up after each call and else asks the server over HTTP.
        for key in (model, f"{owner}/{name}"):
            litellm.model_cost.setdefault(key, {**row, "litellm_provider": owner, "mode": "chat"})
        return row
    found = _listed(model)
    return found if found and isinstance(found.get("input_cost_per_token"), int | float) else None


@functools.cache
def _listed(model: str) -> Mapping[str, Any] | None:
    """The row of litellm's table; None for a model that it does not list. What a user runs himself it cannot know."""
    litellm = _litellm()
    try:
        if litellm.get_llm_provider(model)[1] in FREE_PROVIDERS:
            return None
        key = litellm.get_model_info(model)["key"]
    except Exception:  # its own classes for a name that it cannot place or does not list, derived from Exception
        return None
    found: Mapping[str, Any] | None = litellm.model_cost.get(key)
    return found


def mode(model: str) -> str:
    """What litellm's table says that a model is for: chat, embedding, ...; empty where it does not know."""
    row = _listed(model)
    return str(row.get("mode") or "") if row else ""


def context_tokens(model: str) -> int:
    """The tokens that a request may have, by litellm's table; 0 where it does not say."""
    row = _listed(model)
    known = row.get("max_input_tokens") if row else None
    return known if isinstance(known, int) else 0


def price(model: str) -> tuple[float, float] | None:
    """USD for a token read and a token written, by litellm's table; None where it does not say. Free is (0, 0)."""
    row = _priced(model)
    return None if row is None else (float(row["input_cost_per_token"]), float(row.get("output_cost_per_token") or 0))


def most_usd(model: str, usage: Usage) -> float | None:
    """An upper bound of the price of so many tokens: the dearest rate that they can reach. None: unknown."""
    row = _priced(model)
    if row is None:
        return None
    rate_in = max(_rates(row, "input_cost_per_token", usage.tokens_in))
    rate_out = max(
        [*_rates(row, "output_cost_per_token", usage.tokens_in), *_rates(row, "output_cost_per_reasoning_token")]
    )
    return usage.tokens_in * rate_in + usage.tokens_out * rate_out


def _rates(row: Mapping[str, Any], name: str, tokens_in: int = 0) -> Iterable[float]:
    """The base rate, and those of the tiers that a prompt of this length reaches (`..._above_200k_tokens`)."""
    yield float(row.get(name) or 0)
    for key, rate in row.items():
        tier = re.fullmatch(rf"{name}_above_(\d+)k_tokens", key)
        if tier and rate and tokens_in > int(tier[1]) * 1000:
            yield float(rate)


# --------------------------------------------------------------------------- models

_connected: weakref.WeakSet[_Model] = weakref.WeakSet()  # have sent something; litellm's connections are shared by all


class _Model:
    """What chat and embedding models share: a name, parameters, one bounded call, and the connections' end."""

    def __init__(self, name: str, params: Mapping[str, Any] | None = None, *, timeout_s: float = TIMEOUT_S) -> None:
        self._name = name
        self.params = dict(params or {})
        self.timeout_s = timeout_s

    @property
    def name(self) -> str:
        return self._name

    async def close(self) -> None:
        """The last open model of the process closes the connections, which litellm keeps for all of them."""
        if self not in _connected:
            return
        _connected.discard(self)
        if not _connected:
            litellm = _litellm()
            await litellm.close_litellm_async_clients()
            litellm.in_memory_llm_clients_cache.flush_cache()  # a closed client would be handed out again

    def ceiling(self, request: Request) -> tuple[Usage, float | None]:
        """The most that this call can use, and its price."""
        raise NotImplementedError

    async def _send(self, call: Awaitable[Any], request: Request) -> tuple[Any, float]:
        """The provider's answer and the seconds it took; CallError for whatever else happened."""
        _connected.add(self)
        began = time.perf_counter()
        try:
            async with asyncio.timeout(self.timeout_s):
                answer = await call
        except Exception as error:
            # Whatever litellm and what is below it may raise. Without a cause: its text may hold headers or the key.
            failure = _failure(error, self._name, self.timeout_s)
            if failure.kind is ErrorKind.TRANSIENT and (reason := _no_connection(error)):
                where = address(self._name, {**self.params, **request.params})
                failure = CallError(failure.kind, f"{self._name}: no connection to {where}: {reason}")
            if _may_be_billed(error, failure):
                failure = Unusable(failure.kind, failure.message, *self.ceiling(request))
            raise failure from None
        return answer, time.perf_counter() - began

    def _common(self) -> dict[str, Any]:
        """The arguments of every call: one try, bounded, and nothing refused for an unsupported parameter."""
        return {"model": self._name, "timeout": self.timeout_s, "num_retries": 0, "max_retries": 0, "drop_params": True}


class LiteLLMModel(_Model):
    """A chat model of any provider. `params` lie under each request's own."""

    def __init__(self, name: str, params: Mapping[str, Any] | None = None, *, timeout_s: float = TIMEOUT_S) -> None:
        super().__init__(name, params, timeout_s=timeout_s)
        self._told: set[str] = set()  # parameters looked at for this model; those dropped were logged
        self._refused: set[str] = set()  # of DISPENSABLE, by the server

    async def complete(self, request: Request) -> Completion:
        while True:
            without = frozenset(self._refused)
            try:
                return await self._complete(request)
            except CallError as error:
                if not self._goes_without(error, request, without):
                    raise

    def _goes_without(self, error: CallError, request: Request, without: frozenset[str]) -> bool:
        """True where the server refused a parameter that the call, sent `without` others, can do without as well.

        From now on it is left out.
        """
        if error.kind is not ErrorKind.BAD_REQUEST:
            return False
        named = {name for name in DISPENSABLE if name in error.message}
        asked = {"response_format"} if request.schema is not None else request.params.keys() - self.params.keys()
        refused = (named & asked) - without
        if fresh := refused - self._refused:  # of calls in flight together the first to come back tells
            log.warning("model %s refuses %s: left out of its calls", self._name, ", ".join(sorted(fresh)))
            self._refused |= fresh | ({"logprobs", "top_logprobs"} if "logprobs" in fresh else set())
        return bool(refused)

    async def _complete(self, request: Request) -> Completion:
        params = _effective(self._name, self.params, request.params)
        messages = [{"role": message.role, "content": _sendable(message.content)} for message in request.messages]
        self._leave_out(params)
        if request.schema is not None and "response_format" not in params and self._takes_schema:
            params["response_format"] = _response_format(request.schema)
        params = {name: value for name, value in params.items() if name not in self._refused}
        call = _litellm().acompletion(**params, **self._common(), messages=messages)
        answer, latency_s = await self._send(call, request)
        return _completion(answer, self.ceiling(request)[0], self._name, latency_s)

    def ceiling(self, request: Request) -> tuple[Usage, float | None]:
        params = _effective(self._name, self.params, request.params)
        usage = token_ceiling(request, int(params.get("max_completion_tokens") or params["max_tokens"]))
        if request.schema is not None:
            schema = len(json.dumps(request.schema)) // 2 + 16
            usage = replace(usage, tokens_in=usage.tokens_in + schema)
        return usage, most_usd(self._name, usage)

    @functools.cached_property
    def _takes_schema(self) -> bool:
        return self._name.partition("/")[0] in SCHEMA_PROVIDERS or bool(_litellm().supports_response_schema(self._name))

    def _leave_out(self, params: dict[str, Any]) -> None:
        """Leaves out what this model would refuse, and logs, once for each name, what it and litellm leave out."""
        if _thinks_hot(self._name, params) and params.get("temperature", 1) != 1:
            del params["temperature"]
            if "temperature" not in self._told:
                log.warning("model %s does not take temperature while it thinks: left out of its calls", self._name)
            self._told.add("temperature")
        if self._told >= params.keys():
            return
        _priced(self._name)  # see there: keeps litellm from asking a local server about its model
        dropped = [name for name in params if name not in self._told and _is_dropped(self._name, name, params[name])]
        self._told |= params.keys()
        if dropped:
            log.warning("model %s does not take %s: left out of its calls", self._name, ", ".join(sorted(dropped)))


# What the harness asks for by itself and can do without: entropies come from samples then, replies are parsed as text.
DISPENSABLE = ("logprobs", "top_logprobs", "response_format")


def takes_temperature(model: str, params: Mapping[str, Any]) -> bool:
    """True where a temperature of 0 reaches the provider."""
    return not _thinks_hot(model, _effective(model, params, {})) and not _is_dropped(model, "temperature", 0)


def _thinks_hot(model: str, params: Mapping[str, Any]) -> bool:
    """Anthropic's models think at temperature 1 only; litellm does not see to it."""
    return "claude" in model and (params.get("thinking") or {}).get("type") == "enabled"


class EmbeddingModel(_Model):
    """How near two texts are: the answer to a request of two messages is their cosine, in [-1, 1], as text."""

    async def complete(self, request: Request) -> Completion:
        expected, answered = (_sendable(message.content) or " " for message in request.messages)
        params = {name: value for name, value in {**self.params, **request.params}.items() if name in EMBEDDING_PARAMS}
        call = _litellm().aembedding(**params, **self._common(), input=[expected, answered])
        answer, latency_s = await self._send(call, request)
        usage = replace(_usage(answer, self.ceiling(request)[0], ""), tokens_out=0)
        usd = _cost(answer, usage, self._name)
        try:
            first, second = (row["embedding"] for row in answer.data)
            value = cosine(first, second)
        except (TypeError, ValueError, KeyError):
            message = f"{self._name}: the answer holds no two embeddings"
            raise Unusable(ErrorKind.MALFORMED, message, usage, usd) from None
        return Completion(repr(value), usage, usd, latency_s, model=answer.model or "")

    def ceiling(self, request: Request) -> tuple[Usage, float | None]:
        usage = replace(token_ceiling(request), tokens_out=0)
        return usage, most_usd(self._name, usage)


EMBEDDING_PARAMS = frozenset({"api_base", "api_version", "dimensions", "encoding_format"})


def cosine(first: list[float], second: list[float]) -> float:
    """The cosine of the angle between two vectors; 0 where one of them is null."""
    dot = math.fsum(a * b for a, b in zip(first, second, strict=True))
    norms = math.hypot(*first) * math.hypot(*second)
    return max(-1.0, min(1.0, dot / norms)) if norms else 0.0


# --------------------------------------------------------------------------- out


def _effective(model: str, defaults: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters as they are sent. Always bounded: `max_tokens` has a default, with room for the thinking."""
    params = {**defaults, **own}
    name = "max_completion_tokens" if params.get("max_completion_tokens") else "max_tokens"
    limit = answer_limit(params, thinks=_may_think(model))
    if limit != params.get(name):
        most = (_listed(model) or {}).get("max_output_tokens")
        params[name] = min(limit, int(most)) if most and int(most) > thinking_room(params) else limit
    if (budget := params.pop("thinking_budget", None)) is not None:
        tokens = int(budget)
        params["thinking"] = {"type": "enabled", "budget_tokens": tokens} if tokens > 0 else {"type": "disabled"}
    return params


def _may_think(model: str) -> bool:
    """False where litellm's table lists the model as one that does not think."""
    row = _listed(model)
    return row is None or bool(row.get("supports_reasoning"))


def thinking_tokens(model: str, params: Mapping[str, Any]) -> tuple[float, float, float]:
    """Tokens of thinking in an answer of this model: least, likely, most. For estimates."""
    room = thinking_room(params, thinks=bool((_listed(model) or {}).get("supports_reasoning")))
    return (0.0, room / LIKELY_SHARE, float(room))


def _sendable(text: str) -> str:
    """The text without lone surrogates, which cannot be written as UTF-8."""
    return text.encode("utf-8", "replace").decode("utf-8")


def _response_format(schema: Mapping[str, Any]) -> dict[str, Any]:
    """The schema as providers want it. Strict only where it keeps the rules of strictness: else OpenAI refuses it."""
    return {
        "type": "json_schema",
        "json_schema": {"name": "reply", "schema": dict(schema), "strict": _is_strict(schema)},
    }


def _is_strict(schema: Any) -> bool:
    """True where each object lists all its properties as required and allows no others."""
    if isinstance(schema, list):
        return all(map(_is_strict, schema))
    if not isinstance(schema, Mapping):
        return True
    properties = schema.get("properties")
    if isinstance(properties, Mapping) or schema.get("type") == "object":
        named = properties if isinstance(properties, Mapping) else {}
        if schema.get("additionalProperties") is not False or set(schema.get("required", ())) != set(named):
            return False
    return all(map(_is_strict, schema.values()))


@functools.cache
def _unmapped(model: str) -> str:
    return repr(_mapped(model, {}))


def _is_dropped(model: str, name: str, value: Any) -> bool:
    """True where giving this parameter changes nothing of what litellm would send."""
    try:
        # A log-probability count is refused without the switch that goes with it.
        extra = {"logprobs": True} if name == "top_logprobs" else {}
        without = repr(_mapped(model, extra)) if extra else _unmapped(model)
        return name in _openai_params() and repr(_mapped(model, {**extra, name: value})) == without
    except Exception:  # only a warning hangs on it, and litellm raises many things here; the call itself will tell
        return False


def _mapped(model: str, params: Mapping[str, Any]) -> Mapping[str, Any]:
    litellm = _litellm()
    name, owner = litellm.get_llm_provider(model)[:2]
    mapped: Mapping[str, Any] = litellm.utils.get_optional_params(
        model=name, custom_llm_provider=owner, drop_params=True, **params
    )
    return mapped


@functools.cache
def _openai_params() -> frozenset[str]:
    """Parameters that litellm maps or drops; all others go to the provider as they are."""
    litellm = _litellm()
    return frozenset(litellm.constants.DEFAULT_CHAT_COMPLETION_PARAM_VALUES)


# --------------------------------------------------------------------------- back


def _completion(answer: Any, most: Usage, model: str, latency_s: float) -> Completion:
    """The answer in our words. Unusable where it holds no text: filtered, or not an answer at all.

    `most` is what the call can have used at most, for what the provider does not tell.
    """
    choices = getattr(answer, "choices", None)
    choice = choices[0] if choices else None
    text: Any = choice.message.content if choice else None
    finish = str((choice and choice.finish_reason) or "stop")
    thinking = _thinking(choice.message) if choice else ""
    if text is None and finish == "length":
        text = ""  # all of max_tokens went into thinking
    is_whole = isinstance(text, str) and finish != "length"
    usage = _usage(answer, most, text + thinking if is_whole else None)
    usd = _cost(answer, usage, model)
    if choice is None:
        raise Unusable(ErrorKind.MALFORMED, f"{model}: the answer holds no choice", usage, usd)
    if not text and finish == "content_filter":
        message = f"{model}: the provider's content filter held the answer back"
        raise Unusable(ErrorKind.CONTENT_FILTER, message, usage, usd)
    if not isinstance(text, str):
        message = f"{model}: the answer holds no text (finish reason {finish!r})"
        raise Unusable(ErrorKind.MALFORMED, message, usage, usd)
    return Completion(
        text=text,
        usage=usage,
        cost_usd=usd,
        latency_s=latency_s,
        finish_reason=finish,
        logprobs=_logprobs(choice),
        model=str(answer.model or ""),
        thinking=thinking,
    )


def _thinking(message: Any) -> str:
    """What the model thought before it answered, where the provider shows it."""
    told = getattr(message, "reasoning_content", None)
    return told if isinstance(told, str) else ""


def _tokens_at_most(text: str) -> int:
    return -(-len(text.encode("utf-8", "replace")) // LEAST_BYTES_A_TOKEN)


def _usage(answer: Any, most: Usage, written: str | None) -> Usage:
    """The tokens that the provider counted. A count that is missing or absurd is replaced by the most it can have been:
    by `most`, or by what the text needs that was written (None: it is not known how much was)."""
    told = getattr(answer, "usage", None)
    tokens_in = _count(getattr(told, "prompt_tokens", None))
    tokens_out = _count(getattr(told, "completion_tokens", None))
    reasoning = _count(getattr(getattr(told, "completion_tokens_details", None), "reasoning_tokens", None))
    if not tokens_in or tokens_out is None or (written and not tokens_out):  # every call reads something
        wrote = most.tokens_out if written is None else _tokens_at_most(written)
        return Usage(tokens_in or most.tokens_in, tokens_out or wrote, reasoning, estimated=True)
    if reasoning and reasoning > tokens_out:  # a provider that counts its thinking apart
        tokens_out += reasoning
    return Usage(tokens_in, tokens_out, reasoning)


def _count(value: Any) -> int | None:
    """A number of tokens as a provider told it; None for anything that cannot be one."""
    is_count = isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= MOST_TOKENS
    return value if is_count else None


def _cost(answer: Any, usage: Usage, model: str) -> float | None:
    """USD: as the provider says (OpenRouter does), else by litellm's table (with cached tokens), else unknown.

    A figure that no call of so many tokens can cost is not believed: the table's dearest rate takes its place.
    """
    told = getattr(getattr(answer, "usage", None), "cost", None)
    if (usd := _usd(told, 1.0 + (usage.tokens_in + usage.tokens_out) * DEAREST_TOKEN_USD)) is not None:
        return usd
    most = most_usd(model, usage)
    if most is None:
        return None
    counted = getattr(answer, "_hidden_params", {}).get("response_cost")
    usd = None if usage.estimated else _usd(counted, 2 * most)  # writing into a cache costs more than reading
    return most if usd is None else usd


def _usd(value: Any, most: float) -> float | None:
    """A price as it was told; None for anything that cannot be one."""
    is_price = isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= most
    return float(value) if is_price else None


def _logprobs(choice: Any) -> tuple[TokenLogprob, ...] | None:
    """The log-probabilities of the answer's tokens, where the provider sent them."""
    content = getattr(getattr(choice, "logprobs", None), "content", None)
    if not content:
        return None
    return tuple(
        TokenLogprob(
            item.token, float(item.logprob), {top.token: float(top.logprob) for top in item.top_logprobs or ()}
        )
        for item in content
    )


# --------------------------------------------------------------------------- errors

_QUOTA = re.compile(
    r"insufficient[_ ](quota|balance|credit|fund)|exceeded your current quota|billing[_ ](hard[_ ])?(limit|not active)"
    r"|credit balance|out of credits|(not enough|no|more) credits|payment required",
    re.IGNORECASE,
)
# Gemini says "exceeded your current quota" of its limit for a minute as well, but then adds when to come back.
_COME_BACK = re.compile(
    r"(?:retry|try again) (?:in|after) (?:(\d+)h)?(?:(\d+)m(?!s))?(?:([\d.]+) ?(ms|s))?"
    r"|retryDelay\W+([\d.]+)s",
    re.IGNORECASE,
)
_NOT_JSON = re.compile(
    r"Unable to get json response|Empty or invalid response from LLM endpoint"
    r"|Expecting (value|property name|'.' delimiter)|Unterminated string"
    r"|Invalid control character|Invalid \\?\\escape|Extra data: line|Invalid response object",
)
_CONTEXT = re.compile(
    r"context[_ ]length|context window|maximum context|prompt is too long|too many tokens", re.IGNORECASE
)
_FILTER = re.compile(r"content[_ ](policy|filter|management)|moderation|flagged|safety system", re.IGNORECASE)
_BAD_KEY = re.compile(r"API key not valid|API_KEY_INVALID|invalid api key", re.IGNORECASE)
_MISSING_PACKAGE = re.compile(r"No module named|pip install", re.IGNORECASE)


def _failure(error: Exception, model: str, timeout_s: float) -> CallError:
    """What went wrong, in our words: a kind, one line, and when to come back."""
    litellm = _litellm()
    if isinstance(error, TimeoutError | litellm.Timeout):
        return CallError(ErrorKind.TRANSIENT, f"{model}: no answer in {timeout_s:g} s")
    text = str(error)
    message = f"{model}: {brief(text) or type(error).__name__}"
    kind = _kind(error, text, litellm)
    if kind is not ErrorKind.TRANSIENT:
        return CallError(kind, message)
    wait_s = _retry_after_s(error, text)
    if wait_s is not None or getattr(error, "status_code", None) in (429, 503, 529):
        return Throttled(message, retry_after_s=wait_s)
    return CallError(kind, message)


def _may_be_billed(error: Exception, failure: CallError) -> bool:
    """True where the provider may have answered and nobody here can tell: no answer in time, half an answer, or one
    that cannot be read. What it refused outright, or never got, it does not bill."""
    if failure.kind is ErrorKind.MALFORMED or isinstance(error, TimeoutError | _litellm().Timeout):
        return True
    return _no_connection(error) == BROKEN_OFF


BROKEN_OFF = "it broke off"


def _no_connection(error: Exception) -> str:
    """Why there was no connection, or that it broke off; empty where the provider answered in some way."""
    import httpx  # litellm's own client: whatever is below it, these classes say what happened

    links = list(_chain(error))
    if not any(isinstance(link, httpx.TransportError) for link in links):
        return ""
    unsent = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout, httpx.ProxyError, httpx.UnsupportedProtocol)
    if not any(isinstance(link, unsent) for link in links):
        return BROKEN_OFF
    # the last is the operating system's own; the words of those above it hold addresses of objects
    last = links[-1]
    number = last.errno if isinstance(last, OSError) else None
    words = os.strerror(number) if number and number > 0 else getattr(last, "strerror", None) or str(last)
    return brief(words) or type(last).__name__


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """The error, what it was raised from, and so on."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__


def _kind(error: Exception, text: str, litellm: Any) -> ErrorKind:
    """By the class first, by the status next; by the words where those two say the same of different failures."""
    status = getattr(error, "status_code", None)
    if status == 402:
        return ErrorKind.QUOTA
    if isinstance(error, litellm.RateLimitError):
        is_spent = _QUOTA.search(text) and _retry_after_s(error, text) is None
        return ErrorKind.QUOTA if is_spent else ErrorKind.TRANSIENT
    if isinstance(error, litellm.ContextWindowExceededError):
        return ErrorKind.CONTEXT_LENGTH
    if isinstance(error, litellm.ContentPolicyViolationError):
        return ErrorKind.CONTENT_FILTER
    if status == 403:  # OpenRouter answers a flagged text with it
        return ErrorKind.CONTENT_FILTER if _FILTER.search(text) else ErrorKind.AUTH
    if isinstance(error, litellm.AuthenticationError) or status == 401:
        return ErrorKind.AUTH
    if isinstance(error, litellm.BadRequestError | litellm.NotFoundError | litellm.UnprocessableEntityError):
        # of Gemini's answers those that cannot be read come as a 422 of litellm's own
        return ErrorKind.MALFORMED if "Error converting to valid response" in text else _of_bad_request(text)
    if not isinstance(error, litellm.APIError | litellm.APIConnectionError) and status is None:
        return ErrorKind.INTERNAL
    if _MISSING_PACKAGE.search(text):
        return ErrorKind.BAD_REQUEST
    if status == 200 or _NOT_JSON.search(text):
        return ErrorKind.MALFORMED
    if isinstance(status, int) and 400 <= status < 500 and status not in (408, 409, 425, 429):
        return _of_bad_request(text)
    return ErrorKind.TRANSIENT


def _of_bad_request(text: str) -> ErrorKind:
    """A refusal of this request, or one of the account that comes with the same status."""
    if re.search("credit balance is too low", text, re.IGNORECASE):  # Anthropic
        return ErrorKind.QUOTA
    if _BAD_KEY.search(text):  # Google
        return ErrorKind.AUTH
    if _CONTEXT.search(text):
        return ErrorKind.CONTEXT_LENGTH
    return ErrorKind.CONTENT_FILTER if _FILTER.search(text) else ErrorKind.BAD_REQUEST


def _retry_after_s(error: Exception, text: str) -> float | None:
    """Seconds until the provider wants to be asked again: from the headers, else from what a rate limit says."""
    headers = getattr(error, "litellm_response_headers", None) or getattr(
        getattr(error, "response", None), "headers", None
    )
    values = {str(name).lower(): str(value) for name, value in dict(headers or {}).items()}
    if (milliseconds := _number(values.get("retry-after-ms"))) is not None:
        return milliseconds / 1000
    if (value := values.get("retry-after")) is not None:
        if (seconds := _number(value)) is not None:
            return seconds
        try:
            return max(0.0, (parsedate_to_datetime(value) - datetime.now(UTC)).total_seconds())
        except (TypeError, ValueError):
            return None
    if getattr(error, "status_code", None) == 429 and (told := _COME_BACK.search(text)) and any(told.groups()):
        hours, minutes, number, unit, delay = told.groups()
        seconds = _number(delay or number) or 0.0
        seconds = seconds / 1000 if unit and unit.lower() == "ms" else seconds
        return 3600 * int(hours or 0) + 60 * int(minutes or 0) + seconds
    return None


def _number(text: str | None) -> float | None:
    try:
        value = float(text) if text is not None else math.nan
    except ValueError:
        return None
    return value if math.isfinite(value) and value >= 0 else None


_PREFIX = re.compile(r"^(?:(?:litellm\.)?\w*(?:Error|Timeout|Exception|Exceeded|Violation)(?: -|:)\s*)+")
_SUFFIX = re.compile(r"\.? Handle with `litellm\.\w+`\.?$")


def brief(text: str) -> str:
    """One line of what a provider says: without litellm's own words before it, JSON around it, or a key in it."""
    text = _SUFFIX.sub("", _PREFIX.sub("", text.partition("\nTraceback")[0]).strip())
    if (brace := text.find("{")) >= 0 and (inner := _message_in(text[brace:])):
        text = text[:brace] + inner
    text = " ".join(redact(text).split())
    return text if len(text) <= MESSAGE_LENGTH else text[: MESSAGE_LENGTH - 3] + "..."


def _message_in(text: str) -> str | None:
    """The `error.message` (or `message`, or `detail`) of a JSON body."""
    try:
        body = json.JSONDecoder().raw_decode(text)[0]
    except ValueError:
        return None
    error = body.get("error", body)
    found = error if isinstance(error, str) else error.get("message") or error.get("detail")
    return found if isinstance(found, str) else None
