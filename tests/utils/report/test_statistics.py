"""Intervals: known values, what they never do, and how often they hold the truth."""

from __future__ import annotations

import math
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.strategies import evaluations, item_rows, shares
from utils.errors import ErrorKind
from utils.records import Evaluation, Interval, ItemScore, Score
from utils.report.statistics import Z95, interval, interval_of, paired_gain, paired_saving

graded = st.lists(shares, min_size=1, max_size=40)
binary = st.lists(st.sampled_from([0.0, 1.0]), min_size=1, max_size=60)


def items(*values: float | None) -> list[ItemScore]:
    return [
        ItemScore(f"e{i}", error=ErrorKind.TRANSIENT) if value is None else ItemScore(f"e{i}", "a", Score(value))
        for i, value in enumerate(values)
    ]


def wilson(right: int, n: int) -> tuple[float, float]:
    """The formula of the paper, for yes-or-no items."""
    p, z2 = right / n, Z95 * Z95
    centre = (right + z2 / 2) / (n + z2)
    half = Z95 * math.sqrt(n) / (n + z2) * math.sqrt(p * (1 - p) + z2 / (4 * n))
    return centre - half, centre + half


# --------------------------------------------------------------------------- one mean


@pytest.mark.parametrize(
    ("right", "n", "low", "high"),
    [
        (0, 10, 0.0, 0.2775),  # the tables of Newcombe, 1998, and of R's binom.wilson
        (1, 10, 0.0179, 0.4042),
        (5, 10, 0.2366, 0.7634),
        (10, 10, 0.7225, 1.0),
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_wilsons_interval_has_its_known_values(right: int, n: int, low: float, high: float) -> None:
    found = interval([1.0] * right + [0.0] * (n - right))
    assert (found.low, found.high) == (pytest.approx(low, abs=5e-5), pytest.approx(high, abs=5e-5))
    assert (found.mean, found.n, found.failed) == (right / n, n, 0)


@given(binary)
def test_graded_scores_that_are_0_or_1_give_wilsons_own_interval(values: list[float]) -> None:
    found = interval(values)
    low, high = wilson(int(sum(values)), len(values))
    assert found.low == pytest.approx(low, abs=1e-9)
    assert found.high == pytest.approx(high, abs=1e-9)


@given(graded)
def test_an_interval_holds_its_mean_and_stays_within_0_and_1(values: list[float]) -> None:
    found = interval(values)
    assert 0 <= found.low <= found.mean <= found.high <= 1


@given(graded)
def test_an_interval_always_has_a_width(values: list[float]) -> None:
    assert interval(values).low < interval(values).high


@given(st.lists(st.integers(0, 64).map(lambda part: part / 64), min_size=1, max_size=40))
def test_turning_all_scores_round_turns_the_interval_round(values: list[float]) -> None:
    found, turned = interval(values), interval([1 - value for value in values])
    assert turned.low == pytest.approx(1 - found.high, abs=1e-6)
    assert turned.high == pytest.approx(1 - found.low, abs=1e-6)


@given(binary)
def test_more_of_the_same_is_surer(values: list[float]) -> None:
    once, often = interval(values), interval(values * 4)
    assert often.high - often.low < once.high - once.low


@given(st.lists(shares, min_size=2, max_size=40))
def test_graded_scores_are_never_less_sure_than_yes_or_no_ones(values: list[float]) -> None:
    found = interval(values)
    n, p, z2 = len(values), found.mean, Z95 * Z95
    half = Z95 / (1 + z2 / n) * math.sqrt(p * (1 - p) / n + z2 / (4 * n * n))
    assert (found.high - found.low) / 2 <= half + 1e-9


def test_nothing_scored_is_nothing_known() -> None:
    found = interval([], failed=3)
    assert all(map(math.isnan, (found.mean, found.low, found.high)))
    assert (found.n, found.failed) == (0, 3)


@given(evaluations)
def test_the_interval_of_a_trial_leaves_its_failures_out(evaluation: Evaluation) -> None:
    found = interval_of(evaluation)
    assert (found.n, found.failed) == (len(evaluation.values), evaluation.failed)
    assert found.mean == pytest.approx(evaluation.mean, nan_ok=True)


def coverage(draw, truth: float, n: int, rounds: int = 1500) -> float:
    """How often the interval of n draws holds the truth."""
    held = 0
    for _ in range(rounds):
        found = interval([draw() for _ in range(n)])
        held += found.low <= truth <= found.high
    return held / rounds


@pytest.mark.parametrize("n", [20, 60])
@pytest.mark.parametrize("p", [0.1, 0.5, 0.8])
def test_the_interval_holds_the_truth_as_often_as_it_says(p: float, n: int) -> None:
    rng = Random(f"{p}{n}")
    assert coverage(lambda: float(rng.random() < p), p, n) == pytest.approx(0.95, abs=0.03)


@pytest.mark.parametrize(("a", "b"), [(2, 2), (5, 1), (0.5, 0.5)])
def test_the_interval_of_graded_scores_holds_the_truth_too(a: float, b: float) -> None:
    rng = Random(f"{a}{b}")
    assert coverage(lambda: rng.betavariate(a, b), a / (a + b), 40, 800) == pytest.approx(0.95, abs=0.03)


# --------------------------------------------------------------------------- a difference


def test_a_gain_is_that_of_the_pairs() -> None:
    found = paired_gain(items(0.0, 0.0, 1.0, 0.5), items(1.0, 0.0, 1.0, 0.75))
    assert (found.mean, found.n, found.failed) == (pytest.approx(0.3125), 4, 0)


def test_rows_that_one_of_the_two_did_not_answer_are_left_out() -> None:
    found = paired_gain(items(0.0, None, 1.0, 0.0), items(1.0, 1.0, None, 0.0))
    assert (found.mean, found.n, found.failed) == (0.5, 2, 2)


def test_rows_are_paired_by_name_and_not_by_place() -> None:
    before, after = items(0.0, 1.0, 0.5), items(1.0, 1.0, 0.5)
    assert paired_gain(before, after[::-1]) == paired_gain(before, after)


@given(item_rows, item_rows)
def test_a_gain_turned_round_is_a_loss(before: tuple[ItemScore, ...], after: tuple[ItemScore, ...]) -> None:
    gain, loss = paired_gain(before, after), paired_gain(after, before)
    assert gain.n == loss.n
    if gain.n:
        assert gain.mean == pytest.approx(-loss.mean, abs=1e-9)
        assert gain.low == pytest.approx(-loss.high, abs=1e-9)


@given(st.lists(st.tuples(shares, shares), min_size=1, max_size=30))
def test_a_gain_lies_in_its_interval_and_within_its_bounds(pairs: list[tuple[float, float]]) -> None:
    found = paired_gain(items(*(a for a, _ in pairs)), items(*(b for _, b in pairs)))
    assert -1 <= found.low <= found.mean <= found.high <= 1
    assert found.low < found.high


def test_no_difference_on_any_row_is_not_certainty() -> None:
    found = paired_gain(items(*[1.0] * 50), items(*[1.0] * 50))
    assert found.mean == 0
    assert found.high == -found.low == pytest.approx(Z95 / 50)


def test_one_row_says_nothing() -> None:
    found = paired_gain(items(0.0), items(1.0))
    assert found.low < 0 < found.high


def test_no_pair_is_no_gain_and_no_zero() -> None:
    found = paired_gain(items(None, 1.0), items(1.0, None))
    assert math.isnan(found.mean)
    assert (found.n, found.failed) == (0, 2)
    assert isinstance(paired_gain([], []), Interval)


def test_pairing_finds_a_gain_that_two_intervals_would_hide() -> None:
    before = [float(i % 2) for i in range(60)]
    after = [1.0 if i % 10 == 0 else value for i, value in enumerate(before)]
    assert paired_gain(items(*before), items(*after)).low > 0
    assert interval(after).low < interval(before).high


def test_equal_prompts_are_found_different_no_more_often_than_stated() -> None:
    rng = Random(5)
    found = [
        paired_gain(
            items(*(float(rng.random() < 0.7) for _ in range(50))),
            items(*(float(rng.random() < 0.7) for _ in range(50))),
        )
        for _ in range(800)
    ]
    wrong = sum(gain.low > 0 or gain.high < 0 for gain in found) / len(found)
    assert wrong == pytest.approx(0.05, abs=0.025)


def answers(*tokens: int | None) -> list[ItemScore]:
    """Items that took so many tokens; None was not answered."""
    return [
        ItemScore(str(i), None, error=ErrorKind.TIMEOUT)
        if each is None
        else ItemScore(str(i), "a", Score(1.0), tokens_out=each)
        for i, each in enumerate(tokens)
    ]


def test_a_saving_is_a_share_of_the_first_tokens_on_the_rows_that_both_answered() -> None:
    found = paired_saving(answers(*[100] * 40, None), answers(*[10, 30] * 20, 5))
    assert (found.mean, found.n, found.failed) == (pytest.approx(0.8), 40, 1)
    assert 0.7 < found.low < 0.8 < found.high < 0.9
    assert paired_saving(answers(10, 10), answers(30, 30)).mean == -2


def test_no_tokens_are_no_saving_and_no_error() -> None:
    assert math.isnan(paired_saving(answers(0, 0), answers(5, 5)).mean)
    assert math.isnan(paired_saving([], []).mean)


def test_tokens_of_equal_prompts_are_found_different_no_more_often_than_stated() -> None:
    rng = Random(6)

    def drawn() -> list[ItemScore]:
        return answers(*(int(100 * rng.lognormvariate(0, 0.3)) for _ in range(50)))

    found = [paired_saving(drawn(), drawn()) for _ in range(800)]
    wrong = sum(saving.low > 0 or saving.high < 0 for saving in found) / len(found)
    assert wrong == pytest.approx(0.05, abs=0.025)
