"""evolutionary_optimizer: who survives, what the front is, how the rate adapts, and that small budgets are fitted."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Sequence
from random import Random
from statistics import fmean
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from optimizers.editor import Editor
from optimizers.evolutionary_optimizer import (
    JOIN,
    STYLE,
    EvolutionaryOptimizer,
    adapted,
    fitness,
    fronts,
    prompt_tokens,
    rank,
    survivors,
)
from optimizers.problem import Problem
from tests.models import Scripted
from utils.door import Door
from utils.errors import BudgetExhausted, UsageError
from utils.journal import Journal
from utils.ledger import Ledger
from utils.metrics.exact_match import ExactMatch
from utils.prompt import Prompt
from utils.records import Budget, Evaluation, Example, ItemScore, Request, Role, Score, Split, Step, StopReason

SEED = Prompt(system="Answer the question. Be brief.", user="{question}")
VIRTUES = ("amber", "birch", "cedar", "ember", "fjord", "grove", "heath", "inlet")


def trial(name: str, score: float, length: int) -> Evaluation:
    prompt = Prompt(system=name.ljust(length, "."))
    return Evaluation(prompt, Split.VALIDATION, (ItemScore("1", "", Score(score, "")),))


def some_trials(name: str) -> st.SearchStrategy[list[Evaluation]]:
    points = st.lists(st.tuples(st.integers(0, 10), st.integers(1, 10)), min_size=1, max_size=24)
    return points.map(
        lambda found: [trial(f"{name}{n:02}", score / 10, 4 * length) for n, (score, length) in enumerate(found)]
    )


TRIALS = some_trials("p")


def dominates(one: Evaluation, other: Evaluation) -> bool:
    ours, theirs = (one.mean, -prompt_tokens(one.prompt)), (other.mean, -prompt_tokens(other.prompt))
    return ours != theirs and ours[0] >= theirs[0] and ours[1] >= theirs[1]


def undominated(trials: Sequence[Evaluation]) -> set[str]:
    return {one.prompt.id for one in trials if not any(dominates(other, one) for other in trials)}


@given(TRIALS)
def test_the_first_front_is_what_nothing_dominates(trials: list[Evaluation]) -> None:
    assert {one.prompt.id for one in fronts(trials)[0]} == undominated(trials)


@given(TRIALS)
def test_every_front_is_what_nothing_of_the_rest_dominates(trials: list[Evaluation]) -> None:
    rest = trials
    for front in fronts(trials):
        ids = {one.prompt.id for one in front}
        assert ids == undominated(rest)
        rest = [one for one in rest if one.prompt.id not in ids]
    assert not rest


def test_of_a_front_the_ends_come_first_and_the_crowded_last() -> None:
    points = [(0.1, 4), (0.5, 16), (0.55, 20), (0.6, 24), (1.0, 80)]
    (front,) = fronts([trial(str(n), score, length) for n, (score, length) in enumerate(points)])
    assert {front[0].mean, front[1].mean} == {0.1, 1.0}
    assert front[-1].mean == 0.55


@given(TRIALS, some_trials("c"), st.booleans(), st.integers(0, 3))
def test_survivors_are_no_worse_than_their_parents(
    parents: list[Evaluation], children: list[Evaluation], moo: bool, elitism: int
) -> None:
    kept = survivors(parents, children, len(parents), min(elitism, len(parents) - 1), moo)
    assert len(kept) == len({one.prompt.id for one in kept}) == len(parents)
    best = max((*parents, *children), key=lambda one: one.mean)
    if moo:  # no member that was lost dominates one that stays
        lost = [one for one in (*parents, *children) if one.prompt.id not in {k.prompt.id for k in kept}]
        assert not any(dominates(one, other) for one in lost for other in kept)
        assert len(parents) == 1 or max(one.mean for one in kept) == best.mean
    else:
        assert fmean(one.mean for one in kept) >= fmean(one.mean for one in parents)
        assert all(elite in kept for elite in rank(parents, moo)[: min(elitism, len(parents) - 1)])


@pytest.mark.parametrize(
    ("gain", "spread", "stale", "rate"),
    [
        (0.0, 0.9, 3, 0.4),  # 2.5 r, at its bound
        (0.0, 0.5, 1, 0.4),  # 2 r + bonus, at its bound
        (0.0, 0.9, 1, 0.3),  # 1.5 r
        (0.2, 0.9, 0, 0.16),  # .8 r
        (0.2, 0.5, 0, 0.19),  # .8 r + .3 bonus
        (0.03, 0.6, 0, 0.25),  # r + bonus
        (0.03, 0.0, 0, 0.4),
    ],
)
def test_the_rate_adapts_to_gain_and_diversity(gain: float, spread: float, stale: int, rate: float) -> None:
    assert adapted(0.2, gain, spread, stale) == pytest.approx(rate)


def test_the_rate_never_leaves_its_bounds() -> None:
    assert adapted(0.01, 0.5, 1, 0) == 0.1
    assert adapted(1, 0, 0, 9) == 0.4


# ------------------------------------------------------------------ whole searches


class Setting:
    """Forty rows of validation. A prompt gets right two rows, and four for each virtue that it names.

    The editor adds a virtue to the prompt that it is shown first.
    """

    def __init__(self, budget: int = 20_000, seed: Prompt = SEED) -> None:
        self.model = Scripted(self.answer)
        self.door = Door(
            {Role.TASK: self.model, Role.OPTIMIZER: self.model},
            Journal(lambda line: None),
            Ledger(Budget(budget, 20_000)),
        )
        rows = [[Example(f"{s}{i}", {"question": f"{s} {i}"}, "yes") for i in range(40)] for s in ("train", "val")]
        self.problem = Problem(seed, *rows, [ExactMatch()], self.door)
        self.editor = Editor(self.door, self.problem, seed=1)
        self.dice = Random(5)

    def answer(self, request: Request, count: int) -> str:
        text = "\n".join(message.content for message in request.messages)
        if request.schema is None:
            right = 2 + 4 * sum(virtue in text for virtue in VIRTUES)
            return "yes" if int(request.item.removeprefix("val")) < right else "no"
        return json.dumps(self.reply(request.schema, request.messages[-1].content))

    def reply(self, schema: Any, text: str) -> Any:
        names = schema["properties"]
        if "style" in names:
            return {"style": "one word"}
        if "replacement" in names:
            return {"replacement": self.dice.choice(VIRTUES)}
        if "prompts" in names:
            return {
                "prompts": [self.edit(text) for _ in range(int(re.search(r"Write (\d+)|write\s(\d+)", text)[0][6:]))]
            }
        return {name: self.edit(text) for name in names} if "child_1" in names else self.edit(text)

    def edit(self, text: str) -> dict[str, str]:
        system = re.search(r"<system>\n(.*?)\n</system>", text, re.DOTALL)[1]
        return {"system": f"{system} Be {self.dice.choice(VIRTUES)}."}

    def optimize(self, seed: int = 1, **params: Any) -> StopReason:
        try:
            return EvolutionaryOptimizer(**{"n_samples": 40, **params}).optimize(
                self.problem, self.editor, Random(seed)
            )
        finally:
            self.door.close()

    def steps(self, operator: str) -> list[Step]:
        return [step for step in self.problem.steps if step.operator == operator]

    @property
    def asked(self) -> list[str]:
        return [request.messages[-1].content for request in self.model.requests if request.schema is not None]


@pytest.mark.parametrize("moo", [False, True])
@pytest.mark.parametrize("first_rows", [0, 8])
def test_the_front_is_what_nothing_that_was_scored_dominates(moo: bool, first_rows: int) -> None:
    setting = Setting()
    setting.optimize(moo=moo, first_rows=first_rows, generations=6)
    tried = {step.candidate.id: step.candidate for step in setting.problem.steps if step.candidate}
    counts: dict[str, int] = {}
    for request in setting.model.requests:
        counts[request.prompt] = counts.get(request.prompt, 0) + 1
    whole = [setting.problem.score(p) for p in (SEED, *tried.values()) if counts.get(p.id) == 40]
    front = setting.problem.reported["front"]
    assert {row["prompt"].id for row in front} == undominated(whole)
    assert [row["score"] for row in front] == sorted((row["score"] for row in front), reverse=True)


def test_the_best_never_falls_and_generations_improve() -> None:
    setting = Setting()
    setting.optimize(generations=8)
    told = setting.problem.reported["generations"]
    full = [row for row in told if row["members"] == 10]
    assert len(told) == 8
    assert [row["best"] for row in told] == sorted(row["best"] for row in told)
    assert [row["mean"] for row in full] == sorted(row["mean"] for row in full)
    assert told[-1]["best"] > told[0]["best"] + 0.2


@pytest.mark.parametrize(("budget", "size"), [(4000, 10), (600, 5), (260, 2)])
def test_a_population_fits_three_times_into_the_budget(budget: int, size: int) -> None:
    assert EvolutionaryOptimizer(n_samples=40)._population(budget, 40) == size


def test_a_population_made_smaller_is_noted() -> None:
    large, small = Setting(budget=2000), Setting(budget=600)
    large.optimize(generations=1, population=10)
    assert not large.steps("population")
    with contextlib.suppress(BudgetExhausted):
        small.optimize(generations=1, population=10)
    assert small.steps("population")[0].numbers == {"asked": 10, "taken": 5}


def test_a_child_that_is_worse_costs_a_few_rows() -> None:
    spent = []
    for first_rows in (0, 4):
        setting = Setting()
        setting.optimize(first_rows=first_rows, generations=3)
        spent.append(sum(request.schema is None for request in setting.model.requests))
    assert spent[1] < spent[0]


def test_identical_parents_and_an_editor_without_ideas_are_survived() -> None:
    setting = Setting(seed=Prompt(system="Go.", user="{question}"))
    setting.edit = lambda text: {"system": "Go."}
    setting.reply = lambda schema, text, reply=setting.reply: (
        {"replacement": "Go"} if "replacement" in schema["properties"] else reply(schema, text)
    )
    assert setting.optimize() is StopReason.NO_IMPROVEMENT
    assert setting.steps("restart")


def test_the_style_is_asked_once_and_said_to_whoever_mutates() -> None:
    setting, without = Setting(), Setting()
    setting.optimize(generations=2)
    without.optimize(generations=2, infer_output_style=False)
    assert sum(text.startswith(STYLE) for text in setting.asked) == 1
    assert any("<answers_look_like>\none word" in text for text in setting.asked)
    assert not any("answers_look_like" in text for text in without.asked)


def test_the_editor_joins_parents_where_told_to() -> None:
    setting, without = Setting(), Setting()
    setting.optimize(generations=2, llm_crossover=True)
    without.optimize(generations=2)
    assert any(text.startswith(JOIN) for text in setting.asked)
    assert not any(text.startswith(JOIN) for text in without.asked)


def test_everything_right_ends_it() -> None:
    setting = Setting()
    setting.answer = lambda request, count: "yes" if request.schema is None else Setting.answer(setting, request, count)
    setting.model._answer = setting.answer
    assert setting.optimize() is StopReason.TARGET_REACHED


def test_of_equal_scores_the_shorter_prompt_is_fitter() -> None:
    assert fitness(trial("a", 0.5, 10)) > fitness(trial("b", 0.5, 20))


@pytest.mark.parametrize(
    "params", [{"population": 1}, {"mutation_rate": 2}, {"elitism": 10}, {"tournament": 0}, {"generations": 0}]
)
def test_bad_values_are_refused(params: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        EvolutionaryOptimizer(**params)


# ------------------------------------------------------------------ on the simulated models


@pytest.mark.trial
def test_the_fourth_generation_is_better_than_the_first() -> None:
    """In nine of ten searches, each on an instance of its own."""
    from tests.performance.scoreboard import STANDARD, optimum
    from utils.llm.simulated import simulated_model
    from utils.metrics.option_letter import OptionLetter

    better = 0
    for instance in range(100, 120):
        rows, *_ = optimum(STANDARD, instance)
        model = simulated_model(STANDARD, {"instance": instance}, rows)
        door = Door({Role.TASK: model, Role.OPTIMIZER: model}, Journal(lambda line: None), Ledger(Budget(20_000)))
        problem = Problem(
            Prompt("Answer the question.", "{question}"), rows[:100], rows[100:200], [OptionLetter()], door
        )
        with contextlib.closing(door):
            optimizer = EvolutionaryOptimizer(generations=5, n_samples=100)
            optimizer.optimize(problem, Editor(door, problem, seed=1), Random(1))
        told = problem.reported["generations"]
        better += told[-1]["best"] > told[0]["best"]
    assert better >= 18


@pytest.mark.trial
def test_it_beats_random_paraphrase_at_4000_calls() -> None:
    """Three quarters of the instances are required."""
    from tests.performance.scoreboard import STANDARD, Cell, run

    def true(name: str, instance: int) -> float:
        return run(Cell(name, STANDARD, instance, 1, 4000)).true

    won = sum(true("evolutionary_optimizer", i) > true("random_paraphrase", i) for i in range(100, 120))
    assert won >= 15
