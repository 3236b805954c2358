"""thompson: whom the traffic goes to, what the editor sees, what is scored on validation, what is reported."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path
from random import Random

import pytest

from optimizers.base import Extent
from optimizers.editor import Editor
from optimizers.problem import Problem
from optimizers.thompson import Thompson
from tests.models import Scripted
from utils.door import Door
from utils.errors import BudgetExhausted, CallError, ErrorKind, TaskError, UsageError
from utils.journal import Journal
from utils.ledger import Ledger
from utils.metrics.exact_match import ExactMatch
from utils.prompt import Prompt
from utils.records import Budget, Example, Request, Role, StopReason

SEED = Prompt(system="Answer.", user="{question}")
LIVE = Path(__file__).parents[2] / "docs" / "thompson_live.md"


def rows(split: str, count: int) -> list[Example]:
    return [Example(f"{split}{i}", {"question": f"{split} question {i}"}, "yes") for i in range(count)]


class Setting:
    """A model that is right more often the more stars a prompt has; each edit adds a star, or none for `stuck`."""

    def __init__(self, budget: int = 400, train: int = 60, stuck: bool = False, failing: str = "") -> None:
        self.stuck, self.failing = stuck, failing
        self.model = Scripted(self.answer)
        self.door = Door(
            {Role.TASK: self.model, Role.OPTIMIZER: self.model}, Journal(lambda line: None), Ledger(Budget(budget))
        )
        self.problem = Problem(SEED, rows("train", train), rows("val", 40), [ExactMatch()], self.door)
        self.editor = Editor(self.door, self.problem, seed=1)
        self.edits = 0

    def answer(self, request: Request, count: int) -> str | CallError:
        text = "\n".join(message.content for message in request.messages)
        if request.schema is not None:
            self.edits += 1
            stars = len(re.findall(r"\*", re.search(r"<system>\n(.*?)\n", text)[1]))
            return json.dumps({"system": f"Answer {'*' * (stars + (not self.stuck))} v{self.edits}."})
        if self.failing and re.fullmatch(rf"{self.failing}(rain\d+)?", request.item):
            return CallError(ErrorKind.BAD_REQUEST, "no")
        hard = int(re.sub(r"\D", "", request.item)) * 7 % 20
        return "yes" if hard < 4 + 4 * text.count("*") else "no"

    def optimize(self, **params: object) -> StopReason:
        try:
            return Thompson(**params).optimize(self.problem, self.editor, Random(1))
        finally:
            self.door.close()

    @property
    def trace(self) -> list[dict]:
        return self.problem.reported["interactions"]

    @property
    def asked(self) -> list[Request]:
        return [request for request in self.model.requests if request.schema is None]


def test_better_mutations_take_over_the_traffic() -> None:
    setting = Setting()
    assert setting.optimize() is StopReason.MAX_ITERATIONS
    best = setting.problem.finalists(1)[1]
    assert best.system.count("*") >= 2
    assert sum(row["reward"] for row in setting.trace[-50:]) > 2 * sum(row["reward"] for row in setting.trace[:50])


def test_the_first_day_is_the_seeds_and_the_rest_of_the_portfolio_has_seen_its_failures() -> None:
    setting = Setting()
    setting.optimize(days=2)
    assert {row["arm"] for row in setting.trace[:10]} == {"arm0"}
    first = setting.problem.reported["evolutions"]
    assert sum(len(day["born"]) for day in first[: len(first)]) >= 4
    edits = [request for request in setting.model.requests if request.schema]
    assert all("<failure>" in request.messages[1].content for request in edits[:4])
    assert "val question" not in "".join(request.messages[1].content for request in edits)


def test_without_failures_shown_mutations_are_blind() -> None:
    setting = Setting()
    setting.optimize(days=3, failures_shown=0)
    assert "<failure>" not in "".join(request.messages[1].content for request in setting.model.requests)


def test_all_arms_walk_the_same_rows_in_the_same_order_once() -> None:
    setting = Setting()
    setting.optimize()
    walks: dict[str, list[str]] = {}
    for row in setting.trace:
        walks.setdefault(row["arm"], []).append(row["item"])
    longest = max(walks.values(), key=len)
    assert len(walks) > 3
    assert all(longest[: len(walk)] == walk and len(set(walk)) == len(walk) for walk in walks.values())


@pytest.mark.parametrize("at_once", [1, 10])
def test_each_interaction_is_one_call_however_many_are_sent_together(at_once: int) -> None:
    setting = Setting()
    setting.optimize(days=5, at_once=at_once)
    pulls = [request for request in setting.asked if request.item.startswith("train")]
    assert len(pulls) == len(setting.trace) == 50


def test_a_posterior_is_the_prior_and_the_rewards() -> None:
    setting = Setting()
    setting.optimize(days=4)
    first = [row for row in setting.trace if row["arm"] == "arm0"]
    wins = sum(row["reward"] for row in first)
    assert first[-1]["posterior"] == [1 + wins, 1 + len(first) - wins]
    assert setting.problem.reported["cumulative_successes"][-1] == sum(row["reward"] for row in setting.trace)


def test_settled_leaders_are_scored_on_the_same_validation_rows() -> None:
    setting = Setting()
    setting.optimize(finalists=2, n_samples=15)
    asked = Counter(request.prompt for request in setting.asked if request.item.startswith("val"))
    assert set(asked.values()) == {15}
    pulls = Counter(row["arm"] for row in setting.trace)
    arms = {setting.problem.reported["arms"][i].name: pulls[f"arm{i}"] for i in range(len(pulls))}
    chosen = [step.candidate for step in setting.problem.steps if step.operator == "choose"]
    assert len(chosen) == 2
    assert max(arms.values()) >= 10


def test_retirements_are_logged_with_their_chance() -> None:
    setting = Setting()
    setting.optimize()
    retired = [step for step in setting.problem.steps if step.decision == "retire"]
    assert retired
    assert all(step.numbers["chance"] < step.numbers["threshold"] for step in retired)


@pytest.mark.parametrize("at_once", [1, 5])
def test_a_failed_call_is_no_evidence_and_ends_nothing(at_once: int) -> None:
    first = Setting().problem.draw(1, Random(1))[0].id
    setting = Setting(failing=first)
    setting.optimize(days=8, at_once=at_once)
    assert setting.asked[0].item == first
    assert first not in {row["item"] for row in setting.trace}


def test_a_model_that_answers_nothing_ends_the_task() -> None:
    setting = Setting(failing="t")
    with pytest.raises(TaskError, match="20 of 20"):
        setting.optimize()


def test_when_every_arm_has_walked_all_rows_it_ends() -> None:
    setting = Setting(train=6, stuck=True)
    assert setting.optimize(max_arms=2, n_initial=2, days=30, retirement_threshold=0) is StopReason.EXHAUSTED
    assert len(setting.trace) == 12


def test_a_budget_that_ends_early_leaves_its_traces_and_a_validated_leader() -> None:
    setting = Setting(budget=120)
    with pytest.raises(BudgetExhausted):
        setting.optimize(days=30)
    assert len(setting.trace) >= 90
    assert any(request.item.startswith("val") for request in setting.asked)


def test_rewards_of_a_binary_metric_are_the_same_in_every_reading() -> None:
    traces = []
    for reading in ("fraction", "success"):
        setting = Setting()
        setting.optimize(days=8, reward=reading)
        traces.append(setting.trace)
    assert traces[0] == traces[1]
    assert {row["reward"] for row in traces[0]} == {0.0, 1.0}


def test_the_days_are_what_the_budget_bears() -> None:
    plan = Thompson().plan(Extent(150, 100), Budget(1000))
    assert 900 <= plan.task_calls[2] <= 1000
    given = Thompson(days=30, finalists=1, n_samples=20).plan(Extent(150, 100), Budget(1000))
    assert given.task_calls[2] == 300 + 3 * 20


@pytest.mark.parametrize(
    "wrong", [{"days": -1}, {"calls_per_day": 0}, {"max_arms": 3}, {"min_arms": 0}, {"finalists": 0}, {"at_once": 0}]
)
def test_impossible_parameters_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(UsageError):
        Thompson(**wrong)


def test_the_page_on_live_traffic_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    code = "\n".join(re.findall(r"```python\n(.*?)```", LIVE.read_text(encoding="utf-8"), re.DOTALL))
    names: dict[str, object] = {"__name__": "page"}
    exec(compile(code, str(LIVE), "exec"), names)
    assert json.loads((tmp_path / "bandit.json").read_text())["interactions"] == 300
