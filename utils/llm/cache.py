"""Answers shared by the local tasks of a run: the same deterministic question is paid for once.

One SQLite file, safe across processes. A caller claims a question before it sends it; others who want the same answer
wait for the claim to be filled instead of paying again. A claim whose owner died is taken over. Only requests at
temperature 0 are shared. An answer is stored before it is handed on, and remembers which task paid: if that task is
killed before it could journal the answer, it finds it here and books it as paid by itself.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sqlite3
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path

from utils.llm.base import LLM
from utils.records import Completion, Request, Usage
from utils.serialization import dumps, loads

logger = logging.getLogger("utils.llm.cache")

LEASE_S = 900.0  # longer than any call with its retries: a living pid may be somebody else's by then

SCHEMA = """
create table if not exists answers (key text primary key, completion blob not null, payer text not null);
create table if not exists claims (key text primary key, pid integer not null, since real not null);
"""


class AnswerStore:
    """The file. Every method is one short transaction."""

    def __init__(self, path: Path, *, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._db = sqlite3.connect(path, timeout=60, isolation_level=None, check_same_thread=False)
        self._db.execute("pragma journal_mode=wal")
        self._db.execute("pragma synchronous=off")  # a torn cache costs a question, never a result
        self._db.executescript(SCHEMA)

    def find(self, key: str) -> tuple[Completion, str] | None:
        """The answer and the task that paid for it."""
        row = self._db.execute("select completion, payer from answers where key = ?", (key,)).fetchone()
        return None if row is None else (loads(Completion, row[0]), row[1])

    def claim(self, key: str) -> bool:
        """True if this process may now ask; False while a living process is asking."""
        mine = (os.getpid(), self._clock())
        if self._db.execute("insert or ignore into claims values (?, ?, ?)", (key, *mine)).rowcount:
            return True
        row = self._db.execute("select pid, since from claims where key = ?", (key,)).fetchone()
        if row is None or (_is_alive(row[0]) and self._clock() - row[1] < LEASE_S):
            return False
        # compare and swap: of several who find a dead owner, one takes over
        stale = "update claims set pid = ?, since = ? where key = ? and pid = ? and since = ?"
        return self._db.execute(stale, (*mine, key, *row)).rowcount == 1

    def put(self, key: str, completion: Completion, payer: str) -> None:
        """Store an answer and let go of the claim."""
        content = dumps(completion).encode("utf-8", "surrogatepass")  # a cut emoji is no text to SQLite
        with self._db:
            self._db.execute("begin")
            self._db.execute("insert or ignore into answers values (?, ?, ?)", (key, content, payer))
            self._db.execute("delete from claims where key = ?", (key,))

    def release(self, key: str) -> None:
        """Let go of a claim that was not answered."""
        self._db.execute("delete from claims where key = ? and pid = ?", (key, os.getpid()))

    def close(self) -> None:
        self._db.close()


class Cached:
    """A model whose deterministic answers are shared through a store. `payer` is the task that asks."""

    def __init__(
        self,
        model: LLM,
        store: AnswerStore,
        payer: str,
        *,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        poll_s: float = 0.02,
    ) -> None:
        self._model = model
        self._store = store
        self._payer = payer
        self._sleep = sleep
        self._poll_s = poll_s
        self._own: set[str] = set()

    @property
    def name(self) -> str:
        return self._model.name

    def ceiling(self, request: Request) -> tuple[Usage, float | None]:
        return self._model.ceiling(request)

    async def complete(self, request: Request) -> Completion:
        """The shared answer, or a new one that is shared from now on. Raises CallError."""
        if not request.is_deterministic:
            return await self._model.complete(request)
        key = request.key(self.name)
        while True:
            found = self._store.find(key)
            if found is not None:
                completion, payer = found
                # asked before, it was journalled before; only a first asking can find its own answer lost
                lost = payer == self._payer and key not in self._own and request.occurrence == 0
                self._own.add(key)
                return completion if lost else replace(completion, cached=True, latency_s=0.0)
            if self._store.claim(key):
                return await self._ask(key, request)
            await self._sleep(self._poll_s)

    async def close(self) -> None:
        await self._model.close()
        self._store.close()

    async def _ask(self, key: str, request: Request) -> Completion:
        # another process may have answered between our look and our claim
        if self._store.find(key) is not None:
            self._store.release(key)
            return await self.complete(request)
        try:
            completion = await self._model.complete(request)
        except BaseException:
            self._store.release(key)
            raise
        try:
            self._store.put(key, completion, self._payer)
        except sqlite3.Error as error:  # a full disk must not lose an answer that is paid for
            logger.warning("an answer could not be shared: %s", error)
        self._own.add(key)
        return completion


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
