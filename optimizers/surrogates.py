"""Which training examples to try next as demos: three models of how a set of examples scores.

A surrogate proposes ordered sets of pool indices (`ask`), is told how each scored (`tell`) and says what it now
believes of a set (`posterior_mean`). It knows neither prompts nor models; rendering, scoring and the final choice are
`few_shot`'s. All randomness comes from the `rng` given to `ask`: the same rng and the same tells give the same sets.

    RandomSets       uniform sets: the control
    LinearThompson   Thompson sampling of a Bayesian linear model; Russo et al., A Tutorial on Thompson Sampling, 2018
    TPESets          Tree-structured Parzen estimator, Bergstra et al., NeurIPS 2011; optuna's, which is an extra
"""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import TYPE_CHECKING, Any, Protocol

from utils.errors import UsageError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Vector = NDArray[np.float64]

Chosen = tuple[int, ...]  # indices of pool members in the order in which they are shown


class Surrogate(Protocol):
    """A model of how ordered sets of pool members score."""

    def ask(self, rng: Random) -> Chosen:
        """The set to try next: different members, between `min_k` and `max_k` of them."""

    def tell(self, chosen: Chosen, mean: float, n: int) -> None:
        """Take in that a set scored `mean` over `n` answered items. A trial without any (n = 0, NaN) says nothing."""

    def posterior_mean(self, chosen: Chosen) -> float:
        """The believed true mean score of a set."""


@dataclass(frozen=True)
class Pool:
    """How many examples there are, and how many may be shown. `max_k` is clipped to the pool."""

    size: int
    min_k: int
    max_k: int

    def __post_init__(self) -> None:
        if not 1 <= self.min_k <= self.max_k:
            problem = f"few_shot: min_examples {self.min_k} and max_examples {self.max_k}"
            raise UsageError(f"{problem}; expected 1 <= min_examples <= max_examples")
        if self.size < self.min_k:
            problem = f"few_shot: {self.size} training examples, fewer than min_examples {self.min_k}"
            raise UsageError(f"{problem}; add training rows or lower min_examples")
        object.__setattr__(self, "max_k", min(self.max_k, self.size))

    def draw(self, rng: Random, members: Sequence[int] | None = None) -> Chosen:
        """A uniform size, then a uniform ordered set of it, from all members or from those given."""
        k = rng.randint(self.min_k, self.max_k)
        return tuple(rng.sample(range(self.size) if members is None else members, k))


class Observed:
    """The scores seen so far: what a surrogate without a model of its own believes."""

    def __init__(self) -> None:
        self._totals: dict[Chosen, tuple[float, int]] = {}  # sum of scores, items

    def tell(self, chosen: Chosen, mean: float, n: int) -> None:
        if _says_something(mean, n):
            total, items = self._totals.get(chosen, (0.0, 0))
            self._totals[chosen] = (total + mean * n, items + n)

    def posterior_mean(self, chosen: Chosen) -> float:
        """The mean over all items of that set; of a set never tried, the mean of all; 0 before the first."""
        seen = [self._totals[chosen]] if chosen in self._totals else list(self._totals.values())
        items = sum(n for _, n in seen)
        return math.fsum(total for total, _ in seen) / items if items else 0.0


class RandomSets(Observed):
    """Uniform random sets; believes what it saw."""

    def __init__(self, size: int, min_k: int, max_k: int) -> None:
        super().__init__()
        self.pool = Pool(size, min_k, max_k)

    def ask(self, rng: Random) -> Chosen:
        return self.pool.draw(rng)


# --------------------------------------------------------------------------- linear


class LinearThompson:
    """Thompson sampling of an exact Bayesian linear model of the members shown.

        y = mu + sum_i w_i z_i + c k + noise        z_i: member i is shown; k: how many are
        w_i ~ N(0, .08^2)   mu ~ N(0, 2^2)   c ~ N(0, .1^2)   noise ~ N(0, .25/n + .03^2)

    The noise is the most that a mean of n scores in [0, 1] can have, and what the model cannot express. Order is not
    modelled, so it is drawn. Of a pool beyond 400 only 200 members are considered, stratified by `strata` (a label a
    member, such as its target): 40 trials of 7 cannot tell more apart.
    """

    W_SD = 0.08
    MU_SD = 2.0
    C_SD = 0.1
    MISFIT_SD = 0.03
    LARGE_POOL = 400
    PRESELECTED = 200

    def __init__(
        self, size: int, min_k: int, max_k: int, *, startup: int = 5, strata: Sequence[Hashable] | None = None
    ) -> None:
        self.pool = Pool(size, min_k, max_k)
        self.startup = startup  # random sets before the first draw from the posterior
        self.strata = strata
        self._asked = 0
        self._members: list[int] | None = None  # considered; chosen at the first `ask`, whose rng decides
        self._trials: list[tuple[Chosen, float, int]] = []
        self._posterior: tuple[Vector, Vector, dict[int, int]] | None = None

    def ask(self, rng: Random) -> Chosen:
        if self._members is None:
            self._members = self._preselect(rng)
        self._asked += 1
        if self._asked <= self.startup or not self._trials:
            return self.pool.draw(rng, self._members)
        chosen = list(self._best_set(self._draw(rng)))
        rng.shuffle(chosen)
        return tuple(chosen)

    def tell(self, chosen: Chosen, mean: float, n: int) -> None:
        if _says_something(mean, n):
            self._trials.append((chosen, mean, n))
            self._posterior = None

    def posterior_mean(self, chosen: Chosen) -> float:
        """The model's mean score of a set, whether it was tried or not; 0, the prior's, before the first tell."""
        if not self._trials:
            return 0.0
        m, _, column = self._fit()
        shown = [column[i] for i in set(chosen) if i in column]  # a member outside the model has mean weight 0
        return float(m[0] + m[1] * len(chosen) + m[shown].sum())

    def _preselect(self, rng: Random) -> list[int]:
        if self.pool.size <= self.LARGE_POOL:
            return list(range(self.pool.size))
        strata = self.strata or [""] * self.pool.size
        return stratified(strata, max(self.PRESELECTED, self.pool.max_k), rng)

    def _fit(self) -> tuple[Vector, Vector, dict[int, int]]:
        """Mean m and precision Lambda of (mu, c, w_1, ...), and the column of each member; fitted once a tell."""
        if self._posterior is None:
            np = _numpy()
            shown = {i for chosen, _, _ in self._trials for i in chosen}
            members = sorted(shown | set(self._members or ()))
            column = {member: position for position, member in enumerate(members, start=2)}
            X = np.zeros((len(self._trials), 2 + len(members)))
            X[:, 0] = 1.0
            for row, (chosen, _, _) in zip(X, self._trials, strict=True):
                row[1] = len(chosen)
                row[[column[i] for i in chosen]] = 1.0
            y = np.array([mean for _, mean, _ in self._trials])
            s2 = np.array([0.25 / n + self.MISFIT_SD**2 for _, _, n in self._trials])
            tau = np.array([self.MU_SD, self.C_SD, *[self.W_SD] * len(members)])
            precision = (X.T / s2) @ X + np.diag(1 / tau**2)  # Lambda = X' S^-1 X + diag(1/tau^2)
            m = np.linalg.solve(precision, X.T @ (y / s2))  # m = Lambda^-1 X' S^-1 y
            self._posterior = (m, precision, column)
        return self._posterior

    def _draw(self, rng: Random) -> tuple[float, dict[int, float]]:
        """One sample of (c, w_i) from N(m, Lambda^-1)."""
        np = _numpy()
        m, precision, column = self._fit()
        z = np.array([rng.gauss(0, 1) for _ in m])
        sample = m + np.linalg.solve(np.linalg.cholesky(precision).T, z)  # Lambda = L L', so L'^-1 z ~ N(0, Lambda^-1)
        return float(sample[1]), {member: float(sample[position]) for member, position in column.items()}

    def _best_set(self, sample: tuple[float, dict[int, float]]) -> Chosen:
        """The exact maximiser of a linear sample: for each k the k largest weights, then the best k."""
        c, weights = sample
        ranked = sorted(weights, key=lambda member: (-weights[member], member))
        sizes = range(self.pool.min_k, self.pool.max_k + 1)
        best = max(sizes, key=lambda k: c * k + math.fsum(weights[i] for i in ranked[:k]))  # ties: the fewest
        return tuple(ranked[:best])


def _numpy() -> Any:
    """numpy with one BLAS thread: matrices of 100 x 100 gain nothing from more, and workers would fight over cores."""
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    import numpy

    return numpy


def stratified(strata: Sequence[Hashable], count: int, rng: Random) -> list[int]:
    """`count` positions, sorted, in proportion to the strata (largest remainders), drawn uniformly within each."""
    groups: dict[Hashable, list[int]] = {}
    for position, stratum in enumerate(strata):
        groups.setdefault(stratum, []).append(position)
    shares = {stratum: count * len(group) / len(strata) for stratum, group in groups.items()}
    quotas = {stratum: math.floor(share) for stratum, share in shares.items()}
    largest = sorted(groups, key=lambda stratum: quotas[stratum] - shares[stratum])  # stable: ties by appearance
    for stratum in largest[: count - sum(quotas.values())]:
        quotas[stratum] += 1
    return sorted(i for stratum, group in groups.items() for i in rng.sample(group, min(quotas[stratum], len(group))))


# --------------------------------------------------------------------------- TPE


class TPESets(Observed):
    """optuna's TPE over the size and one slot a shown member.

    A slot is a combo of column values and a member of that combo (modulo its size), so that what is learnt of a combo
    serves all its members; without `groups` (see `columnar_index`) a slot is a member. A repeated pick moves on to the
    next unused member of the combo, then of the pool; TPE is told the score of the set as shown, under the parameters
    it proposed.
    """

    def __init__(
        self,
        size: int,
        min_k: int,
        max_k: int,
        *,
        startup: int = 5,
        groups: Mapping[str, Sequence[int]] | None = None,
    ) -> None:
        super().__init__()
        self.pool = Pool(size, min_k, max_k)
        self.startup = startup  # random sets before the first from the estimator
        self.groups = groups or {}
        self._optuna = _import_optuna()
        self._study: Any = None  # made at the first `ask`, whose rng gives its seed
        self._open: dict[Chosen, list[Any]] = {}

    def ask(self, rng: Random) -> Chosen:
        if self._study is None:
            self._study = self._new_study(rng.getrandbits(32))
        trial = self._study.ask()
        chosen: list[int] = []
        for slot in range(trial.suggest_int("k", self.pool.min_k, self.pool.max_k)):
            chosen.append(self._fill(trial, slot, chosen))
        self._open.setdefault(tuple(chosen), []).append(trial)
        return tuple(chosen)

    def tell(self, chosen: Chosen, mean: float, n: int) -> None:
        super().tell(chosen, mean, n)
        if not self._open.get(chosen):  # a set that was not asked here
            return
        trial = self._open[chosen].pop(0)
        if _says_something(mean, n):
            self._study.tell(trial, mean)
        else:
            self._study.tell(trial, state=self._optuna.trial.TrialState.FAIL)

    def _fill(self, trial: Any, slot: int, used: Sequence[int]) -> int:
        everyone = range(self.pool.size)
        if not self.groups:
            return next_unused(everyone, trial.suggest_categorical(f"slot{slot}", everyone), used)
        combo = self.groups[trial.suggest_categorical(f"slot{slot}_combo", tuple(self.groups))]
        largest = max(map(len, self.groups.values()))
        position = trial.suggest_int(f"slot{slot}_member", 0, largest - 1) % len(combo)
        if set(combo) <= set(used):
            return next_unused(everyone, combo[position], used)
        return next_unused(combo, position, used)

    def _new_study(self, seed: int) -> Any:
        with warnings.catch_warnings():  # multivariate and group are marked experimental
            warnings.simplefilter("ignore", self._optuna.exceptions.ExperimentalWarning)
            sampler = self._optuna.samplers.TPESampler(
                multivariate=True, group=True, n_startup_trials=self.startup, seed=seed
            )
        self._optuna.logging.set_verbosity(self._optuna.logging.WARNING)  # it logs a line a study to stderr
        return self._optuna.create_study(direction="maximize", sampler=sampler)


def next_unused(members: Sequence[int], position: int, used: Sequence[int]) -> int:
    """The first member from `position` on, around the end, that is not used. There must be one."""
    around = (members[(position + offset) % len(members)] for offset in range(len(members)))
    return next(member for member in around if member not in used)


def columnar_index(rows: Sequence[Mapping[str, object]]) -> dict[str, tuple[int, ...]]:
    """The rows by their values in categorical columns: combo label to positions. Empty if there is no such column.

    A column is categorical if it is in all rows, always text of at most 120 characters, with 2 to 25 different values
    and fewer than there are rows. A label is every such column with its value, joined.
    """
    columns = [column for column in (rows[0] if rows else ()) if _is_categorical([row.get(column) for row in rows])]
    groups: dict[str, list[int]] = {}
    for position, row in enumerate(rows):
        label = " | ".join(f"{column}={row[column]}" for column in columns)
        groups.setdefault(label, []).append(position)
    return {label: tuple(group) for label, group in groups.items()} if columns else {}


def _is_categorical(values: Sequence[object]) -> bool:
    if not all(isinstance(value, str) and len(value) <= 120 for value in values):
        return False
    return 2 <= len(set(values)) <= min(25, len(values) - 1)


def _says_something(mean: float, n: int) -> bool:
    return n > 0 and math.isfinite(mean)


def _import_optuna() -> Any:
    try:
        import optuna
    except ImportError:
        problem = "few_shot: surrogate=tpe needs optuna, which is not installed"
        raise UsageError(f"{problem}; pip install 'optuna>=4.0', or use surrogate=linear") from None
    return optuna
