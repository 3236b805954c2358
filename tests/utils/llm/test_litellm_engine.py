"""The real litellm over HTTP on loopback: what reaches the wire, what comes back, and what each failure becomes."""

from __future__ import annotations

import asyncio
import gc
import logging
import math
import os
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from contextlib import aclosing, closing, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.servers.openai_server import OpenAIServer
from tests.waiting import PATIENCE_S
from utils.door import Door
from utils.errors import BudgetExhausted, CallError, ErrorKind, UsageError
from utils.journal import Journal
from utils.ledger import Ledger
from utils.llm import litellm_engine as engine
from utils.llm.base import DEFAULT_MAX_TOKENS, EFFORTS, LLM, MUCH_EFFORT, THINKING_ROOM, Unusable, token_ceiling
from utils.llm.connect import connect, context_tokens, probe, provider_of, thinking_tokens
from utils.llm.litellm_engine import EmbeddingModel, LiteLLMModel
from utils.llm.resilience import Gate, Resilient, RetryPolicy, Throttled
from utils.records import Accounts, Budget, Completion, Message, Request, Role, Spend, Usage

ROOT = Path(__file__).parents[3]
KEY = "sk-test-0123456789abcdef"
HELLO = Request((Message("user", "What is 2 + 2?"),), {"temperature": 0})
SCHEMA = {
    "type": "object",
    "properties": {"answer": {"type": "string"}, "sure": {"type": "boolean"}},
    "required": ["answer", "sure"],
    "additionalProperties": False,
}


@pytest.fixture(autouse=True)
def _only_our_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.endswith(("_API_KEY", "_API_BASE", "_BASE_URL")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("OPENAI_API_KEY", KEY)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[OpenAIServer]:
    with OpenAIServer(key=KEY) as running:
        monkeypatch.setenv("OPENAI_BASE_URL", running.url)
        yield running


def ask(model: LLM, *requests: Request) -> list[Completion]:
    """The answers, asked at once in a loop of their own."""

    async def main() -> list[Completion]:
        try:
            return list(await asyncio.gather(*(model.complete(request) for request in requests)))
        finally:
            await model.close()

    return asyncio.run(main())


def fail(model: LLM, request: Request = HELLO) -> CallError:
    with pytest.raises(CallError) as caught:
        ask(model, request)
    return caught.value


# --------------------------------------------------------------------------- there


def test_models_keep_the_protocol() -> None:
    assert isinstance(LiteLLMModel("openai/gpt-4o-mini"), LLM)
    assert isinstance(EmbeddingModel("openai/text-embedding-3-small"), LLM)


def test_base_url_and_key_come_from_the_environment(server: OpenAIServer) -> None:
    [answer] = ask(LiteLLMModel("openai/gpt-4o-mini"), HELLO)
    assert answer.text == "The answer is 4."
    assert server.headers[0]["authorization"] == f"Bearer {KEY}"
    assert server.requests[0]["messages"] == [{"role": "user", "content": "What is 2 + 2?"}]


def test_api_base_variable_is_an_alias(server: OpenAIServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_BASE_URL")
    monkeypatch.setenv("OPENAI_API_BASE", server.url)
    ask(LiteLLMModel("openai/gpt-4o-mini"), HELLO)
    assert server.stats()["answered"] == 1


def test_hosted_vllm_base(server: OpenAIServer, monkeypatch: pytest.MonkeyPatch) -> None:
    server.settings.key = ""
    monkeypatch.setenv("HOSTED_VLLM_API_BASE", server.url)
    [answer] = ask(LiteLLMModel("hosted_vllm/my-model"), HELLO)
    assert answer.text == "The answer is 4."
    assert answer.cost_usd is None


@pytest.mark.parametrize(("prefix", "path"), [("ollama", "/api/generate"), ("ollama_chat", "/api/chat")])
def test_ollama_base(prefix: str, path: str, server: OpenAIServer, monkeypatch: pytest.MonkeyPatch) -> None:
    server.settings.key = ""
    monkeypatch.setenv("OLLAMA_API_BASE", server.root)
    [answer] = ask(LiteLLMModel(f"{prefix}/a-model-of-mine"), HELLO)
    assert answer.text == "The answer is 4."
    assert answer.cost_usd == 0.0  # free is known
    assert server.stats()["paths"] == {path: 1}
    assert server.stats()["described"] == 0  # litellm did not ask the server what it knows of the model


def test_parameters_reach_the_wire(server: OpenAIServer) -> None:
    params = {"temperature": 0.3, "max_tokens": 77, "top_p": 0.9, "seed": 5, "top_k": 3, "min_p": 0.1}
    ask(LiteLLMModel("openai/gpt-4o-mini", {"seed": 4, "stop": ["END"]}), Request(HELLO.messages, params))
    sent = server.requests[0]
    assert {name: sent.get(name) for name in params} == params
    assert sent["stop"] == ["END"]


def test_item_and_sample_are_never_sent(server: OpenAIServer) -> None:
    request = Request(HELLO.messages, HELLO.params, sample=3, item="gsm8k-17")
    ask(LiteLLMModel("openai/gpt-4o-mini"), request)
    assert set(server.requests[0]) == {"model", "messages", "temperature", "max_tokens"}
    assert "gsm8k-17" not in str(server.app.seen)


def test_every_answer_is_bounded(server: OpenAIServer) -> None:
    ask(LiteLLMModel("openai/gpt-4o-mini"), HELLO)
    assert server.requests[0]["max_tokens"] == DEFAULT_MAX_TOKENS


def test_thinking_reaches_the_wire_and_makes_room_for_itself(server: OpenAIServer) -> None:
    request = Request(HELLO.messages, {"thinking_budget": 2000, "api_base": server.url, "api_key": KEY})
    ask(LiteLLMModel("openrouter/anthropic/claude-sonnet-4"), request)
    assert server.requests[0]["thinking"] == {"type": "enabled", "budget_tokens": 2000}
    assert server.requests[0]["max_tokens"] == DEFAULT_MAX_TOKENS + 2000


@pytest.mark.parametrize(
    ("params", "limit"),
    [
        ({"thinking_budget": 16000, "max_tokens": 4096}, 16000 + 4096),  # the optimizer model's own bound
        ({"thinking_budget": 16000, "max_tokens": 50}, 16050),
        ({"thinking_budget": 16000, "max_tokens": 30000}, 30000),
        ({"thinking_budget": 4095, "max_tokens": 4096}, 4095 + 4096),
        ({"thinking": {"type": "enabled", "budget_tokens": 16000}}, DEFAULT_MAX_TOKENS + 16000),
        ({"thinking_budget": 0, "max_tokens": 50}, 50),
        ({"reasoning_effort": "high", "max_tokens": 4096}, MUCH_EFFORT + 4096),
        ({"thinking_budget": 60000, "max_tokens": 9000}, 64000),  # as much as the model writes
        ({"max_tokens": 50}, 50),
        ({}, DEFAULT_MAX_TOKENS + THINKING_ROOM),
    ],
    ids=str,
)
def test_max_tokens_leaves_room_for_thinking_and_answer(
    server: OpenAIServer, params: dict[str, Any], limit: int
) -> None:
    model = LiteLLMModel("anthropic/claude-sonnet-4-5", {"api_base": server.root, "api_key": KEY})
    request = Request(HELLO.messages, params)
    ask(model, request)
    sent = server.requests[0]
    assert sent["max_tokens"] == limit == model.ceiling(request)[0].tokens_out
    assert sent["max_tokens"] > (sent.get("thinking") or {}).get("budget_tokens", 0)


@pytest.mark.parametrize(
    ("name", "room"),
    [
        ("openai/gpt-4o-mini", 0),
        ("openai/gpt-5-mini", THINKING_ROOM),
        ("hosted_vllm/a-model-of-mine", THINKING_ROOM),  # nobody knows whether it thinks
    ],
)
def test_the_default_leaves_room_where_a_model_may_think(server: OpenAIServer, name: str, room: int) -> None:
    ask(LiteLLMModel(name, {"api_base": server.url, "api_key": KEY}), Request(HELLO.messages))
    sent = server.requests[0]
    assert sent.get("max_completion_tokens", sent.get("max_tokens")) == DEFAULT_MAX_TOKENS + room


def test_thinking_is_counted_beforehand() -> None:
    assert thinking_tokens("openai/gpt-4o-mini", {}) == (0.0, 0.0, 0.0)
    assert thinking_tokens("sim/standard", {}) == (0.0, 0.0, 0.0)
    least, likely, most = thinking_tokens("anthropic/claude-sonnet-4-5", {"thinking_budget": 16000})
    assert 0 <= least < likely < most == 16000
    assert thinking_tokens("openai/gpt-5-mini", {"reasoning_effort": "none"})[2] == 0


def test_claude_thinks_without_a_temperature(server: OpenAIServer, caplog: pytest.LogCaptureFixture) -> None:
    model = LiteLLMModel(
        "anthropic/claude-sonnet-4-5", {"thinking_budget": 2000, "api_base": server.root, "api_key": KEY}
    )
    with caplog.at_level(logging.WARNING):
        ask(model, HELLO, HELLO)  # at temperature 0, which Anthropic refuses together with thinking
    sent = server.requests[0]
    assert sent["thinking"] == {"type": "enabled", "budget_tokens": 2000}
    assert sent["max_tokens"] == DEFAULT_MAX_TOKENS + 2000
    assert "temperature" not in sent
    assert len(caplog.records) == 1


def test_reasoning_effort_reaches_a_model_that_reasons(server: OpenAIServer) -> None:
    ask(LiteLLMModel("openai/gpt-5-mini"), Request(HELLO.messages, {"reasoning_effort": "low"}))
    sent = server.requests[0]
    assert sent["reasoning_effort"] == "low"
    assert sent["max_completion_tokens"] == DEFAULT_MAX_TOKENS + EFFORTS["low"]


def test_an_unsupported_parameter_is_left_out_and_said_once(
    server: OpenAIServer, caplog: pytest.LogCaptureFixture
) -> None:
    model = LiteLLMModel("openai/gpt-5-mini")
    with caplog.at_level(logging.WARNING):
        ask(model, HELLO, HELLO)
    assert "temperature" not in server.requests[0]
    assert [record.getMessage() for record in caplog.records] == [
        "model openai/gpt-5-mini does not take temperature: left out of its calls"
    ]


def test_supported_parameters_are_not_called_left_out(server: OpenAIServer, caplog: pytest.LogCaptureFixture) -> None:
    params = {"temperature": 0, "max_tokens": 9, "seed": 1, "logprobs": True, "top_logprobs": 2, "top_k": 4}
    with caplog.at_level(logging.WARNING):
        ask(LiteLLMModel("openai/gpt-4o-mini"), Request(HELLO.messages, params))
    assert not caplog.records


def test_schema_is_passed_where_it_is_supported(server: OpenAIServer) -> None:
    [answer] = ask(LiteLLMModel("openai/gpt-4o-mini"), Request(HELLO.messages, schema=SCHEMA))
    form = server.requests[0]["response_format"]
    assert form["json_schema"] == {"name": "reply", "schema": SCHEMA, "strict": True}
    assert answer.text == '{"answer": "text", "sure": true}'


def test_a_loose_schema_is_not_called_strict(server: OpenAIServer) -> None:
    loose = {"type": "object", "properties": {"answer": {"type": "string"}}}
    ask(LiteLLMModel("openai/gpt-4o-mini"), Request(HELLO.messages, schema=loose))
    assert server.requests[0]["response_format"]["json_schema"]["strict"] is False


def test_schema_is_left_out_where_support_is_unknown(server: OpenAIServer) -> None:
    ask(LiteLLMModel("openai/a-model-of-mine"), Request(HELLO.messages, schema=SCHEMA))
    assert "response_format" not in server.requests[0]


def test_lone_surrogates_do_not_fail_the_call(server: OpenAIServer) -> None:
    [answer] = ask(LiteLLMModel("openai/gpt-4o-mini"), Request((Message("user", "odd \ud83d text"),)))
    assert answer.text
    assert server.requests[0]["messages"][0]["content"] == "odd ? text"


# --------------------------------------------------------------------------- and back


def test_completion_holds_what_the_provider_said(server: OpenAIServer) -> None:
    server.settings.reasoning_tokens = 40
    [answer] = ask(LiteLLMModel("openai/gpt-4o-mini"), HELLO)
    ledger = server.stats()
    assert answer.usage == Usage(ledger["tokens_in"], ledger["tokens_out"], reasoning=40)
    assert answer.finish_reason == "stop"
    assert answer.model == "gpt-4o-mini"
    assert 0 < answer.latency_s < 5
    assert answer.logprobs is None


def test_cost_is_the_tables(server: OpenAIServer) -> None:
    [answer] = ask(LiteLLMModel("openai/gpt-4o-mini"), HELLO)
    assert answer.cost_usd == pytest.approx(answer.usage.tokens_in * 0.15e-6 + answer.usage.tokens_out * 0.6e-6)


def test_unknown_price_is_none_and_not_zero(server: OpenAIServer) -> None:
    model = LiteLLMModel("openai/a-model-of-mine")
    [answer] = ask(model, HELLO)
    assert answer.cost_usd is None
    assert model.ceiling(HELLO)[1] is None


def test_usage_is_estimated_upwards_where_the_provider_gives_none(server: OpenAIServer) -> None:
    server.settings.faults = {"no_usage": 1.0}
    [answer] = ask(LiteLLMModel("openai/gpt-4o-mini"), HELLO)
    usage = Usage(token_ceiling(HELLO).tokens_in, len("The answer is 4.") // 2, estimated=True)
    assert answer.usage == usage
    assert answer.cost_usd == pytest.approx(usage.tokens_in * 0.15e-6 + usage.tokens_out * 0.6e-6)


NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize(
    "odd",
    [
        *({"cost": value} for value in (NAN, INF, -INF, -1, True, "free", 10**9)),
        *({"prompt_tokens": value} for value in (-5, 0, 10**30, None)),
        *({"completion_tokens": value} for value in (-5, 10**30, None)),
        {"prompt_tokens": -5, "completion_tokens": -700_000},
        *({"completion_tokens_details": {"reasoning_tokens": value}} for value in (-4, 10**20, True)),
        *({"prompt_tokens_details": {"cached_tokens": value}} for value in (-(10**9), 10**12)),
    ],
    ids=str,
)
@pytest.mark.parametrize("name", ["openai/gpt-4o-mini", "hosted_vllm/mine"])
def test_absurd_usage_or_cost_is_no_figure(server: OpenAIServer, name: str, odd: dict[str, Any]) -> None:
    server.settings.faults, server.settings.odd_usage = {"odd_usage": 1.0}, odd
    model = LiteLLMModel(name, {"api_base": server.url, "api_key": KEY})
    [answer] = ask(model, HELLO)
    billed, (most, usd) = server.stats(), model.ceiling(HELLO)
    assert billed["tokens_in"] <= answer.usage.tokens_in <= most.tokens_in
    assert billed["tokens_out"] <= answer.usage.tokens_out <= most.tokens_out
    assert (answer.cost_usd is None) == (usd is None)
    assert usd is None or 0 < (answer.cost_usd or 0) <= usd


@pytest.mark.filterwarnings("ignore:Pydantic serializer warnings")  # as litellm is set up outside of tests
@pytest.mark.parametrize(
    "odd", [{"prompt_tokens": "many"}, {"prompt_tokens": NAN}, {"completion_tokens": 7.5}], ids=str
)
def test_usage_that_litellm_cannot_read_is_a_malformed_answer(server: OpenAIServer, odd: dict[str, Any]) -> None:
    server.settings.faults, server.settings.odd_usage = {"odd_usage": 1.0}, odd
    assert fail(LiteLLMModel("openai/gpt-4o-mini")).kind is ErrorKind.MALFORMED


def test_a_cost_that_the_provider_tells_is_believed(server: OpenAIServer) -> None:
    server.settings.faults, server.settings.odd_usage = {"odd_usage": 1.0}, {"cost": 0.00125}
    [answer] = ask(LiteLLMModel("openai/gpt-4o-mini"), HELLO)
    assert answer.cost_usd == 0.00125


def test_what_a_model_thought_is_kept(server: OpenAIServer) -> None:
    [plain] = ask(LiteLLMModel("openai/gpt-4o-mini"), HELLO)
    server.settings.thinking = "Two and two: four."
    [answer] = ask(LiteLLMModel("openai/gpt-4o-mini"), HELLO)
    assert (plain.thinking, answer.thinking) == ("", "Two and two: four.")
    assert answer.text == plain.text


def test_logprobs_are_normalised(server: OpenAIServer) -> None:
    [answer] = ask(LiteLLMModel("openai/gpt-4o-mini"), Request(HELLO.messages, {"logprobs": True, "top_logprobs": 2}))
    assert answer.logprobs is not None
    assert "".join(item.token for item in answer.logprobs) == answer.text
    first = answer.logprobs[0]
    assert first.logprob <= 0
    assert dict(first.top) == {"The ": first.logprob, "other1": pytest.approx(first.logprob - 1)}


@pytest.mark.parametrize(("fault", "finish"), [("length", "length"), ("empty", "stop")])
def test_an_empty_answer_is_an_answer(server: OpenAIServer, fault: str, finish: str) -> None:
    server.settings.faults = {fault: 1.0}
    [answer] = ask(LiteLLMModel("openai/gpt-4o-mini"), HELLO)
    assert (answer.text, answer.finish_reason) == ("", finish)


def test_ceiling_bounds_the_answer(server: OpenAIServer) -> None:
    model = LiteLLMModel("openai/gpt-4o-mini", {"max_tokens": 50})
    usage, usd = model.ceiling(HELLO)
    [answer] = ask(model, HELLO)
    assert usage.tokens_out == 50
    assert answer.usage.tokens_in <= usage.tokens_in == token_ceiling(HELLO).tokens_in
    assert usd == pytest.approx(usage.tokens_in * 0.15e-6 + 50 * 0.6e-6)


def test_ceiling_takes_the_dearer_tier_of_a_long_prompt() -> None:
    cheap, dear = (engine.most_usd("gemini/gemini-2.5-pro", Usage(tokens, 0)) for tokens in (200_000, 200_001))
    assert cheap is not None
    assert dear is not None
    assert dear > 1.9 * cheap


# --------------------------------------------------------------------------- failures

KINDS = {
    "rate_limit": ErrorKind.TRANSIENT,
    "server_error": ErrorKind.TRANSIENT,
    "overloaded": ErrorKind.TRANSIENT,
    "drop": ErrorKind.TRANSIENT,
    "quota": ErrorKind.QUOTA,
    "auth": ErrorKind.AUTH,
    "forbidden": ErrorKind.AUTH,
    "bad_request": ErrorKind.BAD_REQUEST,
    "not_found": ErrorKind.BAD_REQUEST,
    "context_length": ErrorKind.CONTEXT_LENGTH,
    "content_policy": ErrorKind.CONTENT_FILTER,
    "malformed": ErrorKind.MALFORMED,
    "truncated": ErrorKind.MALFORMED,
    "null": ErrorKind.MALFORMED,
}
MODELS = ["openai/gpt-4o-mini", "anthropic/claude-sonnet-4-5", "hosted_vllm/mine", "groq/llama-3.1-8b-instant"]
MODELS += ["openrouter/a/b", "ollama/mine"]


@pytest.mark.parametrize("fault", ["malformed", "truncated", "null", "no_choices"])
def test_geminis_unreadable_answers_are_no_bad_requests(server: OpenAIServer, fault: str) -> None:
    server.settings.faults, server.settings.key = {fault: 1.0}, ""  # its key comes in a header of its own
    error = fail(LiteLLMModel("gemini/gemini-2.5-flash", {"api_base": server.root, "api_key": KEY}))
    assert (error.kind, type(error)) == (ErrorKind.MALFORMED, Unusable)


def test_a_request_that_the_provider_cannot_read_is_a_bad_request() -> None:
    litellm = engine._litellm()
    said = "We could not parse the JSON body of your request: Expecting value: line 1 column 1"
    error = litellm.BadRequestError(said, model="m", llm_provider="p")
    assert engine._failure(error, "p/m", 1).kind is ErrorKind.BAD_REQUEST


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("fault", KINDS)
def test_each_failure_has_its_kind_at_each_provider(server: OpenAIServer, fault: str, name: str) -> None:
    server.settings.faults = {fault: 1.0}
    base = server.root if name.startswith(("ollama", "anthropic")) else server.url
    error = fail(LiteLLMModel(name, {"api_base": base, "api_key": KEY}))
    assert error.kind is KINDS[fault], error.message
    assert len(server.requests) == 1  # nobody below retries
    assert KEY not in error.message
    assert error.message.startswith(f"{name}: ")
    assert "\n" not in error.message
    assert len(error.message) < 400


@pytest.mark.parametrize(
    ("fault", "kind"), [("filtered", ErrorKind.CONTENT_FILTER), ("no_choices", ErrorKind.MALFORMED)]
)
def test_answers_that_hold_none(server: OpenAIServer, fault: str, kind: ErrorKind) -> None:
    server.settings.faults = {fault: 1.0}
    assert fail(LiteLLMModel("openai/gpt-4o-mini")).kind is kind


def test_message_is_what_the_provider_said(server: OpenAIServer) -> None:
    server.settings.faults = {"rate_limit": 1.0}
    error = fail(LiteLLMModel("hosted_vllm/mine", {"api_base": server.url, "api_key": KEY}))
    assert error.message == "hosted_vllm/mine: Rate limit reached for requests. Please try again later."


def test_a_hanging_provider_is_left_in_time(server: OpenAIServer) -> None:
    server.settings.faults = {"hang": 1.0}
    error = fail(LiteLLMModel("openai/gpt-4o-mini", timeout_s=0.3))
    assert (error.kind, error.message) == (ErrorKind.TRANSIENT, "openai/gpt-4o-mini: no answer in 0.3 s")


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize(
    ("base", "said"),
    [
        ("http://127.0.0.1:9/v1", "no connection to http://127.0.0.1:9/v1: Connection refused"),
        ("http://no-such-host.invalid/v1", "no connection to http://no-such-host.invalid/v1: "),
    ],
)
def test_a_server_that_is_not_there_is_transient_and_named(name: str, base: str, said: str) -> None:
    error = fail(LiteLLMModel(name, {"api_base": base, "api_key": KEY}))
    assert error.kind is ErrorKind.TRANSIENT
    assert error.message.startswith(f"{name}: {said}")


def test_a_connection_that_breaks_off_is_named(server: OpenAIServer) -> None:
    server.settings.faults = {"drop": 1.0}
    assert fail(LiteLLMModel("openai/gpt-4o-mini")).message == (
        f"openai/gpt-4o-mini: no connection to {server.url}: it broke off"
    )


@pytest.mark.parametrize("form", ["seconds", "ms", "date"])
def test_retry_after_is_read_in_each_form(server: OpenAIServer, form: str) -> None:
    server.settings.faults, server.settings.retry_after_form = {"rate_limit": 1.0}, form
    server.settings.retry_after_s = 7.25 if form != "date" else 7.0
    error = fail(LiteLLMModel("openai/gpt-4o-mini"))
    assert isinstance(error, Throttled)
    assert error.retry_after_s == pytest.approx(server.settings.retry_after_s, abs=1.5 if form == "date" else 1e-6)


def test_a_429_without_retry_after_is_throttling_all_the_same(server: OpenAIServer) -> None:
    server.settings.faults, server.settings.retry_after_s = {"rate_limit": 1.0}, None
    error = fail(LiteLLMModel("openai/gpt-4o-mini"))
    assert isinstance(error, Throttled)
    assert error.retry_after_s is None


class Refused(Exception):
    """What litellm raises, as far as it is looked at."""

    status_code = 429


@pytest.mark.parametrize(
    ("said", "seconds"),
    [
        ("Please retry in 26.3s.", 26.3),  # Gemini, in the text of its limit for a minute
        ('"retryDelay": "26s"', 26),
        ("Please try again in 1m30.5s. Visit https://platform.openai.com/account/billing", 90.5),
        ("Please try again in 20ms.", 0.02),
        ("Please try again in 6m0s", 360),
        ("Please try again later.", None),
    ],
)
def test_when_to_come_back_is_read_from_the_words(said: str, seconds: float | None) -> None:
    assert engine._retry_after_s(Refused(said), said) == (None if seconds is None else pytest.approx(seconds))


def test_geminis_limit_of_a_minute_is_not_an_empty_account() -> None:
    litellm = engine._litellm()
    said = "You exceeded your current quota, please check your plan and billing details. Please retry in 26.3s."
    error = litellm.RateLimitError(said, llm_provider="gemini", model="m")
    assert engine._failure(error, "gemini/m", 1).kind is ErrorKind.TRANSIENT
    assert engine._failure(error, "gemini/m", 1).retry_after_s == pytest.approx(26.3)


@pytest.mark.parametrize(
    ("said", "kind"),
    [
        ("Your credit balance is too low to access the Anthropic API.", ErrorKind.QUOTA),
        ("API key not valid. Please pass a valid API key.", ErrorKind.AUTH),
        ("prompt is too long: 210000 tokens > 200000 maximum", ErrorKind.CONTEXT_LENGTH),
        ("temperature may only be 1 when thinking is enabled", ErrorKind.BAD_REQUEST),
    ],
)
def test_a_400_can_mean_other_things(said: str, kind: ErrorKind) -> None:
    litellm = engine._litellm()
    assert engine._failure(litellm.BadRequestError(said, model="m", llm_provider="p"), "p/m", 1).kind is kind


def test_key_is_in_no_log_and_no_traceback(server: OpenAIServer, caplog: pytest.LogCaptureFixture, capfd: Any) -> None:
    import traceback

    server.settings.faults = {"auth": 1.0}  # its message repeats the key
    with caplog.at_level(logging.DEBUG):
        error = fail(LiteLLMModel("openai/gpt-4o-mini"))
        server.settings.faults = {"server_error": 1.0}
        fail(LiteLLMModel("openai/gpt-4o-mini"))
    printed = "".join(capfd.readouterr())
    assert KEY not in "".join(traceback.format_exception(error)) + caplog.text + printed


# --------------------------------------------------------------------------- known beforehand


def test_price_tells_free_from_unknown() -> None:
    assert engine.price("openai/gpt-4o-mini") == (0.15e-6, 0.6e-6)
    assert engine.price("gpt-4o-mini") == (0.15e-6, 0.6e-6)
    assert engine.price("ollama/a-model-of-mine") == (0.0, 0.0)
    assert engine.price("hosted_vllm/gpt-4o-mini") is None
    assert engine.price("no-such-model") is None


@pytest.mark.parametrize(
    ("model", "hint"), [("opnai/gpt-4o", "did you mean 'openai'?"), ("gpt-4o-mni", "did you mean 'gpt-4o-mini'?")]
)
def test_an_unknown_name_is_refused_with_a_suggestion(model: str, hint: str) -> None:
    with pytest.raises(UsageError, match="unknown model") as caught:
        engine.knows(model)
    assert hint in str(caught.value)
    assert "write provider/model" in str(caught.value)


def test_names_litellm_can_place() -> None:
    for model in ("openai/anything", "gpt-4o-mini", "hosted_vllm/x", "ollama/x", "openrouter/a/b"):
        engine.knows(model)


def test_missing_keys_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    assert engine.missing_key("openai/gpt-4o-mini") is None
    monkeypatch.delenv("OPENAI_API_KEY")
    assert engine.missing_key("openai/gpt-4o-mini") == "OPENAI_API_KEY"
    assert engine.missing_key("ollama/x") is None
    assert engine.missing_key("hosted_vllm/x") == "HOSTED_VLLM_API_BASE"
    assert engine.missing_key("hosted_vllm/x", {"api_base": "http://h/v1"}) is None
    assert engine.missing_key("gemini/gemini-2.5-flash") == "GOOGLE_API_KEY or GEMINI_API_KEY"


def test_a_local_server_is_told_how_to_go_without_a_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY")
    with pytest.raises(UsageError, match=r"needs OPENAI_API_KEY in the environment$"):
        engine.check("openai/gpt-4o-mini")
    with pytest.raises(UsageError, match="OPENAI_API_KEY=anything"):
        engine.check("openai/gpt-4o-mini", {"api_base": "http://127.0.0.1:1/v1"})


def test_a_missing_key_is_said_without_litellm() -> None:
    """Its import takes seconds."""
    script = """
        import sys
        from utils.errors import MissingKey
        from utils.llm import litellm_engine
        for model in ("openai/gpt-4o-mini", "anthropic/claude-haiku-4-5", "gemini/gemini-2.5-flash"):
            try:
                litellm_engine.check(model)
            except MissingKey as error:
                print(error.variables)
        assert "litellm" not in sys.modules
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        env={name: value for name, value in os.environ.items() if not name.endswith("_API_KEY")},
    )
    assert (done.stdout.split("\n"), done.stderr) == (
        ["OPENAI_API_KEY", "ANTHROPIC_API_KEY", "GOOGLE_API_KEY or GEMINI_API_KEY", ""],
        "",
    )


@pytest.mark.parametrize(("model", "variables"), engine.PLAIN_KEYS.items())
def test_litellm_wants_the_same_keys(model: str, variables: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in variables:
        monkeypatch.delenv(variable, raising=False)
    assert set(engine._litellm().validate_environment(f"{model}/x")["missing_keys"]) == set(variables)


@pytest.mark.parametrize(
    ("model", "params", "where"),
    [
        ("openai/gpt-4o-mini", {}, "https://api.openai.com/v1"),
        ("gpt-4o-mini", {}, "https://api.openai.com/v1"),
        ("anthropic/claude-haiku-4-5", {}, "https://api.anthropic.com"),
        ("mistral/mistral-small-latest", {}, "https://api.mistral.ai/v1"),
        ("openai/mine", {"api_base": "http://me:secret@10.0.0.1:8000/v1/?key=abc"}, "http://10.0.0.1:8000/v1"),
        ("bedrock/anthropic.claude-3-haiku-20240307-v1:0", {}, "bedrock"),
    ],
)
def test_an_address_is_known_beforehand_and_holds_no_secret(model: str, params: dict[str, Any], where: str) -> None:
    assert engine.address(model, params) == where


def test_a_probe_is_one_real_call(server: OpenAIServer) -> None:
    found = probe("openai/gpt-4o-mini", {"max_tokens": 9})
    assert (found.address, found.answer.text) == (server.url, "The answer is 4.")
    assert found.answer.cost_usd == pytest.approx(
        found.answer.usage.tokens_in * 0.15e-6 + found.answer.usage.tokens_out * 0.6e-6
    )
    assert (len(server.requests), server.requests[0]["max_tokens"]) == (1, 9)
    simulated = probe("sim/standard", {})
    assert simulated.address == "this machine (simulated)"
    assert simulated.answer.text


def test_a_probe_that_is_refused_says_why(server: OpenAIServer) -> None:
    server.settings.key = "another"
    with pytest.raises(CallError) as caught:
        probe("openai/gpt-4o-mini", {})
    assert caught.value.kind is ErrorKind.AUTH


def test_a_key_is_no_parameter() -> None:
    with pytest.raises(UsageError, match="'api_key' may hold a key") as caught:
        engine.check("openai/gpt-4o-mini", {"api_key": KEY})
    assert KEY not in str(caught.value)


# --------------------------------------------------------------------------- embeddings


def test_embedding_model_answers_with_the_cosine(server: OpenAIServer) -> None:
    def pair(first: str, second: str) -> Request:
        return Request((Message("user", first), Message("assistant", second)), {"temperature": 0})

    same, near, far = ask(
        EmbeddingModel("openai/text-embedding-3-small"),
        pair("the cat sat", "the cat sat"),
        pair("the cat sat", "the cat ran"),
        pair("the cat sat", "rain falls softly"),
    )
    assert float(same.text) == pytest.approx(1.0)
    assert float(far.text) < float(near.text) < 1.0
    assert same.cost_usd == pytest.approx(same.usage.tokens_in * 2e-8)
    assert (same.usage.tokens_out, len(server.requests)) == (0, 3)
    assert server.requests[0]["input"] == ["the cat sat", "the cat sat"]


def test_cosine_edges() -> None:
    assert engine.cosine([0.0, 0.0], [1.0, 0.0]) == 0.0
    assert engine.cosine([1.0, 0.0], [-2.0, 0.0]) == -1.0
    assert math.isclose(engine.cosine([1.0, 0.0], [1.0, 1.0]), math.sqrt(0.5))


# --------------------------------------------------------------------------- as it is used


def test_faults_are_overcome_and_retry_after_is_kept(server: OpenAIServer) -> None:
    server.settings.faults = {"rate_limit": 0.2, "server_error": 0.1, "malformed": 0.1, "drop": 0.1, "truncated": 0.1}
    server.settings.fault_tries, server.settings.retry_after_s = 2, 0.15
    policy = RetryPolicy(base_s=0.01)
    model = connect("openai/gpt-4o-mini", {"seed": 1}, gates={}, policy=policy, in_flight=8)
    requests = [Request((Message("user", f"question {i}"),), {"temperature": 0}) for i in range(60)]
    answers = ask(model, *requests)
    ledger = server.stats()
    assert len(answers) == ledger["answered"] == 60
    assert ledger["answered_twice"] == {}
    assert ledger["early_retries"] == 0
    assert ledger["max_in_flight"] <= 8
    assert ledger["connections"] <= 8 + ledger["statuses"].get("dropped", 0)
    assert sum(answer.attempts for answer in answers) == ledger["requests"] > 60


ODD = {"null": 0.2, "filtered": 0.05, "no_choices": 0.1, "server_error": 0.1, "empty": 0.05, "length": 0.05}


def through_the_door(server: OpenAIServer, budget: Budget, batches: int) -> Accounts:
    """What the books say of so many batches of 20 calls, or of as many as the budget bears."""
    model = connect("openai/gpt-4o-mini", {"max_tokens": 20}, gates={}, policy=RetryPolicy(base_s=0.01), in_flight=8)
    with closing(Door({Role.TASK: model}, Journal(lambda line: None), Ledger(budget))) as door:
        with suppress(BudgetExhausted):
            for batch in range(batches):
                door.ask(Role.TASK, [Request((Message("user", f"{batch}: question {i}"),)) for i in range(20)])
        return door.total


def test_what_is_booked_is_what_the_provider_counted_to_the_token(server: OpenAIServer) -> None:
    server.settings.faults = ODD
    billed = through_the_door(server, Budget(), 5).billed
    stats = server.stats()
    assert stats["requests"] > 110
    assert (billed.tokens_in, billed.tokens_out) == (stats["tokens_in"], stats["tokens_out"])
    assert billed.usd == pytest.approx(billed.tokens_in * 0.15e-6 + billed.tokens_out * 0.6e-6)


@pytest.mark.parametrize("budget", [Budget(10**6, tokens=6000), Budget(10**6, usd=0.0012)], ids=["tokens", "usd"])
def test_limits_hold_against_the_providers_own_count(server: OpenAIServer, budget: Budget) -> None:
    server.settings.faults = {**ODD, "malformed": 0.1, "truncated": 0.05, "drop": 0.05}
    server.settings.bills_lost, server.settings.tokens_out = True, 20
    billed = through_the_door(server, budget, 100).billed
    stats = server.stats()
    tokens, usd = stats["tokens_in"] + stats["tokens_out"], stats["tokens_in"] * 0.15e-6 + stats["tokens_out"] * 0.6e-6
    assert tokens <= billed.tokens
    assert usd <= (billed.usd or 0.0) + 1e-12
    assert budget.tokens is None or billed.tokens <= budget.tokens
    assert budget.usd is None or (billed.usd or 0.0) <= budget.usd
    assert stats["answered"] > 20


@pytest.mark.parametrize(
    ("fault", "is_billed"),
    [("drop", True), ("malformed", True), ("truncated", True), ("hang", True), ("server_error", False)],
)
@pytest.mark.parametrize("name", MODELS)
def test_a_call_that_may_have_been_billed_is_estimated_upwards(
    server: OpenAIServer, name: str, fault: str, is_billed: bool
) -> None:
    server.settings.faults = {fault: 1.0}
    base = server.root if name.startswith(("ollama", "anthropic")) else server.url
    model = LiteLLMModel(name, {"api_base": base, "api_key": KEY}, timeout_s=0.5 if fault == "hang" else 20)
    error = fail(model)
    usage, usd = model.ceiling(HELLO)
    assert isinstance(error, Unusable) == is_billed
    if isinstance(error, Unusable):
        assert error.waste == Spend.of_waste(usage, usd)
        assert error.waste.tokens_estimated == error.waste.tokens


def test_a_call_that_never_reached_the_provider_costs_nothing() -> None:
    assert not isinstance(fail(LiteLLMModel("openai/gpt-4o-mini", {"api_base": "http://127.0.0.1:9/v1"})), Unusable)


def test_no_worker_sends_within_a_pause_that_another_was_told_of(server: OpenAIServer, tmp_path: Path) -> None:
    """As two processes of a run: each with gates of its own, and the run's folder between them."""
    server.settings.faults, server.settings.retry_after_s = {"rate_limit": 1.0}, 1.5

    def worker() -> LLM:
        return connect("openai/gpt-4o-mini", {}, gates={}, in_flight=4, bulletins=tmp_path)

    async def main() -> None:
        refused, other = worker(), worker()
        first = asyncio.create_task(refused.complete(HELLO))
        while not any(tmp_path.iterdir()):
            await asyncio.sleep(0.01)
        server.settings.faults = {}
        await asyncio.gather(
            first, *(other.complete(Request((Message("user", f"{i}"),), {"temperature": 0})) for i in range(4))
        )
        await refused.close()
        await other.close()

    asyncio.run(main())
    ledger = server.app.ledger
    [(begin, end)] = ledger.pauses
    assert len(ledger.arrivals) == 6
    assert not [at for at in ledger.arrivals if begin < at < end]


def test_models_of_a_provider_share_a_gate(server: OpenAIServer) -> None:
    gates: dict[str, Gate] = {}
    one = connect("openai/gpt-4o-mini", {}, gates=gates, in_flight=4)
    two = connect("openai/gpt-4.1-mini", {}, gates=gates, in_flight=4)
    elsewhere = connect("openai/mine", {"api_base": server.url}, gates=gates, in_flight=2)
    assert all(isinstance(model, Resilient) for model in (one, two, elsewhere))
    assert list(gates) == ["openai", f"openai at {server.url}"]
    assert provider_of("gpt-4o-mini") == "openai"


def test_closing_one_model_leaves_the_others_connected(server: OpenAIServer) -> None:
    async def main() -> None:
        one, two = LiteLLMModel("openai/gpt-4o-mini"), LiteLLMModel("openai/gpt-4.1-mini")
        await one.complete(HELLO)
        await two.complete(HELLO)
        await one.close()
        await two.complete(HELLO)
        await two.close()
        assert not engine._connected

    asyncio.run(main())
    assert server.stats()["answered"] == 3


def test_no_session_is_left_open(server: OpenAIServer, caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        model = LiteLLMModel("hosted_vllm/mine", {"api_base": server.url, "api_key": KEY})
        async with aclosing(_Closing(model)):
            await model.complete(HELLO)

    with caplog.at_level(logging.DEBUG):
        for _ in range(2):  # a second loop must not be handed the first one's connections
            asyncio.run(main(), debug=False)
        gc.collect()  # "Unclosed client session" is logged, and warned of as an error, when the session is collected
    assert "nclosed" not in caplog.text


class _Closing:
    def __init__(self, model: LLM) -> None:
        self.aclose = model.close


def test_who_sends_traces_imports_opik_while_litellm_is_being_imported(tmp_path: Path) -> None:
    """A cold container: litellm is half imported, and opik hidden from it, when the other thread asks for opik."""
    pytest.importorskip("opik", reason="only where opik is installed")
    (tmp_path / "litellm.py").write_text(
        textwrap.dedent(
            """
            import sys
            shared = sys.modules["__main__"]
            shared.half_way.set()
            shared.ended.wait(1)  # who is let in meanwhile is done by then; who waits for us is not
            try:
                import opik
            except ImportError:
                opik = None
            ModelResponse = dict
            """
        )
    )
    script = """
        import threading
        half_way, ended, made = threading.Event(), threading.Event(), []
        from utils.llm import litellm_engine
        from utils.tracing.client import OpikClient
        from utils.tracing.target import Target

        def connect():
            half_way.wait()
            try:
                made.append(OpikClient(Target("http://127.0.0.1:9/api/")))
            finally:
                ended.set()

        sender = threading.Thread(target=connect)
        sender.start()
        assert litellm_engine._litellm().opik is None, "hidden from litellm"
        sender.join()
        assert made, "and not from others"
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr


def test_import_brings_no_opik_and_asks_no_network() -> None:
    pytest.importorskip("opik", reason="only where opik is installed")
    script = """
        import socket, sys, warnings
        warnings.simplefilter("error")
        def refuse(*args, **kwargs): raise OSError("no network")
        socket.getaddrinfo = refuse
        from utils.llm import litellm_engine
        assert "litellm" not in sys.modules
        litellm_engine.price("gpt-4o-mini")
        assert "litellm" in sys.modules
        assert not [name for name in sys.modules if name.partition(".")[0] == "opik"]
        import importlib.util
        assert importlib.util.find_spec("opik")  # can be imported afterwards
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)], cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE_S
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize(
    ("model", "params", "takes"),
    [
        ("openai/gpt-4o-mini", {}, True),
        ("openai/o3-mini", {}, False),
        ("anthropic/claude-sonnet-4-5", {}, True),
        ("anthropic/claude-sonnet-4-5", {"thinking_budget": 2000}, False),
        ("openai/my-own-model", {}, True),
    ],
)
def test_some_models_are_never_asked_at_temperature_0(model: str, params: dict[str, Any], takes: bool) -> None:
    assert engine.takes_temperature(model, params) is takes


@pytest.mark.parametrize(
    ("fault", "request_", "name"),
    [
        ("no_logprobs", replace(HELLO, params={"logprobs": True, "top_logprobs": 5}), "logprobs"),
        ("no_schema", replace(HELLO, schema={"type": "object", "properties": {}}), "response_format"),
    ],
)
def test_a_server_that_refuses_what_can_be_done_without_is_asked_without_it(
    server: OpenAIServer, caplog: pytest.LogCaptureFixture, fault: str, request_: Request, name: str
) -> None:
    server.settings.lasting = {fault: 1.0}
    model = LiteLLMModel("openai/gpt-4o-mini")
    for _ in range(3):  # two at once, three times
        assert all(answer.logprobs is None for answer in ask(model, request_, request_))
    assert [name in body for body in server.requests] == [True, True, *[False] * 6], "it is tried once"
    assert [line.getMessage() for line in caplog.records if "refuses" in line.getMessage()] == [
        f"model openai/gpt-4o-mini refuses {name}: left out of its calls"
    ]


def test_what_the_user_asked_for_is_not_left_out(server: OpenAIServer) -> None:
    server.settings.lasting = {"no_logprobs": 1.0}
    error = fail(LiteLLMModel("openai/gpt-4o-mini", {"logprobs": True}))
    assert error.kind is ErrorKind.BAD_REQUEST
    assert len(server.requests) == 1


# --------------------------------------------------------------------------- what a model is


@pytest.mark.parametrize(
    ("model", "mode", "window"),
    [
        ("openai/gpt-4o-mini", "chat", 128_000),
        ("openai/text-embedding-3-small", "embedding", 8191),
        ("openai/no-such-model", "", 0),
        ("ollama/llama3", "", 0),
    ],
)
def test_the_table_says_what_a_model_is_for_and_how_much_it_reads(model: str, mode: str, window: int) -> None:
    assert (engine.mode(model), engine.context_tokens(model)) == (mode, window)
    assert context_tokens(model, {}) == window


def test_a_simulated_model_reads_as_much_as_its_settings_say() -> None:
    assert context_tokens("sim/standard", {}) == 200_000
    assert context_tokens("sim/standard", {"context": 5000}) == 5000
