"""What follows from a record's own fields: means without failures, sums of money, ids, keys."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tests.strategies import evaluations, requests, scores, spends, task_specs, texts
from utils.errors import ErrorKind
from utils.prompt import Prompt
from utils.records import (
    Budget,
    Evaluation,
    ItemScore,
    Message,
    Request,
    Role,
    Score,
    Spend,
    Split,
    Status,
    TaskSpec,
    Usage,
)
from utils.serialization import dumps

SPEC = TaskSpec("gsm8k", "few_shot", "openai/gpt-4o-mini", 42)
REQUEST = Request((Message("user", "hi"),), {"temperature": 0})


def trial(*values: float | None) -> Evaluation:
    """A trial with these scores; None is a failed call."""
    items = [
        ItemScore(f"e{i}", error=ErrorKind.TRANSIENT) if value is None else ItemScore(f"e{i}", "a", Score(value), None)
        for i, value in enumerate(values)
    ]
    return Evaluation(Prompt("p"), Split.VALIDATION, tuple(items))


# --------------------------------------------------------------------------- trials


def test_a_failed_call_is_in_no_mean() -> None:
    evaluation = trial(1.0, None, 0.5, None)
    assert (evaluation.mean, evaluation.failed, evaluation.values) == (0.75, 2, (1.0, 0.5))


def test_the_bounds_read_failures_as_0_and_as_1() -> None:
    assert trial(1.0, None, 0.5, None).bounds == (0.375, 0.875)


@pytest.mark.parametrize("evaluation", [trial(), trial(None), trial(None, None)])
def test_a_trial_without_answers_has_no_mean(evaluation: Evaluation) -> None:
    assert math.isnan(evaluation.mean)
    assert math.isnan(evaluation.tokens)


def test_the_bounds_of_nothing_are_unknown() -> None:
    assert all(map(math.isnan, trial().bounds))


@given(evaluations)
def test_the_mean_lies_within_the_bounds(evaluation: Evaluation) -> None:
    if evaluation.values:
        low, high = evaluation.bounds
        assert low - 1e-12 <= evaluation.mean <= high + 1e-12


def test_failures_come_worst_first_and_ties_in_order() -> None:
    bad = trial(0.5, 1.0, 0.0, None, 0.5).failures()
    assert [item.example_id for item in bad] == ["e2", "e0", "e4"]


def test_mean_tokens_are_those_of_answers() -> None:
    items = (ItemScore("a", "x", Score(1.0), tokens_out=10), ItemScore("b", error=ErrorKind.TRANSIENT, tokens_out=90))
    assert Evaluation(Prompt("p"), Split.TRAIN, items).tokens == 10


@given(st.lists(scores, min_size=1, max_size=20), st.randoms())
def test_the_mean_does_not_depend_on_the_order_of_items(found: list[Score], random: Any) -> None:
    values = [score.value for score in found]
    shuffled = random.sample(values, len(values))
    assert trial(*values).mean == trial(*shuffled).mean


# --------------------------------------------------------------------------- money


@given(spends, spends)
def test_an_unknown_price_makes_the_sum_unknown(first: Spend, second: Spend) -> None:
    assert ((first + second).usd is None) == (first.usd is None or second.usd is None)
    assert (first + second).calls == first.calls + second.calls


@given(spends)
def test_nothing_spent_adds_nothing(spend: Spend) -> None:
    assert spend + Spend() == Spend() + spend == spend


@pytest.mark.parametrize("role", Role)
def test_one_call_is_counted_under_its_role_alone(role: Role) -> None:
    spend = Spend.of(role, Usage(3, 5, reasoning=4), 0.25)
    assert spend.calls == 1
    assert getattr(spend, f"{role}_calls") == 1
    assert (spend.tokens_in, spend.tokens_out, spend.usd) == (3, 5, 0.25)


# --------------------------------------------------------------------------- requests


@pytest.mark.parametrize(
    "change",
    [
        {"messages": (Message("system", "hi"),)},
        {"messages": (Message("user", "ho"),)},
        {"messages": (Message("user", "h"), Message("user", "i"))},
        {"params": {"temperature": 1}},
        {"params": {"temperature": 0, "top_p": None}},
        {"schema": {}},
        {"sample": 1},
    ],
)
def test_whatever_decides_the_answer_changes_the_key(change: dict[str, Any]) -> None:
    assert replace(REQUEST, **change).key("m") != REQUEST.key("m")


def test_the_model_is_part_of_the_key() -> None:
    assert REQUEST.key("m") != REQUEST.key("n")


def test_what_is_never_sent_is_no_part_of_the_key() -> None:
    assert replace(REQUEST, item="e1", prompt="p1", occurrence=3).key("m") == REQUEST.key("m")


@given(requests)
def test_the_order_of_parameters_does_not_change_the_key(request: Request) -> None:
    assert replace(request, params=dict(reversed(request.params.items()))).key("m") == request.key("m")


@pytest.mark.parametrize(("params", "says"), [({"temperature": 0}, True), ({"temperature": 0.0}, True)])
def test_only_temperature_0_said_outright_is_deterministic(params: dict[str, Any], says: bool) -> None:
    assert replace(REQUEST, params=params).is_deterministic is says
    for other in ({}, {"temperature": None}, {"temperature": 0.1}, {"top_p": 0}):
        assert not replace(REQUEST, params=other).is_deterministic


# --------------------------------------------------------------------------- ids


def test_a_task_id_can_be_read() -> None:
    assert re.fullmatch(r"gsm8k-few_shot-gpt_4o_mini-s42-[0-9a-f]{8}", SPEC.task_id)


@pytest.mark.parametrize(
    "change",
    [
        {"dataset": "ai2_arc"},
        {"optimizer": "no_op"},
        {"model": "other/gpt-4o-mini"},
        {"seed": 43},
        {"optimizer_params": {"k": 1}},
        {"model_params": {"k": 1}},
        {"optimizer_model": "x"},
        {"judge_model": "x"},
        {"data": "sample"},
        {"dataset_csv": "x"},
        {"test_mode": True},
        {"budget": Budget(task_calls=999)},
        {"prompt": Prompt("x")},
        {"metric": "bleu"},
    ],
    ids=lambda change: next(iter(change)),
)
def test_a_change_of_any_field_is_another_task(change: dict[str, Any]) -> None:
    assert replace(SPEC, **change).task_id != SPEC.task_id


@given(task_specs, task_specs)
def test_task_ids_are_unique(first: TaskSpec, second: TaskSpec) -> None:
    same = dumps(first) == dumps(second)  # as written down: NaN is not NaN, and 0 is False, to `==`
    assert (first.task_id == second.task_id) == same


wide = texts | st.text("问é🄰a.-/@ \n", min_size=20, max_size=60)


@given(wide, wide, wide, st.integers())
@example(".hidden", "..", "x/.y", 1)
def test_a_task_id_can_be_part_of_a_file_name(dataset: str, optimizer: str, model: str, seed: int) -> None:
    task_id = TaskSpec(dataset, optimizer, model, seed).task_id
    name = f"optimization_{task_id}@99.unsent.completed.json"
    assert len(name.encode()) <= 255
    assert re.fullmatch(r"[\w.-]+", task_id)
    assert not task_id.startswith(".")  # a hidden file would be in no listing


def test_the_label_of_a_variant_is_what_is_typed() -> None:
    variant = replace(SPEC, optimizer_params={"k": 3, "rule": "focus", "on": True, "w": 0.5})
    assert variant.optimizer_label == "few_shot:k=3,rule=focus,on=true,w=0.5"
    assert SPEC.optimizer_label == "few_shot"


def test_only_completed_and_failed_are_final() -> None:
    assert {status for status in Status if status.is_final} == {Status.COMPLETED, Status.FAILED}
