"""Runs the tasks of a plan on this machine, a process a task.

The loop below is the only writer of submissions, and of the results of tasks whose workers died. Workers come from a
forkserver that has the heavy imports done; a dead worker costs one task's restart. The first Ctrl-C stops dispatching
and lets calls in flight be answered; the second ends the workers at once. Nothing is lost either way.
"""

from __future__ import annotations

import multiprocessing
import signal
import time
from collections import deque
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from multiprocessing import connection, forkserver
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, Protocol

from benchmark_config import DEFAULTS
from benchmark_task import scopes
from local.checkpoint import Checkpoint
from local.purse import Purse
from local.worker import CACHE, UNWRITABLE, Order, work
from utils.archive import Attempt, Kind, RunArchive, TaskState
from utils.bills import Bills
from utils.errors import ErrorKind, UsageError
from utils.interrupts import held_back
from utils.llm.cache import prepare
from utils.records import Failure, Progress, Status, TaskResult, TaskSpec

TICK_S = 0.1
PATIENCE_S = 10.0  # for workers of an earlier parent to notice that it is gone


class Watcher(Protocol):
    """Whoever shows a run while it goes on."""

    def started(self, spec: TaskSpec, attempt: Attempt) -> None: ...

    def progressed(self, progress: Progress) -> None: ...

    def finished(self, spec: TaskSpec, result: TaskResult) -> None: ...

    def lost(self, spec: TaskSpec, reason: str) -> None: ...

    def noted(self, text: str) -> None: ...

    def tick(self) -> None: ...


@dataclass(frozen=True)
class Limits:
    """How much a run may use at a time, and in all."""

    workers: int = 5
    in_flight: int = 32  # open calls to a provider, over all workers
    task_timeout_s: float = 24 * 3600.0
    call_timeout_s: float = 120.0
    run_usd: float | None = None
    share_answers: bool = True
    log_level: str = "info"


@dataclass
class Worker:
    """A process at work."""

    spec: TaskSpec
    attempt: Attempt
    process: BaseProcess
    pipe: Connection
    deadline: float
    doomed: Failure | None = None  # set before it is ended on purpose

    @property
    def handles(self) -> tuple[Any, ...]:
        return (self.process.sentinel, self.pipe)


def warm_up(models: Sequence[str]) -> None:
    """Start the forkserver in the background, with the imports that these models need."""
    preload = ["__main__", "local.worker"]
    if any(not model.startswith("sim/") for model in models):
        preload.append("local.warm_litellm")
    multiprocessing.set_forkserver_preload(preload)
    with held_back():  # what it imports takes a while, and a Ctrl-C is ours to answer
        forkserver.ensure_running()


@dataclass
class Runner:
    """One dispatch of tasks. `run` returns when every task is final, or nothing more may be started."""

    root: Path
    archive: RunArchive
    checkpoint: Checkpoint
    limits: Limits
    watcher: Watcher
    paid_before_usd: float = 0.0
    clock: Callable[[], float] = time.monotonic
    _waiting: deque[TaskSpec] = field(default_factory=deque)
    _workers: list[Worker] = field(default_factory=list)
    _interrupts: int = 0
    _is_unwritable: bool = False
    _is_spent_up: bool = False  # and that has been said
    _closed: set[str] = field(default_factory=set)  # providers, at their addresses, that answer nothing any more
    _barren: dict[str, int] = field(default_factory=dict)  # deaths in a row without a new answer

    def run(self, tasks: Sequence[TaskSpec], kind: Kind, created: str, states: dict[str, TaskState]) -> None:
        """Dispatch these tasks and wait for them. The caller reads what came of them in the archive."""
        if not tasks:
            return
        self._submission = self.archive.submit(kind, tasks, created)
        self._waiting.extend(tasks)
        self._retried_at = self.archive.retried_at()
        self._earlier = {task.task_id: states[task.task_id].attempts for task in tasks}
        self.purse = Purse(self.limits.run_usd, self.paid_before_usd)
        if self.limits.share_answers:
            prepare(self.root / self.archive.run_id / CACHE)
        self._context = multiprocessing.get_context("forkserver")
        with self._signals():
            while self._workers or (self._waiting and not self.is_draining):
                self._fill()
                self._listen()
                self._end_overdue()
                self.checkpoint.write_if_due()
                self.watcher.tick()
        if self._is_unwritable:
            raise UsageError(
                f"a worker could not write to {self.root / self.archive.run_id}, its log may say why; make room, then"
                f" --resume-run-id {self.archive.run_id}"
            )

    @property
    def is_draining(self) -> bool:
        return self._interrupts > 0 or self.purse.is_empty or self._is_unwritable

    @property
    def was_interrupted(self) -> bool:
        return self._interrupts > 0

    # ------------------------------------------------------------------ workers

    def _fill(self) -> None:
        while self._waiting and len(self._workers) < self._places and not self.is_draining:
            self._start(self._waiting.popleft())

    @property
    def _places(self) -> int:
        return min(self.limits.workers, self.limits.in_flight)

    def _start(self, spec: TaskSpec) -> None:
        earlier = self._earlier[spec.task_id]
        attempt = Attempt(spec.task_id, self._submission.number, f"{len(earlier) + 1:03d}")
        self._earlier[spec.task_id] = (*earlier, attempt)
        ours, theirs = self._context.Pipe()
        order = Order(
            spec=spec,
            root=self.root,
            run_id=self.archive.run_id,
            attempt=attempt,
            earlier=earlier,
            retried_at=self._retried_at.get(spec.task_id, 0),
            in_flight=self.limits.in_flight // self._places,
            call_timeout_s=self.limits.call_timeout_s,
            share_answers=self.limits.share_answers,
            limited_run=self.limits.run_usd is not None,
            log_level=self.limits.log_level,
        )
        process = self._context.Process(target=work, args=(order, theirs), daemon=False)
        process.start()
        theirs.close()
        deadline = self.clock() + self.limits.task_timeout_s
        self._workers.append(Worker(spec, attempt, process, ours, deadline))
        self.watcher.started(spec, attempt)

    def _listen(self) -> None:
        ready = set(connection.wait([handle for worker in self._workers for handle in worker.handles], TICK_S))
        for worker in list(self._workers):
            if worker.pipe in ready:
                self._read(worker)
            if worker.process.sentinel in ready:
                self._read(worker)  # what it said last
                self._finish(worker)
        self._pay_out()

    def _read(self, worker: Worker) -> None:
        try:
            while worker.pipe.poll():
                message = worker.pipe.recv()
                if isinstance(message, Progress):
                    self.watcher.progressed(message)
                elif message[0] == "reserve":
                    self.purse.ask(worker.attempt, message[1])
                else:
                    self.purse.settle(worker.attempt, message[1], message[2])
        except (EOFError, OSError):
            pass  # it is gone; its sentinel says so

    def _pay_out(self) -> None:
        """Answer those who ask for money, as far as they can be answered."""
        workers: dict[Hashable, Worker] = {worker.attempt: worker for worker in self._workers}
        for who, granted in self.purse.answers():
            if not granted and not self._is_spent_up:
                self._is_spent_up = True
                self.watcher.noted(f"the run's limit of ${self.limits.run_usd:g} is reached; stopping")
                self._drain(self._workers)
            with suppress(OSError):  # it is gone; its sentinel says so
                workers[who].pipe.send(granted)

    def _finish(self, worker: Worker) -> None:
        self._workers.remove(worker)
        worker.process.join()
        worker.pipe.close()
        self.purse.forget(worker.attempt)
        result = self.archive.result_of(worker.attempt)
        if result is None and worker.doomed:
            result = self._fail(worker.spec, worker.attempt, worker.doomed)
        if result is not None:
            self.watcher.finished(worker.spec, result)
            if result.error and result.error.scope:
                self._close(result.error)
        elif worker.process.exitcode == UNWRITABLE:
            self._is_unwritable = True
            self.watcher.lost(worker.spec, "nothing can be written; resumable")
            self._drain(self._workers)
        elif not self.is_draining and not self._is_closed(worker.spec):
            self._restart(worker)
        else:
            self.watcher.lost(worker.spec, "resumable")

    def _restart(self, worker: Worker) -> None:
        status = f"exit status {worker.process.exitcode}"
        # a worker that got an answer before it died brought the task on, and the next one starts behind it
        barren = 0 if self.archive.read_journal(worker.attempt) else self._barren.get(worker.spec.task_id, 0) + 1
        self._barren[worker.spec.task_id] = barren
        if barren <= DEFAULTS.restarts:
            self.watcher.lost(worker.spec, f"its worker died ({status}); starting again where it was")
            self._waiting.appendleft(worker.spec)
            return
        failure = Failure(
            ErrorKind.CRASH, f"its worker died {barren} times without one new answer, last with {status}; see its log"
        )
        self.watcher.finished(worker.spec, self._fail(worker.spec, worker.attempt, failure))

    def _fail(self, spec: TaskSpec, attempt: Attempt, failure: Failure) -> TaskResult:
        paid = Bills(self.archive).of(self._earlier[spec.task_id])
        return self.archive.save_result(attempt, TaskResult.of_failure(spec, failure, paid))

    # ------------------------------------------------------------------ endings

    def _close(self, failure: Failure) -> None:
        """A provider answers no call any more: what needs it is not started, or stops where it is; all resumable."""
        if failure.scope in self._closed:
            return
        self._closed.add(failure.scope)
        kept = [task for task in self._waiting if not self._is_closed(task)]
        left_out = len(self._waiting) - len(kept)
        self._waiting = deque(kept)
        self.watcher.noted(
            f"{failure.kind}: {failure.message}; {left_out} tasks that need {failure.scope} are not started, resume"
            " when it is mended"
        )
        self._drain([worker for worker in self._workers if self._is_closed(worker.spec)])

    def _is_closed(self, spec: TaskSpec) -> bool:
        return bool(self._closed and self._closed & scopes(spec))

    def _end_overdue(self) -> None:
        for worker in self._workers:
            if self.clock() > worker.deadline and worker.doomed is None:
                limit = f"{self.limits.task_timeout_s:g} s"
                worker.doomed = Failure(ErrorKind.TIMEOUT, f"not done after {limit}; raise --task-timeout and retry")
                worker.process.kill()

    def _drain(self, workers: Sequence[Worker]) -> None:
        for worker in workers:
            try:
                worker.pipe.send("drain")
            except OSError:
                continue  # it is gone; its sentinel says so

    @contextmanager
    def _signals(self) -> Iterator[None]:
        def interrupt(_number: int, _frame: object) -> None:
            self._interrupts += 1
            if self._interrupts == 1:
                self.watcher.noted("stopping: waiting for the calls in flight (Ctrl-C again to stop at once)")
                self._drain(self._workers)
            else:
                for worker in self._workers:
                    worker.process.kill()

        before = {number: signal.signal(number, interrupt) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
            for worker in self._workers:  # an error of ours leaves nobody behind
                worker.process.kill()


def wait_for_strays(
    archive: RunArchive, tasks: Sequence[TaskSpec], clock: Callable[[], float] = time.monotonic
) -> dict[str, TaskState]:
    """The states of all tasks, once the workers of an earlier parent have ended. Raises UsageError if they do not."""
    deadline = clock() + PATIENCE_S
    while True:
        states = archive.states(tasks)
        running = [task_id for task_id, state in states.items() if state.status is Status.RUNNING]
        if not running:
            return states
        if clock() > deadline:
            raise UsageError(f"task {running[0]} of run {archive.run_id!r} is still running; stop its process first")
        time.sleep(0.05)
