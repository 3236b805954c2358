"""What a worker writes down for traces: once each, read back as it was, the same from a replay."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.strategies import evaluations, json_values, prompts, same, steps
from utils.errors import ErrorKind
from utils.journal import Entry, Failed
from utils.prompt import Prompt
from utils.records import Completion, Evaluation, ItemScore, Role, Score, Split, Step, Usage
from utils.serialization import dumps
from utils.tracing.records import Kind, Opening, Recorder, Recording, TaskTrace, Trial, read_record

A, B = Prompt(system="a", user="{q}"), Prompt(system="b", user="{q}")


def item(name: str, value: float | None = 1.0) -> ItemScore:
    if value is None:
        return ItemScore(name, error=ErrorKind.TRANSIENT, error_message="lost")
    return ItemScore(name, "an answer", Score(value, "why"))


def evaluation(prompt: Prompt, *items: ItemScore, split: Split = Split.VALIDATION) -> Evaluation:
    return Evaluation(prompt, split, items)


def entry(prompt: Prompt, name: str, role: Role = Role.TASK, at: float = 10.0, failed: bool = False) -> Entry:
    key = f"{role}{prompt.id}{name}"
    if failed:
        return Entry(key, 0, role, 0.0, None, Failed(ErrorKind.TRANSIENT, "lost", 6), prompt.id, name, at=at)
    return Entry(key, 0, role, 0.0, Completion("x", Usage(1, 2), 0.1, 2.0), None, prompt.id, name, at=at)


class Book:
    """A recording and a journal in memory."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.recording = Recording(self.lines.append)
        self.calls: list[str] = []

    def answer(self, *these: Entry) -> None:
        self.calls += [dumps(each) for each in these]

    @property
    def trials(self) -> list[Trial]:
        read = [read_record(line) for line in self.lines]
        return [record for record in read if isinstance(record, Trial)]


def read(*books: Book) -> TaskTrace:
    trace = TaskTrace()
    for book in books:
        trace.begin_attempt()
        for line in book.lines:
            trace.take_record(line)
    for book in books:
        for line in book.calls:
            trace.take_call(line)
    return trace


# --------------------------------------------------------------------------- writing


def test_a_prompt_and_a_score_are_written_once() -> None:
    book = Book()
    book.recording.trial(evaluation(A, item("1")))
    book.recording.trial(evaluation(A, item("1"), item("2")))
    first, second = book.trials
    assert (first.prompt, second.prompt) == (A, None)
    assert [mark.item for mark in first.marks] == ["1"]
    assert (second.items, [mark.item for mark in second.marks]) == (("1", "2"), ["2"])


def test_a_trial_that_was_written_is_not_written_again() -> None:
    book = Book()
    for _ in range(3):
        book.recording.trial(evaluation(A, item("1")))
    assert len(book.lines) == 1


def test_a_trial_without_rows_is_none() -> None:
    book = Book()
    book.recording.trial(evaluation(A))
    assert book.lines == []


def test_an_error_is_no_score() -> None:
    book = Book()
    book.recording.trial(evaluation(A, item("1", None)))
    mark = book.trials[0].marks[0]
    assert (mark.value, mark.error, mark.message) == (None, "transient", "lost")


def test_interactions_are_one_growing_trial_of_each_prompt() -> None:
    book = Book()
    book.recording.interactions([A, B, A], [item("1"), item("2"), item("3")])
    book.recording.interactions([A], [item("4")])
    book.answer(*(entry(A, name) for name in "134"), entry(B, "2"))
    shown = read(book).trials
    assert [(one.trial.kind, list(one.items)) for one in shown.values()] == [
        (Kind.INTERACTIONS, ["1", "3", "4"]),
        (Kind.INTERACTIONS, ["2"]),
    ]


@given(evaluations)
@settings(max_examples=50)
def test_what_is_written_is_read_again(trial: Evaluation) -> None:
    book = Book()
    book.recording.trial(trial)
    assert all(line.count("\n") == 1 and line.endswith("\n") for line in book.lines)
    if trial.items:
        found = book.trials[0]
        assert same(found.prompt, trial.prompt)
        assert found.items == tuple(one.example_id for one in trial.items)


@given(steps, prompts)
@settings(max_examples=50)
def test_steps_and_the_opening_are_read_again(step: Step, seed: Prompt) -> None:
    book = Book()
    book.recording.open("exact", seed)
    book.recording.step(step)
    assert read_record(book.lines[0]) == Opening("exact", seed.id)
    assert same(read_record(book.lines[1]), step)


@given(steps, st.data())
@settings(max_examples=50)
def test_a_torn_line_is_skipped_wherever_it_is_torn(step: Step, data: st.DataObject) -> None:
    line = dumps({"step": step})
    assert read_record(line[: data.draw(st.integers(0, len(line) - 1))]) is None


@given(json_values)
def test_any_json_is_a_record_or_skipped(value: object) -> None:
    read_record(dumps(value))


def test_a_recorder_by_itself_writes_nothing() -> None:
    recorder = Recorder()
    recorder.open("exact", A)
    recorder.trial(evaluation(A, item("1")))
    recorder.interactions([A], [item("1")])


# --------------------------------------------------------------------------- reading


def told(book: Book) -> Book:
    book.recording.open("exact", A)
    book.recording.trial(evaluation(A, item("1"), item("2")))
    book.recording.step(Step(0, "op", "accept", "better", (A.id,), B))
    book.recording.trial(evaluation(B, item("1"), item("2")))
    book.answer(*(entry(prompt, name) for prompt in (A, B) for name in "12"))
    return book


def test_a_replay_adds_nothing() -> None:
    once, again = told(Book()), told(Book())
    single, both = read(once), read(once, again)
    assert list(single.trials) == list(both.trials)
    assert {at: (pair.count, pair.mark) for at, pair in single.pairs.items()} == {
        at: (pair.count, pair.mark) for at, pair in both.pairs.items()
    }
    assert single.first_step == both.first_step


def test_a_candidate_has_the_parents_of_the_step_that_names_it() -> None:
    trace = read(told(Book()))
    assert (trace.origins[B.id].parents, trace.origins[B.id].operator) == ((A.id,), "op")
    assert (trace.first_step[A.id], trace.first_step[B.id]) == (1, 2)


def test_a_trial_is_ripe_once_the_optimizer_has_decided_and_gone_on() -> None:
    trace = read(told(Book()))
    assert [shown.is_ripe for shown in trace.trials.values()] == [True, False]
    trace.ripen()
    assert all(shown.is_ripe for shown in trace.trials.values())


def test_a_call_asked_again_after_a_failure_is_two_and_the_score_stands_for_both() -> None:
    first, second = Book(), Book()
    first.recording.trial(evaluation(A, item("1", None)))
    first.answer(entry(A, "1", failed=True))
    second.recording.trial(evaluation(A, item("1")))
    second.answer(entry(A, "1", at=20.0))
    trace = read(first, second)
    pair = trace.pairs[A.id, "1"]
    assert (pair.count, pair.state, pair.at, pair.answer) == (2, "scored2", 10.0, "x")
    assert len(trace.trials) == 1
    assert read(first).pairs[A.id, "1"].state == "error1"


def test_the_first_of_two_equal_answers_stands() -> None:
    book = Book()
    book.answer(entry(A, "1", at=10.0), entry(A, "1", at=30.0))
    assert (read(book).pairs[A.id, "1"].count, read(book).pairs[A.id, "1"].ended) == (1, 10.0)


def test_an_answer_outside_of_any_trial_is_unscored() -> None:
    book = Book()
    book.answer(entry(A, "1"))
    assert [pair.state for pair in read(book).unscored()] == ["open1"]


def test_the_call_of_a_judge_belongs_to_the_answer_it_judges() -> None:
    book = Book()
    book.answer(entry(A, "1"), entry(A, "1", Role.JUDGE, at=12.0))
    pair = read(book).pairs[A.id, "1"]
    assert ([call.role for call in pair.calls], pair.began, pair.ended) == ([Role.TASK, Role.JUDGE], 8.0, 12.0)


@pytest.mark.parametrize("optional", ["at", "took_s"])
def test_a_journal_from_before_calls_were_dated_is_read(optional: str) -> None:
    value = json.loads(dumps(entry(A, "1")))
    del value[optional]
    trace = TaskTrace()
    trace.take_call(json.dumps(value))
    assert len(trace.pairs) == 1


def test_calls_of_the_optimizer_model_are_kept_apart() -> None:
    book = Book()
    book.answer(replace(entry(A, ""), role=Role.OPTIMIZER, prompt="", item=""))
    trace = read(book)
    assert (len(trace.asks), len(trace.pairs)) == (1, 0)
