"""A portfolio of prompts under Thompson sampling, with retirement and renewal: usable on live traffic too.

Source: "Optimizing Prompts with Reinforcement Learning", a notebook on Thompson sampling and evolutionary prompt
optimization; the sampling itself is W. R. Thompson, "On the likelihood that one unknown probability exceeds another in
view of the evidence of two samples", 1933. Differs: P(X > Y) is exact for fractional counts as well, weak arms are
retired worst first and only after a few pulls, the portfolio keeps a least and a greatest size, and the state is JSON.

    select: draw theta ~ Beta(alpha, beta) for every arm alive; play the arm with the greatest
    update: alpha += reward; beta += 1 - reward                                         reward in [0, 1]
    evolve: best <- greatest posterior mean
            retire arms with P(arm > best) < threshold, worst first
            for each retired arm (for one at least while there is room): a mutation of best enters with
            Beta(m s, (1 - m) s), m the mean of best, s = inherit_strength * (alpha + beta) of best, within [2, 10]

The bandit knows texts, counts and nothing else. Rewards may come late and in any order.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from itertools import count
from random import Random
from typing import Any

STRENGTH = (2.0, 10.0)  # least and most pseudo-observations of a newcomer
CAUTION = (0.05, 0.95)  # a newcomer is never thought to be surer to fail or to succeed
TRIES = 3  # mutations asked for until one is new
MOST_TERMS = 2000  # of the exact sum; above it the quadrature is as good and faster
NEGLIGIBLE = 1e-18  # weight at which the quadrature ends


@dataclass
class Arm:
    """A prompt's text and what is known of its success rate: Beta(alpha, beta)."""

    name: str
    text: str
    alpha: float = 1.0
    beta: float = 1.0
    pulls: int = 0
    born: int = 0  # interactions before it entered
    parent: str = ""
    alive: bool = True

    @property
    def mean(self) -> float:
        """The posterior mean of its success rate."""
        return self.alpha / (self.alpha + self.beta)

    @property
    def deviation(self) -> float:
        """The standard deviation of what is believed of it."""
        return math.sqrt(self.mean * (1 - self.mean) / (self.alpha + self.beta + 1))


@dataclass(frozen=True)
class Selection:
    """An arm to play, and the draws that chose it."""

    arm: Arm
    draws: Mapping[str, float]


@dataclass(frozen=True)
class Evolution:
    """What one evolution did: P(arm > best) of every other arm, who left, who came."""

    best: Arm
    chances: Mapping[str, float]
    retired: tuple[Arm, ...] = ()
    born: tuple[Arm, ...] = ()


@dataclass
class Bandit:
    """Arms, and the rules by which they are chosen, retired and renewed."""

    threshold: float = 0.05  # P(arm > best) under which an arm is retired
    min_pulls: int = 3  # before an arm may be retired
    max_arms: int = 8  # alive at once
    min_arms: int = 2
    inherit_strength: float = 0.2  # share of its parent's evidence that a newcomer starts with
    prior: tuple[float, float] = (1.0, 1.0)  # of an arm without a parent
    arms: dict[str, Arm] = field(default_factory=dict)
    interactions: int = 0

    @property
    def alive(self) -> list[Arm]:
        """The arms that are played, the oldest first."""
        return [arm for arm in self.arms.values() if arm.alive]

    @property
    def best(self) -> Arm:
        """The greatest posterior mean of those alive; ties: more pulls, then older."""
        return max(self.alive, key=lambda arm: (arm.mean, arm.pulls, -arm.born))

    def add(self, text: str, parent: Arm | None = None) -> Arm | None:
        """A new arm, or None where the text was an arm before (case and blanks aside)."""
        if self.knows(text):
            return None
        alpha, beta = inherited(parent, self.inherit_strength) if parent else self.prior
        name = f"arm{len(self.arms)}"
        arm = Arm(name, text, alpha, beta, born=self.interactions, parent=parent.name if parent else "")
        self.arms[name] = arm
        return arm

    def knows(self, text: str) -> bool:
        """True where an arm, alive or retired, has this text."""
        return _normal(text) in {_normal(arm.text) for arm in self.arms.values()}

    def select(self, rng: Random, among: Collection[str] | None = None) -> Selection:
        """The arm with the greatest draw from its posterior; `among` keeps to some names."""
        playable = [arm for arm in self.alive if among is None or arm.name in among]
        draws = {arm.name: rng.betavariate(arm.alpha, arm.beta) for arm in playable}
        top = max(draws.values())
        tied = [arm for arm in playable if draws[arm.name] == top]
        return Selection(tied[0] if len(tied) == 1 else rng.choice(tied), draws)

    def update(self, name: str, reward: float) -> Arm:
        """The arm, wiser by one reward in [0, 1]. Rewards of retired arms count as well: they may come late."""
        if not 0.0 <= reward <= 1.0:
            raise ValueError(f"reward {reward} of {name} is outside [0, 1]")
        arm = self.arms[name]
        arm.alpha += reward
        arm.beta += 1.0 - reward
        arm.pulls += 1
        self.interactions += 1
        return arm

    def evolve(self, mutate: Callable[[Arm], str | None]) -> Evolution:
        """Retire the hopeless and ask for mutations of the best; `mutate` gives a text, or None for nothing."""
        best = self.best
        chances = {arm.name: exceeds(arm.alpha, arm.beta, best.alpha, best.beta) for arm in self.alive if arm != best}
        weak = [name for name in chances if chances[name] < self.threshold and self.arms[name].pulls >= self.min_pulls]
        retired = sorted((self.arms[name] for name in weak), key=lambda arm: chances[arm.name])
        retired = retired[: max(0, len(self.alive) - self.min_arms)]
        for arm in retired:
            arm.alive = False
        room = self.max_arms - len(self.alive)
        born = [self._renew(best, mutate) for _ in range(min(room, max(1, len(retired))))]
        return Evolution(best, chances, tuple(retired), tuple(arm for arm in born if arm))

    def _renew(self, best: Arm, mutate: Callable[[Arm], str | None]) -> Arm | None:
        for _ in range(TRIES):
            text = mutate(best)
            if text is None:
                return None
            if arm := self.add(text, best):
                return arm
        return None

    def to_json(self) -> str:
        """The whole state; `from_json` gives the same bandit back."""
        return json.dumps(asdict(self), ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str) -> Bandit:
        """The bandit whose state this is."""
        state: dict[str, Any] = json.loads(text)
        arms = {name: Arm(**arm) for name, arm in state.pop("arms").items()}
        return cls(**{**state, "prior": tuple(state["prior"])}, arms=arms)


def inherited(parent: Arm, strength: float) -> tuple[float, float]:
    """The prior of a newcomer: its parent's mean on a small part of its parent's evidence."""
    mean = _clamp(parent.mean, CAUTION)
    size = _clamp(strength * (parent.alpha + parent.beta), STRENGTH)
    return mean * size, (1.0 - mean) * size


def density(arm: Arm, points: Iterable[float]) -> list[float]:
    """The posterior density of an arm's success rate at points inside (0, 1): for a plot."""
    scale = _ln_beta(arm.alpha, arm.beta)
    a, b = arm.alpha - 1.0, arm.beta - 1.0
    return [math.exp(a * math.log(x) + b * math.log1p(-x) - scale) for x in points]


# --------------------------------------------------------------------------- P(X > Y)


@lru_cache(maxsize=1024)
def exceeds(a1: float, b1: float, a2: float, b2: float) -> float:
    """P(X > Y) for X ~ Beta(a1, b1) and Y ~ Beta(a2, b2), to about nine digits.

    One whole parameter makes it a finite sum; the four symmetric forms bring the smallest such one to the front:
    P(a1, b1, a2, b2) = 1 - P(a2, b2, a1, b1) = P(b2, a2, b1, a1).
    """
    forms = (
        (False, (a1, b1, a2, b2)),
        (True, (a2, b2, a1, b1)),
        (False, (b2, a2, b1, a1)),
        (True, (b1, a1, b2, a2)),
    )
    whole = [form for form in forms if form[1][0].is_integer() and form[1][0] <= MOST_TERMS]
    if whole:
        complement, parameters = min(whole, key=lambda form: form[1][0])
        found = _sum(*parameters)
    else:
        complement, parameters = False, forms[0][1]
        found = _quadrature(*parameters)
    return _clamp(1.0 - found if complement else found, (0.0, 1.0))


def _sum(a1: float, b1: float, a2: float, b2: float) -> float:
    """sum over i < a1 of B(a2 + i, b1 + b2) / ((b1 + i) B(1 + i, b1) B(a2, b2)), for a whole a1."""
    scale = _ln_beta(a2, b2)
    return math.fsum(
        math.exp(_ln_beta(a2 + i, b1 + b2) - math.log(b1 + i) - _ln_beta(1.0 + i, b1) - scale) for i in range(int(a1))
    )


def _quadrature(a1: float, b1: float, a2: float, b2: float) -> float:
    """E[I_X(a2, b2)], X = 1 / (1 + e^-u), by the trapezoidal rule over u, which is exact to rounding here."""
    step = 0.5 * min(0.6, _width(a1, b1), _width(a2, b2))
    scale, peak = _ln_beta(a1, b1), math.log(a1 / b1)
    terms = []
    for direction, first in ((1, 0), (-1, 1)):
        for i in count(first):
            ln_x, ln_y = _ln_logistic(peak + direction * i * step)
            weight = math.exp(a1 * ln_x + b1 * ln_y - scale)
            if weight < NEGLIGIBLE:
                break
            terms.append(weight * _cdf(ln_x, ln_y, a2, b2))
    return step * math.fsum(terms)


def _width(a: float, b: float) -> float:
    """About the standard deviation of logit X, X ~ Beta(a, b)."""
    return math.sqrt(1.0 / a + 1.0 / b)


def _ln_logistic(u: float) -> tuple[float, float]:
    """ln x and ln (1 - x) of x = 1 / (1 + e^-u): both, as near a border one of them says nothing."""
    tail = math.log1p(math.exp(-abs(u)))
    return (-tail, -u - tail) if u > 0 else (u - tail, -tail)


def _cdf(ln_x: float, ln_y: float, a: float, b: float) -> float:
    """I_x(a, b), the regularised incomplete beta function, y = 1 - x, by Lentz's continued fraction."""
    if math.exp(ln_x) > (a + 1.0) / (a + b + 2.0):  # the fraction converges fast below this
        return 1.0 - _tail(ln_y, ln_x, b, a)
    return _tail(ln_x, ln_y, a, b)


def _tail(ln_x: float, ln_y: float, a: float, b: float) -> float:
    x = math.exp(ln_x)
    c, d = 1.0, 1.0 / _away(1.0 - (a + b) * x / (a + 1.0))
    fraction = d
    for m in range(1, 10_000):
        for step in (
            m * (b - m) * x / ((a + 2 * m - 1.0) * (a + 2 * m)),
            -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1.0)),
        ):
            d = 1.0 / _away(1.0 + step * d)
            c = _away(1.0 + step / c)
            fraction *= c * d
        if abs(c * d - 1.0) < 1e-15:
            break
    return fraction * math.exp(a * ln_x + b * ln_y - _ln_beta(a, b)) / a


def _away(value: float) -> float:
    """The value, kept from zero."""
    return value if abs(value) > 1e-300 else 1e-300


def _ln_beta(a: float, b: float) -> float:
    return math.lgamma(a) + math.lgamma(b) - math.lgamma(a + b)


def _clamp(value: float, bounds: tuple[float, float]) -> float:
    return min(max(value, bounds[0]), bounds[1])


def _normal(text: str) -> str:
    return " ".join(text.split()).casefold()
