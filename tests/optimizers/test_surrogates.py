"""What every surrogate keeps, the exact numbers of the linear model, and how the three rank on known landscapes.

The landscapes are ours (N = 50, 50 noisy items a trial): `additive`, where each example has its own effect, and
`coverage`, where examples teach overlapping skills and repeated ones add nothing. Both are drawn anew for every seed.
"""

from __future__ import annotations

import math
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from random import Random
from statistics import mean

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from optimizers import surrogates
from optimizers.surrogates import (
    Chosen,
    LinearThompson,
    Observed,
    RandomSets,
    Surrogate,
    TPESets,
    columnar_index,
    next_unused,
    stratified,
)
from utils.errors import UsageError

KINDS: dict[str, Callable[[int, int, int], Surrogate]] = {
    "random": RandomSets,
    "linear": LinearThompson,
    "tpe": TPESets,
}
Truth = Callable[[Chosen], float]

N, ITEMS = 50, 50


def additive(seed: int) -> Truth:
    rng = Random(f"additive {seed}")
    effects = [rng.gauss(0, 0.05) for _ in range(N)]
    return lambda chosen: min(0.98, max(0.02, 0.5 + math.fsum(effects[i] for i in chosen)))


def coverage(seed: int) -> Truth:
    rng = Random(f"coverage {seed}")
    gains = [rng.random() for _ in range(12)]
    skills = [frozenset(skill for skill in range(12) if rng.random() < 0.2) for _ in range(N)]

    def truth(chosen: Chosen) -> float:
        taught = frozenset[int]().union(*(skills[i] for i in chosen))
        return 0.4 + 0.5 * math.fsum(gains[skill] for skill in taught) / math.fsum(gains)

    return truth


def search(surrogate: Surrogate, truth: Truth, seed: int, trials: int = 40) -> list[Chosen]:
    """The sets tried, each told its score on noisy items."""
    rng = Random(seed)
    tried = []
    for _ in range(trials):
        chosen = surrogate.ask(rng)
        right = sum(rng.random() < truth(chosen) for _ in range(ITEMS))
        surrogate.tell(chosen, right / ITEMS, ITEMS)
        tried.append(chosen)
    return tried


def found(kind: str, landscape: Callable[[int], Truth], seeds: int) -> float:
    """The mean true score of the set that is believed best, over the seeds."""
    picks = []
    for seed in range(seeds):
        surrogate, truth = KINDS[kind](N, 2, 7), landscape(seed)
        picks.append(truth(max(search(surrogate, truth, seed), key=surrogate.posterior_mean)))
    return mean(picks)


# --------------------------------------------------------------------------- how they rank


@pytest.mark.parametrize("landscape", [additive, coverage])
def test_linear_beats_random_over_40_seeds(landscape: Callable[[int], Truth]) -> None:
    assert found("linear", landscape, 40) > found("random", landscape, 40)


def test_tpe_lies_between_random_and_linear_over_10_seeds() -> None:
    assert found("linear", additive, 10) >= found("tpe", additive, 10) >= found("random", additive, 10)


@pytest.mark.trial
@pytest.mark.parametrize("landscape", [additive, coverage])
def test_linear_then_tpe_then_random_over_40_seeds(landscape: Callable[[int], Truth]) -> None:
    assert found("linear", landscape, 40) >= found("tpe", landscape, 40) >= found("random", landscape, 40)


# --------------------------------------------------------------------------- what all keep


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=25)
@given(size=st.integers(2, 30), low=st.integers(1, 4), extra=st.integers(0, 5), seed=st.integers(0, 2**32))
def test_sets_are_within_bounds_and_repeat_nobody(kind: str, size: int, low: int, extra: int, seed: int) -> None:
    low = min(low, size)
    surrogate = KINDS[kind](size, low, low + extra)
    for chosen in search(surrogate, lambda chosen: 0.5, seed, trials=8):
        assert low <= len(chosen) <= min(low + extra, size)
        assert len(set(chosen)) == len(chosen)
        assert set(chosen) <= set(range(size))


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_seed_tries_the_same_sets(kind: str) -> None:
    first, again, other = (search(KINDS[kind](N, 2, 7), additive(1), seed, trials=15) for seed in (3, 3, 4))
    assert first == again
    assert first != other


@pytest.mark.parametrize("kind", KINDS)
def test_another_process_tries_the_same_sets(kind: str) -> None:
    script = (
        "from random import Random; from optimizers.surrogates import *\n"
        f"s = {KINDS[kind].__name__}(20, 2, 5); rng = Random(9); out = []\n"
        "for _ in range(12):\n    c = s.ask(rng); s.tell(c, sum(c) / 100, 50); out.append(c)\nprint(out)"
    )
    root = Path(surrogates.__file__).parents[1]
    outputs = [
        subprocess.run(
            [sys.executable, "-c", script],
            cwd=root,
            env={"PYTHONHASHSEED": hash_seed, "PYTHONDONTWRITEBYTECODE": "1"},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for hash_seed in ("1", "2")
    ]
    assert outputs[0] == outputs[1] != ""


@pytest.mark.parametrize("kind", KINDS)
def test_a_pool_below_max_clips_it(kind: str) -> None:
    sizes = {len(chosen) for chosen in search(KINDS[kind](3, 2, 7), lambda chosen: 0.5, 0, trials=20)}
    assert sizes == {2, 3}


@pytest.mark.parametrize("kind", KINDS)
def test_a_pool_below_min_is_refused(kind: str) -> None:
    with pytest.raises(UsageError, match="1 training examples, fewer than min_examples 2; add training rows or lower"):
        KINDS[kind](1, 2, 7)


@pytest.mark.parametrize(("low", "high"), [(0, 3), (4, 3)])
def test_bounds_that_make_no_sense_are_refused(low: int, high: int) -> None:
    with pytest.raises(UsageError, match="expected 1 <= min_examples <= max_examples"):
        RandomSets(10, low, high)


@pytest.mark.parametrize("kind", KINDS)
def test_a_trial_without_answers_says_nothing(kind: str) -> None:
    surrogate, rng = KINDS[kind](10, 2, 3), Random(0)
    first, second = surrogate.ask(rng), surrogate.ask(rng)
    surrogate.tell(first, math.nan, 0)
    assert surrogate.posterior_mean(first) == 0.0
    surrogate.tell(second, 0.5, 1_000_000)
    assert surrogate.posterior_mean(second) == pytest.approx(0.5, abs=0.01)
    assert len(surrogate.ask(rng)) in (2, 3)


@pytest.mark.parametrize("kind", KINDS)
def test_a_set_that_was_not_asked_may_be_told(kind: str) -> None:
    surrogate = KINDS[kind](10, 2, 3)
    surrogate.tell((0, 1), 0.75, 100)
    assert surrogate.posterior_mean((0, 1)) == pytest.approx(0.75, abs=0.02)
    assert len(surrogate.ask(Random(0))) in (2, 3)


def test_what_was_seen_is_pooled_by_items() -> None:
    observed = Observed()
    observed.tell((1, 2), 0.5, 10)
    observed.tell((1, 2), 1.0, 30)
    observed.tell((3, 4), 0.0, 40)
    assert observed.posterior_mean((1, 2)) == pytest.approx(0.875)
    assert observed.posterior_mean((2, 1)) == pytest.approx(35 / 80), "another order is another prompt"


# --------------------------------------------------------------------------- linear


def test_the_linear_posterior_is_that_of_the_gaussian_process_with_the_same_kernel() -> None:
    # the same model in its dual form: y ~ N(0, K + S), E[f*] = k*' (K + S)^-1 y
    surrogate = LinearThompson(8, 2, 4)
    trials = [((0, 1), 0.6, 50), ((2, 3, 4), 0.4, 20), ((1, 5, 6, 7), 0.7, 50), ((3, 0), 0.55, 10)]
    for chosen, score, n in trials:
        surrogate.tell(chosen, score, n)

    def kernel(a: Chosen, b: Chosen) -> float:
        return 2.0**2 + 0.1**2 * len(a) * len(b) + 0.08**2 * len(set(a) & set(b))

    sets = [chosen for chosen, _, _ in trials]
    K = np.array([[kernel(a, b) for b in sets] for a in sets])
    S = np.diag([0.25 / n + 0.03**2 for _, _, n in trials])
    weights = np.linalg.solve(K + S, [score for _, score, _ in trials])
    for wanted in [(0, 1), (1, 0), (2, 7), (4, 5, 6, 7)]:
        expected = float(np.array([kernel(wanted, seen) for seen in sets]) @ weights)
        assert surrogate.posterior_mean(wanted) == pytest.approx(expected, abs=1e-9)


def test_draws_have_the_posteriors_mean_and_spread() -> None:
    surrogate, rng = LinearThompson(4, 1, 3), Random(0)
    surrogate.ask(rng)
    surrogate.tell((0, 1), 0.9, 50)
    surrogate.tell((2,), 0.3, 50)
    m, precision, column = surrogate._fit()
    draws = np.array([[weights[i] for i in range(4)] for _, weights in (surrogate._draw(rng) for _ in range(4000))])
    places = [column[i] for i in range(4)]
    covariance = np.linalg.inv(precision)[np.ix_(places, places)]
    assert draws.mean(axis=0) == pytest.approx(m[places], abs=0.006)
    assert np.cov(draws.T) == pytest.approx(covariance, abs=5e-4)


@given(st.lists(st.floats(-1, 1), min_size=3, max_size=7), st.floats(-0.5, 0.5))
def test_the_best_set_of_a_sample_is_the_exact_maximiser(weights: list[float], c: float) -> None:
    from itertools import combinations

    surrogate = LinearThompson(len(weights), 2, 3)

    def value(chosen: Chosen) -> float:
        return c * len(chosen) + math.fsum(weights[i] for i in chosen)

    best = max(value(chosen) for k in (2, 3) for chosen in combinations(range(len(weights)), k))
    assert value(surrogate._best_set((c, dict(enumerate(weights))))) == pytest.approx(best)


def test_a_large_pool_is_cut_to_200_members_in_proportion_to_the_strata() -> None:
    strata = ["rare" if i % 10 == 0 else "common" for i in range(1000)]
    surrogate, rng = LinearThompson(1000, 2, 7, strata=strata), Random(0)
    seen: set[int] = set()
    for _ in range(60):
        chosen = surrogate.ask(rng)
        seen |= set(chosen)
        surrogate.tell(chosen, 0.5, 50)
    members = surrogate._members
    assert members is not None
    assert len(members) == 200
    assert sum(strata[i] == "rare" for i in members) == 20
    assert seen <= set(members)


def test_strata_that_do_not_divide_get_the_largest_remainders() -> None:
    picks = stratified(["a"] * 5 + ["b"] * 3 + ["c"], 4, Random(0))  # shares 2.2, 1.3, 0.4
    assert ["aaaaabbbc"[i] for i in picks] == ["a", "a", "b", "c"]


# --------------------------------------------------------------------------- TPE


def test_tpe_over_columns_shows_the_combo_that_scores() -> None:
    rows = [{"kind": "good" if i % 5 == 0 else f"bad{i % 5}", "text": f"row {i}"} for i in range(40)]
    groups = columnar_index(rows)
    surrogate = TPESets(40, 2, 4, groups=groups)
    tried = search(surrogate, lambda chosen: sum(i % 5 == 0 for i in chosen) / len(chosen), seed=0)
    share = [mean(i % 5 == 0 for chosen in part for i in chosen) for part in (tried[:10], tried[-10:])]
    assert share[1] > share[0]


def test_a_combo_with_one_member_is_filled_up_from_the_pool() -> None:
    surrogate, rng = TPESets(5, 4, 5, groups={"a": (0,), "b": (1, 2, 3, 4)}), Random(1)
    for _ in range(30):
        chosen = surrogate.ask(rng)
        assert len(set(chosen)) == len(chosen) >= 4
        surrogate.tell(chosen, float(0 in chosen), 50)


def test_a_repeated_pick_moves_to_the_next_unused_member_around_the_end() -> None:
    assert next_unused((3, 5, 8), 1, used=()) == 5
    assert next_unused((3, 5, 8), 1, used=(5,)) == 8
    assert next_unused((3, 5, 8), 1, used=(5, 8)) == 3


def test_without_optuna_tpe_is_refused_with_the_way_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(UsageError, match=r"pip install 'optuna>=4\.0', or use surrogate=linear"):
        TPESets(10, 2, 3)


# --------------------------------------------------------------------------- columns


def test_categorical_columns_are_joined_to_combos() -> None:
    rows = [
        {"id": "1", "level": "easy", "type": "x"},
        {"id": "2", "level": "hard", "type": "y"},
        {"id": "3", "level": "easy", "type": "x"},
    ]
    assert columnar_index(rows) == {"level=easy | type=x": (0, 2), "level=hard | type=y": (1,)}


@pytest.mark.parametrize(
    "values",
    [
        pytest.param(["a", "a", "a"], id="one value"),
        pytest.param(["a", "b", "c"], id="a value a row"),
        pytest.param([f"v{i % 26}" for i in range(60)], id="more than 25 values"),
        pytest.param(["a", "b", "a" * 121, "a"], id="a long value"),
        pytest.param(["a", "b", None, "a"], id="missing in a row"),
        pytest.param(["a", "b", 3, "a"], id="not text"),
        pytest.param([], id="no rows"),
    ],
)
def test_other_columns_are_left_out(values: list[object]) -> None:
    assert columnar_index([{"column": value} for value in values]) == {}


def test_a_column_that_some_rows_lack_is_left_out() -> None:
    assert columnar_index([{"a": "x"}, {"a": "y"}, {"b": "x"}, {"a": "x"}]) == {}


def test_importing_the_module_imports_neither_numpy_nor_optuna() -> None:
    code = "import sys, optimizers.surrogates; print({'numpy', 'optuna'} & set(sys.modules))"
    root = Path(surrogates.__file__).parents[1]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
