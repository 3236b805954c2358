"""few_shot: where demos go, how many rows a trial takes, and that the baseline must be beaten."""

from __future__ import annotations

import json
from dataclasses import replace
from random import Random

import pytest

from optimizers.editor import Editor
from optimizers.few_shot import FewShot
from optimizers.problem import Problem
from tests.models import Scripted
from utils.door import Door
from utils.errors import UsageError
from utils.journal import Journal
from utils.ledger import Ledger
from utils.metrics.exact_match import ExactMatch
from utils.prompt import Prompt
from utils.records import Budget, Example, Request, Role, Step

SEED = Prompt(system="Answer.", user="{question}")
GOOD = {"train3", "train5"}  # the demos that help


def rows(split: str, count: int) -> list[Example]:
    return [Example(f"{split}{i}", {"question": f"{split} question {i} {{brace}}"}, "yes") for i in range(count)]


class Setting:
    """A problem of 10 rows whose model answers better the more good demos it is shown."""

    def __init__(self, reply: str = "", train: int = 10, budget: int = 500, seed: Prompt = SEED) -> None:
        self.reply = reply
        self.model = Scripted(self.answer)
        self.door = Door(
            {Role.TASK: self.model, Role.OPTIMIZER: self.model}, Journal(lambda line: None), Ledger(Budget(budget))
        )
        self.problem = Problem(seed, rows("train", train), rows("val", 10), [ExactMatch()], self.door)
        self.editor = Editor(self.door, self.problem, seed=1)

    def answer(self, request: Request, count: int) -> str:
        if request.schema is not None:
            return self.reply
        text = "\n".join(message.content for message in request.messages)
        helped = sum(f"train question {name.removeprefix('train')} " in text for name in GOOD)
        number = int(request.item.removeprefix("val").removeprefix("train"))
        return "yes" if number < 3 + 3 * helped else "no"

    def optimize(self, optimizer: FewShot) -> list[Step]:
        try:
            optimizer.optimize(self.problem, self.editor, Random(1))
        finally:
            self.door.close()
        return self.problem.steps

    @property
    def asked(self) -> list[Request]:
        return [request for request in self.model.requests if request.schema is None]


PLACED = json.dumps({"slot": "user", "template": "Q: {question}\nA: {target}"})


@pytest.mark.parametrize("surrogate", ["linear", "tpe", "random"])
def test_the_helpful_demos_are_found(surrogate: str) -> None:
    setting = Setting(PLACED)
    setting.optimize(FewShot(surrogate=surrogate, max_trials=30))
    best = setting.problem.finalists(1)[1]
    assert {demo.example_id for demo in best.demos} >= GOOD


def test_the_editors_place_and_template_are_used() -> None:
    setting = Setting(PLACED)
    setting.optimize(FewShot(max_trials=1))
    shown = setting.asked[-1].messages[1].content
    assert shown.startswith("Q: train question")
    assert "\nA: yes" in shown


@pytest.mark.parametrize(
    "reply",
    [
        "no JSON at all",
        json.dumps({"slot": "user", "template": "Q: {question}"}),
        json.dumps({"slot": "user", "template": "A: {target}"}),
        json.dumps({"slot": "user", "template": "{invented} {question} {target}"}),
        json.dumps({"slot": "nowhere", "template": "{question} {target}"}),
    ],
    ids=["malformed", "no target", "no input", "unknown column", "unknown slot"],
)
def test_without_a_sound_place_demos_follow_the_system_text(reply: str) -> None:
    setting = Setting(reply)
    steps = setting.optimize(FewShot(max_trials=1))
    assert any(step.operator == "place_demos" and step.decision == "skip" for step in steps)
    shown = setting.asked[-1].messages[0].content
    assert shown.startswith("Answer.\n\nquestion: train question")
    assert shown.endswith("Answer: yes")


def test_a_place_in_the_seed_prompt_is_kept_and_no_editor_is_asked() -> None:
    setting = Setting(seed=replace(SEED, system="See:\n{demos}\nAnswer."))
    setting.optimize(FewShot(max_trials=2))
    assert len(setting.asked) == len(setting.model.requests)
    assert setting.asked[-1].messages[0].content.endswith("\nAnswer.")


def test_braces_in_rows_are_shown_as_they_are() -> None:
    setting = Setting(PLACED)
    setting.optimize(FewShot(max_trials=1))
    assert "{brace}" in setting.asked[-1].messages[1].content


def test_the_order_of_the_demos_is_recorded() -> None:
    setting = Setting(PLACED)
    for step in setting.optimize(FewShot(max_trials=3)):
        if step.operator == "choose_demos":
            assert ", ".join(demo.example_id for demo in step.candidate.demos) in step.reason


def test_demos_that_help_nobody_leave_the_seed_prompt() -> None:
    setting = Setting(PLACED)
    setting.answer = lambda request, count: PLACED if request.schema else "no"
    setting.model._answer = setting.answer
    steps = setting.optimize(FewShot(max_trials=5))
    assert (steps[-1].operator, steps[-1].decision) == ("select", "reject")
    assert steps[-1].candidate == SEED


def test_fewer_training_rows_than_the_least_demos_is_refused_before_any_call() -> None:
    setting = Setting(PLACED, train=1)
    with pytest.raises(UsageError, match="2"):
        setting.optimize(FewShot(min_examples=2))
    assert setting.model.requests == []


def test_no_more_demos_than_training_rows_are_shown() -> None:
    setting = Setting(PLACED, train=3)
    setting.optimize(FewShot(max_trials=6, max_examples=7))
    assert max(len(prompt.demos) for prompt in setting.problem.finalists(9)) <= 3


def test_trials_and_finalists_fit_the_budget_that_sets_their_sample() -> None:
    optimizer = FewShot(max_trials=30)
    for left in (350, 700, 900, 3000):
        sample = optimizer._sample_size(100, left)
        assert 20 <= sample <= 100
        assert sample == 20 or 30 * sample + 3 * (100 - sample) <= left


@pytest.mark.parametrize(
    "wrong", [{"min_examples": 0}, {"min_examples": 5, "max_examples": 4}, {"max_trials": 0}, {"n_samples": -1}]
)
def test_impossible_parameters_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(UsageError):
        FewShot(**wrong)
