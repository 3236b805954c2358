"""Rows say what was recorded, add up to the ledger, and hold nothing that a server could not read."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import reduce
from operator import add

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.strategies import entries, item_scores, texts
from tests.utils.tracing.test_records import A, B, Book, entry, evaluation, item, read, told
from utils.journal import Entry
from utils.prompt import Demo
from utils.records import Completion, Example, Role, Spend, Split, Splits, TaskSpec, Usage
from utils.tracing import rows
from utils.tracing.records import Mark, Pair, TaskTrace
from utils.tracing.rows import Frame, Sampling

EXAMPLES = tuple(Example(str(number), {"q": f"question {number}"}, "yes") for number in range(1, 7))
SPLITS = Splits(EXAMPLES[4:], EXAMPLES[:2], EXAMPLES[2:4], "0123456789abcdef")
SPEC = TaskSpec("gsm8k", "no_op", "openai/gpt-4o-mini", 7, model_params={"max_tokens": 9, "api_key": "hush"})
FRAME = Frame("run", 1_700_000_000_000, SPEC, SPLITS, "project")

lively = settings(max_examples=60)


def span_of(call: Entry, frame: Frame = FRAME) -> rows.Row:
    return rows.span(frame, call, rows.rendered(call, {A.id: A}, {"1": EXAMPLES[0]}), "t", "s")


def experiments(trace: TaskTrace) -> list[rows.Row]:
    return [rows.experiment(FRAME, trace, shown) for shown in trace.trials.values()]


# --------------------------------------------------------------------------- laws


@given(entries, texts)
@lively
def test_every_row_is_json_that_any_server_reads(call: Entry, text: str) -> None:
    pair = Pair(call.prompt, call.item, call.at, call.at, call.at, answer=text, mark=Mark("1", None, "", "x", text))
    for row in (
        span_of(call),
        rows.ask_trace(FRAME, call, "t"),
        rows.pair_trace(FRAME, pair, Example("1", {text: text}, text), "test", "t"),
        rows.score(FRAME, "exact", Mark("1", 0.5, text), "t"),
    ):
        json.dumps(row, allow_nan=False, ensure_ascii=False).encode("utf-8")
        assert row.get("end_time", "Z") >= row.get("start_time", "Z")


@given(st.lists(entries, max_size=8))
@lively
def test_what_spans_say_was_used_is_what_was_billed(calls: list[Entry]) -> None:
    spans = [span_of(call) for call in calls]
    billed = reduce(add, (call.billed for call in calls), Spend())
    assert sum((span.get("usage") or {}).get("prompt_tokens", 0) for span in spans) == billed.tokens_in
    assert sum((span.get("usage") or {}).get("completion_tokens", 0) for span in spans) == billed.tokens_out
    if billed.usd is not None:
        assert reduce(add, (span.get("total_estimated_cost") or 0.0 for span in spans), 0.0) == billed.usd


@given(st.lists(item_scores, min_size=1, max_size=30, unique_by=lambda one: one.example_id), st.integers(0, 40))
@lively
def test_a_sample_is_part_of_the_whole_in_its_order(items: list, most: int) -> None:
    book = Book()
    book.recording.trial(evaluation(A, *items))
    book.answer(*(entry(A, one.example_id) for one in items))
    trace = read(book)
    shown = next(iter(trace.trials.values()))
    pairs = list(trace.pairs_of(shown))
    chosen = Sampling(most=most).choose(pairs)
    assert [pair for pair in pairs if pair in chosen] == chosen
    assert len(chosen) == min(most, len(pairs))
    assert all(pair.mark is None or pair.mark.value != 1.0 for pair in Sampling(only_failures=True).choose(pairs))
    assert Sampling().choose(pairs) == pairs


def test_a_sample_is_of_the_same_rows_for_every_candidate() -> None:
    book = Book()
    for prompt in (A, B):
        book.recording.trial(evaluation(prompt, *(item(str(n)) for n in range(20))))
        book.answer(*(entry(prompt, str(n)) for n in range(20)))
    trace = read(book)
    samples = [
        {pair.item for pair in Sampling(most=5).choose(list(trace.pairs_of(one)))} for one in trace.trials.values()
    ]
    assert samples[0] == samples[1]


# --------------------------------------------------------------------------- spans


def test_a_span_lasts_as_long_as_its_answer_took_and_tells_of_the_waiting() -> None:
    call = replace(entry(A, "1", at=100.0), took_s=5.0)
    span = span_of(call)
    assert (span["start_time"], span["end_time"]) == ("1970-01-01T00:01:38.000Z", "1970-01-01T00:01:40.000Z")
    assert span["metadata"]["waited_s"] == 3.0


def test_a_call_from_before_calls_were_dated_has_the_time_of_the_plan() -> None:
    span = span_of(entry(A, "1", at=0.0))
    assert span["start_time"] == span["end_time"] == rows.stamp(FRAME.created_ms)


def test_the_messages_of_a_task_call_are_made_again_from_its_prompt_and_row() -> None:
    assert span_of(entry(A, "1"))["input"]["messages"] == [
        {"role": "system", "content": "a"},
        {"role": "user", "content": "question 1"},
    ]
    assert span_of(entry(B, "1"))["input"]["messages"] == []  # a prompt that nobody wrote down


def test_an_answer_from_the_cache_was_not_paid_and_says_what_it_saved() -> None:
    cached = Completion("x", Usage(3, 4), 0.5, cached=True)
    span = span_of(replace(entry(A, "1"), completion=cached))
    assert "usage" not in span
    assert "total_estimated_cost" not in span
    saved = {name: span["metadata"][name] for name in ("cache_hit", "saved_usd", "cached_usage")}
    assert saved == {
        "cache_hit": True,
        "saved_usd": 0.5,
        "cached_usage": {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7},
    }


def test_a_span_names_model_and_provider() -> None:
    assert [span_of(entry(A, "1"))[name] for name in ("model", "provider")] == ["gpt-4o-mini", "openai"]
    answered = replace(entry(A, "1"), completion=Completion("x", Usage(1, 1), 0.0, model="gpt-4o-mini-2024-07-18"))
    assert span_of(answered)["model"] == "gpt-4o-mini-2024-07-18"
    judged = replace(FRAME, spec=replace(SPEC, judge_model="anthropic/claude"))
    assert span_of(entry(A, "1", Role.JUDGE), judged)["provider"] == "anthropic"


def test_a_failed_call_has_an_error_and_no_answer() -> None:
    span = span_of(entry(A, "1", failed=True))
    assert span["error_info"] == {"exception_type": "transient", "message": "lost", "traceback": "lost"}
    assert ("output" in span, span["metadata"]["attempts"]) == (False, 6)


def test_a_long_text_is_cut_and_says_so() -> None:
    text = rows.plain("x" * (rows.LONGEST_TEXT + 5))
    assert text.endswith("... [5 characters cut]")
    assert len(text) < rows.LONGEST_TEXT + 50


# --------------------------------------------------------------------------- experiments


def test_the_baseline_is_step_0_and_has_no_parents() -> None:
    baseline, candidate = experiments(read(told(Book())))
    assert (baseline["metadata"]["step_index"], baseline["metadata"]["parent_candidate_ids"]) == (0, [])
    assert (candidate["metadata"]["step_index"], candidate["metadata"]["parent_candidate_ids"]) == (2, [A.id])
    assert candidate["metadata"]["candidate_id"] == B.id
    assert candidate["metadata"]["configuration"]["prompt"]["system"] == "b"


def test_mean_and_interval_are_of_all_items_errors_aside() -> None:
    book = Book()
    book.recording.trial(evaluation(A, item("1", 1.0), item("2", 0.0), item("3", None)))
    book.answer(*(entry(A, name) for name in "123"))
    metadata = experiments(read(book))[0]["metadata"]
    assert (metadata["mean"], metadata["n"], metadata["failed"]) == (0.5, 2, 1)
    assert 0 <= metadata["low"] < 0.5 < metadata["high"] <= 1


def test_a_trial_without_an_answer_has_no_mean() -> None:
    book = Book()
    book.recording.trial(evaluation(A, item("1", None)))
    book.answer(entry(A, "1", failed=True))
    assert experiments(read(book))[0]["metadata"]["mean"] is None


@pytest.mark.parametrize(
    ("split", "names", "kind"),
    [
        (Split.VALIDATION, "12", "trial"),
        (Split.VALIDATION, "1", "mini-batch"),
        (Split.TEST, "34", "regular"),
        (Split.TRAIN, "56", "mini-batch"),
    ],
)
def test_a_trial_covers_all_of_validation_and_a_test_stands_beside(split: Split, names: str, kind: str) -> None:
    book = Book()
    book.recording.trial(evaluation(A, *map(item, names), split=split))
    (row,) = experiments(read(book))
    assert row["type"] == kind
    assert row.get("optimization_id") == (None if split is Split.TEST else FRAME.optimization)
    assert row["metadata"]["optimization_id"] == FRAME.optimization


def test_a_row_that_is_the_prompt_s_own_demo_is_not_missed() -> None:
    shown = replace(A, demos=(Demo("2", {"q": "x"}, "yes"),))
    book = Book()
    book.recording.trial(evaluation(shown, item("1")))
    assert experiments(read(book))[0]["type"] == "trial"


def test_interactions_are_a_small_sample() -> None:
    book = Book()
    book.recording.interactions([A], [item("5")])
    assert experiments(read(book))[0]["type"] == "mini-batch"


def test_no_secret_among_parameters_is_told() -> None:
    told_of = experiments(read(told(Book())))
    assert "hush" not in json.dumps(told_of)
    assert told_of[0]["metadata"]["configuration"]["model_params"] == {"max_tokens": 9}


def test_simulated_tasks_say_so() -> None:
    simulated = replace(FRAME, spec=replace(SPEC, model="sim/standard"))
    assert "simulated" in rows.optimization(simulated, TaskTrace())["name"]
    assert "simulated" in rows.ask_trace(simulated, entry(A, "1"), "t")["tags"]
    assert "simulated" not in rows.ask_trace(FRAME, entry(A, "1"), "t")["tags"]


def test_an_optimizer_call_is_tagged_with_its_optimization() -> None:
    assert FRAME.optimization in rows.ask_trace(FRAME, entry(A, "1"), "t")["tags"]


def test_every_row_of_the_task_is_in_its_dataset() -> None:
    made = rows.dataset_items(FRAME, "d")
    assert [row["data"]["example_id"] for row in made] == ["5", "6", "1", "2", "3", "4"]
    assert len({row["id"] for row in made}) == 6


def test_ids_of_one_run_at_two_places_and_of_one_row_in_two_datasets_differ() -> None:
    places = [replace(FRAME, workspace=workspace, project=project) for workspace in "ab" for project in "ab"]
    assert len({frame.optimization for frame in places}) == 4
    made = [{row["id"] for row in rows.dataset_items(FRAME, dataset)} for dataset in ("d", "e")]
    assert not made[0] & made[1]
    for dataset, known in zip(("d", "e"), made, strict=True):
        assert rows.link(FRAME, dataset, "00000000-0000-7000-8000-000000000000", "1", "t")["dataset_item_id"] in known


def test_what_was_begun_under_an_id_goes_on_under_it() -> None:
    assert replace(FRAME, begun_as="of-an-earlier-version").optimization == "of-an-earlier-version"
