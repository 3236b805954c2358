"""The double keeps its own promises: other tests judge the harness by its ledger."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import textwrap
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.servers.openai_server import FAULTS, OpenAIServer, Settings, reset, spawned, stats
from tests.waiting import PATIENCE_S, until


def post(url: str, text: str = "hello", **extra: Any) -> dict[str, Any]:
    body = {"model": "m", "messages": [{"role": "user", "content": text}], **extra}
    request = urllib.request.Request(
        url + "/chat/completions", json.dumps(body).encode(), {"content-type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=PATIENCE_S) as answer:
        found: dict[str, Any] = json.load(answer)
        return found


def said(answer: dict[str, Any]) -> str:
    return str(answer["choices"][0]["message"]["content"])


def test_a_process_of_its_own_counts_its_answers() -> None:
    with spawned("--answer", "counter") as url:
        assert [said(post(url, text)) for text in ("a", "b", "a")] == ["answer 1", "answer 2", "answer 3"]
        ledger = stats(url)
        assert (ledger["answered"], ledger["distinct_answered"]) == (3, 2)
        assert list(ledger["answered_twice"].values()) == [2]
        reset(url)
        assert stats(url)["answered"] == 0


def test_a_callable_answers_in_process() -> None:
    with OpenAIServer(answer=lambda body: body["messages"][-1]["content"].upper()) as server:
        assert said(post(server.url)) == "HELLO"


def test_pick_is_by_the_body() -> None:
    with OpenAIServer(answer="pick:A,B,C,D") as server:
        first = [said(post(server.url, str(i))) for i in range(20)]
        assert first == [said(post(server.url, str(i))) for i in range(20)]
        assert set(first) == set("ABCD")


def test_a_retry_within_its_retry_after_is_noticed() -> None:
    now = [0.0]
    with OpenAIServer(lambda: now[0], faults={"rate_limit": 1.0}, fault_tries=1, retry_after_s=0.2) as server:
        for text in ("early", "late"):
            with pytest.raises(urllib.error.HTTPError) as caught:
                post(server.url, text)
            assert caught.value.headers["retry-after"] == "0.2"
            caught.value.close()
        post(server.url, "early")
        now[0] += 0.25
        post(server.url, "late")
        assert server.stats()["early_retries"] == 1


def test_faults_are_the_same_in_any_order() -> None:
    def statuses(order: list[str]) -> dict[str, int]:
        found = {}
        with OpenAIServer(faults={"server_error": 0.5}, seed=3) as server:
            for text in order:
                try:
                    post(server.url, text)
                    found[text] = 200
                except urllib.error.HTTPError as error:
                    found[text] = error.code
                    error.close()
        return found

    texts = [str(i) for i in range(20)]
    assert statuses(texts) == statuses(texts[::-1])
    assert set(statuses(texts).values()) == {200, 500}


def test_a_client_killed_while_it_waits_was_not_answered() -> None:
    script = """
        import sys, urllib.request
        body = b'{"model": "m", "messages": [{"role": "user", "content": "hello"}]}'
        urllib.request.urlopen(urllib.request.Request(sys.argv[1] + "/chat/completions", body))
    """
    with OpenAIServer() as server:
        server.gate.hold()
        client = subprocess.Popen([sys.executable, "-c", textwrap.dedent(script), server.url])
        until(lambda: server.gate.held)
        os.kill(client.pid, signal.SIGKILL)
        client.wait()
        until(lambda: not server.stats()["in_flight"])
        server.gate.open()
        ledger = server.stats()
        assert (ledger["requests"], ledger["answered"], ledger["abandoned"]) == (1, 0, 1)
        assert said(post(server.url))


def test_a_held_server_answers_nobody_until_it_is_let_go() -> None:
    with OpenAIServer() as server, ThreadPoolExecutor(1) as client:
        with server.held():
            waiting = client.submit(post, server.url)
            until(lambda: server.app.ledger.in_flight, "no request came")
            assert server.app.ledger.answered.total() == 0
        assert said(waiting.result())


def test_a_lasting_fault_strikes_the_same_questions_each_time() -> None:
    with OpenAIServer(lasting={"cut": 0.5}, answer="const:one two three four") as server:
        rounds = [[said(post(server.url, str(i))) for i in range(20)] for _ in range(2)]
    assert rounds[0] == rounds[1]
    assert set(rounds[0]) == {"one two three four", "one two t"}


def test_answers_are_let_through_one_by_one() -> None:
    with OpenAIServer(answer="echo") as server, ThreadPoolExecutor(3) as pool:
        server.gate.hold()
        asked = [pool.submit(post, server.url, text) for text in "abc"]
        for count in (1, 2):
            until(lambda held=4 - count: server.gate.held == held)
            server.gate.let(1)
            until(lambda count=count: server.answered == count)
        assert sum(each.done() for each in asked) <= 2
        server.gate.open()
        assert [said(each.result()) for each in asked] == ["a", "b", "c"]


def test_half_a_request_does_no_harm() -> None:
    with OpenAIServer() as server:
        for junk in (b"", b"POST /v1/chat/completions HTTP/1.1\r\ncontent-length: 99\r\n\r\n{", b"nonsense\r\n\r\n"):
            with socket.create_connection(("127.0.0.1", server.port)) as connection:
                connection.sendall(junk)
        assert said(post(server.url))
        assert server.stats()["requests"] == 1


def test_misspelt_faults_are_refused() -> None:
    with pytest.raises(ValueError, match="unknown faults"):
        Settings(faults={"rate_limits": 1.0})
    assert "rate_limit" in FAULTS
