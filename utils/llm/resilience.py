"""Retries, time limits and adaptive concurrency around any model.

`Resilient` wraps one model: it decides what is asked again, when, and when to give up. `Gate` is shared by all models
of one provider in the process: it decides how many calls are in flight, and what it learns of a pause it shares with
the gates of other processes through a `Bulletin`. What an error means is said by whoever raised
the `CallError`; here only its kind, its message and its Retry-After are read.

Four promises hold whatever a provider does: a call ends after a stated number of tries and a stated time; a
Retry-After is never undercut, by the refused call or by any that is sent later to the same provider; a key that was
refused once is not tried again; and a try that was paid without a usable answer is booked with the call's sponsor, who
must bear the next one.
"""

from __future__ import annotations

import asyncio
import math
import random
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace

from tenacity import AsyncRetrying, RetryCallState, retry_if_exception

from utils.errors import CallError, ErrorKind
from utils.llm.base import LLM, Unusable, sponsor
from utils.llm.breaker import Breaker
from utils.llm.bulletin import Bulletin
from utils.records import Completion, Request, Usage

Sleep = Callable[[float], Awaitable[None]]
Clock = Callable[[], float]  # seconds, monotonic


class Throttled(CallError):
    """The provider is asked too much: a 429, or an overload. Sent less for a while, then asked again."""

    def __init__(self, message: str, *, retry_after_s: float | None = None, attempts: int = 1) -> None:
        super().__init__(ErrorKind.TRANSIENT, message, retry_after_s=retry_after_s, attempts=attempts)


@dataclass(frozen=True)
class RetryPolicy:
    """When to ask again, and when to give up: at the first bound that is reached.

    A throttled call has a larger number of tries than a failed one, because its turn may come late through no fault of
    its own; the gate sees to it that few are needed.
    """

    attempts: int = 6  # tries that failed for other reasons than throttling
    throttled_attempts: int = 12  # tries that the provider turned away
    malformed_attempts: int = 3  # answers that were none: each of them is paid
    same_failure_limit: int = 5  # the same failure so often in a row is permanent, whatever its code
    total_s: float = 300.0  # from the first send; no back-off ends later
    base_s: float = 0.5  # back-off before the n-th retry is uniform in [0, base_s * 2^(n-1)], "full jitter"
    cap_s: float = 30.0
    timeout_s: float = 120.0  # of one try


# --------------------------------------------------------------------------- concurrency


@dataclass(frozen=True)
class GateStatus:
    """What a live view shows of a provider."""

    in_flight: int
    limit: int  # as told
    allowed: int  # what the provider bears at the moment, at most `limit`
    waiting: int  # calls in back-off between two tries
    resumes_in_s: float  # until the provider's Retry-After has run out; 0: not paused
    queued: int = 0  # calls waiting for a free place


@dataclass(eq=False)
class _Waiter:
    """A call that waits for its turn, and how long a pause it is ready to sit out."""

    turn: asyncio.Future[int]
    patience_s: float


class Gate:
    """How many calls to one provider may be in flight.

    Additive increase, multiplicative decrease: about one more after each round of answers, half as many after a
    throttled call. Calls that left before the last decrease say nothing new, so a burst of 429s counts once. The first
    Retry-After is the provider's word to all: it pauses every send to it, those of other processes too. Retries go
    before calls that were never sent, each in their order.
    """

    def __init__(
        self,
        limit: int,
        *,
        sleep: Sleep = asyncio.sleep,
        clock: Clock = time.monotonic,
        bulletin: Bulletin | None = None,
    ) -> None:
        if limit < 1:
            raise ValueError(f"limit must be at least 1, not {limit}")
        self._limit = limit
        self._allowed = float(limit)
        self._sleep, self._clock = sleep, clock
        self._bulletin = bulletin
        self._breaker = Breaker(clock)
        self._probe = 0  # the ticket of the last call that was sent while the provider was down
        self._in_flight = 0
        self._backing_off = 0
        self._sent = 0  # calls let through so far; a call's ticket is its number
        self._cut_at = 0  # tickets up to this one left before the last decrease
        self._paused_until = -math.inf
        self._refusal: CallError | None = None
        self._retries: deque[_Waiter] = deque()
        self._fresh: deque[_Waiter] = deque()
        self._alarm: asyncio.Task[None] | None = None

    def status(self) -> GateStatus:
        """The state now."""
        queued = len(self._retries) + len(self._fresh)
        return GateStatus(self._in_flight, self._limit, int(self._allowed), self._backing_off, self._pause_s(), queued)

    @asynccontextmanager
    async def slot(self, *, is_retry: bool = False, patience_s: float = math.inf) -> AsyncIterator[int]:
        """A place among the calls in flight, and its ticket.

        Raises CallError without waiting where the provider has refused the key, or has asked for a longer pause than
        `patience_s`.
        """
        ticket = await self._enter(is_retry, patience_s)
        try:
            yield ticket
        finally:
            self._leave()

    @asynccontextmanager
    async def backing_off(self) -> AsyncIterator[None]:
        """Counts a call as waiting between two tries."""
        self._backing_off += 1
        try:
            yield
        finally:
            self._backing_off -= 1

    @property
    def is_down(self) -> bool:
        """True while the provider answers nobody: a call that fails now says nothing of itself."""
        return self._breaker.is_open

    def answered(self) -> None:
        """A call was answered: a little more is allowed."""
        if self._breaker.answered() and self._bulletin:
            self._bulletin.post(has_answered=True)
        self._allowed = min(float(self._limit), self._allowed + 1 / self._allowed)

    def failed(self, error: CallError, ticket: int) -> None:
        """A call failed: what that says about all the others of this provider."""
        if error.kind.stops_provider:
            self._refuse(error)
        elif is_throttled(error):
            if ticket > self._cut_at:
                self._allowed = max(1.0, min(self._allowed, self._in_flight) / 2)
                self._cut_at = self._sent
            if error.retry_after_s:
                self._pause(error.retry_after_s)
                if self._bulletin:
                    self._bulletin.post(pause_s=error.retry_after_s)
        elif error.kind is ErrorKind.TRANSIENT:  # a malformed answer is none to the call, but somebody is there
            if self._bulletin:
                self._bulletin.post(has_answered=False)
            self._unanswered(error, ticket)

    def _unanswered(self, error: CallError, ticket: int) -> None:
        """A call came back without an answer, through no word of the provider's."""
        self._breaker.failed(is_probe=ticket == self._probe)
        if self._breaker.is_lost:
            silent = f"nothing was answered for {self._breaker.silent_s:.0f} s, to nobody"
            self._refuse(CallError(ErrorKind.UNAVAILABLE, f"{error.message} ({silent})"))
        elif self._breaker.is_open:
            self._pause(self._breaker.pause_s)

    async def _enter(self, is_retry: bool, patience_s: float) -> int:
        queue = self._retries if is_retry else self._fresh
        is_new = True
        while True:
            self._turn_away(patience_s)
            waiter = _Waiter(asyncio.get_running_loop().create_future(), patience_s)
            (queue.append if is_new else queue.appendleft)(waiter)
            self._admit()
            ticket = await self._turn(waiter, queue)
            self._hear()
            if self._refusal is None and self._pause_s() == 0:
                return ticket
            # Between the moment it was let through and this one, another call was refused or told to wait.
            self._leave()
            is_new = False

    def _turn_away(self, patience_s: float) -> None:
        self._hear()
        if self._refusal is not None:
            raise CallError(self._refusal.kind, self._refusal.message, attempts=0)
        if self._pause_s() > patience_s:
            raise self._too_long()

    async def _turn(self, waiter: _Waiter, queue: deque[_Waiter]) -> int:
        try:
            return await waiter.turn
        except asyncio.CancelledError:
            if waiter in queue:
                queue.remove(waiter)
            elif waiter.turn.done() and not waiter.turn.cancelled() and waiter.turn.exception() is None:
                self._leave()  # it had got its place in the moment it was cancelled
            raise

    def _leave(self) -> None:
        self._in_flight -= 1
        self._admit()

    def _admit(self) -> None:
        """Lets waiting calls through as far as there is room."""
        self._hear()
        if self._pause_s() > 0:
            self._set_alarm()
            return
        while (queue := self._retries or self._fresh) and self._in_flight < (1 if self.is_down else int(self._allowed)):
            waiter = queue.popleft()
            if not waiter.turn.done():
                self._in_flight += 1
                self._sent += 1
                self._probe = self._sent if self.is_down else self._probe
                waiter.turn.set_result(self._sent)

    def _pause_s(self) -> float:
        return max(0.0, self._paused_until - self._clock())

    def _hear(self) -> None:
        """Keeps to the pauses that other processes were told of, and takes in whom the provider answers."""
        if self._bulletin is None:
            return
        now, news, was_down = self._bulletin.now(), self._bulletin.news(), self.is_down
        for notice in filter(self._bulletin.is_of_now, news):
            if notice.has_answered:
                self._breaker.answered()
            elif notice.has_answered is False:
                self._breaker.failed(is_probe=False)
        left_s = max((notice.left_s(now) for notice in news), default=0.0)
        if self.is_down and not was_down:
            left_s = max(left_s, self._breaker.pause_s)
        if left_s > self._pause_s():
            self._pause(left_s)

    def _pause(self, seconds: float) -> None:
        self._paused_until = max(self._paused_until, self._clock() + seconds)
        self._dismiss(lambda waiter: self._too_long() if self._pause_s() > waiter.patience_s else None)
        if self._pause_s() > 0:
            self._set_alarm()

    def _refuse(self, error: CallError) -> None:
        self._refusal = self._refusal or error
        self._dismiss(lambda waiter: CallError(error.kind, error.message, attempts=0))

    def _too_long(self) -> CallError:
        return CallError(
            ErrorKind.TRANSIENT,
            f"the provider asks to wait {self._pause_s():.0f} s, which is longer than a call may take",
            retry_after_s=self._pause_s(),
            attempts=0,
        )

    def _dismiss(self, verdict: Callable[[_Waiter], CallError | None]) -> None:
        """Ends the waiting of those calls that have an error coming."""
        for queue in (self._retries, self._fresh):
            for waiter in list(queue):
                if (error := verdict(waiter)) is not None:
                    queue.remove(waiter)
                    if not waiter.turn.done():
                        waiter.turn.set_exception(error)

    def _set_alarm(self) -> None:
        """Sees to it that those who wait go on when the pause is over: one task, however many wait."""
        if (self._retries or self._fresh) and (self._alarm is None or self._alarm.done()):
            self._alarm = asyncio.get_running_loop().create_task(self._after_pause())

    async def _after_pause(self) -> None:
        while (pause_s := self._pause_s()) > 0:
            await self._sleep(pause_s)
            self._hear()
        self._alarm = None
        self._admit()


def is_throttled(error: CallError) -> bool:
    """True where the provider asked for less, or for a pause."""
    return isinstance(error, Throttled) or error.retry_after_s is not None


# --------------------------------------------------------------------------- retries


@dataclass
class _Tries:
    """What happened to one call so far."""

    began: float | None = None  # when it was first sent; waiting for a place before that does not count
    failures: list[CallError] = field(default_factory=list)

    @property
    def sent(self) -> list[CallError]:
        return [error for error in self.failures if error.attempts]

    def in_a_row(self) -> int:
        """How often the last failure came in a row: the same kind and the same words."""
        last = self.failures[-1]
        same = 0
        for error in reversed(self.failures):
            if (error.kind, error.message) != (last.kind, last.message):
                break
            same += 1
        return same


class Resilient:
    """A model that is asked again where that may help. Raises CallError with the number of tries and what they met."""

    def __init__(
        self,
        inner: LLM,
        gate: Gate,
        policy: RetryPolicy | None = None,
        *,
        sleep: Sleep = asyncio.sleep,
        clock: Clock = time.monotonic,
        rng: random.Random | None = None,
    ) -> None:
        self.inner, self.gate, self.policy = inner, gate, policy or RetryPolicy()
        self._clock = clock
        self._rng = rng or random.Random()
        self._sleep = sleep

    @property
    def name(self) -> str:
        return self.inner.name

    def ceiling(self, request: Request) -> tuple[Usage, float | None]:
        return self.inner.ceiling(request)

    async def close(self) -> None:
        await self.inner.close()

    async def complete(self, request: Request) -> Completion:
        tries = _Tries()
        retrying = AsyncRetrying(
            retry=retry_if_exception(lambda error: isinstance(error, CallError) and error.kind.is_retryable),
            wait=lambda state: self._wait_s(tries),
            stop=lambda state: self._is_over(tries, state),
            sleep=self._back_off,
            reraise=True,
        )
        try:
            completion: Completion = await retrying(self._try, request, tries)
        except CallError as error:
            raise self._final(error, tries) from error
        return replace(completion, attempts=len(tries.sent) + 1)

    async def _try(self, request: Request, tries: _Tries) -> Completion:
        """One try, in a place of the gate."""
        try:
            async with self.gate.slot(is_retry=bool(tries.failures), patience_s=self._left_s(tries)) as ticket:
                await sponsor.get().permit()
                tries.began = self._clock() if tries.began is None else tries.began
                try:
                    completion = await self._ask(request)
                except CallError as error:
                    self.gate.failed(error, ticket)
                    raise
                self.gate.answered()
                return completion
        except CallError as error:
            tries.failures.append(error)
            if isinstance(error, Unusable):
                sponsor.get().book(error)
            else:
                sponsor.get().release()
            raise

    async def _ask(self, request: Request) -> Completion:
        try:
            async with asyncio.timeout(self.policy.timeout_s):
                return await self.inner.complete(request)
        except TimeoutError:
            message = f"{self.name}: no answer in {self.policy.timeout_s:g} s"
            raise Unusable(ErrorKind.TRANSIENT, message, *self.inner.ceiling(request)) from None

    async def _back_off(self, seconds: float) -> None:
        async with self.gate.backing_off():
            await self._sleep(seconds)

    def _left_s(self, tries: _Tries) -> float:
        return self.policy.total_s - (0.0 if tries.began is None else self._clock() - tries.began)

    def _wait_s(self, tries: _Tries) -> float:
        """Full jitter, on top of what the provider asked for: all its callers were told the same moment."""
        retry = len(tries.failures)
        jitter = self._rng.uniform(0.0, min(self.policy.cap_s, self.policy.base_s * 2.0 ** min(retry - 1, 30)))
        return (tries.failures[-1].retry_after_s or 0.0) + jitter

    def _is_over(self, tries: _Tries, state: RetryCallState) -> bool:
        """True where the call has reached one of its bounds."""
        policy, last = self.policy, tries.failures[-1]
        throttled = sum(is_throttled(error) for error in tries.failures)
        malformed = sum(error.kind is ErrorKind.MALFORMED for error in tries.failures)
        return (
            not last.attempts  # the gate did not send it
            or throttled >= policy.throttled_attempts
            or (len(tries.failures) - throttled >= policy.attempts and not self.gate.is_down)
            or malformed >= policy.malformed_attempts
            or (not is_throttled(last) and tries.in_a_row() >= policy.same_failure_limit and not self.gate.is_down)
            or state.upcoming_sleep >= self._left_s(tries)
            or (isinstance(last, Unusable) and not sponsor.get().bears_another())
        )

    def _final(self, error: CallError, tries: _Tries) -> CallError:
        """The error with what was done about it: `... (6 tries in 42 s)`."""
        sent, message = len(tries.sent), error.message
        if sent > 1 and tries.began is not None:
            message += f" ({sent} tries in {self._clock() - tries.began:.0f} s)"
        return CallError(error.kind, message, retry_after_s=error.retry_after_s, attempts=sent)
