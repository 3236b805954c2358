"""What a plan will cost: sums that are ordered, and money that is unknown rather than nothing."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from utils.records import Forecast, Message, Request
from utils.report.estimate import Estimate, Need, estimate, prompt_tokens

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
    found = estimate([], 4)
    assert (found.tasks, found.seconds, found.usd) == (0, 0.0, (0.0, 0.0, 0.0))


def test_calls_are_those_of_the_optimizer_and_of_the_scoring() -> None:
    found = estimate([NEED, NEED], 1)
    assert (found.tasks, found.task_calls, found.optimizer_calls) == (2, (28, 50, 72), (2, 4, 6))


@given(st.lists(needs, max_size=4))
def test_low_is_at_most_likely_is_at_most_high(tasks: list[Need]) -> None:
    assert all(low <= likely <= high for low, likely, high in ranges_of(estimate(tasks, 4)))


@given(needs, st.integers(1, 5))
def test_equal_tasks_cost_so_many_times_as_much(need: Need, times: int) -> None:
    once, often = estimate([need], 4), estimate([need] * times, 4)
    for single, several in zip(ranges_of(once), ranges_of(often), strict=True):
        assert several == pytest.approx([times * value for value in single])


@pytest.mark.parametrize("change", [{"price": None}, {"editor_price": None}, {"is_judged": True}])
def test_one_unknown_price_makes_the_money_unknown(change: dict) -> None:
    assert estimate([NEED, replace(NEED, **change)], 4).usd is None
    assert estimate([replace(NEED, **change)], 4).as_dict()["usd"] is None


def test_money_is_calls_times_tokens_times_price() -> None:
    free_editor = replace(NEED, forecast=Forecast((0, 0, 0)), scoring=(10, 10, 10), price=(1e-6, 0.0))
    assert estimate([free_editor], 1).usd == pytest.approx((0.001, 0.001, 0.001))


def test_play_money_is_kept_apart() -> None:
    found = estimate([replace(NEED, simulated=True)], 1)
    assert found.usd == (0.0, 0.0, 0.0)
    assert found.usd_simulated[1] > 0


@given(needs)
def test_twice_the_places_take_half_the_time(need: Need) -> None:
    assert estimate([need], 8).seconds == pytest.approx(estimate([need], 4).seconds / 2)


def test_a_judge_is_asked_about_every_answer() -> None:
    judged = replace(NEED, is_judged=True, judge_price=PRICE)
    assert estimate([judged], 1).judge_calls == estimate([judged], 1).task_calls
    assert estimate([NEED], 1).judge_calls == (0, 0, 0)


def test_the_length_of_a_prompt_is_that_of_all_its_messages() -> None:
    asks = [Request((Message("system", "x" * 40), Message("user", "y" * 40))), Request((Message("user", ""),))]
    assert prompt_tokens(asks) == 10
    assert prompt_tokens([]) == 0


def test_the_dictionary_is_for_people_whole_calls_and_named_ends() -> None:
    shown = estimate([NEED], 1).as_dict()
    assert shown["tasks"] == 1
    assert shown["task_calls"] == {"low": 14, "likely": 25, "high": 36}
    assert set(shown["usd"]) == {"low", "likely", "high"}
