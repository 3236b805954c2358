"""The first calls of a paid run: they say where a model is and how it does, or that it is not there; and are booked."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmark_task import load_work
from local.preflight import Preflight, preflight
from tests.servers.openai_server import OpenAIServer
from utils.errors import UsageError
from utils.records import Budget, Splits, TaskSpec

SPEC = TaskSpec("gsm8k", "no_op", "openai/gpt-4o-mini", 1, data="sample", budget=Budget(60))
KEPT: list[tuple[TaskSpec, Splits]] = [(SPEC, load_work(SPEC).splits)]


def probed(monkeypatch: pytest.MonkeyPatch, server: OpenAIServer, spec: TaskSpec = SPEC) -> Preflight:
    monkeypatch.setenv("OPENAI_BASE_URL", server.url)
    monkeypatch.setenv("OPENAI_API_KEY", "k")
    done = preflight([spec], KEPT)
    assert done
    return done


def test_a_model_is_shown_with_its_address_answer_score_and_price(monkeypatch: pytest.MonkeyPatch) -> None:
    with OpenAIServer(answer="const:#### 7") as server:
        done = probed(monkeypatch, server)
        (line, *_) = done.lines()
        assert server.url in line
        assert "'#### 7'" in line
        assert "score 0." in line
        assert "$" in line
        assert done.paid.usd == pytest.approx(
            server.stats()["tokens_in"] * 0.15e-6 + server.stats()["tokens_out"] * 0.6e-6
        )
        (row,) = done.as_dicts()
        assert (row["calls"], row["answered"], row["address"]) == (3, 3, server.url)


def test_a_prompt_that_gets_nothing_right_is_shown_with_answers_beside_their_targets(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with OpenAIServer(answer="const:I would rather not say.") as server:
        lines = list(probed(monkeypatch, server).lines())
    assert "gsm8k: the seed prompt scores 0.000 on the first 3 rows" in lines[1]
    targets = [row.target for row in KEPT[0][1].validation[:2]]
    assert [line.split(" where ")[1] for line in lines[2:]] == [f"{target!r} is expected" for target in targets]
    assert all("I would rather not say." in line for line in lines[2:])


def test_a_model_that_does_not_answer_is_named_with_its_address(monkeypatch: pytest.MonkeyPatch) -> None:
    with OpenAIServer(key="another") as server, pytest.raises(UsageError) as error:
        probed(monkeypatch, server)
    for part in ("openai/gpt-4o-mini", server.url, "auth", "nothing was started", "--no-probe"):
        assert part in str(error.value)


def test_a_model_that_only_edits_gets_one_short_question(monkeypatch: pytest.MonkeyPatch) -> None:
    with OpenAIServer(answer="const:OK") as server:
        spec = TaskSpec(**{**SPEC.__dict__, "optimizer_model": "openai/gpt-4o"})
        done = probed(monkeypatch, server, spec)
    assert [len(done.of(model)) for model in ("openai/gpt-4o-mini", "openai/gpt-4o")] == [3, 1]


def test_simulated_models_are_not_asked(tmp_path: Path) -> None:
    assert preflight([TaskSpec("gsm8k", "no_op", "sim/standard", 1, data="sample")], KEPT) is None
