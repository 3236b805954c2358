"""meta_prompt: what a round shows and asks, what is remembered, and how many trials it takes."""

from __future__ import annotations

import itertools
import json
import re
from random import Random
from typing import Any

import pytest

from optimizers.editor import Editor
from optimizers.meta_prompt import EXTRACT, INJECTED, Hall, MetaPrompt, Pattern, fit, fit_examples, tokens
from optimizers.problem import Problem
from tests.models import Scripted
from utils.door import Door
from utils.errors import OptimizerFailed, UsageError
from utils.journal import Journal
from utils.ledger import Ledger
from utils.metrics.exact_match import ExactMatch
from utils.prompt import Prompt
from utils.records import Budget, Example, Request, Role, StopReason

SEED = Prompt(system="Answer.", user="{question}")


def rows(split: str, count: int) -> list[Example]:
    return [Example(f"{split}{i}", {"question": f"{split} question {i} {{brace}}"}, "yes") for i in range(count)]


class Setting:
    """Ten rows a split. The editor counts: its n-th prompt says `+n`, and gets so many rows right, up to `most`."""

    def __init__(self, most: int = 9, budget: int = 5000) -> None:
        self.model = Scripted(self.answer)
        self.door = Door(
            {Role.TASK: self.model, Role.OPTIMIZER: self.model}, Journal(lambda line: None), Ledger(Budget(budget))
        )
        self.problem = Problem(SEED, rows("train", 10), rows("val", 10), [ExactMatch()], self.door)
        self.editor = Editor(self.door, self.problem, seed=1)
        self.most = most
        self.made = 0

    def answer(self, request: Request, count: int) -> str:
        if request.schema is None:
            number = re.search(r"\+(\d+)", request.messages[0].content)
            right = min(int(number[1]) if number else 0, self.most)
            return "yes" if int(request.item.removeprefix("val")) < right else "no"
        return json.dumps(self.reply(request))

    def reply(self, request: Request) -> Any:
        text = request.messages[-1].content
        if text.startswith(EXTRACT):
            return {"patterns": [{"pattern": "counting", "example": "Then go on."}]}
        wanted = int(re.search(r"[Ww]rite (\d+)\s+new prompts", text)[1])
        return {"prompts": [self.proposal() for _ in range(wanted)]}

    def proposal(self) -> dict[str, Any]:
        self.made += 1
        text = f"Count to +{self.made}. Then go on."
        return {"prompt": {"system": text}, "improvement_focus": "numbers", "reasoning": "more is more"}

    def optimize(self, **params: Any) -> StopReason:
        try:
            return MetaPrompt(**{"first_rows": 0, **params}).optimize(self.problem, self.editor, Random(1))
        finally:
            self.door.close()

    @property
    def asked(self) -> list[str]:
        return [request.messages[-1].content for request in self.model.requests if request.schema is not None]

    @property
    def tried(self) -> set[str]:
        return {request.prompt for request in self.model.requests if request.schema is None} - {SEED.id}


@pytest.mark.parametrize("trials", [1, 4, 7, 30])
@pytest.mark.parametrize("first_rows", [0, 3])
def test_exactly_so_many_trials_are_made(trials: int, first_rows: int) -> None:
    setting = Setting()
    assert setting.optimize(max_trials=trials, first_rows=first_rows) is StopReason.MAX_ITERATIONS
    assert len(setting.tried) == trials


def test_the_best_so_far_only_rises() -> None:
    setting = Setting()
    setting.optimize(max_trials=12)
    accepted = [s.numbers for s in setting.problem.steps if s.decision == "accept" and "best" in s.numbers]
    assert accepted
    assert all(numbers["candidate"] > numbers["best"] for numbers in accepted)
    assert [n["candidate"] for n in accepted] == sorted({n["candidate"] for n in accepted})


def test_the_editor_is_asked_once_a_round_extraction_and_synthesis() -> None:
    setting = Setting()
    setting.optimize(max_trials=30)
    rounds = 8
    syntheses = sum("combine" in text for text in setting.asked)
    extractions = sum(text.startswith(EXTRACT) for text in setting.asked)
    assert syntheses == 2  # in rounds 3 and 6
    assert extractions <= 30 // 5
    assert len(setting.asked) == rounds + syntheses + extractions


def test_extractions_are_at_least_so_many_trials_apart() -> None:
    setting = Setting()
    setting.optimize(max_trials=40, prompts_per_round=1)
    at = [step.spent.task_calls // 10 - 1 for step in setting.problem.steps if step.operator == "extract_patterns"]
    assert len(at) == 8
    assert all(later - earlier >= 5 for earlier, later in itertools.pairwise(at))


def test_patterns_are_injected_at_the_rate() -> None:
    always, never = Setting(), Setting()
    always.optimize(max_trials=40, injection_rate=1)
    never.optimize(max_trials=40, injection_rate=0)
    assert any(INJECTED in text for text in always.asked)
    assert not any(INJECTED in text for text in never.asked)
    assert always.problem.reported["patterns"][0]["used"] > 0


def test_the_best_prompt_is_shown_first_with_its_score() -> None:
    setting = Setting()
    setting.optimize(max_trials=12, synthesis=False, extract_every=0)
    last = setting.asked[-1]
    assert last.index('<prompt score="0.800">') == last.index("<prompt score")
    assert last.count("<prompt score") > 5


def test_training_examples_are_shown_unless_told_not_to() -> None:
    shown, hidden = Setting(), Setting()
    shown.optimize(max_trials=4)
    hidden.optimize(max_trials=4, enable_context=False)
    assert shown.asked[0].count("<example>") == 5
    assert "<example>" not in hidden.asked[0]


def test_only_the_system_text_is_changed_by_default() -> None:
    setting = Setting()
    setting.optimize(max_trials=4)
    assert '"user"' not in setting.asked[0]
    everything = Setting()
    everything.optimize(max_trials=4, edit="all")
    assert '"user"' in everything.asked[0]


def test_the_target_ends_it() -> None:
    assert Setting(most=10).optimize(max_trials=40) is StopReason.TARGET_REACHED


def test_three_rounds_of_nothing_but_duplicates_exhaust_it() -> None:
    setting = Setting()
    setting.reply = lambda request: {
        "prompts": [{"prompt": {"system": "Same."}, "improvement_focus": "", "reasoning": ""}]
    }
    assert setting.optimize(synthesis=False) is StopReason.EXHAUSTED
    assert [step.decision for step in setting.problem.steps].count("duplicate") == 3


def test_three_malformed_rounds_are_the_editors_failure() -> None:
    setting = Setting()
    setting.reply = lambda request: "nonsense"
    with pytest.raises(OptimizerFailed):
        setting.optimize()


def test_a_first_look_saves_calls_on_what_is_worse() -> None:
    spent = []
    for first_rows in (0, 2):
        setting = Setting()
        setting.proposal = lambda s=setting: {  # every one but the first is worse than the first
            **Setting.proposal(s),
            "prompt": {"system": f"Say +{9 if s.made == 1 else 1}. Number {s.made}."},
        }
        setting.optimize(max_trials=12, first_rows=first_rows, extract_every=0)
        spent.append(len(setting.model.requests))
    assert spent[1] < spent[0] / 2


# ------------------------------------------------------------------ memory


def test_the_hall_keeps_the_best_and_of_equals_the_shorter() -> None:
    hall = Hall(3)
    for text, score in (("long one", 0.5), ("bad", 0.1), ("short", 0.5), ("best", 0.9), ("best", 0.9)):
        hall.enter(Prompt(system=text), score)
    assert [prompt.system for prompt, _ in hall.entries] == ["best", "short", "long one"]


def test_a_pattern_is_worth_the_mean_of_the_entries_that_hold_it_less_with_use() -> None:
    hall = Hall(3)
    hall.enter(Prompt(system="Think  hard. Be brief."), 0.8)
    hall.enter(Prompt(system="think hard."), 0.4)
    hall.enter(Prompt(system="Be brief."), 0.3)
    assert hall.value(Pattern("Think hard.")) == pytest.approx(0.6)
    assert hall.value(Pattern("Think hard.", used=2)) == pytest.approx(0.5)


def test_only_what_an_entry_holds_is_learned_and_only_once() -> None:
    hall = Hall(3)
    hall.enter(Prompt(system="Think hard. Be brief."), 0.8)
    assert hall.learn("be brief.")
    assert not hall.learn("Be  brief.")
    assert not hall.learn("Be verbose.")
    assert not hall.learn("Think")  # one word is no pattern


# ------------------------------------------------------------------ fitting


LONG = [Example(str(i), {"text": "word " * 1000, "more": "short"}, "yes") for i in range(5)]


@pytest.mark.parametrize("room", [10, 100, 300, 1000, 3000, 10_000])
def test_examples_fit_into_the_room(room: int) -> None:
    assert tokens("\n\n".join(fit_examples(LONG, room))) <= room


def test_values_are_cut_before_examples_are_left_out() -> None:
    assert len(fit_examples(LONG, 10_000)) == 5
    tight = fit_examples(LONG, 700)
    assert len(tight) == 5
    assert all("..." in text for text in tight)
    assert 0 < len(fit_examples(LONG, 200)) < 5


def test_of_sections_the_first_is_always_kept() -> None:
    assert fit(["a" * 400, "b" * 40], 20) == ["a" * 400]
    assert fit(["a" * 40, "b" * 40, "c" * 40], 20) == ["a" * 40, "b" * 40]


@pytest.mark.parametrize("params", [{"injection_rate": 1.5}, {"edit": "user"}, {"max_trials": 0}])
def test_bad_values_are_refused(params: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        MetaPrompt(**params)


# ------------------------------------------------------------------ on the simulated models


@pytest.mark.trial
def test_it_beats_random_paraphrase_at_4000_calls() -> None:
    """Three quarters of the instances are required."""
    from tests.performance.scoreboard import STANDARD, Cell, run

    def true(name: str, instance: int) -> float:
        return run(Cell(name, STANDARD, instance, 1, 4000)).true

    won = sum(true("meta_prompt", i) > true("random_paraphrase", i) for i in range(100, 120))
    assert won >= 15


@pytest.mark.parametrize(
    ("params", "window", "examples"),
    [({}, 1200, 4), ({}, 100_000, 5), ({}, 0, 5), ({"max_context_tokens": 1200}, 100_000, 4)],
)
def test_a_request_is_fitted_to_the_window_of_the_optimizer_model(
    params: dict[str, int], window: int, examples: int
) -> None:
    setting = Setting()
    long = [Example(f"train{i}", {"question": f"{i} " + "word " * 80}, "yes") for i in range(10)]
    setting.problem = Problem(SEED, long, rows("val", 10), [ExactMatch()], setting.door)
    setting.editor = Editor(setting.door, setting.problem, seed=1, window=lambda: window)
    setting.optimize(max_trials=1, **params)
    assert setting.asked[0].count("<example>") == examples


def test_a_window_that_holds_nothing_is_refused() -> None:
    with pytest.raises(UsageError, match="max_context_tokens is 500; give 1000 or more, or 0"):
        MetaPrompt(max_context_tokens=500)
