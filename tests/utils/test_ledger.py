"""A batch that does not fit is not sent, whatever it would turn out to cost: so no limit is ever passed."""

from __future__ import annotations

import math
from dataclasses import replace
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from utils.errors import BudgetExhausted
from utils.ledger import Ledger
from utils.records import Budget, Role, Spend, StopReason, Usage

PLENTY = Budget(10**9, 10**9)
CALL = (Usage(10, 20), 0.1)

# a call: the most it can use, and the share of it that it does use
calls = st.tuples(st.integers(0, 500), st.integers(0, 500), st.floats(0, 0.3), st.floats(min_value=0, max_value=1))
batches = st.lists(st.tuples(st.sampled_from(Role), st.lists(calls, min_size=1, max_size=6)), max_size=20)


def spend_all(ledger: Ledger, asked: list, elapsed_s: float = 0.0) -> list[str]:
    """Ask for every batch, in order, and charge those that fit; the reasons of those that do not."""
    refused = []
    for role, batch in asked:
        try:
            ledger.reserve(role, [(Usage(a, b), usd) for a, b, usd, _ in batch], elapsed_s)
        except BudgetExhausted as stop:
            refused.append(stop.reason)
            continue
        for a, b, usd, share in batch:
            used = Spend.of(role, Usage(int(a * share), int(b * share)), usd * share)
            ledger.charge(used, used)
    return refused


def refusal(ledger: Ledger, role: Role, ceilings: list, elapsed_s: float = 0.0) -> BudgetExhausted:
    with pytest.raises(BudgetExhausted) as caught:
        ledger.reserve(role, ceilings, elapsed_s)
    return caught.value


@given(batches, st.integers(0, 20))
def test_task_calls_are_never_exceeded(asked: list, limit: int) -> None:
    ledger = Ledger(replace(PLENTY, task_calls=limit))
    refused = spend_all(ledger, asked)
    assert ledger.logical.task_calls <= limit
    assert set(refused) <= {StopReason.BUDGET_CALLS}


@given(batches, st.integers(0, 20))
def test_optimizer_calls_are_never_exceeded(asked: list, limit: int) -> None:
    ledger = Ledger(replace(PLENTY, optimizer_calls=limit))
    spend_all(ledger, asked)
    assert ledger.logical.optimizer_calls <= limit


@given(batches, st.integers(0, 5000))
def test_tokens_are_never_exceeded(asked: list, limit: int) -> None:
    ledger = Ledger(replace(PLENTY, tokens=limit))
    refused = spend_all(ledger, asked)
    assert ledger.logical.tokens_in + ledger.logical.tokens_out <= limit
    assert set(refused) <= {StopReason.BUDGET_TOKENS}


@given(batches, st.floats(0, 3))
def test_money_is_never_exceeded_not_even_by_a_rounding(asked: list, limit: float) -> None:
    ledger = Ledger(replace(PLENTY, usd=limit))
    refused = spend_all(ledger, asked)
    assert ledger.logical.usd is not None
    assert ledger.logical.usd <= limit
    assert set(refused) <= {StopReason.BUDGET_USD}


def test_calls_at_their_ceiling_never_exceed_a_limit_that_they_fill_to_the_bit() -> None:
    rng = Random(1)
    for _ in range(300):
        before, prices = rng.random(), [round(rng.uniform(0, 0.3), 3) for _ in range(4)]
        ledger = Ledger(replace(PLENTY, usd=before + sum(prices)))  # in another order than the charges
        ledger.charge(Spend(usd=before), Spend())
        spend_all(ledger, [(Role.TASK, [(0, 0, usd, 1.0) for usd in prices])])
        assert ledger.logical.usd is not None
        assert ledger.budget
        assert ledger.budget.usd
        assert ledger.logical.usd <= ledger.budget.usd


@given(batches, st.floats(0, 100), st.floats(0, 100))
def test_nothing_is_sent_once_the_time_is_over(asked: list, limit: float, elapsed_s: float) -> None:
    ledger = Ledger(replace(PLENTY, seconds=limit))
    refused = spend_all(ledger, asked, elapsed_s)
    assert refused == ([StopReason.BUDGET_SECONDS] * len(asked) if elapsed_s > limit else [])


def test_a_batch_fits_whole_or_not_at_all() -> None:
    ledger = Ledger(Budget(task_calls=3))
    assert refusal(ledger, Role.TASK, [CALL] * 4).reason == StopReason.BUDGET_CALLS
    assert ledger.logical == Spend()
    ledger.reserve(Role.TASK, [CALL] * 3, 0.0)


def test_the_refusal_says_what_was_wanted_and_what_is_left() -> None:
    ledger = Ledger(Budget(task_calls=5))
    ledger.charge(Spend(task_calls=3), Spend())
    assert str(refusal(ledger, Role.TASK, [CALL] * 4)) == "budget_calls: 4 wanted, 2 of 5 left"


def test_without_a_limit_of_their_own_the_editors_calls_are_limited_like_task_calls() -> None:
    ledger = Ledger(Budget(task_calls=3))
    ledger.reserve(Role.OPTIMIZER, [CALL] * 3, 0.0)
    assert refusal(ledger, Role.OPTIMIZER, [CALL] * 4).reason == StopReason.BUDGET_CALLS


def test_roles_do_not_use_up_each_others_calls() -> None:
    ledger = Ledger(Budget(task_calls=2, optimizer_calls=2))
    ledger.charge(Spend(task_calls=2, judge_calls=50), Spend())
    ledger.reserve(Role.OPTIMIZER, [CALL] * 2, 0.0)
    ledger.reserve(Role.JUDGE, [CALL] * 50, 0.0)


def test_a_judges_tokens_and_money_are_limited_too() -> None:
    assert refusal(Ledger(Budget(tokens=29)), Role.JUDGE, [CALL]).reason == StopReason.BUDGET_TOKENS
    assert refusal(Ledger(Budget(usd=0.05)), Role.JUDGE, [CALL]).reason == StopReason.BUDGET_USD


@given(st.floats(min_value=0, allow_infinity=False))
def test_an_unknown_price_never_fits_under_a_limit_of_money(limit: float) -> None:
    ledger = Ledger(Budget(usd=limit))
    assert refusal(ledger, Role.TASK, [(Usage(1, 1), None)]).reason == StopReason.BUDGET_USD


def test_after_a_call_of_unknown_price_nothing_fits_under_a_limit_of_money() -> None:
    ledger = Ledger(Budget(usd=100.0))
    ledger.charge(Spend.of(Role.TASK, Usage(1, 1), None), Spend())
    assert refusal(ledger, Role.TASK, [CALL]).reason == StopReason.BUDGET_USD


def test_an_unknown_price_is_no_matter_without_a_limit_of_money() -> None:
    Ledger(Budget(tokens=100)).reserve(Role.TASK, [(Usage(1, 1), None)], 0.0)


def test_without_a_budget_everything_fits() -> None:
    Ledger().reserve(Role.TASK, [(Usage(10**9, 10**9), None)] * 1000, math.inf)


def test_what_was_charged_and_what_was_paid_are_kept_apart() -> None:
    ledger = Ledger(Budget())
    spend = Spend.of(Role.TASK, Usage(1, 2), 0.5)
    ledger.charge(spend, Spend())
    ledger.charge(spend, spend)
    assert (ledger.accounts.logical, ledger.accounts.billed) == (spend + spend, spend)
