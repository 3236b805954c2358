"""The money of a run: its limit holds whatever comes, and is filled by what was paid, not by what might have been."""

from __future__ import annotations

from random import Random

from hypothesis import given
from hypothesis import strategies as st

from local.purse import Purse


def answered(purse: Purse) -> list[tuple[object, bool]]:
    return list(purse.answers())


def test_a_try_is_sent_when_the_most_it_can_cost_fits() -> None:
    purse = Purse(1.0)
    for who in "abc":
        purse.ask(who, 0.4)
    assert answered(purse) == [("a", True), ("b", True)]
    purse.settle("a", 0.4, 0.1)
    assert answered(purse) == [("c", True)]


def test_it_is_empty_only_where_nothing_is_on_its_way_and_one_try_does_not_fit() -> None:
    purse = Purse(1.0)
    purse.ask("a", 0.9)
    purse.ask("b", 0.9)
    assert answered(purse) == [("a", True)]
    assert not purse.is_empty
    purse.settle("a", 0.9, 0.2)
    assert answered(purse) == [("b", False)]
    assert purse.is_empty
    purse.ask("c", 0.0)
    assert answered(purse) == [("c", False)], "nothing is granted any more"


def test_the_first_to_ask_is_the_first_to_be_answered_however_little_a_later_one_wants() -> None:
    purse = Purse(1.0)
    for who, usd in (("a", 0.5), ("b", 0.8), ("c", 0.1)):
        purse.ask(who, usd)
    assert answered(purse) == [("a", True)]
    purse.settle("a", 0.5, 0.0)
    assert answered(purse) == [("b", True), ("c", True)]


def test_what_a_lost_worker_had_on_its_way_counts_as_paid_and_it_waits_no_more() -> None:
    purse = Purse(1.0)
    purse.ask("a", 0.75)
    purse.ask("a", 0.75)
    assert answered(purse) == [("a", True)]
    purse.forget("a")
    purse.ask("b", 0.25)
    assert answered(purse) == [("b", True)]
    assert purse.paid == 0.75


def test_without_a_limit_everything_is_granted() -> None:
    purse = Purse(None)
    purse.ask("a", 1e9)
    assert answered(purse) == [("a", True)]


@given(st.integers(0, 2**32), st.integers(1, 8))
def test_the_limit_holds_and_all_but_one_worst_try_of_it_can_be_spent(seed: int, workers: int) -> None:
    """Each call costs up to its ceiling; any of those on their way may be the next to come back."""
    rng, purse, ceiling = Random(seed), Purse(0.1), 0.002
    on_its_way: list[object] = []
    for who in range(workers):
        purse.ask(who, ceiling)
    while not purse.is_empty:
        on_its_way += [who for who, granted in purse.answers() if granted]
        if on_its_way:
            who = on_its_way.pop(rng.randrange(len(on_its_way)))
            purse.settle(who, ceiling, ceiling * rng.random())
            purse.ask(who, ceiling)
    assert 0.1 - ceiling < purse.paid <= 0.1
