"""hierarchical_reflective: batches, synthesis, modes in the order of their size, attempts, convergence."""

from __future__ import annotations

import json
import re
from collections import Counter
from random import Random
from statistics import fmean

import pytest

from optimizers.editor import Editor
from optimizers.hierarchical_reflective import ANALYSE, SYNTHESISE, TREAT, HierarchicalReflective
from optimizers.problem import Problem
from tests.models import Scripted
from tests.performance.scoreboard import STANDARD, Cell, run
from utils.door import Door
from utils.errors import OptimizerFailed, UsageError
from utils.journal import Journal
from utils.ledger import Ledger
from utils.metrics.base import Metric
from utils.metrics.exact_match import ExactMatch
from utils.prompt import Prompt
from utils.records import Budget, Example, Request, Role, Score, StopReason

SEED = Prompt(system="Answer.", user="{question}")
CAUSES = "AAAABBBCCD"  # of ten rows: A 40 %, B 30 %, C 20 %, D 10 %
BATCH = 25
PARAMS = {"n_train": 60, "n_samples": 60, "gate_size": 10}


class Silent:
    """A metric that gives no reasons."""

    name = "silent"

    def __call__(self, example: Example, answer: str) -> Score:
        return Score(float(answer == example.target))


def rows(split: str, count: int = 60) -> list[Example]:
    return [Example(f"{split}{i}", {"question": f"{split} {i} cause {CAUSES[i % 10]}."}, "yes") for i in range(count)]


class Setting:
    """Each row fails by its cause until the prompt names that cause's rule; the editor sorts by cause.

    `useless` says which edits, counted over all, change nothing that matters; `lost` which analyses are unreadable.
    """

    def __init__(
        self,
        useless: frozenset[int] = frozenset(),
        lost: frozenset[int] = frozenset(),
        metric: Metric | None = None,
        budget: int = 5000,
    ) -> None:
        self.useless, self.lost = useless, lost
        self.batches: list[list[str]] = []
        self.treated: list[str] = []
        self.shown: list[str] = []
        self.synthesised = 0
        self.model = Scripted(self.answer)
        self.door = Door(
            {Role.TASK: self.model, Role.OPTIMIZER: self.model}, Journal(lambda line: None), Ledger(Budget(budget))
        )
        self.problem = Problem(SEED, rows("train"), rows("val"), [metric or ExactMatch()], self.door)
        self.editor = Editor(self.door, self.problem, seed=1)

    def answer(self, request: Request, count: int) -> str:
        text = "\n".join(message.content for message in request.messages)
        if ANALYSE in text:
            return self.analyse(text)
        if SYNTHESISE in text:
            return self.synthesise(text)
        if TREAT in text:
            return self.treat(text)
        cause = re.findall(r"cause (\w)\.", text)[-1]
        return "yes" if f"Rule {cause}." in text else "no"

    def analyse(self, text: str) -> str:
        self.shown.append(text)
        cases = re.findall(r'<failure id="(\d+)">.*?(\w+ \d+) cause (\w)\..*?</failure>', text, re.DOTALL)
        self.batches.append([name for _, name, _ in cases])
        if len(self.batches) in self.lost:
            return "I would rather not."
        causes = sorted({cause for _, _, cause in cases}, reverse=True)  # the order is for the optimizer to find
        return self.modes({cause: [int(n) for n, _, c in cases if c == cause] for cause in causes}, "item_ids")

    def synthesise(self, text: str) -> str:
        self.synthesised += 1
        found = re.findall(r'<mode id="(\d+)".*?<name>\nlack of (\w)\n', text, re.DOTALL)
        causes = dict.fromkeys(cause for _, cause in found)
        return self.modes({cause: [int(n) for n, c in found if c == cause] for cause in causes}, "mode_ids")

    def treat(self, text: str) -> str:
        cause = re.findall(r"<name>\nlack of (\w)\n", text)[0]
        self.treated.append(cause)
        self.shown.append(text)
        system = re.findall(r"<system>\n(.*?)\n</system>", text, re.DOTALL)[0]
        added = f"Note {len(self.treated)}." if len(self.treated) in self.useless else f"Rule {cause}."
        return json.dumps({"system": f"{system} {added}", "user": "{question}"})

    @staticmethod
    def modes(ids: dict[str, list[int]], key: str) -> str:
        texts = [
            {"name": f"lack of {c}", "description": c, "root_cause": f"no rule {c}", key: n} for c, n in ids.items()
        ]
        return json.dumps({"failure_modes": texts})

    def optimize(self, **params: int) -> StopReason:
        try:
            return HierarchicalReflective(**{**PARAMS, **params}).optimize(self.problem, self.editor, Random(1))
        finally:
            self.door.close()

    def decisions(self, operator: str) -> list[str]:
        return [step.decision for step in self.problem.steps if step.operator == operator]


def test_modes_are_treated_in_the_order_of_their_size_and_all_are_cured() -> None:
    setting = Setting()
    assert setting.optimize() is StopReason.TARGET_REACHED
    assert setting.treated == list("ABCD")
    assert setting.problem.score(setting.problem.finalists(1)[1]).mean == 1


def test_every_failure_is_in_exactly_one_batch() -> None:
    setting = Setting()
    setting.optimize(max_iterations=1)
    assert [len(batch) for batch in setting.batches] == [25, 25, 10]
    assert Counter(name for batch in setting.batches for name in batch) == Counter(f"train {i}" for i in range(60))


def test_only_failures_are_shown() -> None:
    setting = Setting()
    setting.optimize(patience=9)
    for text in setting.shown:
        shown = re.findall(r"cause (\w)\.", text)
        assert shown
        assert not [cause for cause in shown if f"Rule {cause}." in text]


def test_batches_are_analysed_a_few_at_a_time() -> None:
    setting = Setting()
    asked: list[int] = []
    ask_all = setting.editor.ask_all
    setting.editor.ask_all = lambda operator, asks: (asked.append(len(asks)), ask_all(operator, asks))[1]  # type: ignore[method-assign]
    setting.optimize(max_iterations=1, batch_size=10, max_parallel_batches=4)
    assert [size for size in asked if size > 1] == [4, 2]


def test_modes_of_several_batches_are_merged_and_those_of_one_are_not() -> None:
    several, one = Setting(), Setting()
    several.optimize(max_iterations=1)
    one.optimize(max_iterations=1, batch_size=60)
    assert (several.synthesised, one.synthesised) == (1, 0)
    for setting in (several, one):
        modes = setting.problem.reported["failure_modes"]
        assert [len(row["rows"]) for row in modes] == [24, 18, 12, 6]


def test_a_mode_gets_three_attempts_at_most() -> None:
    setting = Setting(useless=frozenset(range(1, 100)))
    assert setting.optimize(max_iterations=1) is StopReason.MAX_ITERATIONS
    assert setting.treated == list("AAABBBCCCDDD")


def test_a_mode_that_is_cured_gets_no_further_attempt() -> None:
    setting = Setting(useless=frozenset([1, 2, 4]))
    setting.optimize(max_iterations=1)
    assert setting.treated == list("AAABBCD")
    assert [row["attempts"] for row in setting.problem.reported["failure_modes"]] == [3, 2, 1, 1]


def test_a_mode_that_another_edit_cured_is_passed_over() -> None:
    setting = Setting()
    treat = setting.treat
    setting.treat = lambda text: treat(text).replace("Rule A.", "Rule A. Rule B.")  # type: ignore[method-assign]
    setting.optimize(max_iterations=1)
    assert setting.treated == list("ACD")
    assert "skip" in setting.decisions("treat")


def test_accepted_scores_strictly_rise() -> None:
    setting = Setting(useless=frozenset([2, 5, 7]))
    setting.optimize()
    accepted = [step.numbers for step in setting.problem.steps if (step.operator, step.decision) == ("treat", "accept")]
    assert all(numbers["candidate"] > numbers["incumbent"] for numbers in accepted)
    scores = [numbers["candidate"] for numbers in accepted]
    assert scores == sorted(set(scores))


def test_iterations_without_gain_are_convergence() -> None:
    setting = Setting(useless=frozenset(range(1, 1000)))
    assert setting.optimize(patience=2, max_iterations=9) is StopReason.CONVERGED
    assert len(setting.treated) == 2 * 12


def test_a_lost_batch_costs_its_evidence_and_not_the_run() -> None:
    setting = Setting(lost=frozenset([1, 4]))  # the first batch, and its repair after the other two
    setting.optimize(max_iterations=1)
    assert "malformed" in setting.decisions("analyse")
    assert sorted(setting.treated) == list("ABCD")


def test_analyses_that_are_all_unreadable_end_the_run() -> None:
    setting = Setting(lost=frozenset(range(1, 1000)))
    with pytest.raises(OptimizerFailed):
        setting.optimize(patience=9)


def test_modes_that_name_no_failure_shown_are_dropped() -> None:
    setting = Setting()
    setting.analyse = lambda text: Setting.modes({"A": [1], "B": [0, 99], "C": []}, "item_ids")  # type: ignore[method-assign]
    setting.optimize(max_iterations=1, batch_size=60)
    assert set(setting.treated) == {"A"}


def test_without_reasons_what_was_expected_and_given_stands_for_them() -> None:
    setting = Setting(metric=Silent())
    setting.optimize(max_iterations=1)
    assert "expected 'yes', got 'no'" in setting.shown[0]


def test_a_candidate_that_is_worse_on_training_rows_costs_no_validation() -> None:
    setting = Setting()
    forgetful = json.dumps({"system": "Answer. Rule D."})  # in place of the rules for A, B and C
    treat = setting.treat
    setting.treat = lambda text: forgetful if "lack of D" in text else treat(text)  # type: ignore[method-assign]
    setting.optimize(max_iterations=1, max_retries=0)
    (worse,) = (step for step in setting.problem.steps if "on 10 training rows" in step.reason)
    assert worse.decision == "reject"
    assert worse.numbers["candidate"] < worse.numbers["incumbent"]
    validated = {request.prompt for request in setting.model.requests if request.item.startswith("val")}
    assert worse.candidate.id not in validated


@pytest.mark.trial
def test_it_needs_fewer_calls_than_meta_prompt_to_come_near_the_optimum() -> None:
    """Task calls after which the mean over 8 instances x 2 seeds is 90 % of the oracle's gain without demos."""

    def share(name: str, budget: int) -> float:
        cells = [Cell(name, STANDARD, instance, seed, budget) for instance in range(200, 208) for seed in (1, 2)]
        found = [run(cell) for cell in cells]
        return fmean((one.true - one.start) / (one.best - one.start) for one in found)

    def needed(name: str) -> int:
        return next((budget for budget in (400, 600, 900, 1500, 2500, 4000) if share(name, budget) >= 0.9), 10**9)

    assert needed("hierarchical_reflective") < needed("meta_prompt")


@pytest.mark.parametrize("wrong", [{"batch_size": 0}, {"max_retries": -1}, {"patience": 0}, {"n_train": -1}])
def test_impossible_parameters_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(UsageError, match=next(iter(wrong))):
        HierarchicalReflective(**wrong)
