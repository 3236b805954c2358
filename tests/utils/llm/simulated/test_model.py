"""The model as the harness sees it: names, parameters, faults, prices, the judge, the embedding."""

from __future__ import annotations

import asyncio
import json
import math
import statistics
import time

import pytest

from utils.errors import CallError, ErrorKind, UsageError
from utils.llm.base import LLM, token_ceiling
from utils.llm.simulated import SIMULATED, simulated_model
from utils.llm.simulated.calibration import FORMAT, TASK, examples, prompt
from utils.metrics.llm_judge import LLMJudge
from utils.metrics.semantic_similarity import SemanticSimilarity
from utils.records import Example, Message, Request

ROWS = examples(400)


def request_for(example: Example, **params: object) -> Request:
    return Request(prompt(TASK, FORMAT).render(example.inputs), {"temperature": 0, **params}, item=example.id)


def outcomes(model, requests, tries=1):
    """What each request ends in: a finish reason, or the kind of its error after some tries."""

    async def one(request):
        for attempt in range(tries):
            try:
                return (await model.complete(request)).finish_reason
            except CallError as error:
                kind = error.kind
                if not kind.is_retryable or attempt == tries - 1:
                    return kind
        raise AssertionError

    async def everything():
        return [await one(request) for request in requests]

    return asyncio.run(everything())


@pytest.mark.parametrize("name", SIMULATED)
def test_every_named_model_keeps_the_protocol(name):
    model = simulated_model(name, {"latency": 0.0}, ROWS)
    assert isinstance(model, LLM)
    assert model.name == name
    assert SIMULATED[name]
    assert outcomes(model, [request_for(ROWS[0])], tries=20)[0] in ("stop", "length", ErrorKind.CONTENT_FILTER)
    asyncio.run(model.close())


@pytest.mark.parametrize(
    ("name", "params", "said"),
    [
        ("sim/standart", {}, "did you mean 'sim/standard'"),
        ("sim/standard", {"instanse": 1}, "did you mean 'instance'"),
        ("sim/standard", {"noise": "loud"}, "noise must be a number, not 'loud'"),
        ("sim/standard", {"instance": 1.5}, "instance must be a whole number"),
        ("sim/standard", {"realtime": "maybe"}, "realtime must be true or false"),
        ("sim/standard", {"h": 1.2}, r"h is a share in \[0, 1\]"),
        ("sim/standard", {"K": 0}, "K must be at least 1"),
        ("sim/standard", {"K": 17}, "K must be at most 16"),
        ("sim/standard", {"theta": float("nan")}, "theta must be a number"),
    ],
)
def test_bad_names_and_parameters_are_refused(name, params, said):
    with pytest.raises(UsageError, match=said):
        simulated_model(name, params, ROWS)


def test_a_bad_kind_is_refused():
    with pytest.raises(UsageError, match="kind"):
        simulated_model("sim/standard", {}, ROWS, kind="vision")


def test_parameters_may_come_as_text():
    settings = simulated_model("sim/standard", {"instance": "7", "realtime": "true", "q": "0.5"}, ROWS).settings
    assert (settings.instance, settings.realtime, settings.q) == (7, True, 0.5)


def test_fault_rates_are_those_that_are_set():
    model = simulated_model("sim/flaky", {"rate_limit": 0.2, "server_error": 0.1, "timeout": 0.1}, ROWS)
    failed = sum(kind is ErrorKind.TRANSIENT for kind in outcomes(model, [request_for(e) for e in ROWS]))
    assert abs(failed - 0.4 * 400) < 2.58 * math.sqrt(400 * 0.4 * 0.6)
    model = simulated_model("sim/refuses", {"content_filter": 0.1}, ROWS)
    blocked = sum(kind is ErrorKind.CONTENT_FILTER for kind in outcomes(model, [request_for(e) for e in ROWS], tries=3))
    assert abs(blocked - 40) < 2.58 * math.sqrt(400 * 0.1 * 0.9)


def test_a_retry_succeeds_where_the_fault_was_passing():
    model = simulated_model("sim/flaky", {"rate_limit": 0.3, "truncation": 0}, ROWS)
    assert set(outcomes(model, [request_for(e) for e in ROWS], tries=20)) == {"stop"}


def test_a_rate_limit_says_when_to_come_back(ask):
    model = simulated_model("sim/standard", {"rate_limit": 1.0}, ROWS)
    with pytest.raises(CallError, match="429") as caught:
        ask(model, request_for(ROWS[0]))
    assert caught.value.kind is ErrorKind.TRANSIENT
    assert 0 < (caught.value.retry_after_s or 0) < 1


def test_faults_leave_the_other_answers_as_they_are(ask):
    calm = simulated_model("sim/standard", {}, ROWS)
    rough = simulated_model("sim/standard", {"truncation": 0.2, "refusal": 0.1}, ROWS)
    pairs = [(ask(calm, request_for(e)), ask(rough, request_for(e))) for e in ROWS]
    same = [a.text == b.text for a, b in pairs]
    assert 0.55 < statistics.mean(same) < 0.85
    assert sum(b.finish_reason == "length" for _, b in pairs) == pytest.approx(80, abs=25)
    assert sum("I'm" in b.text or "cannot assist" in b.text for _, b in pairs) == pytest.approx(40, abs=18)


def test_too_long_a_request_is_refused(ask):
    model = simulated_model("sim/standard", {"context": 5}, ROWS)
    with pytest.raises(CallError) as caught:
        ask(model, request_for(ROWS[0]))
    assert caught.value.kind is ErrorKind.CONTEXT_LENGTH


def test_the_ceiling_holds_and_prices_follow_the_usage(ask):
    model = simulated_model("sim/standard", {"price_in": 2.0, "price_out": 8.0}, ROWS)
    for example in ROWS[:50]:
        request = request_for(example, max_tokens=40)
        most, price = model.ceiling(request)
        done = ask(model, request)
        assert done.usage.tokens_in == most.tokens_in <= token_ceiling(request).tokens_in
        assert done.usage.tokens_out <= most.tokens_out == 40
        assert done.cost_usd == pytest.approx((done.usage.tokens_in * 2 + done.usage.tokens_out * 8) / 1e6)
        assert done.cost_usd <= price


def test_latency_is_reported_and_slept_only_in_real_time():
    slept = []

    async def sleep(seconds):
        slept.append(seconds)

    quick = simulated_model("sim/standard", {}, ROWS, sleep=sleep)
    slow = simulated_model("sim/slow", {}, ROWS, sleep=sleep)
    assert asyncio.run(quick.complete(request_for(ROWS[0]))).latency_s > 0
    assert slept == []
    assert [asyncio.run(slow.complete(request_for(ROWS[0]))).latency_s] == slept


def test_latency_follows_its_law(answers):
    model = simulated_model("sim/standard", {}, ROWS)
    logs = [math.log(c.latency_s / (0.2 + c.usage.tokens_out / 80)) for c in answers(model, prompt(TASK), ROWS)]
    assert statistics.mean(logs) == pytest.approx(0, abs=0.05)
    assert statistics.stdev(logs) == pytest.approx(0.3, abs=0.04)


def test_a_model_without_prices_can_be_had():
    free = simulated_model("sim/standard", {"price_in": 0, "price_out": 0}, ROWS)
    assert free.ceiling(request_for(ROWS[0]))[1] == 0


def test_the_judge_grades_overlap_with_some_noise(ask):
    judge = simulated_model("sim/standard", {}, ROWS)
    metric = LLMJudge()
    example = Example("free-1", {"question": "Who?"}, "the captain of the ship")

    def mean(answer: str) -> float:
        scores = []
        for n in range(30):
            varied = Example(f"free-{n}", {"question": f"Who {n}?"}, example.target)
            scores.append(metric.read(varied, answer, ask(judge, metric.question(varied, answer))).value)
        return statistics.mean(scores)

    assert mean("nobody knows </answer>") < 0.25
    assert 0.4 < mean("the captain") < 0.9
    assert mean("the captain of the ship") > 0.9
    question = metric.question(example, "the captain")
    assert ask(judge, question).text == ask(judge, question).text
    assert set(json.loads(ask(judge, question).text)) == {"score", "reason"}


def test_the_embedding_is_a_cosine_of_words(ask):
    model = simulated_model("sim/standard", {}, ROWS, kind="embedding")
    metric = SemanticSimilarity()
    example = Example("free", {}, "the captain of the ship")

    def value(answer: str) -> float:
        return metric.read(example, answer, ask(model, metric.question(example, answer))).value

    assert value("the captain of the ship") == pytest.approx(1)
    assert value("ship captain") == pytest.approx(2 / math.sqrt(2 * 7))
    assert value("nobody") == 0
    with pytest.raises(CallError):
        ask(model, Request((Message("user", "one"),)))


@pytest.mark.trial
def test_a_call_costs_little(answers):
    model = simulated_model("sim/standard", {}, ROWS)
    answers(model, prompt(TASK), ROWS)
    began = time.perf_counter()
    answers(model, prompt(TASK, FORMAT), ROWS)
    assert (time.perf_counter() - began) / len(ROWS) < 0.002  # ten times what it takes, for a busy machine
