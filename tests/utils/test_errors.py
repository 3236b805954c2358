"""What may be tried again, what passes through `except Exception`, and messages that say the way out."""

from __future__ import annotations

import pickle

import pytest

from utils.errors import (
    BenchmarkError,
    BudgetExhausted,
    CallError,
    Drained,
    ErrorKind,
    OptimizerFailed,
    Stop,
    TaskError,
    UsageError,
    unknown,
)
from utils.records import StopReason


@pytest.mark.parametrize("error", [UsageError("u"), CallError(ErrorKind.AUTH, "c"), TaskError(ErrorKind.CRASH, "t")])
def test_whatever_a_user_can_mend_is_a_benchmark_error(error: Exception) -> None:
    assert isinstance(error, BenchmarkError)


@pytest.mark.parametrize("stop", [BudgetExhausted, OptimizerFailed, Drained])
def test_a_stop_passes_through_a_library_that_swallows_exceptions(stop: type[Stop]) -> None:
    def score() -> float:
        try:
            raise stop("budget_calls")
        except Exception:
            return 0.0

    with pytest.raises(stop):
        score()


def test_a_stop_says_its_reason_where_it_has_no_message() -> None:
    assert str(BudgetExhausted(StopReason.BUDGET_USD)) == "budget_usd"
    assert str(Drained("drained", "asked to stop")) == "asked to stop"
    assert StopReason(OptimizerFailed(StopReason.OPTIMIZER_FAILED, "x").reason) is StopReason.OPTIMIZER_FAILED


def test_only_lost_and_malformed_answers_are_asked_again() -> None:
    assert {kind for kind in ErrorKind if kind.is_retryable} == {ErrorKind.TRANSIENT, ErrorKind.MALFORMED}


def test_a_refused_key_an_empty_account_and_silence_stop_a_provider() -> None:
    assert {kind for kind in ErrorKind if kind.stops_provider} == {
        ErrorKind.AUTH,
        ErrorKind.QUOTA,
        ErrorKind.UNAVAILABLE,
    }


def test_no_kind_is_both_asked_again_and_stops_its_provider() -> None:
    assert not [kind for kind in ErrorKind if kind.is_retryable and kind.stops_provider]


def test_a_call_error_keeps_what_was_tried() -> None:
    error = CallError(ErrorKind.TRANSIENT, "429", retry_after_s=3.0, attempts=4)
    assert (error.kind, error.message, str(error)) == (ErrorKind.TRANSIENT, "429", "429")
    assert (error.retry_after_s, error.attempts) == (3.0, 4)


def test_an_unknown_name_comes_with_the_nearest_and_all_known_ones() -> None:
    message = str(unknown("optimizer", "meta_promt", ["no_op", "meta_prompt", "few_shot"]))
    assert message == "unknown optimizer 'meta_promt'; did you mean 'meta_prompt'? known: few_shot, meta_prompt, no_op"


def test_a_name_like_no_other_gets_no_suggestion() -> None:
    assert str(unknown("metric", "zzz", ["bleu"])) == "unknown metric 'zzz'; known: bleu"


def test_a_name_of_an_empty_table_is_answered_too() -> None:
    assert str(unknown("run", "x", [])) == "unknown run 'x'; known: none"


def test_a_usage_error_passes_between_processes() -> None:
    assert str(pickle.loads(pickle.dumps(UsageError("one line")))) == "one line"
