"""All tasks of a run on their way to Opik: a thread beside the run, or a push when it is over.

Neither is ever waited for by a task. The thread is a daemon and owns all it knows; whoever runs tasks only puts notes
into its box. What it cannot send it tries again later, ever more seldom; a refused key ends it. Memory is bounded by
the tasks that run: what cannot be sent is not read, it stands in the run's files.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from queue import Empty, SimpleQueue

from utils.archive import Attempt, RunArchive
from utils.errors import UsageError
from utils.records import Failure, RunPlan, Status, TaskResult, TaskSpec
from utils.tracing.client import Client, OpikClient, Undelivered
from utils.tracing.delivery import Datasets, Delivery, End
from utils.tracing.rows import Sampling
from utils.tracing.target import Target, optimization_link

logger = logging.getLogger("utils.tracing")

QUIET_S = 10.0  # in which a run has its cores for itself; of a shorter one everything is sent at its end
LOOK_EVERY_S = 2.0  # at the files of tasks that run
PAUSES_S = (1.0, 2.0, 5.0, 10.0, 30.0)  # after so many failures in a row; the last one from then on
CLOSING_PAUSE_S = 0.5  # the same while a run waits for its end
PUSH_PAUSES_S = (1.0, 5.0)  # between the tries of one task
STATUS = {Status.COMPLETED: "completed", Status.FAILED: "error"}
CANCELLED = End("cancelled")

ITEMS_ALL = 20_000  # examples up to which a run sends all of them, if nothing is said
ITEMS_OF_MANY = 20  # of each candidate, in larger runs


@dataclass(frozen=True)
class Left:
    """What came of it: traces sent, tasks that are not whole in Opik yet, and why."""

    sent: int = 0
    left: int = 0
    reason: str = ""

    def line(self, run_id: str, flags: str = "") -> str:
        """The same for people, with what can be done; `flags` lead a command to the run's directory."""
        if not self.left:
            return f"tracing: {self.sent:,} traces sent" if self.sent else "tracing: nothing is missing"
        tasks = "1 task is" if self.left == 1 else f"{self.left} tasks are"
        why = f" ({self.reason})" if self.reason else ""
        again = f"python check_results.py --run-id {run_id} --push-traces{flags}"
        return f"tracing: {self.sent:,} traces sent, {tasks} not whole{why}; send the rest with `{again}`"


def parse_items(text: str) -> Sampling:
    """What `--trace-items` says: all, failures, or a number of examples a candidate. Raises UsageError."""
    if text == "all":
        return Sampling()
    if text == "failures":
        return Sampling(only_failures=True)
    if text.isdecimal() and text.isascii():
        return Sampling(most=int(text))
    raise UsageError(f"--trace-items {text!r} is not known; give all, failures, or a number of examples a candidate")


def chosen_items(text: str, examples: float) -> Sampling:
    """What is sent of a run of about so many scored examples: what was asked for, else all, or of many a few each."""
    return parse_items(text) if text else default_items(round(examples))


def default_items(examples: int) -> Sampling:
    """What is sent of a run of so many scored examples where nothing is said: all, or of many a few a candidate."""
    return Sampling() if examples <= ITEMS_ALL else Sampling(most=ITEMS_OF_MANY)


def created_ms(created: str) -> int:
    """When a run was planned, for ids."""
    return round(datetime.fromisoformat(created).timestamp() * 1000)


def end_of(status: Status, error: Failure | None = None) -> End:
    """How a task stands in Opik; one that is neither done nor failed was stopped, and can go on."""
    return End(STATUS[status], error) if status in STATUS else CANCELLED


# --------------------------------------------------------------------------- beside a run


@dataclass(frozen=True)
class Started:
    spec: TaskSpec
    attempts: tuple[Attempt, ...]


@dataclass(frozen=True)
class Finished:
    spec: TaskSpec
    end: End


@dataclass
class Box:
    """What the thread and its owner share: notes one way, a few words the other."""

    notes: SimpleQueue[Started | Finished | None] = field(default_factory=SimpleQueue)  # None: close
    followed: set[str] = field(default_factory=set)  # tasks that the owner spoke of
    deadline: float = math.inf  # set by `close`; nothing is tried after it
    closing: threading.Event = field(default_factory=threading.Event)
    links: dict[str, str] = field(default_factory=dict)  # by task, from here on written by the thread
    sent: dict[str, int] = field(default_factory=dict)
    whole: set[str] = field(default_factory=set)
    reason: str = ""

    @property
    def left(self) -> Left:
        left = sum(task_id not in self.whole for task_id in self.followed)
        return Left(sum(list(self.sent.values())), left, self.reason)


class Exporter:
    """Sends the traces of tasks while they run. Made by whoever starts them; every method returns at once but `close`.

    `created` is the plan's. `connect` makes the client, in the thread. Importing opik takes a second of a core, so
    nothing is done in the first `quiet_s` seconds, in which the workers of a run start, unless it is closed before.
    """

    def __init__(
        self,
        target: Target,
        archive: RunArchive,
        created: str,
        *,
        items: Sampling | None = None,
        connect: Callable[[Target], Client] = OpikClient,
        quiet_s: float = 0.0,
        look_every_s: float = LOOK_EVERY_S,
        pauses_s: Sequence[float] = PAUSES_S,
        wall: Callable[[], float] = time.time,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._box = Box()
        self._flush_s = target.flush_s
        self._clock = clock
        sender = Sender(target, archive, created_ms(created), items or Sampling(), connect, wall)
        work = Loop(self._box, sender, look_every_s, pauses_s, clock, clock() + quiet_s)
        self._thread = threading.Thread(target=work.run, name="traces", daemon=True)
        self._thread.start()

    def started(self, spec: TaskSpec, attempt: Attempt, earlier: Sequence[Attempt]) -> None:
        """An attempt begins; `earlier` are those of the same task before it, of this dispatch and of others."""
        self._box.followed.add(spec.task_id)
        self._box.notes.put(Started(spec, (*earlier, attempt)))

    def finished(self, spec: TaskSpec, result: TaskResult) -> None:
        """A task has its result."""
        self._box.followed.add(spec.task_id)
        self._box.notes.put(Finished(spec, end_of(result.status, result.error)))

    def link(self, task_id: str) -> str:
        """Leads to the task in Opik; empty as long as it is not there."""
        return self._box.links.get(task_id, "")

    @property
    def is_alive(self) -> bool:
        """False once it has given up, or was closed."""
        return self._thread.is_alive()

    def close(self, deadline_s: float | None = None) -> Left:
        """Send what is left, for so long at most (None: the target's). Tasks without a result count as stopped."""
        deadline_s = self._flush_s if deadline_s is None else deadline_s
        self._box.deadline = self._clock() + deadline_s
        self._box.closing.set()
        self._box.notes.put(None)
        self._thread.join(deadline_s)
        if self._thread.is_alive():
            self._box.reason = self._box.reason or f"not done in {deadline_s:g} s"
        return self._box.left


@dataclass
class Loop:
    """What the thread does: it sleeps until a note comes, or until it is time to look at the files of running tasks."""

    box: Box
    sender: Sender
    look_every_s: float
    pauses_s: Sequence[float]
    clock: Callable[[], float]
    begins: float = 0.0  # nothing is sent earlier, unless it is closed
    _open: dict[str, Delivery] = field(default_factory=dict)  # what is still to be sent
    _attempts: dict[str, dict[Attempt, None]] = field(default_factory=dict)  # by task, in order
    _failures: int = 0  # in a row
    _next: float = 0.0  # when it is tried again
    _not_before: float = 0.0  # the same, as the server asked for
    _is_checked: bool = False
    _is_closing: bool = False

    def run(self) -> None:
        try:
            self.box.closing.wait(max(0.0, self.begins - self.clock()))
            while not self._is_over:
                self._read_notes()
                self._advance()
        except Undelivered as error:
            self.box.reason = f"{error}; not tried again"
        except Exception as error:  # a defect in here must cost the traces, never the run
            logger.exception("traces are no longer sent")
            self.box.reason = f"{type(error).__name__}: {error}"
        finally:
            self.sender.close()

    @property
    def _is_over(self) -> bool:
        """Closing, and there is nothing to send, or no time for it."""
        return self._is_closing and (not self._open or max(self.clock(), self._next) >= self.box.deadline)

    def _read_notes(self) -> None:
        """All notes that are there; waits for one, for the next look, or for the end of a pause after a failure."""
        look = self.clock() + (0.0 if self._is_closing else self.look_every_s)
        while not self._is_over:
            until = self._next if self._failures else look
            is_idle = not self._open and not self._is_closing
            try:
                self._take(self.box.notes.get(timeout=None if is_idle else max(0.0, until - self.clock())))
            except Empty:
                return
            look = self.clock()  # at once, after whatever else is there

    def _take(self, note: Started | Finished | None) -> None:
        if note is None:
            self._is_closing = True
            self._next = max(self.clock(), self._not_before)  # our own pause is cut short, the server's is kept
            for delivery in self._open.values():
                if not delivery.is_ended:
                    delivery.end(CANCELLED)
            return
        task_id = note.spec.task_id
        try:
            delivery = self._open.get(task_id) or self.sender.delivery(note.spec)
        except UsageError as error:
            self.box.reason = str(error)
            return
        self._open[task_id] = delivery
        self.box.whole.discard(task_id)
        attempts = self._attempts.setdefault(task_id, {})
        if isinstance(note, Started):
            attempts.update(dict.fromkeys(note.attempts))
        delivery.follow(attempts)
        if isinstance(note, Finished):
            delivery.end(note.end)

    def _advance(self) -> None:
        """Bring every task on. Raises Undelivered where nothing will ever be taken."""
        try:
            if self._open and not self._is_checked:
                self.sender.client.check()
                self._is_checked = True
            for delivery in list(self._open.values()):
                if self._is_over:
                    return
                self._bring_on(delivery)
        except Undelivered as error:
            if error.is_final:
                raise
            self._failures += 1
            pause_s = self.pauses_s[min(self._failures, len(self.pauses_s)) - 1]
            self._not_before = self.clock() + error.pause_s
            self._next = max(self._not_before, self.clock() + (CLOSING_PAUSE_S if self._is_closing else pause_s))
            self.box.reason = str(error)
        else:
            if self._failures:
                self._failures, self.box.reason = 0, ""

    def _bring_on(self, delivery: Delivery) -> None:
        task_id = delivery.spec.task_id
        try:
            delivery.advance()
        except (Undelivered, UsageError) as error:
            if isinstance(error, Undelivered) and not error.is_refusal:
                raise
            self.box.reason = str(error)  # of this task alone
            del self._open[task_id]
            return
        finally:
            self.box.sent[task_id] = delivery.sent
            if delivery.link:
                self.box.links[task_id] = delivery.link
        if delivery.is_whole:
            self.box.whole.add(task_id)
        if delivery.refused:
            self.box.reason = delivery.refused
        if delivery.is_ended:  # whole, or the rest of it is not wanted
            del self._open[task_id]


# --------------------------------------------------------------------------- before and after


@dataclass
class Sender:
    """Makes deliveries that share a client and its datasets."""

    target: Target
    archive: RunArchive
    created_ms: int
    items: Sampling
    connect: Callable[[Target], Client]
    wall: Callable[[], float]

    @cached_property
    def client(self) -> Client:
        return self.connect(self.target)

    @cached_property
    def datasets(self) -> Datasets:
        return Datasets(lambda: self.client, self.archive, self.created_ms, self.target)

    def delivery(self, spec: TaskSpec) -> Delivery:
        """Raises UsageError where what is known of it cannot be read."""
        return Delivery(
            self.archive,
            spec,
            self.target,
            self.datasets,
            self.client,
            items=self.items,
            clock=self.wall,
        )

    def close(self) -> None:
        if "client" in vars(self):
            self.client.close()


def prepare(
    archive: RunArchive, plan: RunPlan, target: Target, *, connect: Callable[[Target], Client] = OpikClient
) -> dict[str, str]:
    """Links to the tasks of a plan, by task; makes their datasets first, so that no workers race to do it.

    Where the server fails there are fewer links: whoever exports makes the datasets then.
    """
    sender = Sender(target, archive, created_ms(plan.created), Sampling(), connect, time.time)
    links: dict[str, str] = {}
    try:
        for spec in plan.tasks:
            frame = sender.datasets.frame(spec)
            links[spec.task_id] = optimization_link(target, frame.optimization, sender.datasets.find(frame))
    except (Undelivered, UsageError) as error:
        logger.warning("tracing: %s", error)
    finally:
        sender.close()
    return links


def push(
    archive: RunArchive,
    plan: RunPlan,
    target: Target,
    *,
    items: Sampling | None = None,
    busy: Collection[str] = (),
    connect: Callable[[Target], Client] = OpikClient,
    pauses_s: Sequence[float] = PUSH_PAUSES_S,
    sleep: Callable[[float], object] = time.sleep,
    wall: Callable[[], float] = time.time,
    tell: Callable[[int, int], None] = lambda done, total: None,
) -> Left:
    """Send what is missing of every task that has begun, and does not run; may be repeated.

    `busy` are tasks that are known to run elsewhere: whoever runs them sends their traces. `tell` hears how many tasks
    are done, of how many. A server that fails more often than there are pauses ends it.
    """
    states = archive.states(plan.tasks)
    begun = [spec for spec in plan.tasks if states[spec.task_id].attempts or states[spec.task_id].status.is_final]
    sender = Sender(target, archive, created_ms(plan.created), items or Sampling(), connect, wall)
    sent = whole = 0
    reason = ""
    try:
        _patiently(sender.client.check, pauses_s, sleep)
        for done, spec in enumerate(begun):
            tell(done, len(begun))
            state = states[spec.task_id]
            if state.status is Status.RUNNING or spec.task_id in busy:
                reason = f"task {spec.task_id} still runs"
                continue
            delivery = sender.delivery(spec)
            before = delivery.sent
            delivery.follow(state.attempts)
            delivery.end(end_of(state.status, archive.load_result(state.result).error if state.result else None))
            try:
                _patiently(delivery.advance, pauses_s, sleep)
            except Undelivered as error:
                if not error.is_refusal:
                    raise
                reason = str(error)
            finally:
                sent += delivery.sent - before
            whole += delivery.is_whole
            reason = delivery.refused or reason
        tell(len(begun), len(begun))
    except (Undelivered, UsageError) as error:
        reason = str(error)
    finally:
        sender.close()
    return Left(sent, len(begun) - whole, reason)


def _patiently(action: Callable[[], None], pauses_s: Sequence[float], sleep: Callable[[float], object]) -> None:
    """Once, and again after each pause while it fails in a way that may pass."""
    for pause_s in (*pauses_s, None):
        try:
            return action()
        except Undelivered as error:
            if pause_s is None or error.is_final or error.is_refusal:
                raise
            sleep(max(pause_s, error.pause_s))
    return None
