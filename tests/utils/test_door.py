"""The one door: whole batches, journalled before they are used, in order, and never paid twice."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.models import Scripted, Shuffled, constant, failing, fickle, listed
from utils.door import Door, Stopwatch
from utils.errors import BudgetExhausted, CallError, Drained, ErrorKind, Stop
from utils.journal import Entry, Journal, read_lines
from utils.ledger import Ledger
from utils.llm.base import LLM, Unusable, token_ceiling
from utils.llm.resilience import Gate, Resilient, RetryPolicy
from utils.records import Budget, Completion, Message, Request, Role, Spend, StopReason, Usage
from utils.serialization import encode


def ask(*words: str, **more: Any) -> list[Request]:
    return [Request((Message("user", word),), **more) for word in words]


def texts(answers: Sequence[Completion | CallError]) -> list[str]:
    return [answer.text if isinstance(answer, Completion) else f"error: {answer.kind}" for answer in answers]


def echo(request: Request, count: int) -> str:
    return f"re {request.messages[-1].content}"


class Clock:
    """A clock that goes on by hand."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Tape:
    """A journal file in memory."""

    def __init__(self, *earlier: str) -> None:
        self.earlier = earlier
        self.lines: list[str] = []

    @property
    def text(self) -> str:
        return "".join(self.lines)

    @property
    def entries(self) -> list[Entry]:
        return [entry for entry in read_lines(self.text, "tape") if isinstance(entry, Entry)]

    def journal(self) -> Journal:
        journal = Journal(self.lines.append)
        for text in self.earlier:
            journal.read(text)
        return journal


@contextmanager
def opened(model: LLM, tape: Tape | None = None, budget: Budget | None = None, **more: Any) -> Iterator[Door]:
    models = dict.fromkeys(Role, model)
    door = Door(models, (tape or Tape()).journal(), Ledger(budget), **{"clock": lambda: 0.0, **more})
    try:
        yield door
    finally:
        door.close()


# --------------------------------------------------------------------------- order


@given(st.lists(st.integers(0, 7), min_size=1, max_size=12), st.integers(1, 12))
def test_answers_come_in_the_order_of_the_questions_whatever_the_concurrency(waits: list[int], in_flight: int) -> None:
    words = [f"q{i}" for i in range(len(waits))]
    model = Shuffled(echo, turns=lambda count: waits[count])
    with opened(model, in_flight=in_flight) as door:
        assert texts(door.ask(Role.TASK, ask(*words))) == [f"re {word}" for word in words]
    assert model.most_open <= in_flight


def test_calls_are_made_at_once_as_far_as_allowed() -> None:
    model = Shuffled(echo, turns=lambda count: 5)
    with opened(model, in_flight=3) as door:
        door.ask(Role.TASK, ask(*"abcdefg"))
    assert model.most_open == 3


@given(st.permutations(range(6)))
def test_sums_are_the_same_to_the_bit_in_any_order_of_arrival(order: list[int]) -> None:
    class Priced(Shuffled):
        async def complete(self, request: Request) -> Completion:
            answer = await super().complete(request)
            usd = 0.1 + int(request.messages[0].content) / 7
            return Completion(answer.text, answer.usage, usd)

    spent = []
    for turns in (lambda count: 0, lambda count: order[count]):
        with opened(Priced(echo, turns)) as door:
            door.ask(Role.TASK, ask(*"012345"))
            spent.append(door.total)
    assert spent[0] == spent[1]


def test_nothing_asked_is_nothing_answered() -> None:
    with opened(constant("x"), budget=Budget(0)) as door:
        assert door.ask(Role.TASK, []) == []


# --------------------------------------------------------------------------- budget


@pytest.mark.parametrize(
    ("budget", "reason"),
    [
        (Budget(task_calls=2), StopReason.BUDGET_CALLS),
        (Budget(tokens=10), StopReason.BUDGET_TOKENS),
        (Budget(usd=0.0025), StopReason.BUDGET_USD),
    ],
)
def test_nothing_of_a_batch_is_sent_when_it_does_not_fit(budget: Budget, reason: StopReason) -> None:
    model, tape = constant("x"), Tape()
    with opened(model, tape, budget) as door, pytest.raises(BudgetExhausted) as caught:
        door.ask(Role.TASK, ask("a", "b", "c"))
    assert caught.value.reason == reason
    assert (model.requests, tape.lines, door.total.logical) == ([], [], Spend())


def test_a_batch_that_did_not_fit_leaves_no_trace_in_the_next_one() -> None:
    tape = Tape()
    with opened(fickle(), tape, Budget(task_calls=2)) as door:
        with pytest.raises(BudgetExhausted):
            door.ask(Role.TASK, ask("a", "b", "c"))
        door.ask(Role.TASK, ask("a"))
    assert [entry.occurrence for entry in tape.entries] == [0]


def test_answers_out_of_the_journal_are_charged_like_new_ones() -> None:
    tape = Tape()
    with opened(fickle(), tape, Budget(task_calls=3)) as door:
        door.ask(Role.TASK, ask("a", "b"))
        first = door.total
    with opened(fickle(), Tape(tape.text), Budget(task_calls=3)) as door:
        door.ask(Role.TASK, ask("a", "b"))
        assert door.total == first
        with pytest.raises(BudgetExhausted):
            door.ask(Role.TASK, ask("c", "d"))


def test_a_failed_call_counts_as_a_call_and_costs_nothing() -> None:
    with opened(failing(ErrorKind.BAD_REQUEST)) as door:
        assert texts(door.ask(Role.TASK, ask("a"))) == ["error: bad_request"]
        assert (door.total.logical, door.total.billed) == (Spend(task_calls=1), Spend())


def test_other_books_begin_empty_and_the_total_keeps_both() -> None:
    with opened(constant("x"), budget=Budget(task_calls=1)) as door:
        door.ask(Role.TASK, ask("a"))
        door.with_ledger(Ledger())
        door.ask(Role.TASK, ask("b", "c"))
        assert door.ledger.logical.task_calls == 2
        assert door.total.logical.task_calls == 3


# --------------------------------------------------------------------------- replay


def drive(door: Door) -> list[str]:
    """A course of calls that depends on the answers, as an optimizer's does."""
    said = texts(door.ask(Role.TASK, ask("a", "b", "a")))
    said += texts(door.ask(Role.OPTIMIZER, ask(said[0], sample=1)))
    return said + texts(door.ask(Role.JUDGE, ask("a", said[-1])))


def test_a_replay_makes_no_call_and_gives_the_same_answers_and_sums() -> None:
    tape = Tape()
    with opened(fickle(), tape) as door:
        first, total = drive(door), door.total
    model, again = fickle(), Tape(tape.text)
    with opened(model, again) as door:
        assert drive(door) == first
        assert (door.total, door.sent, door.stray) == (total, 0, Spend())
    assert (model.requests, again.lines) == ([], [])


@given(st.integers(0, 6), st.booleans())
def test_what_a_kill_left_is_completed_and_nothing_answered_is_asked_again(kept: int, torn: bool) -> None:
    tape = Tape()
    with opened(Scripted(echo), tape) as door:
        whole = drive(door)
    rest = "".join(tape.lines[:kept]) + (tape.lines[kept][:30] if torn and kept < len(tape.lines) else "")
    model, again = Scripted(echo), Tape(rest)
    with opened(model, again) as door:
        assert drive(door) == whole
        assert door.sent == len(model.requests) == len(tape.lines) - kept
        assert door.total.billed.calls == len(tape.lines)


def test_the_same_question_asked_twice_is_two_calls() -> None:
    tape = Tape()
    with opened(fickle(), tape) as door:
        said = texts(door.ask(Role.TASK, ask("a", "a"))) + texts(door.ask(Role.TASK, ask("a")))
    assert said == ["answer 0", "answer 1", "answer 2"]
    with opened(failing(), Tape(tape.text)) as door:
        assert texts(door.ask(Role.TASK, ask("a", "a", "a"))) == said


def test_the_same_question_to_another_role_is_another_call() -> None:
    tape = Tape()
    with opened(fickle(), tape) as door:
        door.ask(Role.TASK, ask("a"))
        assert texts(door.ask(Role.OPTIMIZER, ask("a"))) == ["answer 1"]
    assert [entry.role for entry in tape.entries] == [Role.TASK, Role.OPTIMIZER]


def test_a_failure_is_replayed_as_it_was() -> None:
    tape = Tape()
    with opened(failing(ErrorKind.CONTENT_FILTER, "declined"), tape) as door:
        door.ask(Role.TASK, ask("a"))
    with opened(constant("x"), Tape(tape.text)) as door:
        [error] = door.ask(Role.TASK, ask("a"))
    assert isinstance(error, CallError)
    assert (error.kind, error.message) == (ErrorKind.CONTENT_FILTER, "declined")


def test_an_answer_is_in_the_journal_before_anybody_is_told_of_it() -> None:
    tape, told = Tape(), []
    with opened(constant("x"), tape) as door:
        door.listen = lambda: told.append(len(tape.lines))
        door.ask(Role.TASK, ask("a", "b"))
    assert told == [1, 2]


def test_an_answer_is_synced_while_another_call_of_its_batch_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    class Hanging(Scripted):
        async def pause(self, count: int) -> None:
            if count == 2:
                await synced.wait()

    async def event() -> asyncio.Event:
        return asyncio.Event()

    monkeypatch.setattr("utils.journal.SYNC_EVERY_S", 0.001)
    synced = asyncio.run(event())
    syncs: list[int] = []

    def sync() -> None:
        syncs.append(len(tape.lines))
        if syncs[-1] == 2:
            synced.set()

    tape = Tape()
    with closing(Door({Role.TASK: Hanging(echo)}, Journal(tape.lines.append, sync, Clock()), Ledger())) as door:
        assert texts(door.ask(Role.TASK, ask("a", "b", "c"))) == ["re a", "re b", "re c"]
    assert syncs == [1, 2], "the first line at once, the second while the third call was waited for"


def test_an_answer_that_cannot_be_journalled_is_not_used() -> None:
    def append(line: str) -> None:
        raise OSError("disk full")

    model = constant("x")
    door = Door({Role.TASK: model}, Journal(append), Ledger())
    with pytest.raises(OSError, match="disk full"):
        door.ask(Role.TASK, ask("a"))
    assert door.total.logical == Spend()
    door.close()


def test_money_for_calls_that_are_not_asked_again_is_stray() -> None:
    tape = Tape()
    with opened(constant("x"), tape) as door:
        door.ask(Role.TASK, ask("a", "b"))
    with opened(constant("x"), Tape(tape.text)) as door:
        door.ask(Role.TASK, ask("a"))
        assert door.stray == Spend.of(Role.TASK, tape.entries[1].completion.usage, 0.001)  # type: ignore[union-attr]


# --------------------------------------------------------------------------- tries that are paid without an answer


class Wasteful(Scripted):
    """A model whose first tries of a question are paid and give no usable answer: each takes 4 tokens and 2 cents."""

    def __init__(self, lost_tries: int, kind: ErrorKind = ErrorKind.MALFORMED) -> None:
        super().__init__(lambda request, count: "x")
        self._lost_tries, self._kind = lost_tries, kind

    async def complete(self, request: Request) -> Completion:
        if sum(request.messages == earlier.messages for earlier in self.requests) < self._lost_tries:
            self.requests.append(request)
            raise Unusable(self._kind, "no text", Usage(1, 3), 0.02)
        return await super().complete(request)


LOST = Spend(tokens_in=1, tokens_out=3, usd=0.02)


def retried(model: Scripted) -> Resilient:
    return Resilient(model, Gate(8), RetryPolicy(base_s=0.0))


def test_a_try_that_was_paid_without_an_answer_is_billed_and_a_replay_gives_the_same_books() -> None:
    tape = Tape()
    with opened(retried(Wasteful(2)), tape) as door:
        assert texts(door.ask(Role.TASK, ask("a", "b"))) == ["x", "x"]
        first = door.total
    answers = Spend(2, 0, 0, 2, 2, 0.002)
    assert first.logical == answers
    assert first.billed == answers + LOST + LOST + LOST + LOST
    with opened(failing(), Tape(tape.text)) as door:
        door.ask(Role.TASK, ask("a", "b"))
        assert (door.total, door.stray) == (first, Spend())


@pytest.mark.parametrize("kind", [ErrorKind.MALFORMED, ErrorKind.CONTENT_FILTER])
def test_a_call_that_was_given_up_is_billed_for_every_try(kind: ErrorKind) -> None:
    tape, model = Tape(), Wasteful(99, kind)
    with opened(retried(model), tape) as door:
        assert texts(door.ask(Role.TASK, ask("a"))) == [f"error: {kind}"]
        assert door.total.billed.tokens == 4 * len(model.requests) > 0
    with opened(constant("x"), Tape(tape.text)) as door:
        assert texts(door.ask(Role.TASK, ask("a"))) == [f"error: {kind}"]
        assert door.total.billed.tokens == 4 * len(model.requests)


def test_a_paid_try_of_a_model_that_nobody_asks_again_is_billed() -> None:
    with opened(Wasteful(1)) as door:
        assert texts(door.ask(Role.TASK, ask("a"))) == ["error: malformed"]
        assert door.total.billed == LOST


def test_a_paid_try_is_written_down_at_once_so_that_a_kill_loses_nothing() -> None:
    tape = Tape()
    with opened(retried(Wasteful(1)), tape) as door:
        door.ask(Role.TASK, ask("a"))
        total = door.total
    assert len(tape.lines) == 2
    with opened(constant("x"), Tape(tape.lines[0])) as door:
        door.ask(Role.TASK, ask("a"))
        assert door.total == total


def test_paid_tries_before_a_refused_key_are_billed() -> None:
    script = iter([Unusable(ErrorKind.MALFORMED, "no text", Usage(1, 3), 0.02), CallError(ErrorKind.AUTH, "no")])
    tape = Tape()
    with opened(retried(Scripted(lambda request, count: next(script))), tape) as door:
        with pytest.raises(CallError):
            door.ask(Role.TASK, ask("a"))
        assert door.stray == LOST


@given(
    st.integers(0, 300),
    st.lists(st.tuples(st.integers(1, 6), st.integers(0, 4)), min_size=1, max_size=8),
    st.sampled_from(["tokens", "usd"]),
)
def test_limits_hold_for_all_that_was_paid_whatever_is_lost_on_the_way(
    limit: int, batches: list[tuple[int, int]], unit: str
) -> None:
    """Every try, usable or not, takes as much as it can: 20 tokens, or 20 dollars."""
    tries = 0

    class Greedy(Scripted):
        def ceiling(self, request: Request) -> tuple[Usage, float | None]:
            return Usage(10, 10), 20.0

        async def complete(self, request: Request) -> Completion:
            nonlocal tries
            tries += 1
            lost = int(request.messages[0].content.split()[1])
            self.requests.append(request)
            if sum(request.messages == earlier.messages for earlier in self.requests) <= lost:
                raise Unusable(ErrorKind.MALFORMED, "no text", Usage(10, 10), 20.0)
            return Completion("x", Usage(10, 10), 20.0)

    budget = Budget(10**6, **{unit: limit})
    with opened(retried(Greedy(lambda request, count: "x")), budget=budget) as door:
        with suppress(BudgetExhausted):
            for number, (size, lost) in enumerate(batches):
                door.ask(Role.TASK, ask(*(f"{number}.{i} {lost}" for i in range(size))))
        paid = door.total.billed
        assert 20 * tries == paid.tokens == paid.usd
        assert 20 * tries <= limit


def test_a_call_whose_tries_took_the_budget_is_not_tried_again_after_a_kill() -> None:
    tape = Tape()
    with opened(retried(Wasteful(1)), tape) as door:
        door.ask(Role.TASK, ask("a"))
    model, least = constant("x"), token_ceiling(ask("a")[0])
    budget = Budget(5, tokens=least.tokens_in + least.tokens_out)
    with opened(model, Tape(tape.lines[0]), budget) as door:
        assert texts(door.ask(Role.TASK, ask("a"))) == ["error: malformed"]
    assert model.requests == []


# --------------------------------------------------------------------------- stops


def draining_after(count: int, tape: Tape) -> Callable[[], bool]:
    return lambda: len(tape.lines) >= count


@pytest.mark.parametrize("in_flight", [1, 3])
def test_a_drain_finishes_and_journals_what_is_in_flight(in_flight: int) -> None:
    tape = Tape()
    model = Shuffled(echo, turns=lambda count: count % 3)
    with opened(model, tape, in_flight=in_flight, draining=draining_after(1, tape)) as door:
        with pytest.raises(Drained):
            door.ask(Role.TASK, ask(*"abcdefgh"))
        assert door.open == 0
    assert 1 <= len(model.requests) == len(tape.lines) <= in_flight


def test_a_drained_task_goes_on_where_it_was() -> None:
    tape = Tape()
    with opened(Scripted(echo), tape, in_flight=2, draining=draining_after(3, tape)) as door, pytest.raises(Drained):
        door.ask(Role.TASK, ask(*"abcdefgh"))
    with opened(Scripted(echo), Tape(tape.text)) as door:
        assert texts(door.ask(Role.TASK, ask(*"abcdefgh"))) == [f"re {word}" for word in "abcdefgh"]
        assert door.sent == 8 - len(tape.lines)


def test_once_draining_nothing_is_sent_and_replay_still_answers() -> None:
    tape = Tape()
    with opened(constant("x"), tape) as door:
        door.ask(Role.TASK, ask("a"))
    model = constant("x")
    with opened(model, Tape(tape.text), draining=lambda: True) as door:
        assert texts(door.ask(Role.TASK, ask("a"))) == ["x"]
        with pytest.raises(Drained):
            door.ask(Role.TASK, ask("b"))
    assert model.requests == []


@pytest.mark.parametrize("kind", [kind for kind in ErrorKind if kind.stops_provider])
def test_an_error_that_stops_the_provider_is_raised_and_not_journalled(kind: ErrorKind) -> None:
    tape = Tape()
    script = Scripted(lambda request, count: CallError(kind, "refused") if count == 1 else "x")
    with opened(script, tape) as door, pytest.raises(CallError) as caught:
        door.ask(Role.TASK, ask("a", "b", "c"))
    assert caught.value.kind is kind
    assert [entry.failed for entry in tape.entries] == [None, None]  # its peers in flight were paid, and are kept
    with opened(constant("y"), Tape(tape.text)) as door:
        assert texts(door.ask(Role.TASK, ask("a", "b", "c"))) == ["x", "y", "x"]


@pytest.mark.parametrize("kind", [kind for kind in ErrorKind if not kind.stops_provider])
def test_every_other_error_is_an_outcome_of_its_call_alone(kind: ErrorKind) -> None:
    with opened(listed("x", CallError(kind, "no"), "y")) as door:
        assert texts(door.ask(Role.TASK, ask("a", "b", "c"))) == ["x", f"error: {kind}", "y"]


def test_a_defect_of_a_model_is_raised_after_its_peers_were_journalled() -> None:
    def answer(request: Request, count: int) -> str:
        if count == 0:
            raise ZeroDivisionError
        return "x"

    tape = Tape()
    with opened(Scripted(answer), tape) as door, pytest.raises(ZeroDivisionError):
        door.ask(Role.TASK, ask("a", "b"))
    assert len(tape.lines) == 1


def test_every_model_is_closed_once() -> None:
    model, editor = constant("x"), constant("y")
    models = {Role.TASK: model, Role.JUDGE: model, Role.OPTIMIZER: editor}
    Door(models, Tape().journal(), Ledger()).close()
    assert (model.closed, editor.closed) == (1, 1)


# --------------------------------------------------------------------------- time


def run_against_the_clock(tape: Tape, limit: float, a_call: float, later: float) -> tuple[int, str]:
    """Ask one call after the other until stopped, each taking `a_call`, the code between two calls `later`."""
    clock = Clock()

    def answer(request: Request, count: int) -> str:
        clock.now += a_call
        return "x"

    with opened(Scripted(answer), tape, Budget(10**6, seconds=limit), clock=clock) as door:
        for number in range(100):
            try:
                door.ask(Role.TASK, ask(f"q{number}"))
            except BudgetExhausted as stop:
                return number, stop.reason
            clock.now += later
    raise AssertionError("never stopped")


@given(st.floats(1, 20), st.floats(0.5, 3), st.floats(0.5, 3))
def test_the_clock_stops_a_replay_at_the_same_call(limit: float, a_call: float, later: float) -> None:
    tape = Tape()
    first = run_against_the_clock(tape, limit, a_call, later)
    assert first[1] == StopReason.BUDGET_SECONDS
    assert run_against_the_clock(Tape(tape.text), limit, a_call, later=0.0) == first
    assert run_against_the_clock(Tape(tape.text, ""), limit, a_call * 9, later * 9) == first


def cut_within_a_batch(tape: Tape, in_flight: int) -> tuple[list[str], int]:
    """A batch of ten, a second each, and three seconds of time; then two of them are asked again, without a limit."""
    clock = Clock()

    def answer(request: Request, count: int) -> str:
        clock.now += 1.0
        return f"answer {count}"

    model = Scripted(answer)
    with opened(model, tape, Budget(10**6, seconds=3.0), clock=clock, in_flight=in_flight) as door:
        with pytest.raises(BudgetExhausted, match=r"4 s of 3 s are over|budget_seconds"):
            door.ask(Role.TASK, ask(*(f"q{number}" for number in range(10))))
        door.with_ledger(Ledger())
        said = texts(door.ask(Role.TASK, ask("q0", "q9")))
        assert door.total.billed + door.stray == door.paid
    return said, len(model.requests)


@pytest.mark.parametrize("in_flight", [1, 2, 8])
def test_the_clock_ends_a_batch_between_two_of_its_calls(in_flight: int) -> None:
    tape = Tape()
    said, asked = cut_within_a_batch(tape, in_flight)
    assert asked < 10, "the rest of the batch was not sent"
    assert said[0] == "answer 0", "what was answered in time is not asked again"
    assert cut_within_a_batch(Tape(tape.text), in_flight) == (said, 0)


def test_time_is_counted_over_all_attempts() -> None:
    tape = Tape()
    clock = Clock()

    def answer(request: Request, count: int) -> str:
        clock.now += 4.0
        return "x"

    with opened(Scripted(answer), tape, clock=clock) as door:
        door.ask(Role.TASK, ask("a"))
    clock.now += 1000.0  # the night between
    with opened(Scripted(answer), Tape(tape.text), clock=clock) as door:
        assert door.elapsed_s == 0
        door.ask(Role.TASK, ask("a"))
        assert door.elapsed_s == 4.0
        door.ask(Role.TASK, ask("b"))
        assert door.elapsed_s == 8.0


def test_the_scoring_has_no_clock() -> None:
    with opened(constant("x"), budget=Budget(5, seconds=1.0), clock=(clock := Clock())) as door:
        door.ask(Role.TASK, ask("a"))
        clock.now += 100
        with pytest.raises(BudgetExhausted):
            door.ask(Role.TASK, ask("b"))
        door.with_ledger(Ledger())
        assert texts(door.ask(Role.TASK, ask("b"))) == ["x"]


def test_a_stopwatch_runs_on_from_what_the_journal_says() -> None:
    clock = Clock()
    watch = Stopwatch(clock)
    watch.replayed(3.0)
    watch.replayed(2.0)
    clock.now += 50
    assert watch.elapsed_s == 3.0
    watch.start()
    clock.now += 2
    watch.replayed(900.0)
    watch.start()
    assert watch.elapsed_s == 5.0


@pytest.mark.parametrize("end", [Drained, BudgetExhausted])
def test_no_try_is_sent_after_the_end_not_even_of_a_call_that_waits_for_its_next_one(end: type[Stop]) -> None:
    """The call fails once; while it waits to be asked again, the run is drained, or the clock of the task runs out."""
    over, clock = False, Clock()

    async def wait(seconds: float) -> None:
        nonlocal over
        over = end is Drained
        clock.now += 100.0 if end is BudgetExhausted else 0.0

    model = Wasteful(99)
    retrying = Resilient(model, Gate(8), RetryPolicy(), sleep=wait)
    budget = Budget(5, seconds=50.0)
    with opened(retrying, tape := Tape(), budget, clock=clock, draining=lambda: over) as door:
        with pytest.raises(end):
            door.ask(Role.TASK, ask("a"))
        assert len(model.requests) == 1
        assert (door.total.billed, door.stray) == (Spend(), LOST)
    assert tape.entries == []


# --------------------------------------------------------------------------- the money of the run


class Purse:
    def __init__(self, limit: float) -> None:
        self.left = limit
        self.paid = 0.0

    async def reserve(self, usd: float) -> None:
        if usd > self.left:
            raise Drained("run_budget")
        self.left -= usd

    def settle(self, reserved: float, paid: float) -> None:
        self.left += reserved - paid
        self.paid += paid


def test_the_runs_money_is_set_aside_for_what_is_sent_and_settled_at_what_was_paid() -> None:
    purse, tape = Purse(0.01), Tape()
    with opened(retried(listed("x", CallError(ErrorKind.BAD_REQUEST, "no"))), tape, purse=purse) as door:
        door.ask(Role.TASK, ask("a", "b"))
    assert (purse.paid, purse.left) == (pytest.approx(0.001), pytest.approx(0.009))
    with opened(failing(), Tape(tape.text), purse=(again := Purse(0.0))) as door:
        door.ask(Role.TASK, ask("a", "b"))
    assert again.paid == 0


def test_the_runs_money_bears_every_try_that_is_paid() -> None:
    purse = Purse(0.1)
    with opened(retried(Wasteful(2)), purse=purse) as door:
        door.ask(Role.TASK, ask("a"))
    assert purse.paid == pytest.approx(0.041)
    assert purse.left == pytest.approx(0.059)
    with opened(retried(Wasteful(2)), Tape(), purse=(short := Purse(0.0015))) as door, pytest.raises(Drained):
        door.ask(Role.TASK, ask("a"))
    assert short.paid == pytest.approx(0.02)


def test_what_the_runs_money_does_not_bear_is_not_sent_and_what_it_bears_is_journalled() -> None:
    model, tape = constant("x"), Tape()
    with opened(retried(model), tape, purse=(purse := Purse(0.0015))) as door, pytest.raises(Drained):
        door.ask(Role.TASK, ask("a", "b"))
    assert (len(model.requests), len(tape.entries), purse.paid) == (1, 1, pytest.approx(0.001))


def test_money_is_set_aside_for_tries_on_their_way_and_not_for_the_rest_of_a_batch() -> None:
    class Watched(Purse):
        held, most = 0.0, 0.0

        async def reserve(self, usd: float) -> None:
            await super().reserve(usd)
            self.held += usd
            self.most = max(self.most, self.held)

        def settle(self, reserved: float, paid: float) -> None:
            super().settle(reserved, paid)
            self.held -= reserved

    purse = Watched(1.0)
    with opened(retried(constant("x")), purse=purse, in_flight=2) as door:
        door.ask(Role.TASK, ask(*"abcdefgh"))
    assert purse.paid == pytest.approx(0.008)
    assert purse.most == pytest.approx(0.002)
    assert purse.held == pytest.approx(0.0)


def test_who_waits_to_ask_again_holds_none_of_the_runs_money() -> None:
    """Else it waits for a place of the gate, and who has that place waits for the money."""
    purse, seen = Purse(1.0), []

    async def wait(seconds: float) -> None:
        seen.append(purse.left)

    model = Resilient(listed(CallError(ErrorKind.TRANSIENT, "no"), "x"), Gate(8), RetryPolicy(), sleep=wait)
    with opened(model, purse=purse) as door:
        door.ask(Role.TASK, ask("a"))
    assert seen == [pytest.approx(1.0)]
    assert (purse.paid, purse.left) == (pytest.approx(0.001), pytest.approx(0.999))


def test_an_end_of_any_kind_settles_the_runs_money() -> None:
    purse = Purse(1.0)
    model = retried(listed("x", CallError(ErrorKind.AUTH, "no")))
    with opened(model, purse=purse) as door, pytest.raises(CallError):
        door.ask(Role.TASK, ask("a", "b"))
    assert (purse.paid, purse.left) == (pytest.approx(0.001), pytest.approx(0.999))


def test_an_entry_is_dated_and_says_how_long_it_took() -> None:
    tape, wall = Tape(), Clock()

    def answer(request: Request, count: int) -> str:
        wall.now += 2.5
        return "x"

    with opened(Scripted(answer), tape, wall=wall) as door:
        door.ask(Role.TASK, ask("a"))
    with opened(failing(), Tape(tape.text), wall=wall) as door:
        wall.now += 100.0
        assert texts(door.ask(Role.TASK, ask("a"))) == ["x"]  # a replay dates nothing anew
    assert [(entry.at, entry.took_s) for entry in tape.entries] == [(102.5, 2.5)]


def test_a_wall_clock_that_is_set_back_makes_no_negative_time() -> None:
    tape, wall = Tape(), Clock()

    def answer(request: Request, count: int) -> str:
        wall.now -= 3600.0
        return "x"

    with opened(Scripted(answer), tape, wall=wall) as door:
        door.ask(Role.TASK, ask("a"))
    assert tape.entries[0].took_s == 0.0


def test_an_entry_says_what_was_asked_of_whom() -> None:
    tape = Tape()
    with opened(constant("x"), tape) as door:
        door.ask(Role.TASK, ask("a", item="e1", prompt="p1"))
        door.ask(Role.OPTIMIZER, ask("b"))
    task, edit = tape.entries
    assert (task.item, task.prompt, task.messages) == ("e1", "p1", ())
    assert encode(edit.messages) == [{"role": "user", "content": "b"}]
