"""What an attempt connects a task to."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmark_task import Place, _door, load_work
from utils.archive import Attempt, local_archive
from utils.llm.base import LLM
from utils.records import TaskSpec


@pytest.mark.parametrize(
    ("model", "params", "is_shared"),
    [
        ("openai/gpt-4o-mini", {}, True),
        ("openai/o3-mini", {}, False),
        ("anthropic/claude-sonnet-4-5", {"thinking_budget": 2000}, False),
        ("sim/standard", {}, False),
    ],
)
def test_only_answers_that_are_really_asked_for_at_temperature_0_are_shared(
    model: str, params: dict[str, int], is_shared: bool, tmp_path: Path
) -> None:
    shared = []

    def wrap(connected: LLM, task_id: str) -> LLM:
        shared.append(connected.name)
        return connected

    spec = TaskSpec("gsm8k", "no_op", model, 1, model_params=params, data="sample", test_mode=True)
    place = Place(local_archive(tmp_path, "r"), Attempt(spec.task_id, 1, "001"), wrap=wrap)
    _door(spec, load_work(spec), place, place.archive.journal(place.attempt)).close()
    assert bool(shared) is is_shared
