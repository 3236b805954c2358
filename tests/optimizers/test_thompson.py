"""thompson: whom the traffic goes to, what the editor sees, what is scored on validation, what is reported."""

from __future__ import annotations

import json
import re
from contextlib import closing, suppress
from pathlib import Path
from random import Random

import pytest

from benchmark_task import parse_optimizer
from optimizers.base import Extent, given_texts
from optimizers.editor import Editor
from optimizers.problem import Problem
from optimizers.thompson import Thompson
from tests.models import Scripted
from utils.door import Door
from utils.errors import BudgetExhausted, CallError, ErrorKind, OptimizerFailed, TaskError, UsageError
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
    setting.optimize(days=4)
    assert {row["arm"] for row in setting.trace[:10]} == {"arm0"}
    assert sum(len(day["born"]) for day in setting.problem.reported["evolutions"]) >= 4
    edits = [request for request in setting.model.requests if request.schema]
    assert all("<failure>" in request.messages[1].content for request in edits[:4])
    assert "val question" not in "".join(request.messages[1].content for request in edits)


def test_the_first_day_of_a_small_budget_is_a_quarter_of_it() -> None:
    setting = Setting()
    setting.optimize(days=2)
    assert {row["arm"] for row in setting.trace[:5]} == {"arm0"}
    assert {row["arm"] for row in setting.trace[5:]} > {"arm0"}


def test_without_failures_shown_mutations_are_blind() -> None:
    setting = Setting()
    setting.optimize(days=3, failures_shown=0)
    assert "<failure>" not in "".join(request.messages[1].content for request in setting.model.requests)


def test_all_arms_walk_the_same_rows_in_the_same_order_and_then_again_each_newcomer_from_a_place_of_its_own() -> None:
    setting = Setting(train=20)
    setting.optimize(days=20)
    walks: dict[str, list[str]] = {}
    for row in setting.trace:
        walks.setdefault(row["arm"], []).append(row["item"])
    longest = max(walks.values(), key=len)
    assert len(longest) > 20
    circle = longest[:20]
    assert len(set(circle)) == 20
    starts = {name: circle.index(walk[0]) for name, walk in walks.items()}
    assert len(set(starts.values())) > 3
    for name, walk in walks.items():
        assert walk == [circle[(starts[name] + step) % 20] for step in range(len(walk))]


def test_a_replayed_row_is_an_interaction_that_costs_nothing() -> None:
    setting = Setting(train=6, stuck=True)
    setting.optimize(max_arms=2, n_initial=2, days=30, retirement_threshold=0)
    assert len(setting.trace) == 300
    assert len(setting.asked) == len({(request.prompt, request.item) for request in setting.asked}) <= 12


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


def test_nothing_is_spent_on_validation_and_the_settled_leader_is_nominated_first() -> None:
    setting = Setting(stuck=True)
    setting.optimize(max_arms=5)
    assert not [request for request in setting.asked if request.item.startswith("val")]
    arms = [arm for arm in setting.problem.reported["arms"] if arm.alive and arm.pulls >= 10 and arm.name != "arm0"]
    best = max(arms, key=lambda arm: (arm.mean, arm.pulls))
    assert setting.problem.finalists(3)[1].system == best.text.partition("\n")[0]


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


def test_rows_that_are_never_answered_are_left_out_and_without_others_it_ends() -> None:
    setting = Setting(train=6, failing="t")
    assert setting.optimize(days=30) is StopReason.EXHAUSTED
    assert setting.trace == []


@pytest.mark.parametrize("budget", [20, 40, 60, 120])
def test_a_small_budget_tries_more_than_one_prompt(budget: int) -> None:
    setting = Setting(budget=budget)
    setting.optimize()
    assert len({row["arm"] for row in setting.trace}) > 1


@pytest.mark.parametrize("limit", [Budget(400, tokens=10_000), Budget(90), Budget(400, optimizer_calls=6)])
def test_good_arms_are_finalists_whatever_ends_the_search(limit: Budget) -> None:
    setting = Setting()
    setting.door.with_ledger(Ledger(limit))
    with suppress(BudgetExhausted):
        setting.optimize(days=60)
    arms = [arm for arm in setting.problem.reported["arms"] if arm.alive and arm.pulls >= 3]
    best = max(arms, key=lambda arm: arm.mean - arm.deviation)
    assert best.mean > 0.4
    assert best.text.partition("\n")[0] in [prompt.system for prompt in setting.problem.finalists(3)]


def test_an_editor_that_gives_up_leaves_the_portfolio_to_play_on() -> None:
    setting = Setting()
    answer = setting.answer
    setting.model._answer = lambda request, count: (
        "junk" if request.schema and setting.edits > 3 else answer(request, count)
    )
    assert setting.optimize(days=30) is StopReason.MAX_ITERATIONS
    assert len(setting.trace) == 300


def test_an_editor_that_never_gives_anything_ends_it() -> None:
    setting = Setting()
    answer = setting.answer
    setting.model._answer = lambda request, count: "junk" if request.schema else answer(request, count)
    with pytest.raises(OptimizerFailed):
        setting.optimize()


# --------------------------------------------------------------------------- prompts of the user


@pytest.mark.parametrize("given", [("Be *.", "Be **."), "Be *. | Be **.", "Be *.\n---\nBe **.\n"])
def test_prompts_of_the_user_play_from_the_first_day(given: str | tuple[str, ...]) -> None:
    setting = Setting()
    setting.optimize(prompts=given, days=1)
    assert [arm.text.partition("\n")[0] for arm in setting.problem.reported["arms"]] == ["Answer.", "Be *.", "Be **."]
    assert len({row["arm"] for row in setting.trace}) > 1


def test_a_prompt_of_the_user_that_names_the_columns_is_a_whole_prompt() -> None:
    setting = Setting()
    setting.optimize(prompts=("Decide this ***: {question}",), days=1)
    assert Prompt(user="Decide this ***: {question}") in setting.problem.finalists(3)


def test_a_prompt_of_the_user_that_cannot_be_used_is_refused_before_a_call() -> None:
    setting = Setting()
    with pytest.raises(UsageError, match=r"prompt 2 of `prompts` cannot be used: placeholder \{question\} is missing"):
        setting.optimize(prompts=("Fine.", "See {other}"))
    assert setting.model.requests == []


def test_prompts_are_read_from_a_file_or_a_list(tmp_path: Path) -> None:
    file = tmp_path / "mine.txt"
    file.write_text("Be brief.\nBe right, too.\n---\nThink, then answer.\n")
    _, params, files = parse_optimizer(f"thompson:prompts=@{file}")
    assert given_texts(params["prompts"]) == ["Be brief.\nBe right, too.", "Think, then answer."]
    assert files["prompts"].startswith("@mine.txt")
    assert parse_optimizer('thompson:prompts=["A, b", "C"]')[1] == {"prompts": ("A, b", "C")}


def test_more_prompts_than_arms_are_refused() -> None:
    with pytest.raises(UsageError, match="max_arms is 2; give 4 or more"):
        Thompson(prompts=("a", "b", "c"), max_arms=2)


# --------------------------------------------------------------------------- whom the traffic goes to


def share_of_the_best(rates: tuple[float, ...], train: int, seed: int) -> float:
    """Of 100 interactions with arms of these success rates on so many rows, the part that the best arm had."""
    draws = {(arm, row): Random(f"{seed} {arm} {row}").random() for arm in range(len(rates)) for row in range(train)}

    def answer(request: Request, count: int) -> str:
        arm = int(re.search(r"arm (\d)", request.messages[0].content)[1])
        return "yes" if draws[arm, int(re.sub(r"\D", "", request.item))] < rates[arm] else "no"

    model = Scripted(answer)
    door = Door({Role.TASK: model, Role.OPTIMIZER: model}, Journal(lambda line: None), Ledger(Budget(400)))
    problem = Problem(Prompt("I am arm 0.", "{question}"), rows("train", train), rows("val", 5), [ExactMatch()], door)
    others = tuple(f"I am arm {n}." for n in range(1, len(rates)))
    portfolio = Thompson(prompts=others, days=10, max_arms=len(rates), retirement_threshold=0)
    with closing(door):
        portfolio.optimize(problem, Editor(door, problem, seed=seed), Random(seed))
    trace = problem.reported["interactions"]
    assert len(trace) == 100
    means = [sum(draws[arm, row] < rate for row in range(train)) for arm, rate in enumerate(rates)]
    return sum(row["arm"] == f"arm{means.index(max(means))}" for row in trace) / 100


@pytest.mark.parametrize("train", [100, 12])
@pytest.mark.parametrize("best", [0.8, 0.9])
def test_the_best_prompt_has_60_to_80_percent_of_the_first_hundred_interactions(train: int, best: float) -> None:
    # measured over 200 runs: .61 and .66 on 100 and 12 rows for a best rate of .8, .75 and .75 for one of .9
    shares = [share_of_the_best((best, 0.6, 0.5, 0.4, 0.3), train, seed) for seed in range(40)]
    assert 0.55 <= sum(shares) / len(shares) <= 0.85


def test_rewards_of_a_binary_metric_are_the_same_in_every_reading() -> None:
    traces = []
    for reading in ("fraction", "success"):
        setting = Setting()
        setting.optimize(days=8, reward=reading)
        traces.append(setting.trace)
    assert traces[0] == traces[1]
    assert {row["reward"] for row in traces[0]} == {0.0, 1.0}


def test_the_interactions_are_what_the_budget_bears() -> None:
    assert Thompson().plan(Extent(150, 100), Budget(1000)).task_calls == (150, 1000, 1000)
    assert Thompson(days=30).plan(Extent(150, 100), Budget(1000)).task_calls[2] == 300


@pytest.mark.parametrize(
    "wrong", [{"days": -1}, {"calls_per_day": 0}, {"max_arms": 3}, {"min_arms": 0}, {"at_once": 0}]
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
