"""A first look: few calls for what is worse, the whole sample for what is not, everything noted."""

from __future__ import annotations

from collections.abc import Iterator
from random import Random

import pytest

from optimizers.problem import Problem
from optimizers.screening import Look, screen
from tests.models import Scripted
from utils.door import Door
from utils.errors import BudgetExhausted
from utils.journal import Journal
from utils.ledger import Ledger
from utils.metrics.exact_match import ExactMatch
from utils.prompt import Prompt
from utils.records import Budget, Example, Request, Role

ROWS = [Example(f"val{i}", {"question": f"q{i}"}, "yes") for i in range(40)]
BAR = Prompt(system="20", user="{question}")


def right(request: Request, count: int) -> str:
    """A prompt's system text says how many rows it gets right."""
    return "yes" if int(request.item.removeprefix("val")) < int(request.messages[0].content) else "no"


class Setting:
    def __init__(self, budget: int = 1000) -> None:
        self.model = Scripted(right)
        self.door = Door({Role.TASK: self.model}, Journal(lambda line: None), Ledger(Budget(budget)))
        self.problem = Problem(BAR, [Example("train0", {"question": "t"}, "yes")], ROWS, [ExactMatch()], self.door)
        self.problem.score(BAR)

    def look(self, *levels: int, first_rows: int = 8, bar: Prompt = BAR) -> list[Look]:
        prompts = [Prompt(system=str(level), user="{question}") for level in levels]
        return screen(self.problem, "look", prompts, bar, ROWS, first_rows, Random(3))

    def calls(self, level: int) -> int:
        return sum(request.messages[0].content == str(level) for request in self.model.requests)


@pytest.fixture
def setting() -> Iterator[Setting]:
    setting = Setting()
    yield setting
    setting.door.close()


def test_what_is_worse_costs_a_few_rows_and_what_is_better_the_whole_sample(setting: Setting) -> None:
    bad, good = setting.look(1, 35)
    assert (bad.passed, good.passed) == (False, True)
    assert setting.calls(1) == 8
    assert setting.calls(35) == 40
    assert good.estimate == 35 / 40


def test_the_estimate_moves_the_bar_by_the_difference_on_the_rows_seen(setting: Setting) -> None:
    (look,) = setting.look(1)
    seen = setting.problem.score(BAR, [row for row in ROWS if row.id in {item.example_id for item in look.trial.items}])
    assert look.estimate == max(0.0, 0.5 + look.trial.mean - seen.mean)


def test_without_first_rows_everything_takes_the_whole_sample(setting: Setting) -> None:
    assert all(look.passed for look in setting.look(1, 2, first_rows=0))
    assert setting.calls(1) == 40


def test_a_tie_goes_on_unless_nothing_is_right(setting: Setting) -> None:
    nothing = Prompt(system="0", user="{question}")
    setting.problem.score(nothing)
    (look,) = setting.look(-1, bar=nothing)
    assert not look.passed
    everything = Prompt(system="40", user="{question}")
    setting.problem.score(everything)
    (look,) = setting.look(41, bar=everything)
    assert look.passed


def test_every_prompt_is_noted_even_if_the_budget_ends() -> None:
    setting = Setting(budget=40 + 8 * 3 + 10)
    with pytest.raises(BudgetExhausted):
        setting.look(35, 36, 37)
    setting.door.close()
    noted = {step.candidate.system for step in setting.problem.steps}
    assert noted == {"35", "36", "37"}
