"""Answers shared by the local tasks of a run: the same deterministic question is paid for once.

One SQLite file, safe across processes. A caller claims a question before it sends it; others who want the same answer
wait for the claim to be filled instead of paying again. A claim is worth as much as the lock on the file of the attempt
that made it, which dies with its holder: a number of a process may be somebody else's by then. Only requests at
temperature 0 are shared. An answer is stored before it is handed on, and remembers which task paid: if that task is
killed before it could journal the answer, it finds it here and books it as paid by itself.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import sqlite3
from collections.abc import Awaitable, Callable
from contextlib import closing, suppress
from dataclasses import replace
from pathlib import Path

from utils.disk import PRIVATE_FILE
from utils.errors import UsageError
from utils.llm.base import LLM
from utils.records import Completion, Request, Usage
from utils.serialization import dumps, from_value, parse

logger = logging.getLogger("utils.llm.cache")

SCHEMA = """
create table if not exists answers (key text primary key, completion blob not null, payer text not null);
create table if not exists asked (key text primary key, owner text not null);
"""


def prepare(path: Path) -> None:
    """The file, for the workers of a run that are about to begin; made anew where it is damaged. Raises OSError.

    Once, before them: workers that all switched a new file to WAL would lock each other out.
    """
    if path.is_symlink():
        raise UsageError(f"{path} is a symbolic link; put the file itself in its place")
    path.touch(PRIVATE_FILE)
    try:
        AnswerStore(path).check()
    except sqlite3.DatabaseError as error:
        logger.warning("the answers that the tasks shared are lost, %s is made anew: %s", path, error)
        for name in (path.name, f"{path.name}-wal", f"{path.name}-shm"):
            path.with_name(name).unlink(missing_ok=True)
        path.touch(PRIVATE_FILE)
        try:
            AnswerStore(path).check()
        except sqlite3.Error as again:  # not the file's fault
            raise OSError(errno.EIO, str(again), str(path)) from None


class AnswerStore:
    """The file. Every method is one short transaction. Raises sqlite3.Error where the file cannot be used.

    `owner` is who asks, under a name that no other process ever has; `is_alive` says whether an owner still lives.
    """

    def __init__(self, path: Path, owner: str = "", is_alive: Callable[[str], bool] = lambda _: True) -> None:
        self._owner = owner
        self._is_alive = is_alive
        self._db = sqlite3.connect(path, timeout=60, isolation_level=None, check_same_thread=False)
        self._db.execute("pragma journal_mode=wal")
        self._db.execute("pragma synchronous=off")  # a torn cache costs a question, never a result
        self._db.executescript(SCHEMA)

    def check(self) -> None:
        """Raises sqlite3.DatabaseError where the file is damaged, and closes it."""
        with closing(self._db):
            (found,) = self._db.execute("pragma quick_check(1)").fetchone()
            if found != "ok":
                raise sqlite3.DatabaseError(found)

    def find(self, key: str) -> tuple[Completion, str] | None:
        """The answer and the task that paid for it."""
        row = self._db.execute("select completion, payer from answers where key = ?", (key,)).fetchone()
        return None if row is None else (from_value(Completion, parse(row[0])), row[1])

    def claim(self, key: str) -> bool:
        """True if this process may now ask; False while a living process is asking."""
        if self._db.execute("insert or ignore into asked values (?, ?)", (key, self._owner)).rowcount:
            return True
        row = self._db.execute("select owner from asked where key = ?", (key,)).fetchone()
        if row is None or self._is_alive(row[0]):
            return False
        # compare and swap: of several who find a dead owner, one takes over
        stale = "update asked set owner = ? where key = ? and owner = ?"
        return self._db.execute(stale, (self._owner, key, *row)).rowcount == 1

    def put(self, key: str, completion: Completion, payer: str) -> None:
        """Store an answer and let go of the claim."""
        content = dumps(completion).encode("utf-8", "surrogatepass")  # a cut emoji is no text to SQLite
        with self._db:
            self._db.execute("begin")
            self._db.execute("insert or ignore into answers values (?, ?, ?)", (key, content, payer))
            self._db.execute("delete from asked where key = ?", (key,))

    def release(self, key: str) -> None:
        """Let go of a claim that was not answered."""
        with suppress(sqlite3.Error):  # then it is let go of when its owner ends
            self._db.execute("delete from asked where key = ? and owner = ?", (key, self._owner))

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
            try:
                found = self._store.find(key)
                is_mine = found is None and self._store.claim(key)
            except (sqlite3.Error, UsageError) as error:  # a cache may be lost at any time; it costs a question
                logger.warning("an answer is not shared: %s", error)
                return await self._model.complete(request)
            if found is not None:
                completion, payer = found
                # asked before, it was journalled before; only a first asking can find its own answer lost
                lost = payer == self._payer and key not in self._own and request.occurrence == 0
                self._own.add(key)
                return completion if lost else replace(completion, cached=True, latency_s=0.0)
            if is_mine:
                return await self._ask(key, request)
            await self._sleep(self._poll_s)

    async def close(self) -> None:
        await self._model.close()
        self._store.close()

    async def _ask(self, key: str, request: Request) -> Completion:
        # another process may have answered between our look and our claim
        with suppress(sqlite3.Error, UsageError):
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
            self._store.release(key)
        self._own.add(key)
        return completion
