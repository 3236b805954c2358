"""The one door to the models.

Everything that an optimizer, an editor or a judge asks goes through `Door.ask`: reserve the whole batch, answer from
the journal what it knows, send the rest, journal every answer before it is used, charge in the order of submission.
Results come back in the order of the requests, whatever the concurrency.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass, replace
from typing import Protocol

from utils.errors import BudgetExhausted, CallError, Drained, ErrorKind
from utils.journal import Entry, Journal, Waste, outcome
from utils.ledger import Ledger
from utils.llm.base import LLM, Unusable, sponsor
from utils.records import Accounts, Completion, Request, Role, Spend, StopReason, Usage


class Purse(Protocol):
    """The money of the whole run, shared by its tasks."""

    async def reserve(self, usd: float) -> None:
        """Set money aside for one try, once there is room. Raises Drained where there will be none."""

    def settle(self, reserved: float, paid: float) -> None:
        """Give back what was set aside for a try, and enter what was paid."""


@dataclass(frozen=True)
class Call:
    """A request with its place in the journal."""

    request: Request
    key: str
    occurrence: int


class Door:
    """The way of one task to its models; lives in one thread and one event loop.

    `in_flight` bounds this task's open calls. `draining` is asked before each new call: once it is true nothing more is
    sent, what is in flight is awaited and journalled, and `Drained` is raised. `listen` may be set; it is told of
    every answer. `wall` dates the journal, `clock` measures the task.
    """

    def __init__(
        self,
        models: Mapping[Role, LLM],
        journal: Journal,
        ledger: Ledger,
        *,
        in_flight: int = 8,
        draining: Callable[[], bool] = lambda: False,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
        purse: Purse | None = None,
    ) -> None:
        self._models = models
        self._journal = journal
        self.ledger = ledger
        self.listen: Callable[[], None] = lambda: None
        self._in_flight = in_flight
        self._draining = draining
        self._purse = purse
        self._wall = wall
        self._stopwatch = Stopwatch(clock)
        self._runner = asyncio.Runner()
        self._asked: Counter[str] = Counter()
        self._used: list[tuple[str, int]] = []
        self._closed = Accounts()  # of the ledgers that were laid aside
        self.sent = 0  # calls that the journal could not answer
        self.open = 0  # calls waiting for a model just now

    def ask(self, role: Role, requests: Sequence[Request]) -> list[Completion | CallError]:
        """The answers to a batch, in its order; a call that failed for good is its `CallError`.

        Raises BudgetExhausted (nothing was sent, but where the clock ran out within the batch: then nothing more was),
        Drained, or CallError where the provider's tasks must stop.
        """
        if not requests:
            return []
        self._reserve(role, requests)
        calls = [self._place(role, request) for request in requests]
        try:
            entries = self._runner.run(self._answer_all(role, calls))
        except BudgetExhausted as stop:
            self._cut(calls, stop)
            raise
        for call, entry in zip(calls, entries, strict=True):
            self._used.append((call.key, call.occurrence))
            self.ledger.charge(entry.spend, entry.billed, self._journal.wasted(call.key, call.occurrence))
        return [entry.completion or _error(entry) for entry in entries]

    def with_ledger(self, ledger: Ledger) -> None:
        """From here on charge other books: the final scoring is not part of an optimizer's budget."""
        self._closed = self.total
        self.ledger = ledger

    @property
    def total(self) -> Accounts:
        """What was charged and billed in all ledgers together."""
        ledger = self.ledger
        return Accounts(self._closed.logical + ledger.logical, self._closed.billed + ledger.billed)

    @property
    def elapsed_s(self) -> float:
        """Seconds spent on the task over all its attempts."""
        return self._stopwatch.elapsed_s

    @property
    def stray(self) -> Spend:
        """What was paid for calls that are in no ledger: by earlier attempts, or in a batch that came to no end."""
        return self._journal.stray(self._used)

    @property
    def paid(self) -> Spend:
        """What this and all earlier attempts of the task have paid."""
        return self._journal.paid

    def close(self) -> None:
        """Close every model once, then the loop they lived in."""
        for model in {id(model): model for model in self._models.values()}.values():
            self._runner.run(model.close())
        self._runner.close()

    def _reserve(self, role: Role, requests: Sequence[Request]) -> None:
        ending, calls = self._journal.ending, self.ledger.logical.calls
        if self.ledger.budget and ending and calls >= ending.logical_calls:
            raise BudgetExhausted(ending.reason)
        ceilings = [self._models[role].ceiling(request) for request in requests]
        try:
            self.ledger.reserve(role, ceilings, self._stopwatch.elapsed_s)
        except BudgetExhausted as stop:
            self._end(stop)
            raise

    def _cut(self, calls: Sequence[Call], stop: BudgetExhausted) -> None:
        """The clock ran out within a batch. A replay ends before it, so its questions count as never asked: whoever
        asks one of them later, the scoring say, finds the answer that came in time."""
        self._asked.subtract(call.key for call in calls)
        self._end(stop)

    def _end(self, stop: BudgetExhausted) -> None:
        if stop.reason == StopReason.BUDGET_SECONDS:
            self._journal.end(StopReason.BUDGET_SECONDS, self.ledger.logical.calls)

    def _place(self, role: Role, request: Request) -> Call:
        key = request.key(f"{role} {self._models[role].name}")
        occurrence = self._asked[key]
        self._asked[key] += 1
        return Call(replace(request, occurrence=occurrence), key, occurrence)

    async def _answer_all(self, role: Role, calls: Sequence[Call]) -> list[Entry]:
        known = [self._journal.find(call.key, call.occurrence) for call in calls]
        for entry in known:
            if entry is not None:
                self._stopwatch.replayed(entry.elapsed_s)
        frontier = [call for call, entry in zip(calls, known, strict=True) if entry is None]
        if frontier:
            fresh = iter(await self._send_all(role, frontier))
            return [entry or next(fresh) for entry in known]
        return [entry for entry in known if entry is not None]

    async def _send_all(self, role: Role, calls: Sequence[Call]) -> list[Entry]:
        self._stopwatch.start()
        gate = asyncio.Semaphore(self._in_flight)
        async with self._synced():
            sent = await asyncio.gather(*(self._send(role, call, gate) for call in calls), return_exceptions=True)
        entries = [entry for entry in sent if isinstance(entry, Entry)]
        for error in sent:
            if isinstance(error, BaseException):
                raise error
        return entries

    @asynccontextmanager
    async def _synced(self) -> AsyncIterator[None]:
        """Syncs the journal while calls are waited for: one that hangs must not leave its neighbours' lines unsafe."""

        async def keep() -> None:
            while True:
                await asyncio.sleep(self._journal.due_s)
                self._journal.sync()

        keeper = asyncio.create_task(keep())
        try:
            yield
        finally:
            keeper.cancel()

    async def _send(self, role: Role, call: Call, gate: asyncio.Semaphore) -> Entry:
        async with gate:
            with closing(_Payer(self, role, call)) as payer:
                sponsor.set(payer)  # each call of a batch is a task of the event loop, with a context of its own
                payer.check()
                self.sent += 1
                self.open += 1
                began = self._wall()
                answer: Completion | CallError
                try:
                    answer = await self._answer(role, call, payer)
                except CallError as error:
                    # a refused key or an empty account is mended and tried again: not an outcome of this call
                    if error.kind.stops_provider:
                        error.model = self._models[role].name
                        raise
                    answer = error
                finally:
                    self.open -= 1
                at = self._wall()
                took_s = max(0.0, at - began)  # a wall clock may be set back
                entry = outcome(
                    call.request, call.key, call.occurrence, role, self._stopwatch.elapsed_s, answer, at, took_s
                )
                self._journal.record(entry)
                payer.settle(entry.billed.usd or 0.0)
            self.listen()
            return entry

    async def _answer(self, role: Role, call: Call, payer: _Payer) -> Completion:
        """The model's answer. A call that was killed between two tries that are paid must bear the next one, too."""
        if self._journal.wasted(call.key, call.occurrence) != Spend() and not payer.bears_another():
            raise CallError(ErrorKind.MALFORMED, "no usable answer so far, and the budget does not bear another try")
        try:
            return await self._models[role].complete(call.request)
        except Unusable as error:  # of a model that nobody asks again
            payer.book(error)
            raise


class _Payer:
    """The sponsor of one call: whether it may go on is for the run to say, what it takes is for the task's books.

    The run's money is set aside a try at a time, and below the cache: who waits for another's answer holds none.
    """

    def __init__(self, door: Door, role: Role, call: Call) -> None:
        self._door, self._role, self._call = door, role, call
        self._held: float | None = None  # USD, of the run's money

    def check(self) -> None:
        """Raises Stop where nothing more may be sent."""
        if self._door._draining():
            raise Drained("drained", "the run was asked to stop")
        self._door.ledger.refuse_late(self._door.elapsed_s)

    async def permit(self) -> None:
        self.check()
        if self._door._purse and self._held is None:
            usd = self._ceiling()[1] or 0.0
            await self._door._purse.reserve(usd)
            self._held = usd
            self.check()  # it may have waited for long

    def book(self, error: Unusable) -> None:
        self._door._journal.waste(Waste(self._call.key, self._call.occurrence, error.waste))
        self.settle(error.waste.usd or 0.0)

    def release(self) -> None:
        self.settle(0.0)

    def bears_another(self) -> bool:
        return self._door.ledger.bears_another(*self._ceiling())

    def settle(self, paid: float) -> None:
        """Give the run's money back that is held, and enter what was paid of it."""
        if self._door._purse and (paid or self._held is not None):
            self._door._purse.settle(self._held or 0.0, paid)
        self._held = None

    def close(self) -> None:
        """Give back what a call holds that came to no outcome."""
        self.settle(0.0)

    def _ceiling(self) -> tuple[Usage, float | None]:
        return self._door._models[self._role].ceiling(self._call.request)


class Stopwatch:
    """Seconds spent on a task over all its attempts.

    While the journal answers, time stands at what it says; from the first call that is really sent, the clock runs on
    from there. So a replay takes no time out of a budget, and stops where the first run stopped.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._before = 0.0
        self._since: float | None = None

    @property
    def elapsed_s(self) -> float:
        return self._before + (self._clock() - self._since if self._since is not None else 0.0)

    def replayed(self, elapsed_s: float) -> None:
        if self._since is None:
            self._before = max(self._before, elapsed_s)

    def start(self) -> None:
        if self._since is None:
            self._since = self._clock()


def _error(entry: Entry) -> CallError:
    assert entry.failed is not None, "an entry holds an answer or a failure"
    return entry.failed.as_error()
