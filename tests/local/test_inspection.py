"""A watch on a run, on a clock that is handed in."""

from __future__ import annotations

from typing import Any

import pytest

from local.inspection import AWAY_S, watch_run
from utils.errors import Unreachable


class Clock:
    """Time that passes while somebody sleeps."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


class Distant:
    """A run of one task that is over at some moment, at a place that does not answer between two others."""

    every_s = 10.0

    def __init__(self, clock: Clock, *, away: tuple[float, float], ends_at: float) -> None:
        self._clock, self._away, self._ends_at = clock, away, ends_at
        self.looks = 0

    def render(self) -> tuple[dict[str, Any], bool]:
        self.looks += 1
        if self._away[0] <= self._clock() < self._away[1]:
            raise Unreachable("nobody answers")
        is_over = self._clock() >= self._ends_at
        status = "completed" if is_over else "running"
        return {"status": status, "tasks": [{"status": status, "attempts": 1}]}, is_over

    def note(self) -> str:
        return ""

    def advice(self) -> str:
        return "look elsewhere"


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    monkeypatch.setattr("local.inspection._show", lambda *_, **__: None)
    return Clock()


def watch(look: Distant, clock: Clock) -> int:
    return watch_run(look, detailed=False, as_json=False, sleep=clock.sleep, clock=clock)


def test_a_watch_survives_a_place_that_does_not_answer_for_minutes(
    clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    look = Distant(clock, away=(30, 560), ends_at=580)
    assert watch(look, clock) == 0
    assert capsys.readouterr().out.splitlines() == ["nobody answers: looking again every 10 s"]
    assert look.looks > 50


def test_a_watch_of_a_place_that_is_away_for_good_ends_with_its_words(clock: Clock) -> None:
    with pytest.raises(Unreachable, match="nobody answers"):
        watch(Distant(clock, away=(30, 1e9), ends_at=1e9), clock)
    assert AWAY_S < clock() < AWAY_S + 100
