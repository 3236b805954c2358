"""The problem: honest scores at the least cost, and nothing spent on a prompt that cannot count."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from random import Random
from typing import Any, ClassVar, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from optimizers.problem import SPAN, Problem, Rules, spans_in, spans_of
from tests.models import Scripted, constant, failing
from utils.door import Door
from utils.errors import BudgetExhausted, CallError, ErrorKind, TaskError
from utils.journal import Journal
from utils.ledger import Ledger
from utils.metrics.base import JudgedMetric, Metric
from utils.metrics.exact_match import ExactMatch
from utils.metrics.token_f1 import TokenF1
from utils.prompt import Demo, Prompt, diff
from utils.records import (
    Budget,
    Completion,
    Evaluation,
    Example,
    Flaw,
    ItemScore,
    Message,
    Request,
    Role,
    Score,
    Split,
    Step,
)
from utils.tracing.records import Recorder

WORDS = [f"word{i}" for i in range(400)]
SEED = Prompt(system="Answer.", user="{question}")


def example(split: str, number: int, target: str = "yes") -> Example:
    """A row with a run of 14 words that no other row has."""
    words = Random(f"{split}{number}").sample(WORDS, 14)
    return Example(f"{split}{number}", {"question": " ".join(words)}, target)


TRAIN = tuple(example("train", i) for i in range(10))
VALIDATION = tuple(example("val", i) for i in range(40))
TEST = tuple(example("test", i) for i in range(4))


def worth(**shares: float) -> Callable[[Request, int], str]:
    """A model that is right on so large a share of the rows, by the system text; on the same rows each time."""

    def answer(request: Request, count: int) -> str:
        share = next((share for name, share in shares.items() if name in request.messages[0].content), 0.5)
        return "yes" if Random(request.messages[-1].content).random() < share else "no"

    return answer


def named(name: str) -> Prompt:
    return replace(SEED, system=name)


@contextmanager
def opened(
    model: Scripted,
    metrics: tuple[Metric | JudgedMetric, ...] = (ExactMatch(),),
    budget: Budget | None = None,
    validation: tuple[Example, ...] = VALIDATION,
    **more: Any,
) -> Iterator[Problem]:
    door = Door(dict.fromkeys(Role, model), Journal(lambda line: None), Ledger(budget or Budget(10**6)))
    spans = spans_of((*validation, *TEST))
    try:
        yield Problem(more.pop("seed", SEED), TRAIN, validation, metrics, door, spans=spans, **more)
    finally:
        door.close()


def objection(prompt: Prompt, **more: Any) -> str:
    with opened(constant("yes"), **more) as problem:
        return problem.objection(prompt)


# --------------------------------------------------------------------------- what is paid


def test_nothing_is_scored_twice() -> None:
    model = constant("yes")
    with opened(model) as problem:
        problem.score(SEED, VALIDATION[:8])
        assert len(model.requests) == 8
        problem.score(SEED)
        assert len(model.requests) == 40
        first, again = problem.score_all([SEED, SEED])
        problem.score(replace(SEED), VALIDATION[3:5])
        assert len(model.requests) == 40
        assert first == again


def test_one_batch_asks_each_pair_once() -> None:
    model = constant("yes")
    with opened(model) as problem:
        trials = problem.score_all([SEED, named("a"), SEED], (*VALIDATION[:3], VALIDATION[0]))
        assert len(model.requests) == 6
        assert [len(trial.items) for trial in trials] == [4, 4, 4]


def test_a_batch_that_does_not_fit_sends_nothing_and_scores_nothing() -> None:
    model = constant("yes")
    with opened(model, budget=Budget(79)) as problem:
        with pytest.raises(BudgetExhausted):
            problem.score_all([SEED, named("a")])
        assert model.requests == []
        assert not problem.is_scored(SEED)
        assert problem.finalists(3) == [SEED]


def test_the_calls_left_are_those_of_the_budget() -> None:
    with opened(constant("yes"), budget=Budget(100)) as problem:
        problem.score(SEED)
        assert problem.calls_left == 60


def test_items_are_in_the_order_of_the_examples() -> None:
    with opened(Scripted(worth(Answer=0.5))) as problem:
        shuffled = Random(1).sample(VALIDATION, 20)
        assert [item.example_id for item in problem.score(SEED, shuffled).items] == [row.id for row in shuffled]


def test_the_split_of_a_trial_is_that_of_its_rows() -> None:
    with opened(constant("yes")) as problem:
        assert problem.score(SEED).split is Split.VALIDATION
        assert problem.score(SEED, TRAIN[:2]).split is Split.TRAIN
        assert problem.curve == [(40, 1.0)]


def test_a_request_says_which_row_and_which_prompt_it_is_for() -> None:
    model = constant("yes")
    with opened(model, params={"temperature": 0, "top_p": 1}) as problem:
        problem.score(SEED, VALIDATION[:1])
    [request] = model.requests
    assert (request.item, request.prompt) == ("val0", SEED.id)
    assert request.params == {"temperature": 0, "top_p": 1}
    assert request.messages == SEED.render(VALIDATION[0].inputs)


# --------------------------------------------------------------------------- failures


def failing_on(*numbers: int, kind: ErrorKind = ErrorKind.TRANSIENT) -> Scripted:
    return Scripted(lambda request, count: CallError(kind, f"lost {count}") if count in numbers else "yes")


def test_a_failed_call_is_an_error_and_no_zero() -> None:
    with opened(failing_on(0, 7, kind=ErrorKind.CONTENT_FILTER)) as problem:
        trial = problem.score(SEED)
    assert (trial.mean, trial.failed, len(trial.values)) == (1.0, 2, 38)
    assert (trial.items[0].score, trial.items[0].error) == (None, ErrorKind.CONTENT_FILTER)
    assert trial.bounds == (0.95, 1.0)


def test_failures_that_bad_luck_could_explain_are_borne() -> None:
    with opened(failing_on(*range(7))) as problem:
        assert problem.score(SEED).failed == 7


def test_more_failures_end_the_task_with_the_class_of_the_commonest_error() -> None:
    def answer(request: Request, count: int) -> str | CallError:
        if count == 0:
            return CallError(ErrorKind.CONTENT_FILTER, "declined")
        return CallError(ErrorKind.CONTEXT_LENGTH, "too long") if count < 9 else "yes"

    with opened(Scripted(answer)) as problem, pytest.raises(TaskError) as caught:
        problem.score(SEED)
    assert caught.value.kind is ErrorKind.CONTEXT_LENGTH
    assert str(caught.value) == "9 of 40 calls failed, most often: too long (--max-failed-share is 0.1)"


def test_one_failed_call_in_a_small_batch_is_borne() -> None:
    with opened(failing_on(1)) as problem:
        assert problem.score(SEED, VALIDATION[:3]).failed == 1
        assert problem.score(SEED).failed == 1


def test_failures_in_small_batches_add_up() -> None:
    with opened(failing_on(*range(0, 40, 3))) as problem:
        for start in range(0, 16, 4):
            assert problem.score(SEED, VALIDATION[start : start + 4]).failed
        with pytest.raises(TaskError, match="7 of 20 calls failed"):
            problem.score(SEED, VALIDATION[16:20])


def test_a_row_that_is_always_refused_ends_nothing_however_often_it_is_asked() -> None:
    def answer(request: Request, count: int) -> str | CallError:
        return CallError(ErrorKind.CONTENT_FILTER, "declined") if request.item == "val3" else "yes"

    with opened(Scripted(answer)) as problem:
        for number in range(20):
            problem.score(named(f"wording {number}"), VALIDATION[2:5])
        assert problem.calls.refused == {"val3": ErrorKind.CONTENT_FILTER}


def test_where_every_call_failed_the_task_ends_whatever_the_limit() -> None:
    with opened(failing_on(*range(40)), rules=Rules(max_failed_share=1.0)) as problem, pytest.raises(TaskError):
        problem.score(SEED)


def test_a_trial_without_failures_is_never_refused() -> None:
    with opened(constant("no"), rules=Rules(max_failed_share=0.0)) as problem:
        problem.score(SEED, [])
        problem.score(SEED)


@pytest.mark.parametrize("reason", ["length", "stop"])
def test_a_seed_prompt_whose_answers_are_mostly_cut_or_empty_ends_the_task(reason: str) -> None:
    class Short(Scripted):
        async def complete(self, request: Request) -> Completion:
            return replace(await super().complete(request), finish_reason=reason, text="")

    with opened(Short(lambda request, count: "yes")) as problem:
        with pytest.raises(TaskError, match=r"raise max_tokens in --model-params") as caught:
            problem.score(SEED)
        assert caught.value.kind is ErrorKind.MALFORMED


def test_a_candidate_whose_answers_are_cut_is_a_bad_candidate_and_no_more() -> None:
    class Wordy(Scripted):
        async def complete(self, request: Request) -> Completion:
            answer = await super().complete(request)
            return replace(answer, finish_reason="length") if "long" in request.messages[0].content else answer

    with opened(Wordy(lambda request, count: "yes")) as problem:
        problem.score(SEED)
        trial = problem.score(named("Think long."))
        assert {item.flaw for item in trial.items} == {Flaw.CUT}


# --------------------------------------------------------------------------- metrics


@dataclass(frozen=True)
class Judge:
    """Asks whether an answer is good; a reply that is no number is none."""

    name: ClassVar[str] = "judge"
    needs: ClassVar[Literal["chat"]] = "chat"

    def question(self, example: Example, answer: str) -> Request:
        return Request((Message("user", f"grade {answer} of {example.id}"),), {"temperature": 0})

    def read(self, example: Example, answer: str, reply: Completion) -> Score:
        try:
            return Score(float(reply.text))
        except ValueError:
            raise CallError(ErrorKind.MALFORMED, f"no grade: {reply.text}") from None


def judged(grade: str | CallError) -> Scripted:
    return Scripted(lambda request, count: grade if request.messages[0].content.startswith("grade") else "yes")


def test_the_first_metric_is_the_objective_and_the_others_stand_beside_it() -> None:
    with opened(constant("yes it is"), (ExactMatch(), TokenF1())) as problem:
        trial = problem.score(SEED, VALIDATION[:1])
        assert problem.objective == "exact_match"
    assert trial.mean == 0.0
    assert trial.items[0].also == {"token_f1": pytest.approx(0.5)}


def test_a_judge_is_asked_through_the_door_once_an_answer() -> None:
    model = judged("0.25")
    with opened(model, (Judge(),)) as problem:
        assert problem.score(SEED, VALIDATION[:3]).mean == 0.25
    assert len(model.requests) == 6


@pytest.mark.parametrize("grade", ["good", CallError(ErrorKind.TRANSIENT, "lost")])
def test_an_answer_that_was_not_graded_is_no_zero(grade: str | CallError) -> None:
    with opened(judged(grade), (Judge(),)) as problem, pytest.raises(TaskError, match="40 of 40 calls failed"):
        problem.score(SEED)


def test_an_answer_that_never_came_is_not_graded() -> None:
    def answer(request: Request, count: int) -> str | CallError:
        if request.messages[0].content.startswith("grade"):
            return "1"
        return CallError(ErrorKind.TRANSIENT, "lost") if request.item == "val0" else "yes"

    model = Scripted(answer)
    with opened(model, (Judge(),)) as problem:
        trial = problem.score(SEED)
    assert (len(model.requests), trial.failed, trial.mean) == (40 + 39, 1, 1.0)


def test_a_side_metric_that_failed_is_left_out() -> None:
    with opened(judged("good"), (ExactMatch(), Judge())) as problem:
        trial = problem.score(SEED, VALIDATION[:2])
    assert trial.mean == 1.0
    assert [item.also for item in trial.items] == [{}, {}]


# --------------------------------------------------------------------------- objections


def run_of(row: Example, words: int, start: int = 0) -> str:
    return " ".join(row.inputs["question"].split()[start : start + words])


def test_there_is_nothing_against_a_plain_prompt() -> None:
    assert objection(SEED) == ""
    assert objection(Prompt(user="{question} now", output="Say it.")) == ""


@pytest.mark.parametrize("empty", [Prompt(), Prompt(" \n", "\t"), Prompt(output="x")])
def test_an_empty_prompt_is_refused(empty: Prompt) -> None:
    assert objection(empty) == "it is empty"


@pytest.mark.parametrize("user", ["", "{Question}", "{ question }", "question", "{questions}"])
def test_every_placeholder_of_the_seed_must_stand_as_spelled(user: str) -> None:
    assert objection(Prompt("Answer.", user)) == "placeholder {question} is missing"


def test_a_placeholder_may_move_between_the_texts() -> None:
    assert objection(Prompt("About {question}", "go")) == ""


def test_a_prompt_that_is_too_long_is_refused() -> None:
    rules = Rules(max_prompt_tokens=10)
    room = 4 * 10 - len("{question}")
    assert objection(Prompt("x" * room, "{question}"), rules=rules) == ""
    assert objection(Prompt("x" * (room + 1), "{question}"), rules=rules) == "it is longer than 10 tokens"


@pytest.mark.parametrize("row", [VALIDATION[3], TEST[1]], ids=["validation", "test"])
@pytest.mark.parametrize("part", ["system", "user", "output", "demo_template"])
def test_twelve_words_in_a_row_of_a_held_out_row_are_refused(row: Example, part: str) -> None:
    copied = replace(SEED, **{part: f"{{question}} For {run_of(row, SPAN, 1)} say yes."})
    assert objection(copied) == "it holds 12 words in a row of a held-out example"


def test_case_and_punctuation_hide_no_copy() -> None:
    text = ", ".join(run_of(VALIDATION[3], SPAN).upper().split()) + "!"
    assert "held-out" in objection(named(text))


def test_eleven_words_in_a_row_are_no_copy() -> None:
    assert objection(named(run_of(VALIDATION[3], SPAN - 1))) == ""
    assert objection(named(f"{run_of(VALIDATION[3], 7)} and {run_of(VALIDATION[3], 7, 7)}")) == ""


def test_what_the_seed_says_already_is_no_copy() -> None:
    seed = replace(SEED, system=f"Rule: {run_of(VALIDATION[3], 13)}; {run_of(TRAIN[0], 13)}")
    assert objection(replace(seed, output="Now."), seed=seed) == ""


def test_a_training_row_may_stand_in_demos_alone() -> None:
    assert (
        objection(named(run_of(TRAIN[2], SPAN))) == "it holds 12 words in a row of a training example outside its demos"
    )
    with opened(constant("yes")) as problem:
        assert problem.objection(SEED.with_demos([problem.demo(TRAIN[2])])) == ""


def test_a_demo_that_is_no_training_row_is_refused() -> None:
    stranger = Demo("val3", VALIDATION[3].inputs, "yes")
    assert objection(SEED.with_demos([stranger])) == "demo val3 is not a training example"
    with opened(constant("yes")) as problem, pytest.raises(ValueError, match="never come from held-out rows"):
        problem.demo(VALIDATION[3])


def test_no_call_is_spent_on_a_prompt_that_is_refused() -> None:
    model = constant("yes")
    with opened(model) as problem, pytest.raises(ValueError, match="is missing"):
        problem.score_all([SEED, Prompt("no placeholder")])
    assert model.requests == []


@given(st.lists(st.sampled_from(["a", "b", "c"]), max_size=30), st.integers(0, 30))
def test_two_texts_share_a_span_where_they_share_a_run_of_words(words: list[str], start: int) -> None:
    piece = words[start : start + SPAN]
    shared = spans_in([" ".join(words)]) & spans_in([f"x {' '.join(piece)} y"])
    assert bool(shared) == (len(piece) == SPAN)


# --------------------------------------------------------------------------- demos


def test_a_demo_is_never_scored_on_itself() -> None:
    model = constant("yes")
    with opened(model) as problem:
        prompt = SEED.with_demos([problem.demo(row) for row in TRAIN[:3]])
        trial = problem.score(prompt, TRAIN)
    assert [item.example_id for item in trial.items] == [row.id for row in TRAIN[3:]]
    assert {request.item for request in model.requests} == {row.id for row in TRAIN[3:]}


def test_a_prompt_with_other_demos_is_another_prompt() -> None:
    model = constant("yes")
    with opened(model) as problem:
        for row in TRAIN[:2]:
            problem.score(SEED.with_demos([problem.demo(row)]))
    assert len(model.requests) == 80


# --------------------------------------------------------------------------- races


SHARES = {f"prompt{i}": 0.1 + 0.05 * i for i in range(8)} | {"good": 0.95}
RIVALS = [named(name) for name in SHARES]


def test_a_race_spends_less_than_scoring_all_and_returns_the_good_arm() -> None:
    model = Scripted(worth(**SHARES))
    with opened(model) as problem:
        winner = problem.race(RIVALS)
    assert winner.prompt.system == "good"
    assert len(model.requests) <= 0.6 * len(RIVALS) * len(VALIDATION)


def test_a_race_of_equals_keeps_the_earliest() -> None:
    with opened(constant("yes")) as problem:
        assert problem.race([named(name) for name in "cab"]).prompt.system == "c"


def test_a_tie_at_the_end_goes_to_the_earlier_prompt_even_if_it_was_behind() -> None:
    wrong = {("early", 0), ("late", 9), *(("poor", i) for i in range(16)), *(("poorer", i) for i in range(16))}
    numbers = {row.id: i for i, row in enumerate(VALIDATION)}
    model = Scripted(lambda r, count: "no" if (r.messages[0].content, numbers[r.item]) in wrong else "yes")
    with opened(model, validation=VALIDATION[:16]) as problem:
        winner = problem.race([named(name) for name in ("early", "late", "poor", "poorer")], start=8)
    assert (winner.prompt.system, winner.mean) == ("early", 15 / 16)


def test_a_race_counts_a_prompt_once_however_often_it_is_entered() -> None:
    model = constant("yes")
    with opened(model) as problem:
        problem.race([SEED, SEED, replace(SEED)])
    assert len(model.requests) == 8


def test_a_race_on_few_rows_is_a_plain_comparison() -> None:
    model = Scripted(worth(**SHARES))
    with opened(model, validation=VALIDATION[:5]) as problem:
        problem.race(RIVALS)
    assert len(model.requests) == 5 * len(RIVALS)


# --------------------------------------------------------------------------- what was found


def test_finalists_are_the_seed_and_the_best_in_order() -> None:
    with opened(Scripted(worth(low=0.2, high=0.9, mid=0.7))) as problem:
        problem.score_all([named("low"), SEED, named("high"), named("mid")])
        assert [prompt.system for prompt in problem.finalists(2)] == ["Answer.", "high", "mid"]


def test_luck_on_few_rows_does_not_lead() -> None:
    lucky = VALIDATION[:2]
    with opened(Scripted(worth(lucky=1.0, steady=0.9, Answer=0.4))) as problem:
        problem.score(SEED)
        problem.score(named("lucky"), lucky)
        problem.score(named("steady"))
        assert [prompt.system for prompt in problem.finalists(1)] == ["Answer.", "steady"]


def test_of_equals_the_shorter_prompt_leads_and_then_the_earlier() -> None:
    with opened(constant("yes")) as problem:
        problem.score_all([SEED, named("long one"), named("b"), named("a")])
        assert [prompt.system for prompt in problem.finalists(3)] == ["Answer.", "b", "a", "long one"]


def test_the_best_leads_where_the_seed_was_never_scored() -> None:
    with opened(Scripted(worth(low=0.2, high=0.9))) as problem:
        problem.score_all([named("low"), named("high")])
        assert [prompt.system for prompt in problem.finalists(2)] == ["Answer.", "high", "low"]


def test_what_was_scored_on_training_rows_alone_is_no_finalist() -> None:
    with opened(constant("yes")) as problem:
        problem.score(named("a"), TRAIN)
        assert problem.is_scored(named("a"))
        assert problem.finalists(3) == [SEED]


def test_the_curve_only_rises_and_only_on_enough_rows() -> None:
    with opened(Scripted(worth(low=0.2, high=0.9))) as problem:
        problem.score(named("high"), VALIDATION[:19])
        assert problem.curve == []
        for name in ("low", "high", "low2"):
            problem.score(named(name))
    calls, means = zip(*problem.curve, strict=True)
    assert list(means) == sorted(means)
    assert list(calls) == sorted(calls)
    assert not any(map(math.isnan, means))


def test_a_draw_is_without_replacement_and_of_training_rows() -> None:
    with opened(constant("yes")) as problem:
        assert sorted(row.id for row in problem.draw(99, Random(1))) == sorted(row.id for row in TRAIN)
        assert problem.draw(3, Random(1)) == problem.draw(3, Random(1))


def test_a_decision_is_logged_with_what_had_been_spent() -> None:
    with opened(constant("yes")) as problem:
        problem.log("mutate", "skip", "why not")
        problem.score(SEED)
        problem.log("mutate", "accept", "better", parents=[SEED], candidate=named("a"), numbers={"mean": 1.0})
    first, second = problem.steps
    assert (first.index, second.index, second.parents, second.candidate) == (0, 1, (SEED.id,), named("a"))
    assert (first.spent.task_calls, second.spent.task_calls) == (0, 40)
    assert (first.diff, second.diff) == ("", diff(SEED, named("a")))
    assert second.diff


# --------------------------------------------------------------------------- what is written down for traces


class Notes(Recorder):
    """What a problem tells."""

    def __init__(self) -> None:
        self.trials: list[tuple[str, Split, int]] = []
        self.interacted: list[tuple[str, str]] = []
        self.steps: list[Step] = []

    def trial(self, evaluation: Evaluation) -> None:
        self.trials.append((evaluation.prompt.id, evaluation.split, len(evaluation.items)))

    def interactions(self, prompts: Sequence[Prompt], items: Sequence[ItemScore]) -> None:
        self.interacted += [(prompt.id, item.example_id) for prompt, item in zip(prompts, items, strict=True)]

    def step(self, step: Step) -> None:
        self.steps.append(step)


def test_every_trial_interaction_and_step_is_told() -> None:
    notes = Notes()
    with opened(constant("yes"), recorder=notes) as problem:
        problem.score_all([SEED, named("a")], TRAIN[:3])
        problem.score(SEED)
        problem.interact([(named("b"), TRAIN[0])])
        problem.log("op", "accept", "better", parents=[SEED], candidate=named("a"))
    assert notes.trials == [(SEED.id, Split.TRAIN, 3), (named("a").id, Split.TRAIN, 3), (SEED.id, Split.VALIDATION, 40)]
    assert notes.interacted == [(named("b").id, TRAIN[0].id)]
    assert notes.steps == problem.steps


def test_a_trial_that_ends_the_task_is_told_before_it_does() -> None:
    notes = Notes()
    with opened(failing(), recorder=notes) as problem, pytest.raises(TaskError):
        problem.score(SEED)
    assert notes.trials == [(SEED.id, Split.VALIDATION, 40)]


def test_a_judge_is_asked_with_the_prompt_and_the_row_whose_answer_it_judges() -> None:
    model = constant("1")
    with opened(model, (Judge(),)) as problem:
        problem.score_all([SEED, named("a")], TRAIN[:1])
    assert [(request.prompt, request.item) for request in model.requests] == [
        (prompt.id, TRAIN[0].id) for prompt in (SEED, named("a"))
    ] * 2
