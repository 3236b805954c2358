"""Retries and gates in virtual time: seconds pass when everybody waits, so nothing here sleeps."""

from __future__ import annotations

import asyncio
import math
import random
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from utils.errors import CallError, ErrorKind
from utils.llm.base import LLM
from utils.llm.breaker import LONGEST_PAUSE_S, OPEN_AFTER, PATIENCE_S
from utils.llm.bulletin import Bulletin
from utils.llm.resilience import Gate, Resilient, RetryPolicy, Throttled
from utils.records import Completion, Message, Request, Usage

T = TypeVar("T")
REQUEST = Request((Message("user", "hello"),))
BUSY = CallError(ErrorKind.TRANSIENT, "m: the server had an error")
GARBLED = CallError(ErrorKind.MALFORMED, "m: not JSON")


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop whose clock jumps to the next timer as soon as nothing else is to be done."""

    def __init__(self) -> None:
        self.now = 0.0
        super().__init__()

    def time(self) -> float:
        return self.now

    def _run_once(self) -> None:
        if not self._ready and self._scheduled:  # type: ignore[attr-defined]
            self.now = max(self.now, self._scheduled[0]._when)  # type: ignore[attr-defined]
        super()._run_once()  # type: ignore[misc]


def run(main: Coroutine[Any, Any, T]) -> T:
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(main)


def now() -> float:
    return asyncio.get_running_loop().time()


Act = CallError | float | Callable[[], Awaitable[None]]  # fail, answer after so many seconds, or do something


@dataclass
class Scripted:
    """A model that does what its script says, one act a call, then answers at once."""

    script: list[Act] = field(default_factory=list)
    sent_at: list[float] = field(default_factory=list)
    in_flight: int = 0
    most: int = 0
    name: str = "m"

    async def complete(self, request: Request) -> Completion:
        self.sent_at.append(now())
        self.in_flight += 1
        self.most = max(self.most, self.in_flight)
        try:
            act = self.script.pop(0) if self.script else 0.0
            if isinstance(act, CallError):
                raise act
            await (asyncio.sleep(act) if isinstance(act, float) else act())
            return Completion("ok", Usage(1, 1), 0.0)
        finally:
            self.in_flight -= 1

    def ceiling(self, request: Request) -> tuple[Usage, float | None]:
        return Usage(1, 1), 0.0

    async def close(self) -> None:
        self.name = "closed"


def resilient(inner: LLM, policy: RetryPolicy | None = None, gate: Gate | None = None, limit: int = 4) -> Resilient:
    gate = gate or Gate(limit, clock=now)
    return Resilient(inner, gate, policy, clock=now, rng=random.Random(1))


def fail(inner: Scripted, policy: RetryPolicy | None = None, gate: Gate | None = None) -> CallError:
    with pytest.raises(CallError) as caught:
        run(resilient(inner, policy, gate).complete(REQUEST))
    return caught.value


# --------------------------------------------------------------------------- retries


def test_it_is_a_model_and_passes_on_what_it_does_not_do() -> None:
    inner = Scripted()
    model = resilient(inner)
    assert isinstance(model, LLM)
    assert (model.name, model.ceiling(REQUEST)) == ("m", (Usage(1, 1), 0.0))
    run(model.close())
    assert inner.name == "closed"


def test_attempts_are_counted_in_the_answer() -> None:
    assert run(resilient(Scripted()).complete(REQUEST)).attempts == 1
    assert run(resilient(Scripted([BUSY, GARBLED, BUSY])).complete(REQUEST)).attempts == 4


@pytest.mark.parametrize("kind", [kind for kind in ErrorKind if not kind.is_retryable])
def test_what_cannot_succeed_is_sent_once(kind: ErrorKind) -> None:
    inner = Scripted([CallError(kind, "m: no")])
    error = fail(inner)
    assert (error.kind, error.message, error.attempts, len(inner.sent_at)) == (kind, "m: no", 1, 1)


def test_the_same_failure_in_a_row_is_permanent() -> None:
    inner = Scripted([BUSY] * 50)
    error = fail(inner, RetryPolicy(attempts=20, same_failure_limit=5))
    assert error.attempts == len(inner.sent_at) == 5
    assert error.message.startswith("m: the server had an error (5 tries in ")


def test_different_failures_are_bounded_in_number() -> None:
    inner = Scripted([CallError(ErrorKind.TRANSIENT, f"m: error {i}") for i in range(50)])
    assert fail(inner, RetryPolicy(attempts=6)).attempts == len(inner.sent_at) == 6


def test_malformed_answers_are_tried_less_often() -> None:
    inner = Scripted([GARBLED] * 50)
    error = fail(inner)
    assert (error.kind, error.attempts) == (ErrorKind.MALFORMED, 3)


def test_retries_are_bounded_in_time() -> None:
    async def main() -> float:
        inner = Scripted([CallError(ErrorKind.TRANSIENT, f"m: error {i}") for i in range(1000)])
        with pytest.raises(CallError, match=r"tries in \d+ s"):
            await resilient(inner, RetryPolicy(attempts=1000, total_s=60)).complete(REQUEST)
        return max(inner.sent_at)

    assert 30 < run(main()) < 60


def test_back_off_is_jittered_and_grows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("utils.llm.breaker.OPEN_AFTER", 1000)  # a provider that is down waits by another law
    inner = Scripted([CallError(ErrorKind.TRANSIENT, f"m: error {i}") for i in range(400)])
    policy = RetryPolicy(attempts=400, total_s=1e9, base_s=1.0, cap_s=16.0)
    fail(inner, policy)
    waits = [later - earlier for earlier, later in zip(inner.sent_at, inner.sent_at[1:], strict=False)]
    assert all(wait <= min(16.0, 2.0**i) for i, wait in enumerate(waits))
    late = waits[10:]
    assert min(late) < 1 < 15 < max(late)  # full jitter: anything from 0 to the cap
    assert 7 < sum(late) / len(late) < 9


@pytest.mark.parametrize("seed", range(20))
def test_retry_after_is_never_undercut(seed: int) -> None:
    inner = Scripted([Throttled("m: slow down", retry_after_s=7.0)] * 3)

    async def main() -> None:
        gate = Gate(4, clock=now)
        await Resilient(inner, gate, clock=now, rng=random.Random(seed)).complete(REQUEST)

    run(main())
    waits = [later - earlier for earlier, later in zip(inner.sent_at, inner.sent_at[1:], strict=False)]
    assert len(waits) == 3
    assert all(wait >= 7.0 for wait in waits)


def test_a_retry_after_beyond_the_time_bound_ends_the_call() -> None:
    inner = Scripted([Throttled("m: slow down", retry_after_s=301.0)])
    error = fail(inner)
    assert (error.kind, error.retry_after_s, error.attempts) == (ErrorKind.TRANSIENT, 301.0, 1)
    assert inner.sent_at == [0.0]


def test_a_throttled_call_has_more_tries() -> None:
    inner = Scripted([Throttled("m: slow down")] * 50)
    assert fail(inner).attempts == RetryPolicy().throttled_attempts


def test_every_call_has_a_timeout() -> None:
    inner = Scripted([1e9, 1e9])
    error = fail(inner, RetryPolicy(timeout_s=5, same_failure_limit=2))
    assert error.kind is ErrorKind.TRANSIENT
    assert error.message.startswith("m: no answer in 5 s (2 tries in 1")
    assert inner.in_flight == 0


def test_cancelling_passes_through_and_frees_the_place() -> None:
    async def main() -> int:
        inner = Scripted([1e6])
        model = resilient(inner)
        task = asyncio.create_task(model.complete(REQUEST))
        await asyncio.sleep(1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert model.gate.status().in_flight == 0
        return len(inner.sent_at)

    assert run(main()) == 1


def test_cancelling_in_back_off_stops_waiting() -> None:
    async def main() -> None:
        model = resilient(Scripted([Throttled("m: slow down", retry_after_s=50.0)]))
        task = asyncio.create_task(model.complete(REQUEST))
        await asyncio.sleep(1)
        status = model.gate.status()
        assert (status.waiting, status.in_flight) == (1, 0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert model.gate.status().waiting == 0

    run(main())


def test_a_defect_is_not_retried() -> None:
    class Broken(Scripted):
        async def complete(self, request: Request) -> Completion:
            self.sent_at.append(now())
            raise ZeroDivisionError

    inner = Broken()
    with pytest.raises(ZeroDivisionError):
        run(resilient(inner).complete(REQUEST))
    assert len(inner.sent_at) == 1


def test_sleep_is_injected() -> None:
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    model = Resilient(Scripted([BUSY, BUSY]), Gate(1), sleep=sleep, rng=random.Random(0))
    assert asyncio.run(model.complete(REQUEST)).attempts == 3
    assert len(slept) == 2


# --------------------------------------------------------------------------- the gate


@pytest.mark.parametrize("kind", [ErrorKind.AUTH, ErrorKind.QUOTA])
def test_a_refused_key_is_not_tried_again(kind: ErrorKind) -> None:
    async def main() -> None:
        gate = Gate(2, clock=now)
        refused = CallError(kind, "m: no such key")

        async def refuse() -> None:
            await asyncio.sleep(1)
            raise refused

        first, second = Scripted([refuse, refuse]), Scripted()
        calls = [resilient(first, gate=gate).complete(REQUEST) for _ in range(6)]
        errors = await asyncio.gather(*calls, return_exceptions=True)
        with pytest.raises(CallError) as caught:
            await resilient(second, gate=gate).complete(REQUEST)
        assert len(first.sent_at) == 2  # the two that were in flight
        assert second.sent_at == []
        assert {(error.kind, error.message) for error in [*errors, caught.value]} == {(kind, refused.message)}
        assert caught.value.attempts == 0

    run(main())


def test_a_burst_of_429s_counts_once() -> None:
    async def main() -> None:
        gate = Gate(16, clock=now)

        async def refuse() -> None:
            await asyncio.sleep(1)
            raise Throttled("m: slow down", retry_after_s=5.0)

        inner = Scripted([refuse] * 16)
        calls = [asyncio.create_task(resilient(inner, gate=gate).complete(REQUEST)) for _ in range(16)]
        await asyncio.sleep(2)
        assert gate.status().allowed == 8
        assert gate.status().resumes_in_s == pytest.approx(4.0)
        await asyncio.gather(*calls)
        assert min(inner.sent_at[16:]) >= 6.0

    run(main())


def test_the_first_retry_after_holds_back_calls_that_were_never_refused() -> None:
    async def main() -> list[float]:
        gate = Gate(4, clock=now)
        inner = Scripted([Throttled("m: slow down", retry_after_s=5.0)])
        model = resilient(inner, gate=gate)
        first = asyncio.create_task(model.complete(REQUEST))
        await asyncio.sleep(1)
        await asyncio.gather(first, *(model.complete(REQUEST) for _ in range(3)))
        return inner.sent_at

    first, *rest = run(main())
    assert first == 0.0
    assert len(rest) == 4
    assert min(rest) >= 5.0


def test_a_throttled_call_without_retry_after_waits_alone() -> None:
    async def main() -> list[float]:
        inner = Scripted([Throttled("m: slow down")])
        model = resilient(inner, gate=Gate(4, clock=now), policy=RetryPolicy(base_s=100.0))
        first = asyncio.create_task(model.complete(REQUEST))
        await asyncio.sleep(1)
        await asyncio.gather(first, *(model.complete(REQUEST) for _ in range(3)))
        return inner.sent_at

    first, *others, retried = run(main())
    assert first == 0.0
    assert max(others) < 2.0 < retried


def test_a_pause_holds_for_the_gates_of_other_processes_from_the_next_send_on(tmp_path: Path) -> None:
    """One gate is told; the other had calls waiting for a place, and gets new ones."""

    async def main() -> tuple[list[float], list[float]]:
        def gate() -> Gate:
            return Gate(1, clock=now, bulletin=Bulletin(tmp_path / "p.jsonl", clock=now))

        refused, other = Scripted([Throttled("m: slow down", retry_after_s=9.0)]), Scripted([2.0])
        one, two = resilient(refused, gate=gate()), resilient(other, gate=gate())
        waiting = [asyncio.create_task(two.complete(REQUEST)) for _ in range(2)]  # sent at 0, and to be sent at 2
        await asyncio.sleep(1)
        await asyncio.gather(one.complete(REQUEST), two.complete(REQUEST), *waiting)
        return refused.sent_at, other.sent_at

    refused_at, other_at = run(main())
    assert (refused_at[0], other_at[0]) == (1.0, 0.0)
    assert min(refused_at[1:] + other_at[1:]) >= 10.0
    assert (len(refused_at), len(other_at)) == (2, 3)


def test_a_run_that_goes_on_keeps_to_the_pause_of_before(tmp_path: Path) -> None:
    async def main() -> float:
        bulletin = Bulletin(tmp_path / "p.jsonl", clock=now)
        bulletin.post(pause_s=7.0)
        await asyncio.sleep(3)
        inner = Scripted()
        await resilient(inner, gate=Gate(1, clock=now, bulletin=Bulletin(tmp_path / "p.jsonl", clock=now))).complete(
            REQUEST
        )
        return inner.sent_at[0]

    assert run(main()) == 7.0


def test_a_pause_longer_than_a_call_may_take_fails_those_who_wait() -> None:
    async def main() -> None:
        gate = Gate(1, clock=now)
        inner = Scripted([Throttled("m: come back tomorrow", retry_after_s=3600.0)] * 2)
        model = resilient(inner, gate=gate)
        errors = await asyncio.gather(*(model.complete(REQUEST) for _ in range(5)), return_exceptions=True)
        assert now() < 1.0
        assert all(isinstance(error, CallError) and error.kind is ErrorKind.TRANSIENT for error in errors)
        assert len(inner.sent_at) == 1, "the first is the provider's word to all"

    run(main())


def test_answers_allow_more_again_up_to_the_limit() -> None:
    async def main() -> None:
        gate = Gate(8, clock=now)
        inner = Scripted([Throttled("m: slow down")])
        model = resilient(inner, gate=gate)
        await model.complete(REQUEST)
        assert gate.status().allowed < 8
        for _ in range(60):
            await model.complete(REQUEST)
        assert gate.status().allowed == 8

    run(main())


def test_retries_go_before_fresh_calls() -> None:
    async def main() -> list[str]:
        gate, order = Gate(1, clock=now), []

        async def call(name: str, *, is_retry: bool) -> None:
            async with gate.slot(is_retry=is_retry):
                order.append(name)
                await asyncio.sleep(1)

        names = [("a", False), ("b", False), ("c", True), ("d", True)]
        await asyncio.gather(*(call(name, is_retry=is_retry) for name, is_retry in names))
        return order

    assert run(main()) == ["a", "c", "d", "b"]


def test_a_strict_provider_is_worked_through_without_a_failed_call() -> None:
    """60 calls against two a second: the gate finds its pace and no call runs out of tries."""

    async def main() -> tuple[list[Completion], float]:
        next_free = 0.0

        async def provider() -> None:
            nonlocal next_free
            if now() < next_free:
                raise Throttled("m: slow down", retry_after_s=next_free - now())
            next_free = max(next_free, now()) + 0.5
            await asyncio.sleep(0.2)

        inner = Scripted([provider] * 10_000)
        model = resilient(inner, limit=32)
        return await asyncio.gather(*(model.complete(REQUEST) for _ in range(60))), now()

    answers, seconds = run(main())
    assert len(answers) == 60
    assert seconds < 3 * 30  # at best 30 s


@pytest.mark.parametrize("limit", [0, -1])
def test_a_gate_lets_at_least_one_through(limit: int) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        Gate(limit)


acts = st.one_of(
    st.floats(0.0, 10.0).map(float),
    st.sampled_from([BUSY, GARBLED, Throttled("m: slow down"), CallError(ErrorKind.BAD_REQUEST, "m: no")]),
    st.floats(0.0, 20.0).map(lambda seconds: Throttled("m: slow down", retry_after_s=seconds)),
)
calls = st.lists(st.tuples(st.floats(0.0, 30.0), st.one_of(st.none(), st.floats(0.0, 30.0))), min_size=1, max_size=40)


@settings(max_examples=150)
@given(limit=st.integers(1, 6), script=st.lists(acts, max_size=60), calls=calls, seed=st.integers(0, 9))
def test_under_any_schedule(limit: int, script: list[Act], calls: list[tuple[float, float | None]], seed: int) -> None:
    """Never more in flight than told, never a send within a pause, everybody served, nothing left over.

    Two gates, as of two processes. `calls` begin at random times; some are cancelled a while later.
    """

    async def main(path: Path) -> None:
        gates = [Gate(limit, clock=now, bulletin=Bulletin(path, clock=now)) for _ in range(2)]
        paused_until = 0.0

        class Watched(Scripted):
            async def complete(self, request: Request) -> Completion:
                nonlocal paused_until
                assert now() >= paused_until - 1e-9  # the clocks of gate and bulletin are added up in another order
                assert all(1 <= gate.status().allowed <= limit for gate in gates)
                try:
                    answer = await super().complete(request)
                except Throttled as error:
                    paused_until = max(paused_until, now() + (error.retry_after_s or 0.0))
                    raise
                return answer

        inner = Watched(list(script))
        models = [Resilient(inner, gate, clock=now, rng=random.Random(seed)) for gate in gates]

        async def call(model: Resilient, begin: float, patience: float | None) -> str:
            await asyncio.sleep(begin)
            try:
                async with asyncio.timeout(patience):
                    return (await model.complete(REQUEST)).text
            except TimeoutError:
                return "cancelled"
            except CallError as error:
                return error.kind

        ends = await asyncio.gather(*(call(models[i % 2], *times) for i, times in enumerate(calls)))
        assert inner.most <= 2 * limit
        assert len(ends) == len(calls)
        for gate in gates:
            status = gate.status()
            assert (status.in_flight, status.waiting, status.queued) == (0, 0, 0)

    with TemporaryDirectory() as folder:
        run(main(Path(folder, "p.jsonl")))


# --------------------------------------------------------------------------- a provider that answers nobody


def outage(until_s: float) -> tuple[Scripted, Resilient]:
    """A model that has an error for every call until then; a gate of eight places before it."""
    inner = Scripted()

    async def act() -> None:
        if now() < until_s:
            raise BUSY

    inner.script = [act] * 10_000
    return inner, resilient(inner, limit=8)


async def all_of(model: Resilient, count: int) -> list[Completion | BaseException]:
    return await asyncio.gather(*(model.complete(REQUEST) for _ in range(count)), return_exceptions=True)


@pytest.mark.parametrize("calls", [20, 400])
def test_a_provider_that_answers_nobody_is_given_up_after_two_minutes_however_much_is_asked(calls: int) -> None:
    async def main() -> tuple[list[Any], float]:
        return await all_of(model, calls), now()

    inner, model = outage(math.inf)
    said, took_s = run(main())
    assert {getattr(each, "kind", None) for each in said} <= {ErrorKind.UNAVAILABLE, ErrorKind.TRANSIENT}
    assert sum(getattr(each, "kind", None) is ErrorKind.UNAVAILABLE for each in said) >= calls - 1
    assert "nothing was answered for" in str(said[-1])
    assert PATIENCE_S <= took_s < PATIENCE_S + LONGEST_PAUSE_S + 1
    assert len(inner.sent_at) < OPEN_AFTER + 8 + 10, "but for the first, only probes are sent"


@pytest.mark.parametrize("until_s", [2.0, 30.0, 100.0])
def test_an_outage_of_less_is_sat_out_and_no_call_fails(until_s: float) -> None:
    inner, model = outage(until_s)
    said = run(all_of(model, 100))
    assert [getattr(each, "text", each) for each in said] == ["ok"] * 100
    assert sum(sent < until_s for sent in inner.sent_at) < OPEN_AFTER + 8 + 10


def test_who_alone_is_not_answered_is_no_sign_that_a_provider_is_down(tmp_path: Path) -> None:
    """Two workers: the questions of one are never answered, those of the other always are."""

    async def main() -> list[Any]:
        gates = [Gate(4, clock=now, bulletin=Bulletin(tmp_path / "p.jsonl", clock=now)) for _ in range(2)]
        unlucky, lucky = Scripted([BUSY] * 1000), Scripted([0.2] * 1000)
        both = [resilient(inner, gate=gate) for inner, gate in zip((unlucky, lucky), gates, strict=True)]

        async def go_on() -> None:
            for _ in range(300):
                await both[1].complete(REQUEST)

        _, said = await asyncio.gather(go_on(), all_of(both[0], 8))
        return said

    assert {each.kind for each in run(main())} == {ErrorKind.TRANSIENT}


def test_a_provider_that_answers_nonsense_is_not_down() -> None:
    said = run(all_of(resilient(Scripted([GARBLED] * 1000)), 40))
    assert {each.kind for each in said if isinstance(each, CallError)} == {ErrorKind.MALFORMED}


def test_what_one_worker_meets_with_counts_for_all(tmp_path: Path) -> None:
    async def main() -> tuple[int, bool]:
        gates = [Gate(4, clock=now, bulletin=Bulletin(tmp_path / "p.jsonl", clock=now)) for _ in range(3)]
        for number in range(OPEN_AFTER):
            async with gates[number % 2].slot() as ticket:
                gates[number % 2].failed(BUSY, ticket)
        gates[2].status()
        await asyncio.sleep(0)
        with pytest.raises(CallError, match="asks to wait"):
            async with gates[2].slot(patience_s=0.0):
                pass
        async with gates[2].slot() as ticket:
            gates[2].answered()
        async with gates[0].slot():
            return ticket, gates[0].is_down

    assert run(main()) == (1, False)


def test_yesterdays_failures_are_not_counted(tmp_path: Path) -> None:
    async def main() -> bool:
        before = Bulletin(tmp_path / "p.jsonl", clock=now)
        for _ in range(OPEN_AFTER):
            before.post(has_answered=False)
        await asyncio.sleep(86400)
        gate = Gate(4, clock=now, bulletin=Bulletin(tmp_path / "p.jsonl", clock=now))
        async with gate.slot():
            return gate.is_down

    assert run(main()) is False
