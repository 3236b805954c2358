"""What a container does with one call: one attempt of one task, idempotent, whatever happens to the container.

Modal runs an input again when its container is lost, and may run two calls of one task when a client died between a
call and its record. So a call

    looks whether it is done already, in an earlier container of its own
    writes `started`, publishes it, and only then looks whether a later dispatch has taken its task away, or another
    call has brought it to an end
    runs the attempt, publishing the journal every few seconds
    writes the result and publishes it

The dispatcher writes its submission first and looks for `started` files afterwards; so of two calls of one task at most
one goes on. A task that fails is a result, never an exception. Preemption, time-out and cancellation come as
`BaseException`s in the main thread: the attempt, on a thread of its own, is asked to stop, what is in flight is
answered and journalled, and the exception goes back to Modal.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import count
from pathlib import Path
from typing import Any

from benchmark_config import DEFAULTS
from benchmark_task import Place, attempt, check_model, code_of, versions
from modal_utils.deployment import DEPLOY, code_hash
from modal_utils.purse import Coins, Money, QueuedCoins, Share
from modal_utils.storage import Mounted, Started, save_limited, save_paid, save_result_to_volume, save_started
from utils.archive import Attempt, Folder, RunArchive
from utils.bills import Bills
from utils.errors import ErrorKind, MissingKey, UsageError
from utils.metrics.registry import find_metric
from utils.records import Failure, Split, TaskResult, TaskSpec
from utils.redaction import RedactingFormatter
from utils.tracing.exporter import QUIET_S, Exporter
from utils.tracing.rows import Sampling
from utils.tracing.target import decide

COMMIT_EVERY_S = 5.0  # what a lost container can cost: the answers of so long
GRACE_S = 20.0  # for calls in flight, when a container has to go; Modal waits 30 s
FORMAT = "%(asctime)s %(levelname)-7s %(name)s: %(message)s"

logger = logging.getLogger("benchmark")


@dataclass(frozen=True)
class Order:
    """What a call is made with."""

    run_id: str
    submission: int
    spec: TaskSpec
    earlier: tuple[Attempt, ...]  # of earlier dispatches; those of this call are looked up
    retried_at: int
    in_flight: int
    call_timeout_s: float
    task_timeout_s: float
    log_level: str
    trace_items: Sampling | None = None  # what is sent to Opik; None: nothing
    created: str = ""  # of the plan, for the ids of traces
    money: Money | None = None  # that the dispatch may spend; None: no limit


def run_optimization_task(
    order: Order,
    blobs: Mounted,
    call: str,
    container: str,
    coins: Callable[[str], Coins] = QueuedCoins,
    clock: Callable[[], float] = time.monotonic,
) -> dict[str, Any]:
    """One attempt of a task; a small summary of what came of it. The result itself is on the volume.

    `coins` gives those of a partition, where the run has a limit of money.
    """
    deadline = clock() + order.task_timeout_s
    archive = RunArchive(blobs, order.run_id)
    blobs.reload()
    before = _attempts_of(archive, order, call)
    for earlier in before:
        if result := archive.result_of(earlier):
            return _summary(result)
    now = Attempt(order.spec.task_id, order.submission, _name(call, len(before) + 1))
    save_started(archive, now, Started(call, container, datetime.now(UTC).isoformat(timespec="seconds")))
    blobs.publish()
    blobs.reload()
    if _is_superseded(archive, order):
        return {"task_id": order.spec.task_id, "state": "superseded"}
    if result := _done_elsewhere(archive, order):
        return _summary(result)
    barren = _barren(archive, before)
    if barren > DEFAULTS.restarts:
        text = f"its container was lost {barren} times without one new answer; see its log"
        return _summary(
            save_result_to_volume(
                archive, now, _lost(order, blobs, (*order.earlier, *before), ErrorKind.CRASH, text), blobs
            )
        )
    earlier_ones = (*order.earlier, *before)
    with (
        _logged(blobs.root / f"logs/optimization_{now}.log", order.log_level),
        _traced(order, archive, now, earlier_ones) as tell,
    ):
        logger.info("attempt %s, call %s, container %s", now, call, container)
        share = Share(coins(order.money.partition), order.money.coin_usd) if order.money else None
        result = _watch(order, archive, blobs, now, earlier_ones, share, deadline, clock)
        if result:
            tell(result)
    blobs.publish()  # what was traced
    return _summary(result) if result else {"task_id": order.spec.task_id, "state": "limit"}


def _watch(
    order: Order,
    archive: RunArchive,
    blobs: Mounted,
    now: Attempt,
    earlier: tuple[Attempt, ...],
    share: Share | None,
    deadline: float,
    clock: Callable[[], float],
) -> TaskResult | None:
    """Run the attempt on a thread; publish what it writes; end it at the deadline, or when the container must go.

    None where the run's money came to its end before the task did: it can be resumed.
    """
    draining = threading.Event()
    place = Place(
        archive,
        now,
        earlier,
        retried_at=order.retried_at,
        in_flight=order.in_flight,
        call_timeout_s=order.call_timeout_s,
        draining=draining.is_set,
        purse=share,
    )
    work = Work(order.spec, place)
    bills = _bills(order, blobs)

    def publish() -> None:
        save_paid(archive, now, bills.of([now]))
        blobs.publish()

    try:
        work.start()
        while not work.done.wait(min(COMMIT_EVERY_S, max(0.0, deadline - clock()))):
            publish()
            if clock() >= deadline:
                draining.set()
                work.done.wait(GRACE_S)
                break
    except BaseException as reason:  # preempted, cancelled, or out of Modal's time: none of them is an Exception
        logger.warning("the container must go: %s", type(reason).__name__)
        draining.set()
        is_done = work.done.wait(GRACE_S)
        publish()
        if share and is_done:
            share.give_back()
        raise
    result = work.outcome()
    if result:
        blobs.publish()
    if share and work.done.is_set():
        share.give_back()
    if result:
        return result
    if share and share.is_empty:
        logger.info("stopped: the run's limit of money is reached; resume with a higher one")
        save_limited(archive, now)
        publish()
        return None
    text = f"not done after {order.task_timeout_s:g} s; raise --task-timeout and retry"
    return save_result_to_volume(archive, now, _lost(order, blobs, (*earlier, now), ErrorKind.TIMEOUT, text), blobs)


class Work(threading.Thread):
    """The attempt, beside the main thread: that one gets the signals."""

    def __init__(self, spec: TaskSpec, place: Place) -> None:
        super().__init__(daemon=True)
        self._spec = spec
        self._place = place
        self._result: TaskResult | None = None
        self._error: BaseException | None = None
        self.done = threading.Event()

    def run(self) -> None:
        try:
            self._result = attempt(self._spec, self._place)
        except BaseException as error:  # a thread has nobody above it: the main thread raises it again
            self._error = error
        finally:
            self.done.set()

    def outcome(self) -> TaskResult | None:
        """The result; None if it was stopped before the end. Raises what no failed result could be made of."""
        if self._error is not None:
            raise self._error
        return self._result


# --------------------------------------------------------------------------- before anything is submitted


def look_around(
    models: Sequence[str], params: Mapping[str, Any], metric: str, tasks: Sequence[TaskSpec] = ()
) -> dict[str, Any]:
    """What is deployed here, and what stands in the way of these models, this metric and these tasks.

    `code` has the hashes of the sources that decide the results of the tasks, by module; `missing` names the keys that
    a model wants and this environment does not have, `problems` everything else; `is_traced` says whether Opik can be
    reached from here, `tracing` the same in words.
    """
    missing: dict[str, str] = {}
    problems: list[str] = []
    for model in models:
        try:
            check_model(model, params)
        except MissingKey as error:
            missing[model] = error.variables
        except UsageError as error:
            problems.append(str(error))
    if metric:
        try:
            find_metric(metric)
        except UsageError as error:
            problems.append(f"{error} (of the deployed worker; a metric of your own has to be added to the image)")
    code: dict[str, str] = {}
    try:
        code = {name: found for task in tasks for name, found in code_of(task).items()}
    except UsageError as error:
        problems.append(f"{error} (of the deployed worker; `{DEPLOY}` brings it up to date)")
    traces = decide(None, os.environ)
    return {
        "code_hash": code_hash(),
        "code": code,
        "versions": versions(),
        "missing": missing,
        "problems": problems,
        "tracing": traces.line,
        "is_traced": traces.target is not None,
    }


# --------------------------------------------------------------------------- who has done what


def _name(call: str, number: int) -> str:
    """An attempt's name: the call's, which is no other's, and how often the call has begun."""
    return f"{call.rpartition('-')[2][-8:]}{number:03d}"


def _attempts_of(archive: RunArchive, order: Order, call: str) -> list[Attempt]:
    """The attempts that this call began in earlier containers."""
    found: list[Attempt] = []
    for number in count(1):
        earlier = Attempt(order.spec.task_id, order.submission, _name(call, number))
        try:
            archive.blobs.read(archive.started_name(earlier))
        except FileNotFoundError:
            break
        found.append(earlier)
    return found


def _is_superseded(archive: RunArchive, order: Order) -> bool:
    """True where a later dispatch has the task, or a cancellation took it away."""
    return any(order.spec.task_id in submission.task_ids for submission in archive.submissions(after=order.submission))


def _done_elsewhere(archive: RunArchive, order: Order) -> TaskResult | None:
    """The final result that a call of an earlier dispatch has brought meanwhile. The first dispatch has no earlier."""
    if order.submission == 1:
        return None
    state = archive.states([order.spec])[order.spec.task_id]
    return archive.load_result(state.result) if state.status.is_final else None


def _barren(archive: RunArchive, before: list[Attempt]) -> int:
    """How many of the latest attempts of this call were lost without one answer."""
    barren = 0
    for earlier in reversed(before):
        if archive.read_journal(earlier):
            break
        barren += 1
    return barren


# --------------------------------------------------------------------------- what is written


def _bills(order: Order, blobs: Mounted) -> Bills:
    """What attempts have paid, by the files as they are in this container, published or not."""
    return Bills(RunArchive(Folder(blobs.root, blobs.disk), order.run_id))


def _lost(order: Order, blobs: Mounted, attempts: Sequence[Attempt], kind: ErrorKind, text: str) -> TaskResult:
    """The result of a task that came to nothing, with what its attempts have paid."""
    return TaskResult.of_failure(order.spec, Failure(kind, text), _bills(order, blobs).of(attempts))


def _summary(result: TaskResult) -> dict[str, Any]:
    """Plain data, and little of it: it travels back through Modal."""
    score = result.final.scores[Split.TEST.value].mean if result.final else None
    return {
        "task_id": result.task_id,
        "state": result.status.value,
        "score": score,
        "seconds": result.seconds,
        "error": f"{result.error.kind.value}: {result.error.message}" if result.error else "",
    }


@contextmanager
def _traced(
    order: Order, archive: RunArchive, now: Attempt, earlier: Sequence[Attempt]
) -> Iterator[Callable[[TaskResult], None]]:
    """Send the traces of an attempt while it runs; what is given is to be told of the result."""
    decision = decide(None, os.environ) if order.trace_items is not None else None
    if decision is not None:
        logger.info("%s", decision.line)
    if decision is None or decision.target is None:
        yield lambda result: None
        return
    exporter = Exporter(decision.target, archive, order.created, items=order.trace_items, quiet_s=QUIET_S)
    exporter.started(order.spec, now, earlier)
    patience_s: float | None = 0.0  # where the container has to go, the next attempt sends the rest

    def tell(result: TaskResult) -> None:
        nonlocal patience_s
        patience_s = None
        exporter.finished(order.spec, result)

    try:
        yield tell
    finally:
        logger.info("%s", exporter.close(patience_s).line(order.run_id))


@contextmanager
def _logged(path: Path, level: str) -> Iterator[None]:
    """What is logged, into a file of the run and to Modal's own log of the container."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handlers: list[logging.Handler] = [logging.FileHandler(path, encoding="utf-8"), logging.StreamHandler(sys.stdout)]
    root = logging.getLogger()
    for handler in handlers:
        handler.setFormatter(RedactingFormatter(FORMAT))
        root.addHandler(handler)
    for name in ("benchmark", "optimizer", "utils"):
        logging.getLogger(name).setLevel(level.upper())
    try:
        yield
    finally:
        for handler in handlers:
            root.removeHandler(handler)
            handler.close()  # a volume cannot be reloaded while a file on it is open
