"""A worker: one process, one attempt of one task.

It talks with its parent over one pipe: progress and money go up, `drain` and grants come down. If the parent dies the
pipe breaks, and the worker ends at once: what it was answered is in the journal, and nobody is left to look after it.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sqlite3
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

from benchmark_task import Place, attempt
from local.logging import log_to
from utils.archive import Attempt, Folder, local_archive
from utils.errors import Drained
from utils.llm.base import LLM
from utils.llm.cache import AnswerStore, Cached
from utils.records import Progress, TaskSpec

CACHE = "cache.sqlite"  # in the run's folder
BULLETINS = "providers"  # likewise
TELL_EVERY_S = 0.2
logger = logging.getLogger("benchmark")

UNWRITABLE = 74  # exit status of a worker that could not write what it was answered
ORPHANED = 70  # exit status of a worker whose parent is gone


@dataclass(frozen=True)
class Order:
    """What a worker is started with."""

    spec: TaskSpec
    root: Path  # of all runs
    run_id: str
    attempt: Attempt
    earlier: tuple[Attempt, ...]
    retried_at: int
    in_flight: int
    call_timeout_s: float
    share_answers: bool
    limited_run: bool  # the run has a limit of money, kept by the parent
    log_level: str


def work(order: Order, pipe: Connection) -> None:
    """The whole life of a worker process. Where nothing can be written, it ends with a status that says so."""
    try:
        _work(order, pipe)
    except OSError:
        logger.exception("nothing can be written")
        logging.shutdown()
        os._exit(UNWRITABLE)


def _work(order: Order, pipe: Connection) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to answer
    archive = local_archive(order.root, order.run_id)
    folder = order.root / order.run_id
    log_to(folder / archive.log_name(order.spec.task_id), order.log_level)
    here, started = Folder(folder), archive.started_name(order.attempt)
    claim = here.claim(started, f'{{"pid":{os.getpid()}}}\n')
    line = Line(pipe)

    def wrap(model: LLM, task_id: str) -> LLM:
        try:
            store = AnswerStore(folder / CACHE, started, here.is_claimed)
        except sqlite3.Error as error:
            logger.warning("answers are not shared: %s", error)
            return model
        return Cached(model, store, task_id)

    attempt(
        order.spec,
        Place(
            archive,
            order.attempt,
            order.earlier,
            retried_at=order.retried_at,
            in_flight=order.in_flight,
            call_timeout_s=order.call_timeout_s,
            wrap=wrap if order.share_answers else lambda model, _: model,
            draining=line.draining.is_set,
            tell=line.tell,
            purse=line if order.limited_run else None,
            bulletins=folder / BULLETINS,
        ),
    )
    claim.release()
    leave()


def leave() -> None:
    """End the process where a thread of somebody else's, of a metric say, would hold it for as long as it likes."""
    left = [
        thread.name for thread in threading.enumerate() if not thread.daemon and thread is not threading.main_thread()
    ]
    if left:
        logger.warning("the task is done; threads that it left behind are ended: %s", ", ".join(left))
        logging.shutdown()
        os._exit(0)


class Line:
    """The worker's end of the pipe. Also the run's purse, which is kept by the parent."""

    def __init__(self, pipe: Connection, clock: Callable[[], float] = time.monotonic) -> None:
        self._pipe = pipe
        self._clock = clock
        self._told = -TELL_EVERY_S
        self._phase = ""
        self._asked: deque[tuple[asyncio.Future[bool], float]] = deque()  # for money, in the order of the answers
        self.draining = threading.Event()
        threading.Thread(target=self._listen, daemon=True).start()

    def tell(self, progress: Progress) -> None:
        """Pass on how far the task is: at most a few times a second, and at once when a phase begins."""
        now = self._clock()
        if progress.phase != self._phase or now - self._told >= TELL_EVERY_S:
            self._told, self._phase = now, progress.phase
            self._send(progress)

    async def reserve(self, usd: float) -> None:
        granted: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._asked.append((granted, usd))
        self._send(("reserve", usd))
        if not await granted:
            raise Drained("run_budget", f"the run's limit of money has no room for another ${usd:.4f}")

    def settle(self, reserved: float, paid: float) -> None:
        self._send(("settle", reserved, paid))

    def _send(self, message: object) -> None:
        try:
            self._pipe.send(message)
        except OSError:
            os._exit(ORPHANED)

    def _listen(self) -> None:
        while True:
            try:
                message = self._pipe.recv()
            except (EOFError, OSError):
                os._exit(ORPHANED)
            if message == "drain":
                self.draining.set()
            else:
                future, usd = self._asked.popleft()
                with suppress(RuntimeError):  # its loop has ended, and so has the task
                    future.get_loop().call_soon_threadsafe(self._answer, future, usd, message)

    def _answer(self, future: asyncio.Future[bool], usd: float, granted: bool) -> None:
        if not future.cancelled():
            future.set_result(granted)
        elif granted:  # nobody waits for it any more
            self.settle(usd, 0.0)
