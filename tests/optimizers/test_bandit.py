"""The bandit of `thompson`: P(X > Y), who gets the traffic, who is retired, what a newcomer starts with, its state."""

from __future__ import annotations

import math
from itertools import pairwise
from random import Random
from statistics import median

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from optimizers.bandit import Arm, Bandit, density, exceeds, inherited

CLEAR = (0.9, 0.6, 0.5, 0.4, 0.3)  # true success rates of five prompts
CLOSE = (0.8, 0.6, 0.5, 0.4, 0.3)
counts = st.one_of(st.integers(1, 60).map(float), st.floats(0.1, 60))


def nobody(best: Arm) -> str | None:
    return None


def simulate(rates: tuple[float, ...], steps: int, seed: int, evolve_every: int = 0) -> tuple[Bandit, list[int]]:
    """A bandit on prompts of known success rates, and the arm played at each step."""
    rng = Random(seed)
    bandit = Bandit()
    for rate in rates:
        bandit.add(f"prompt with rate {rate}")
    played = []
    for step in range(1, steps + 1):
        arm = bandit.select(rng).arm
        number = int(arm.name.removeprefix("arm"))
        bandit.update(arm.name, float(rng.random() < rates[number]))
        played.append(number)
        if evolve_every and step % evolve_every == 0:
            bandit.evolve(nobody)
    return bandit, played


# --------------------------------------------------------------------------- P(X > Y)


@pytest.mark.parametrize(
    ("parameters", "chance"),
    [
        ((8, 4, 5, 7), 0.9008097166),
        ((3, 9, 20, 5), 0.0004111322),
        ((50, 50, 60, 40), 0.0764623724),
        ((300, 700, 320, 680), 0.1666207713),
        ((2.5, 3.5, 4.2, 1.7), 0.1301710078),
    ],
)
def test_known_probabilities_to_nine_digits(parameters: tuple[float, ...], chance: float) -> None:
    a1, b1, a2, b2 = map(float, parameters)
    assert exceeds(a1, b1, a2, b2) == pytest.approx(chance, abs=1e-9)


@given(a=counts, b=counts)
def test_a_uniform_one_is_greater_with_the_chance_of_a_failure(a: float, b: float) -> None:
    assert exceeds(1.0, 1.0, a, b) == pytest.approx(b / (a + b), abs=1e-9)


@settings(max_examples=60)
@given(a1=counts, b1=counts, a2=counts, b2=counts)
def test_all_symmetric_forms_agree(a1: float, b1: float, a2: float, b2: float) -> None:
    chance = exceeds(a1, b1, a2, b2)
    assert exceeds(a2, b2, a1, b1) == pytest.approx(1.0 - chance, abs=1e-9)
    assert exceeds(b2, a2, b1, a1) == pytest.approx(chance, abs=1e-9)
    assert exceeds(a1 + 1e-12, b1 + 1e-12, a2 + 1e-12, b2 + 1e-12) == pytest.approx(chance, abs=1e-8)  # the other way


def test_it_agrees_with_many_draws() -> None:
    rng = Random(1)
    wins = sum(rng.betavariate(0.4, 2.3) > rng.betavariate(1.7, 6.1) for _ in range(40_000))
    assert exceeds(0.4, 2.3, 1.7, 6.1) == pytest.approx(wins / 40_000, abs=0.01)


def test_a_density_has_area_one() -> None:
    points = [(i + 0.5) / 2000 for i in range(2000)]
    assert sum(density(Arm("a", "", 8.0, 4.0), points)) / 2000 == pytest.approx(1.0, abs=1e-6)


# --------------------------------------------------------------------------- traffic


@pytest.mark.parametrize(("rates", "measured"), [(CLEAR, 0.78), (CLOSE, 0.64)], ids=["gap .3", "gap .2"])
def test_the_best_of_five_gets_60_to_80_percent_of_the_first_hundred(rates: tuple[float, ...], measured: float) -> None:
    shares = [simulate(rates, 100, seed)[1].count(0) / 100 for seed in range(500)]
    mean = sum(shares) / len(shares)
    assert 0.60 <= mean <= 0.80
    assert mean == pytest.approx(measured, abs=0.03)


def test_the_regret_of_thirty_days_is_small() -> None:
    lost = [sum(0.9 - CLEAR[number] for number in simulate(CLEAR, 300, seed)[1]) for seed in range(200)]
    assert sum(lost) / len(lost) == pytest.approx(11.1, abs=1.5)


def test_the_same_seed_gives_the_same_trace() -> None:
    assert simulate(CLOSE, 100, 3, 10) == simulate(CLOSE, 100, 3, 10)
    assert simulate(CLOSE, 100, 3, 10)[1] != simulate(CLOSE, 100, 4, 10)[1]


def test_the_greatest_draw_is_played() -> None:
    bandit, _ = simulate(CLOSE, 30, 1)
    selection = bandit.select(Random(5))
    assert selection.draws[selection.arm.name] == max(selection.draws.values())


def test_late_rewards_of_a_retired_arm_count() -> None:
    bandit = Bandit()
    first = bandit.add("one")
    bandit.add("two")
    assert first
    first.alive = False
    assert bandit.update("arm0", 1.0).alpha == 2.0
    assert [bandit.select(Random(i)).arm.name for i in range(9)] == ["arm1"] * 9


@pytest.mark.parametrize("reward", [-0.1, 1.1, math.nan])
def test_a_reward_outside_its_range_is_refused(reward: float) -> None:
    bandit = Bandit()
    bandit.add("one")
    with pytest.raises(ValueError, match="outside"):
        bandit.update("arm0", reward)


def test_graded_rewards_count_in_parts() -> None:
    bandit = Bandit()
    bandit.add("one")
    arm = bandit.update("arm0", 0.25)
    assert (arm.alpha, arm.beta, arm.pulls) == (1.25, 1.75, 1)


# --------------------------------------------------------------------------- evolution


def test_the_true_best_is_hardly_ever_retired() -> None:
    for rates in (CLEAR, CLOSE):
        lost = [not simulate(rates, 300, seed, 10)[0].arms["arm0"].alive for seed in range(150)]
        assert sum(lost) / len(lost) < 0.05


def test_the_worst_arm_is_gone_before_the_ninetieth_interaction() -> None:
    gone = []
    for seed in range(60):
        at = next((t for t in range(10, 310, 10) if not simulate(CLOSE, t, seed, 10)[0].arms["arm4"].alive), 999)
        gone.append(at)
    assert median(gone) <= 90


def hopeless() -> Bandit:
    """A good arm with much evidence, and three that are ever worse."""
    bandit = Bandit(min_arms=2)
    for name, alpha, beta in (("good", 41.0, 11.0), ("bad", 3.0, 12.0), ("worse", 1.0, 14.0), ("worst", 1.0, 30.0)):
        arm = bandit.add(name)
        assert arm
        arm.alpha, arm.beta, arm.pulls = alpha, beta, round(alpha + beta - 2)
    return bandit


def test_the_weakest_go_first_and_the_least_portfolio_stays() -> None:
    evolution = hopeless().evolve(nobody)
    assert [arm.text for arm in evolution.retired] == ["worst", "worse"]
    chances = [evolution.chances[arm.name] for arm in evolution.retired]
    assert all(low <= high for low, high in pairwise(chances))
    assert max(chances) < 0.05


def test_an_arm_is_not_retired_before_its_least_pulls() -> None:
    bandit = hopeless()
    bandit.arms["arm3"].pulls = 2
    assert "worst" not in [arm.text for arm in bandit.evolve(nobody).retired]


def test_as_many_mutations_enter_as_arms_were_retired_and_one_while_there_is_room() -> None:
    bandit = hopeless()
    texts = iter("abcdefgh")
    assert [arm.text for arm in bandit.evolve(lambda best: next(texts)).born] == ["a", "b"]
    calm = Bandit(max_arms=3)
    calm.add("only")
    born = [arm.text for _ in range(5) for arm in calm.evolve(lambda best: next(texts)).born]
    assert born == ["c", "d"]


def test_a_mutation_that_was_an_arm_before_is_asked_for_again_three_times() -> None:
    bandit = hopeless()
    asked = []

    def stubborn(best: Arm) -> str:
        asked.append(best.text)
        return "  WORST "

    assert bandit.evolve(stubborn).born == ()
    assert asked == ["good"] * 6  # two arms were retired


@given(alpha=st.floats(1, 500), beta=st.floats(1, 500))
def test_a_newcomer_has_its_parents_mean_and_little_evidence(alpha: float, beta: float) -> None:
    parent = Arm("p", "", alpha, beta)
    a, b = inherited(parent, 0.2)
    assert a / (a + b) == pytest.approx(min(max(parent.mean, 0.05), 0.95), abs=1e-9)
    assert 2.0 - 1e-9 <= a + b <= 10.0 + 1e-9


def test_the_state_is_json_and_comes_back_whole() -> None:
    bandit, _ = simulate(CLOSE, 55, 1, 10)
    again = Bandit.from_json(bandit.to_json())
    assert again == bandit
    assert again.select(Random(2)) == bandit.select(Random(2))
