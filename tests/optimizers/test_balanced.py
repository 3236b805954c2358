"""balanced: the focus follows the weights, the rules revert what they should, tokens are those of each answer."""

from __future__ import annotations

import itertools
import json
import math
import re
from collections.abc import Callable
from contextlib import closing, suppress
from dataclasses import replace
from random import Random
from typing import Any

import pytest

from benchmark_task import Work, _choose, run_task
from optimizers.balanced import TEXTS, Balanced, pareto
from optimizers.base import Optimizer
from optimizers.editor import Editor
from optimizers.hill_climb import HillClimb
from optimizers.problem import Problem
from tests.models import Scripted
from utils.dataset_specs.base import DatasetSpec, Sizes
from utils.door import Door
from utils.errors import OptimizerFailed, Stop, UsageError
from utils.journal import Journal
from utils.ledger import Ledger
from utils.llm.simulated import simulated_model
from utils.llm.simulated.calibration import examples
from utils.metrics.exact_match import ExactMatch
from utils.metrics.option_letter import OptionLetter
from utils.prompt import Prompt
from utils.records import (
    Budget,
    Completion,
    Evaluation,
    Example,
    ItemScore,
    Request,
    Role,
    Score,
    Split,
    Splits,
    Step,
    StopReason,
    TaskResult,
    TaskSpec,
    Usage,
)

SEED = Prompt(system="Answer.", user="{question}")


def trial(accuracy: float, tokens: float, name: str = "x") -> Evaluation:
    """An evaluation with this mean and these mean tokens."""
    items = tuple(ItemScore(str(i), "a", Score(accuracy), tokens_out=int(tokens)) for i in range(2))
    return Evaluation(Prompt(system=name), Split.VALIDATION, items)


# --------------------------------------------------------------------------- the three rules

OLD = trial(0.5, 100)


@pytest.mark.parametrize(
    ("new", "reverted"), [(trial(0.5, 400), False), (trial(0.6, 400), False), (trial(0.4, 10), True)]
)
@pytest.mark.parametrize("focus", ["accuracy", "efficiency"])
def test_rule_accuracy_reverts_what_is_less_accurate_whatever_it_costs(
    focus: Any, new: Evaluation, reverted: bool
) -> None:
    assert Balanced(rule="accuracy").reverts(focus, OLD, new, 100) is reverted


@pytest.mark.parametrize(
    ("new", "reverted"),
    [
        (trial(0.5, 99), False),
        (trial(0.5, 100), True),  # no shorter
        (trial(0.48, 50), True),
        (trial(0.9, 101), True),  # better, but this step was for tokens
    ],
)
def test_rule_focus_wants_fewer_tokens_at_the_same_accuracy_from_an_efficiency_step(
    new: Evaluation, reverted: bool
) -> None:
    assert Balanced(rule="focus").reverts("efficiency", OLD, new, 100) is reverted
    assert Balanced(rule="focus").reverts("accuracy", OLD, new, 100) is (new.mean < 0.5)


def test_the_tolerance_is_accuracy_that_a_shorter_answer_may_cost() -> None:
    assert not Balanced(tolerance=0.05).reverts("efficiency", OLD, trial(0.46, 50), 100)
    assert Balanced(tolerance=0.05).reverts("efficiency", OLD, trial(0.44, 50), 100)
    assert Balanced(tolerance=0.05).reverts("accuracy", OLD, trial(0.46, 50), 100)


def test_rule_weighted_trades_accuracy_for_tokens_by_the_weights() -> None:
    cheaper = trial(0.4, 50)  # .1 of accuracy for half of the tokens
    assert not Balanced(0.5, 0.5, rule="weighted").reverts("accuracy", OLD, cheaper, 100)
    assert Balanced(0.9, 0.1, rule="weighted").reverts("accuracy", OLD, cheaper, 100)


def test_the_worth_of_a_prompt_that_is_far_longer_has_a_floor() -> None:
    even = Balanced(0.5, 0.5)
    assert even.worth(0.8, 100, 100) == pytest.approx(0.4)
    assert even.worth(0.8, 1000, 100) == pytest.approx(0.4 - 0.5)
    assert even.worth(0.8, 0, 100) == pytest.approx(0.4 + 0.5)


def test_no_saving_makes_up_for_accuracy_that_the_seed_prompt_had() -> None:
    frugal = Balanced(0.1, 0.9)
    seed = frugal.utility(OLD.mean, OLD.tokens, OLD)
    assert frugal.utility(0.49, 0, OLD) < seed < frugal.utility(0.5, 99, OLD)
    assert Balanced(0.1, 0.9, tolerance=0.05).utility(0.46, 10, OLD) > seed


def test_the_pareto_set_is_what_nothing_else_dominates() -> None:
    rng = Random(1)
    trials = [trial(rng.randrange(6) / 5, rng.randrange(8), str(n)) for n in range(60)]

    def dominated(one: Evaluation) -> bool:
        return any(
            other.mean >= one.mean
            and other.tokens <= one.tokens
            and (other.mean, other.tokens) != (one.mean, one.tokens)
            for other in trials
        )

    front = {(one.mean, one.tokens) for one in trials if not dominated(one)}
    found = pareto(trials)
    assert {(one.mean, one.tokens) for one in found} == front
    assert len(found) == len(front)  # of equals one


# --------------------------------------------------------------------------- weights


@pytest.mark.parametrize("weights", [(-0.1, 1), (1, -0.1), (0, 0), (math.nan, 1)])
def test_impossible_weights_are_refused(weights: tuple[float, float]) -> None:
    with pytest.raises(UsageError, match="weight"):
        Balanced(*weights)


@pytest.mark.parametrize("wrong", [{"batch_size": 0}, {"max_epochs": 0}, {"steps_per_epoch": 0}, {"tolerance": -1}])
def test_impossible_parameters_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=next(iter(wrong))):
        Balanced(**wrong)


def test_weights_count_by_their_share() -> None:
    assert Balanced(3, 7).weight == Balanced(0.3, 0.7).weight == pytest.approx(0.3)


# --------------------------------------------------------------------------- a run


class Setting:
    """A problem of 10 rows a split. `+n` in a prompt gets n of ten rows right, `-m` takes m tokens; else 2 and 10."""

    def __init__(self, reply: Callable[[Request, int], dict[str, str]], budget: int = 5000) -> None:
        self.reply = reply
        self.model = Scripted(self.answer)
        self.door = Door(
            {Role.TASK: self.model, Role.OPTIMIZER: self.model}, Journal(lambda line: None), Ledger(Budget(budget))
        )
        self.problem = Problem(SEED, rows("train"), rows("val"), [ExactMatch()], self.door)
        self.editor = Editor(self.door, self.problem, seed=1)
        self.asked: list[str] = []
        self.stopped: StopReason | None = None
        usage = self.model.usage
        self.model.usage = lambda request, answer: (  # type: ignore[method-assign]
            usage(request, answer) if request.schema else Usage(5, self.number(request, "-", 10), reasoning=4)
        )

    def number(self, request: Request, sign: str, otherwise: int) -> int:
        text = request.messages[0].content
        return next((n for n in range(30, -1, -1) if f"{sign}{n}." in text), otherwise)

    def answer(self, request: Request, count: int) -> str:
        if request.schema is not None:
            if "critique" in request.schema["properties"]:
                return json.dumps({"critique": "Say more."})
            self.asked.append(request.messages[1].content)
            return json.dumps(self.reply(request, len(self.asked)))
        row = int(re.sub(r"\D", "", request.item))
        return "yes" if row < self.number(request, "+", 2) else "no"

    def optimize(self, optimizer: Balanced) -> list[Step]:
        try:
            self.stopped = optimizer.optimize(self.problem, self.editor, Random(1))
        except OptimizerFailed as stop:
            self.stopped = StopReason(stop.reason)
        finally:
            self.door.close()
        return self.problem.steps

    @property
    def critiques(self) -> list[str]:
        schemas = [(r, r.schema) for r in self.model.requests if r.schema is not None]
        return [r.messages[1].content for r, schema in schemas if "critique" in schema["properties"]]


def rows(split: str) -> list[Example]:
    return [Example(f"{split}{i}", {"question": f"{split} question {i}"}, "yes") for i in range(10)]


def worse(request: Request, count: int) -> dict[str, str]:
    return {"system": f"Version {count} +1."}


def test_a_wrong_answer_is_criticised_beside_what_was_expected() -> None:
    setting = Setting(worse)
    setting.optimize(Balanced(1, 0, batch_size=10, max_epochs=1, steps_per_epoch=1))
    assert len(setting.critiques) == 8  # the right ones have nothing to be criticised
    assert "<expected>\nyes\n</expected>\n<answer>\nno\n</answer>" in setting.critiques[0]
    assert "+" not in setting.asked[0]
    assert setting.asked[0].count("<critique>\nSay more.\n</critique>") == 8


def test_every_answer_is_criticised_for_its_length_with_its_own_tokens() -> None:
    setting = Setting(worse)
    setting.optimize(Balanced(0, 1, batch_size=4, max_epochs=1, steps_per_epoch=1))
    assert len(setting.critiques) == 4
    assert all("<tokens>\n10\n</tokens>" in question for question in setting.critiques)


def test_tokens_are_those_that_each_answer_reports_thinking_included() -> None:
    setting = Setting(lambda request, count: {"system": f"Version {count} -7."})
    steps = setting.optimize(Balanced(0, 1, max_epochs=1, steps_per_epoch=1))
    assert [(step.numbers["kept_tokens"], step.numbers["tokens"]) for step in steps] == [(10, 7)]


def test_the_pareto_set_holds_reverted_prompts_too() -> None:
    made = iter(["+6. -20.", "+1. -2."])
    setting = Setting(lambda request, count: {"system": next(made)})
    setting.optimize(Balanced(0.2, 0.8, rule="accuracy", max_epochs=1, steps_per_epoch=2))
    front = setting.problem.tables["pareto"]
    assert front.columns == ("prompt", "accuracy", "tokens", "text")
    assert [(row[1:3], row[3].system) for row in front.rows] == [
        ((0.1, 2), "+1. -2."),
        ((0.2, 10), "Answer."),
        ((0.6, 20), "+6. -20."),
    ]
    assert setting.problem.reported["last"].system == "+6. -20."


# --------------------------------------------------------------------------- the prompt that is delivered


def deliver(optimizer: Optimizer, *made: str) -> TaskResult:
    """What a task comes to whose editor offers these prompts, the last one again and again."""
    setting = Setting(lambda request, count: {"system": made[min(count, len(made)) - 1]})
    splits = Splits(tuple(rows("train")), tuple(rows("val")), tuple(rows("test")), data_hash="")
    dataset = DatasetSpec("toy", "", 1, "", (), {}, Sizes(10, 10, 10), SEED, (ExactMatch(),), lambda row: row)
    spec = TaskSpec("toy", "balanced", "scripted", 1, budget=Budget(200))
    try:
        return run_task(spec, Work(dataset, splits, SEED, (ExactMatch(),)), optimizer, setting.door)
    finally:
        setting.door.close()


def test_the_same_accuracy_for_a_fifth_of_the_tokens_is_delivered() -> None:
    result = deliver(Balanced(max_epochs=2), "Short +2. -2.")
    assert result.final is not None
    assert result.final.prompt.system == "Short +2. -2."
    assert (result.gain.mean, result.saved.mean) == (0, pytest.approx(0.8))
    assert result.saved.low > 0
    columns = result.tables["columns"]
    assert columns.columns == (
        *("on", "weights", "initial acc", "final acc", "improvement"),
        *("initial tokens", "final tokens", "reduction", "reduction %"),
    )
    assert columns.rows == tuple((on, "0.7/0.3", 0.2, 0.2, 0, 10, 2, 8, 80) for on in ("validation", "test"))


def test_the_columns_are_those_of_the_delivered_prompt_and_not_of_the_last() -> None:
    # the rule keeps the long one, the weights do not want it
    result = deliver(Balanced(0.2, 0.8, rule="accuracy", first_rows=0, max_epochs=1), "+2. -5.", "+3. -20.")
    assert result.reported["last"]["system"] == "+3. -20."
    assert result.final.prompt.system == "+2. -5."
    assert [row[6] for row in result.tables["columns"].rows] == [5, 5]


def test_weights_decide_what_accuracy_may_cost() -> None:
    made = ("+4. -16.",)
    assert deliver(Balanced(0.9, 0.1, rule="accuracy", max_epochs=2), *made).final.prompt.system == "+4. -16."
    assert deliver(Balanced(0.5, 0.5, rule="accuracy", max_epochs=2), *made).final.prompt == SEED


def test_other_optimizers_choose_by_the_score_alone() -> None:
    made = ("Short +2. -2.",)
    assert deliver(HillClimb(max_rounds=3), *made).final.prompt == SEED


def test_a_prompt_is_scored_once_on_validation_and_never_again_to_be_compared() -> None:
    setting = Setting(worse)
    setting.optimize(Balanced(0, 1, max_epochs=1, steps_per_epoch=3))
    asked = [(r.prompt, r.item) for r in setting.model.requests if r.schema is None]
    assert len(asked) == len(set(asked)) == 10 + 3 * (3 + 10)


def test_a_bad_step_is_found_out_on_a_few_rows_and_a_good_one_takes_the_whole_sample() -> None:
    made = iter(["Version +0.", "Version +9.", "Other +0."])
    setting = Setting(lambda request, count: {"system": next(made)})
    steps = setting.optimize(Balanced(1, 0, batch_size=10, first_rows=8, max_epochs=1, steps_per_epoch=3))
    looks = [(step.operator, step.decision) for step in steps]
    assert looks == [
        *[("accuracy look", d) for d in ("reject", "accept")],
        ("accuracy", "accept"),
        ("accuracy look", "reject"),
    ]
    validated = [r.prompt for r in setting.model.requests if r.item.startswith("val")]
    assert [validated.count(step.candidate.id) for step in steps if step.candidate] == [8, 10, 10, 8]


def test_a_batch_is_drawn_without_replacement_within_an_epoch() -> None:
    setting = Setting(worse)
    setting.optimize(Balanced(0, 1, batch_size=3, max_epochs=1, steps_per_epoch=3))
    trained = [r.item for r in setting.model.requests if r.schema is None and r.item.startswith("train")]
    assert len(set(trained)) == 9


def test_a_batch_larger_than_training_is_all_of_it() -> None:
    setting = Setting(worse)
    setting.optimize(Balanced(0, 1, batch_size=50, max_epochs=1, steps_per_epoch=1))
    assert len(setting.critiques) == 10


def test_without_validation_every_step_is_kept_and_an_epochs_last_prompt_is_scored() -> None:
    setting = Setting(worse)
    steps = setting.optimize(Balanced(1, 0, run_validation=False, max_epochs=2, steps_per_epoch=3))
    assert [step.candidate.system for step in steps if step.decision == "accept"] == [
        f"Version {n} +1." for n in range(1, 7)
    ]
    validated = {r.prompt for r in setting.model.requests if r.item.startswith("val")}
    assert len(validated) == 3
    assert setting.problem.reported["last"].system == "Version 6 +1."  # worse than the seed, and kept


def test_nothing_wrong_under_accuracy_alone_ends_the_search_after_as_many_rows_as_there_are() -> None:
    setting = Setting(lambda request, count: {"system": "Version +10."})
    steps = setting.optimize(Balanced(1, 0, batch_size=5))
    assert [step.decision for step in steps] == ["accept", "skip", "skip"]
    assert setting.stopped is StopReason.TARGET_REACHED


def test_critiques_that_cannot_be_read_cost_their_step_and_not_the_run() -> None:
    setting = Setting(lambda request, count: {"system": "Version +5."})
    answer = setting.answer
    asked = itertools.count()

    def clumsy(request: Request, count: int) -> str:
        is_critique = request.schema is not None and "critique" in request.schema["properties"]
        return "no JSON" if is_critique and next(asked) < 2 * 3 else answer(request, count)

    setting.model._answer = clumsy
    steps = setting.optimize(Balanced(0, 1, rule="weighted", max_epochs=1, steps_per_epoch=2))
    assert [step.decision for step in steps] == ["malformed"] * 3 + ["accept"]


# --------------------------------------------------------------------------- on the simulated models

EXAMPLES = examples(400)
START = Prompt(system="Answer the question.", user="{question}")


def simulate(optimizer: Balanced, number: int, budget: int = 600) -> tuple[Problem, Evaluation, Evaluation]:
    """One run on an instance of the landscape, with its number as the seed; the seed prompt and the delivered one."""
    model = simulated_model("sim/standard", {"instance": number}, EXAMPLES)
    door = Door(
        {Role.TASK: model, Role.OPTIMIZER: model}, Journal(lambda line: None), Ledger(Budget(budget)), in_flight=16
    )
    problem = Problem(START, EXAMPLES[:100], EXAMPLES[100:200], [OptionLetter()], door)
    with closing(door):
        with suppress(Stop):
            optimizer.optimize(problem, Editor(door, problem, seed=number), Random(number))
        door.with_ledger(Ledger())
        return problem, *_choose(problem, optimizer)


def averages(weight: float, runs: range, **params: Any) -> tuple[float, float, list[str]]:
    """Mean gain in accuracy and mean reduction of tokens of the delivered prompts, and every focus drawn."""
    gain = saved = 0.0
    focus: list[str] = []
    for number in runs:
        optimizer = Balanced(weight, 1 - weight, **params)
        problem, seed, final = simulate(optimizer, number)
        gain += (final.mean - seed.mean) / len(runs)
        saved += (seed.tokens - final.tokens) / len(runs)
        focus += problem.reported["focus"]  # type: ignore[operator]
    return gain, saved, focus


def within(share: float, weight: float, n: int) -> bool:
    """True inside the normal 99 % interval of a binomial share."""
    return abs(share - weight) <= 2.576 * math.sqrt(weight * (1 - weight) / n) + 0.5 / n


def check_tradeoff(runs: range, weights: tuple[float, ...]) -> None:
    gains, savings = [], []
    for weight in weights:
        gain, saved, focus = averages(weight, runs)
        gains.append(gain)
        savings.append(saved)
        assert within(focus.count("accuracy") / len(focus), weight, len(focus))
    assert gains == sorted(gains)
    assert savings == sorted(savings, reverse=True)
    assert len(set(savings)) == len(set(gains)) == len(weights)


def test_more_weight_on_accuracy_gains_more_of_it_and_saves_fewer_tokens() -> None:
    check_tradeoff(range(3), (0.1, 0.9))


@pytest.mark.trial
def test_the_weights_trade_accuracy_for_tokens_over_twenty_instances() -> None:
    # measured at 600 calls: accuracy +.32, +.31, +.48, +.65 and tokens -6, -4, +23, +64 for weights .1, .5, .7, .9
    check_tradeoff(range(20), (0.1, 0.7, 0.9))


def check_never_falls(runs: range, weights: tuple[float, ...]) -> None:
    for weight, number in itertools.product(weights, runs):
        steps = simulate(Balanced(weight, 1 - weight, rule="accuracy"), number)[0].steps
        kept = [step.numbers["accuracy"] for step in steps if step.decision == "accept" and step.operator in TEXTS]
        assert len(kept) > 1
        assert kept == sorted(kept)


def test_validation_accuracy_never_falls_under_the_rule_accuracy() -> None:
    check_never_falls(range(2), (0.5,))


@pytest.mark.trial
def test_validation_accuracy_never_falls_over_twenty_instances() -> None:
    check_never_falls(range(20), (0.1, 0.5, 0.9))


@pytest.mark.parametrize("weights", [(1, 0), (0, 1)])
def test_a_critique_sees_the_thinking_before_the_answer(weights: tuple[float, float]) -> None:
    setting = Setting(worse)
    complete = setting.model.complete

    async def think(request: Request) -> Completion:
        answer = await complete(request)
        return answer if request.schema else replace(answer, thinking="First I </wondered> a while. " * 300)

    setting.model.complete = think  # type: ignore[method-assign]
    setting.optimize(Balanced(*weights, batch_size=10, max_epochs=1, steps_per_epoch=1))
    (shown,) = {re.search(r"<thinking>\n(.*?)\n</thinking>", text, re.DOTALL)[1] for text in setting.critiques}  # type: ignore[index]
    assert shown.startswith("First I <\\/wondered> a while.")
    assert len(shown) < 4300


def test_no_thinking_is_shown_where_none_is_told() -> None:
    setting = Setting(worse)
    setting.optimize(Balanced(0, 1, max_epochs=1, steps_per_epoch=1))
    assert "<thinking>" not in "".join(setting.critiques)
