"""What is told of answers, and when a task has failed: seldom by bad luck, soon where it is true."""

from __future__ import annotations

from collections.abc import Iterable
from random import Random

import pytest

from utils.errors import ErrorKind, TaskError
from utils.prompt import Prompt
from utils.records import Completion, Evaluation, Flaw, ItemScore, Score, Split, Usage
from utils.report.flaws import (
    JUDGED,
    Calls,
    exceeds,
    flaw_of,
    flaws,
    refuse_cut,
    refuse_unanswered,
    warnings_of,
)

RIGHT = Score(1.0)


def right(row: str, flaw: Flaw | None = None) -> ItemScore:
    return ItemScore(row, "yes", RIGHT, flaw=flaw)


def lost(row: str, kind: ErrorKind = ErrorKind.TRANSIENT) -> ItemScore:
    return ItemScore(row, error=kind, error_message=f"{kind}!")


def trial(items: Iterable[ItemScore]) -> Evaluation:
    return Evaluation(Prompt("x"), Split.TEST, tuple(items))


# --------------------------------------------------------------------------- failed calls


def failed_after(rate: float, seed: int, batches: int = 120, size: int = 8) -> int | None:
    """The calls after which a task fails whose calls fail at this rate, judged after every batch."""
    rng = Random(f"{rate}/{seed}")
    calls = Calls(0.1)
    for batch in range(batches):
        rows = [f"{batch * size + i}" for i in range(size)]
        calls.add(lost(row) if rng.random() < rate else right(row) for row in rows)
        try:
            calls.check()
        except TaskError:
            return (batch + 1) * size
    return None


def test_at_a_failure_rate_of_6_percent_a_task_of_1000_calls_goes_on() -> None:
    ends = [failed_after(0.06, seed) for seed in range(100)]
    assert sum(end is not None for end in ends) <= 3, "28 of 30 must get through: here 97 of 100 do"


def test_at_a_failure_rate_of_30_percent_it_ends_within_a_few_batches() -> None:
    ends = [failed_after(0.3, seed, batches=40) for seed in range(100)]
    assert all(end is not None and end <= 160 for end in ends)
    assert sorted(end for end in ends if end)[50] <= 40


@pytest.mark.parametrize(
    ("failed", "size", "share", "is_above"),
    [
        (4, 20, 0.1, False),  # P(4 or more of 20 at 10 %) is 0.133
        (5, 20, 0.1, True),  # 0.043
        (1, 20, 0.0, True),
        (0, 20, 0.0, False),
        (20, 20, 1.0, False),
        (101, 1000, 0.1, False),
        (130, 1000, 0.1, True),
    ],
)
def test_a_share_is_above_the_limit_where_bad_luck_is_too_rare(
    failed: int, size: int, share: float, is_above: bool
) -> None:
    assert exceeds(failed, size, share) is is_above


def test_fewer_than_twenty_calls_say_nothing_before_the_last_look() -> None:
    calls = Calls(0.1)
    calls.add(lost(f"{i}") for i in range(JUDGED - 1))
    calls.check()
    with pytest.raises(TaskError, match="19 of 19 calls failed"):
        calls.check(least=1)
    calls.add([lost("last")])
    with pytest.raises(TaskError, match=r"20 of 20 calls failed, most often: transient! \(--max-failed-share is 0.1\)"):
        calls.check()


@pytest.mark.parametrize("kind", [ErrorKind.CONTENT_FILTER, ErrorKind.BAD_REQUEST, ErrorKind.CONTEXT_LENGTH])
def test_a_row_that_is_always_refused_counts_once_and_is_named(kind: ErrorKind) -> None:
    calls = Calls(0.1)
    for _ in range(50):
        calls.add([lost("bad", kind), right("good")])
        calls.check()
    assert calls.warnings == [f"rows left out, as the provider always refuses them ({kind}): bad"]


def test_a_row_that_was_answered_once_is_not_always_refused() -> None:
    calls = Calls(0.1)
    calls.add([lost("a", ErrorKind.CONTENT_FILTER), right("a"), lost("b")])
    assert calls.refused == {}
    assert calls.warnings == []


def test_a_provider_that_refuses_every_row_ends_the_task() -> None:
    calls = Calls(0.1)
    calls.add(lost(f"{i}", ErrorKind.BAD_REQUEST) for i in range(20))
    with pytest.raises(TaskError) as caught:
        calls.check()
    assert caught.value.kind is ErrorKind.BAD_REQUEST


def test_what_nothing_was_answered_of_has_no_mean() -> None:
    refuse_unanswered(trial([]))
    refuse_unanswered(trial([lost("a"), lost("b")]), least=5)
    refuse_unanswered(trial([lost("a"), right("b")]))
    with pytest.raises(TaskError, match="2 of 2 calls failed"):
        refuse_unanswered(trial([lost("a"), lost("b")]))


# --------------------------------------------------------------------------- flawed answers


@pytest.mark.parametrize(
    ("text", "finish", "found", "flaw"),
    [
        ("so far", "length", True, Flaw.CUT),
        ("", "length", False, Flaw.CUT),
        ("", "stop", False, Flaw.EMPTY),
        (" \n", "stop", False, Flaw.EMPTY),
        ("I", "content_filter", False, Flaw.REFUSED),
        ("hm", "stop", False, Flaw.UNPARSABLE),
        ("B", "stop", True, None),
    ],
)
def test_the_flaw_of_an_answer(text: str, finish: str, found: bool, flaw: Flaw | None) -> None:
    answer = Completion(text, Usage(1, 1), None, finish_reason=finish)
    assert flaw_of(answer, Score(0.0, found=found)) is flaw


def test_flaws_are_counted_and_a_refused_call_is_among_them() -> None:
    items = [right("a", Flaw.CUT), right("b", Flaw.CUT), right("c"), lost("d", ErrorKind.CONTENT_FILTER), lost("e")]
    assert flaws(items) == {"cut": 2, "refused": 1}


def test_a_flaw_is_told_from_one_percent_with_the_way_out() -> None:
    few = trial([right("a", Flaw.CUT), *(right(f"{i}") for i in range(199))])
    many = trial([*(right(f"cut {i}", Flaw.CUT) for i in range(36)), *(right(f"{i}") for i in range(264))])
    assert warnings_of({"seed prompt on test": few}) == []
    assert warnings_of({"seed prompt on test": few, "final prompt on test": many}) == [
        "answers cut by max_tokens: 12 % of 300 (final prompt on test; raise max_tokens in --model-params)"
    ]


@pytest.mark.parametrize("flaw", Flaw)
def test_every_flaw_has_its_sentence(flaw: Flaw) -> None:
    [sentence] = warnings_of({"seed prompt on test": trial([right("a", flaw), right("b")])})
    assert "50 % of 2 (seed prompt on test" in sentence


@pytest.mark.parametrize("flaw", [Flaw.CUT, Flaw.EMPTY])
def test_an_evaluation_that_is_mostly_cut_or_empty_fails_with_the_way_out(flaw: Flaw) -> None:
    half = [right("a", flaw), right("b")]
    refuse_cut(trial(half))
    with pytest.raises(TaskError, match=r"2 of 3 answers are .*raise max_tokens in --model-params"):
        refuse_cut(trial([*half, right("c", flaw)]))


def test_answers_that_cannot_be_read_are_what_an_optimizer_mends() -> None:
    refuse_cut(trial([right("a", Flaw.UNPARSABLE)]))
