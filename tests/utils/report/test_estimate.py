"""What a plan will cost: sums that are ordered, and money that is unknown rather than nothing."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from utils.records import Forecast, Message, Request, Role
from utils.report.estimate import Estimate, Need, Places, estimate, prompt_tokens

PRICE = (1e-6, 4e-6)
NEED = Need(Forecast((10, 20, 30), (1, 2, 3)), (4, 5, 6), 100.0, PRICE, PRICE, simulated=False)

ranges = st.lists(st.integers(0, 1000), min_size=3, max_size=3).map(sorted).map(tuple)
prices = st.tuples(st.floats(0, 1e-3), st.floats(0, 1e-3))
needs = st.builds(
    Need,
    st.builds(Forecast, ranges, ranges),
    ranges,
    st.floats(0, 5000),
    prices,
    prices,
    st.booleans(),
    is_judged=st.booleans(),
    judge_price=prices,
)


def ranges_of(found: Estimate) -> list[tuple[float, float, float]]:
    money = [] if found.usd is None else [found.usd]
    return [found.task_calls, found.optimizer_calls, found.judge_calls, found.tokens, found.usd_simulated, *money]


def test_nothing_to_do_costs_nothing() -> None:
    found = estimate([], Places(1, 4))
    assert (found.tasks, found.seconds, found.usd) == (0, 0.0, (0.0, 0.0, 0.0))


def test_calls_are_those_of_the_optimizer_and_of_the_scoring() -> None:
    found = estimate([NEED, NEED], Places(1, 1))
    assert (found.tasks, found.task_calls, found.optimizer_calls) == (2, (28, 50, 72), (2, 4, 6))


@given(st.lists(needs, max_size=4))
def test_low_is_at_most_likely_is_at_most_high(tasks: list[Need]) -> None:
    assert all(low <= likely <= high for low, likely, high in ranges_of(estimate(tasks, Places(1, 4))))


@given(needs, st.integers(1, 5))
def test_equal_tasks_cost_so_many_times_as_much(need: Need, times: int) -> None:
    once, often = estimate([need], Places(1, 4)), estimate([need] * times, Places(1, 4))
    for single, several in zip(ranges_of(once), ranges_of(often), strict=True):
        assert several == pytest.approx([times * value for value in single])


@pytest.mark.parametrize("change", [{"price": None}, {"editor_price": None}, {"is_judged": True}])
def test_one_unknown_price_makes_the_money_unknown(change: dict) -> None:
    assert estimate([NEED, replace(NEED, **change)], Places(1, 4)).usd is None
    assert estimate([replace(NEED, **change)], Places(1, 4)).as_dict()["usd"] is None


def test_money_is_calls_times_tokens_times_price() -> None:
    free_editor = replace(NEED, forecast=Forecast((0, 0, 0)), scoring=(10, 10, 10), price=(1e-6, 0.0))
    assert estimate([free_editor], Places(1, 1)).usd == pytest.approx((0.001, 0.001, 0.001))


def test_play_money_is_kept_apart() -> None:
    found = estimate([replace(NEED, simulated=True)], Places(1, 1))
    assert found.usd == (0.0, 0.0, 0.0)
    assert found.usd_simulated[1] > 0


@given(needs)
def test_more_workers_or_processors_never_take_longer(need: Need) -> None:
    def seconds(*places: int) -> float:
        return estimate([need] * 4, Places(*places)).seconds

    assert seconds(4, 32, 2) <= seconds(2, 32, 2) + 1e-9
    assert seconds(2, 32, 2) <= seconds(2, 32, 1) + 1e-9


def test_edits_come_one_after_another_and_answers_side_by_side() -> None:
    calls = replace(NEED, forecast=Forecast((80, 80, 80), (0, 0, 0)), scoring=(0, 0, 0))
    edits = replace(NEED, forecast=Forecast((0, 0, 0), (80, 80, 80)), scoring=(0, 0, 0))
    for need, gain in ((calls, 8), (edits, 1)):
        slow, fast = (estimate([need], Places(1, at_a_time, 10**9)).seconds for at_a_time in (1, 8))
        assert slow == pytest.approx(gain * fast, rel=0.01)


def test_a_simulated_model_takes_time_where_it_sleeps_and_computing_where_it_does_not() -> None:
    at_once = replace(NEED, simulated=True, pace=dict.fromkeys(Role, 0.0))
    slow = replace(NEED, simulated=True)
    few, many = Places(5, 32, 2), Places(5, 32, 4)
    assert estimate([slow], few).seconds > 5 * estimate([at_once], few).seconds
    assert estimate([at_once], few).seconds == pytest.approx(2 * estimate([at_once], many).seconds)


def test_thinking_counts_in_tokens_money_and_time() -> None:
    quiet, thoughtful = (replace(NEED, thinking=budget) for budget in ({}, {Role.TASK: 16_000}))
    places = Places(1, 1)
    silent, loud = estimate([quiet], places), estimate([thoughtful], places)
    answers = quiet.forecast.task_calls[2] + quiet.scoring[2]
    assert loud.tokens[2] == silent.tokens[2] + answers * 16_000
    assert loud.usd
    assert silent.usd
    assert loud.usd[2] == pytest.approx(silent.usd[2] + answers * 16_000 * PRICE[1])
    assert loud.seconds > 10 * silent.seconds


def test_the_parts_of_an_axis_add_up_to_the_whole() -> None:
    cells = [
        replace(NEED, cell={"dataset": dataset, "optimizer": optimizer, "model": "m"})
        for dataset in ("a", "b")
        for optimizer in ("x", "y", "z")
    ]
    whole = estimate(cells, Places())
    assert {axis: list(parts) for axis, parts in whole.parts.items()} == {
        "dataset": ["a", "b"],
        "optimizer": ["x", "y", "z"],
        "model": ["m"],
    }
    for parts in whole.parts.values():
        assert sum(part.task_calls[1] for part in parts.values()) == whole.task_calls[1]
        assert sum(part.tokens[1] for part in parts.values()) == pytest.approx(whole.tokens[1])
    assert set(whole.as_dict()["by_dataset"]["a"]) >= {"tasks", "task_calls", "tokens", "usd", "seconds"}


def test_a_judge_is_asked_about_every_answer() -> None:
    judged = replace(NEED, is_judged=True, judge_price=PRICE)
    assert estimate([judged], Places(1, 1)).judge_calls == estimate([judged], Places(1, 1)).task_calls
    assert estimate([NEED], Places(1, 1)).judge_calls == (0, 0, 0)


def test_the_length_of_a_prompt_is_that_of_all_its_messages() -> None:
    asks = [Request((Message("system", "x" * 40), Message("user", "y" * 40))), Request((Message("user", ""),))]
    assert prompt_tokens(asks) == 10
    assert prompt_tokens([]) == 0


def test_the_dictionary_is_for_people_whole_calls_and_named_ends() -> None:
    shown = estimate([NEED], Places(1, 1)).as_dict()
    assert shown["tasks"] == 1
    assert shown["task_calls"] == {"low": 14, "likely": 25, "high": 36}
    assert set(shown["usd"]) == {"low", "likely", "high"}
