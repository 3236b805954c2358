"""What every room stands on: ids, the events, background jobs, and a bell to wait by."""

from __future__ import annotations

import asyncio
import contextlib
import time
import traceback
from collections import Counter
from collections.abc import Coroutine
from pathlib import Path
from typing import Any
from uuid import uuid4

from tests.servers.modal.settings import Settings


class Ground:
    """The server's folder and settings, and what it counts and writes down.

    `grpc_url` and `http_url` are known once the server listens, before anybody can ask.
    """

    def __init__(self, folder: Path, settings: Settings) -> None:
        self.folder = folder
        self.settings = settings
        self.grpc_url = ""
        self.http_url = ""
        self.started = time.time()
        self._salt = uuid4().hex[:6]  # ids of two servers are never alike
        self._counts: Counter[str] = Counter()
        self._jobs: set[asyncio.Task[None]] = set()
        self._events = (folder / "events.log").open("a", buffering=1)

    def new(self, prefix: str) -> str:
        """A new id, such as fc-1a2b3c000007: the prefix says what it names."""
        self._counts[prefix] += 1
        return f"{prefix}-{self._salt}{self._counts[prefix]:06d}"

    def note(self, event: str) -> None:
        """Adds a line to events.log, for whoever wonders why a test went as it did."""
        self._events.write(f"{time.time() - self.started:9.3f} {event}\n")

    def start(self, job: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Runs the job beside everything else; it ends with the server."""
        task = asyncio.create_task(job)
        self._jobs.add(task)
        task.add_done_callback(self._end)
        return task

    def _end(self, task: asyncio.Task[None]) -> None:
        self._jobs.discard(task)
        if not task.cancelled() and (error := task.exception()):
            self.note(f"a job failed\n{''.join(traceback.format_exception(error))}")

    async def close(self) -> None:
        """Ends all jobs and the events."""
        jobs = list(self._jobs)
        for job in jobs:
            job.cancel()
        await asyncio.gather(*jobs, return_exceptions=True)
        self._events.close()


class Bell:
    """Wakes everybody who waits for a change; they look for themselves what changed."""

    def __init__(self) -> None:
        self._next = asyncio.Event()

    def ring(self) -> None:
        self._next.set()
        self._next = asyncio.Event()

    async def heard(self, timeout_s: float) -> None:
        """Returns at the next ring, or when the time is up."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._next.wait(), timeout_s)
