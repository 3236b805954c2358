"""The simulated models by name, and every parameter that can be set on them.

Strengths, prices and fault rates are rows here; what they do is elsewhere. A parameter given on the command line
replaces the field of the same name.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

from utils.errors import UsageError, unknown
from utils.llm.simulated.lexicon import SKILLS


@dataclass(frozen=True)
class Settings:
    """All that decides how a simulated model behaves. Rates and shares are in [0, 1]."""

    # the landscape
    instance: int = 0  # redraws weights, skills and items
    K: int = 4  # skills of a task
    null: bool = False  # no cue matters, and no text noise: every prompt is as good as any other
    # the task model
    theta: float = -2.4  # ability
    noise: float = 0.25  # standard deviation, in logits, of what a wording adds for all items
    item_noise: float = 0.35  # the same for each item
    h: float = 0.6  # chance that a wrong answer betrays the skill it lacked
    temperature: float = 1.0  # where a request does not say
    max_tokens: int = 1024  # of an answer, where a request does not say
    context: int = 200_000  # tokens that a request may have
    logprobs: bool = True  # given when asked for
    # the optimizer model and the judge
    q: float = 0.7  # chance that an edit follows the evidence shown
    malformed: float = 0.03  # share of the replies that are not what was asked for
    judge_bias: float = 0.05  # added to a judged score
    judge_noise: float = 0.1  # standard deviation of a judged score
    # time and money
    realtime: bool = False  # sleep for the latency; otherwise it is only reported
    latency: float = 1.0  # factor on every latency
    price_in: float = 0.15  # USD for a million tokens read
    price_out: float = 0.60  # USD for a million tokens written
    # faults, each a share of the attempts
    rate_limit: float = 0.0
    server_error: float = 0.0
    timeout: float = 0.0
    # faults, each a share of the requests: asking again changes nothing
    truncation: float = 0.0
    refusal: float = 0.0
    content_filter: float = 0.0


_ROWS: dict[str, tuple[str, Settings]] = {
    "sim/standard": ("a middling model: the one to try things on", Settings()),
    "sim/weak": (
        "less able, cheaper, a clumsy editor (q=0.4)",
        Settings(theta=-3.1, q=0.4, malformed=0.06, price_in=0.05, price_out=0.20),
    ),
    "sim/strong": (
        "abler, dearer, a skilful editor (q=0.9)",
        Settings(theta=-1.4, q=0.9, malformed=0.01, price_in=2.50, price_out=10.0),
    ),
    "sim/null": (
        "no cue matters and there is no text noise: no optimizer can gain anything",
        Settings(null=True, theta=0.4, noise=0.0, item_noise=0.0),
    ),
    "sim/no-logprobs": ("sim/standard without log-probabilities", Settings(logprobs=False)),
    "sim/flaky": (
        "rate limits, server errors, timeouts and cut answers at a few percent",
        Settings(rate_limit=0.03, server_error=0.02, timeout=0.01, truncation=0.02),
    ),
    "sim/refuses": (
        "refusals and content-filter errors at a few percent",
        Settings(refusal=0.03, content_filter=0.03),
    ),
    "sim/slow": ("sleeps for every latency, as a real model would make you wait", Settings(realtime=True)),
}

SIMULATED: dict[str, str] = {name: description for name, (description, _) in _ROWS.items()}

_SHARES = frozenset(
    ("h", "q", "malformed", "rate_limit", "server_error", "timeout", "truncation", "refusal", "content_filter")
)
_AT_LEAST: dict[str, float] = {
    "K": 1,
    "noise": 0,
    "item_noise": 0,
    "temperature": 0,
    "max_tokens": 1,
    "context": 1,
    "judge_noise": 0,
    "latency": 0,
    "price_in": 0,
    "price_out": 0,
}


def settings_for(name: str, params: Mapping[str, Any]) -> Settings:
    """The row of a model's name with these parameters in place of its own. Raises UsageError."""
    if name not in _ROWS:
        raise unknown("simulated model", name, _ROWS)
    base = _ROWS[name][1]
    known = {field.name for field in fields(Settings)}
    changes: dict[str, Any] = {}
    for key, value in params.items():
        if key not in known:
            raise unknown(f"parameter of {name}", key, known)
        changes[key] = _checked(name, key, value, type(getattr(base, key)))
    return replace(base, **changes)


def _checked(name: str, key: str, value: Any, kind: type) -> Any:
    value = _converted(name, key, value, kind)
    if key in _SHARES and not 0 <= value <= 1:
        raise UsageError(f"{name}: {key} is a share in [0, 1], not {value!r}")
    if key == "K" and value > len(SKILLS):
        raise UsageError(f"{name}: K must be at most {len(SKILLS)}, the skills that there are, not {value!r}")
    if key in _AT_LEAST and value < _AT_LEAST[key]:
        raise UsageError(f"{name}: {key} must be at least {_AT_LEAST[key]:g}, not {value!r}")
    return value


def _converted(name: str, key: str, value: Any, kind: type) -> Any:
    if kind is bool:
        if isinstance(value, bool):
            return value
        if str(value).lower() in ("true", "false", "1", "0"):
            return str(value).lower() in ("true", "1")
    elif not isinstance(value, bool):
        try:
            number = float(value)
            if number == number and abs(number) != float("inf") and (kind is float or number == int(number)):
                return kind(number)
        except (TypeError, ValueError):
            pass
    wanted = {bool: "true or false", int: "a whole number", float: "a number"}[kind]
    raise UsageError(f"{name}: {key} must be {wanted}, not {value!r}")
