"""The operating system, as the product meets it, on a `World`.

`install` must run before the first module of the product is imported, because a default parameter holds on to the clock
that it saw. From then on, in this process, clocks and sleeps are the world's, `utils.disk.DISK` is the disk in memory,
a process of `multiprocessing` is a simulated one, its pipes and signals too, an event loop waits by handing on the
baton, and the response cache is a file of its own whose statements are crash points. Nothing of the product knows.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import importlib.metadata
import logging
import multiprocessing
import os
import queue
import random
import secrets
import selectors
import signal
import sqlite3
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from functools import cache
from multiprocessing import connection, forkserver
from types import ModuleType
from typing import Any

from tests.simulation.disk import Crash, Disk, Extent, Points
from tests.simulation.world import LONGEST_S, Killed, Process, World

EPOCH = 1_800_000_000.0  # the wall clock when a world begins


class Machine:
    """A world with its disk: what one schedule runs on."""

    def __init__(self, seed: int, crashes: tuple[Crash, ...] = (), longest_s: float = LONGEST_S) -> None:
        self.world = World(seed, longest_s)
        self.points = Points(self.world, crashes)
        self.disk = Disk(self.world, self.points)


_on: Machine | None = None
_start_really = threading.Thread.start
_monotonic, _wall, _sleep = time.monotonic, time.time, time.sleep


def use(machine: Machine | None) -> None:
    """The machine that the product runs on from now on."""
    global _on
    _on = machine


def _world() -> World:
    assert _on is not None
    return _on.world


def _is_inside() -> bool:
    return _on is not None and _on.world.current is not None


def install() -> None:
    """Put the machine in the place of the operating system, for the rest of this process."""
    assert "utils.archive" not in sys.modules, "the product has seen the real clock already"
    time.monotonic = lambda: _world().now if _on else _monotonic()
    time.time = lambda: EPOCH + _world().now if _on else _wall()
    time.sleep = lambda seconds: _block(seconds) if _is_inside() else _sleep(seconds)
    os.getpid = _either(os.getpid, lambda: _world().process.pid)
    os.kill = _either(os.kill, _signal)
    os._exit = _either(os._exit, lambda status: _world().end(_world().process, status))
    threading.get_ident = _either(threading.get_ident, lambda: _world().process.pid)
    threading.main_thread = _either(threading.main_thread, _first_thread)
    signal.signal = _either(signal.signal, _handle)
    signal.getsignal = _either(signal.getsignal, lambda number: _world().process.handlers.get(number))
    threading.Thread.start = _start
    threading.Event = Event
    queue.SimpleQueue = Queue
    asyncio.events.new_event_loop = Loop
    multiprocessing.get_context = lambda _: Context()
    connection.wait = _wait
    forkserver.ensure_running = lambda: None
    multiprocessing.set_forkserver_preload = lambda _: None
    sqlite3.connect = _connect
    random.Random = Random
    secrets.token_hex = _either(secrets.token_hex, lambda size=32: f"{_world().rng.getrandbits(8 * size):0{2 * size}x}")
    importlib.metadata.version = cache(importlib.metadata.version)
    # standard streams and logging belong to the whole process
    log = ModuleType("local.logging")
    log.log_to = lambda path, level: None
    sys.modules["local.logging"] = log
    logging.disable(logging.CRITICAL)
    import utils.disk

    utils.disk.DISK = _Present()


def _either(real: Callable[..., Any], simulated: Callable[..., Any]) -> Callable[..., Any]:
    return lambda *args, **options: (simulated if _is_inside() else real)(*args, **options)


class _Present:
    """The disk of whatever machine runs just now."""

    def __getattr__(self, name: str) -> Any:
        assert _on is not None
        return getattr(_on.disk, name)


class Random(random.Random):
    """Without a seed: drawn from the world's."""

    def __init__(self, seed: Any = None) -> None:
        super().__init__(_world().rng.getrandbits(64) if seed is None and _on else seed)


# --------------------------------------------------------------------------- time and threads


def _block(seconds: float) -> None:
    _world().block(timeout=seconds)


def _start(thread: threading.Thread) -> None:
    if _is_inside():
        _world().spawn(_world().process, thread.run)
    else:
        _start_really(thread)


def _first_thread() -> threading.Thread | None:
    """The one that gets the signals, if it is who asks."""
    current = _world().current
    return threading.current_thread() if current is current.process.threads[0] else None


class Event(threading.Event):
    """Waits on the world's clock."""

    def wait(self, timeout: float | None = None) -> bool:
        return _world().block(self.is_set, timeout) if _is_inside() else super().wait(timeout)


class Queue:
    """`queue.SimpleQueue`."""

    def __init__(self) -> None:
        self._items: deque[Any] = deque()

    def put(self, item: Any) -> None:
        self._items.append(item)

    def get(self, block: bool = True, timeout: float | None = None) -> Any:
        if not self._items and not _world().block(lambda: bool(self._items), timeout if block else 0):
            raise queue.Empty
        return self._items.popleft()


class _Selector(selectors.BaseSelector):
    """Waits by handing on the baton; no event but time ever comes."""

    def register(self, *_: Any) -> Any: ...
    def unregister(self, *_: Any) -> Any: ...
    def get_map(self) -> dict[Any, Any]:
        return {}

    def select(self, timeout: float | None = None) -> list[Any]:
        if timeout is None or timeout > 0:
            _world().block(timeout=timeout)
        elif _world().process:  # a dead one turns no further
            pass
        return []


class Loop(asyncio.SelectorEventLoop):
    """An event loop on the world's clock."""

    def __init__(self) -> None:
        super().__init__(_Selector())
        _world().process.loops.append(self)

    def _make_self_pipe(self) -> None: ...
    def _close_self_pipe(self) -> None: ...
    def _write_to_self(self) -> None: ...

    def run_in_executor(self, _: Any, function: Callable[..., Any], *args: Any) -> asyncio.Future[Any]:
        done = self.create_future()
        done.set_result(function(*args))
        return done


# --------------------------------------------------------------------------- processes, pipes, signals


def _handle(number: int, handler: Any) -> Any:
    handlers = _world().process.handlers
    before = handlers.get(number, signal.SIG_DFL)
    handlers[number] = handler if callable(handler) else None
    return before


def _signal(pid: int, number: int) -> None:
    process = next((each for each in _world().processes if each.pid == pid and not each.is_dead), None)
    if process is None:
        raise ProcessLookupError(3, "no such process")
    if number:
        process.signals.append(number)


class End:
    """One end of a pipe; it has as many holders as processes that have it open."""

    def __init__(self) -> None:
        self.inbox: deque[Any] = deque()
        self.holders = 0
        self.other: End = self

    @property
    def is_ready(self) -> bool:
        return bool(self.inbox) or not self.other.holders


class Connection:
    """A process's hold on an end of a pipe."""

    def __init__(self, end: End, process: Process) -> None:
        self.end = end
        self.process = process
        self.is_open = True
        end.holders += 1
        process.held.append(self)

    def send(self, message: Any) -> None:
        if self.process.is_dead:
            raise Killed
        if not self.is_open or not self.end.other.holders:
            raise BrokenPipeError(32, "nobody reads")
        self.end.other.inbox.append(message)

    def recv(self) -> Any:
        if not self.is_open:
            raise OSError("handle is closed")
        _world().block(lambda: self.end.is_ready)
        if not self.end.inbox:
            raise EOFError
        return self.end.inbox.popleft()

    def poll(self, timeout: float = 0.0) -> bool:
        if not self.is_open:
            raise OSError("handle is closed")
        return self.end.is_ready

    def close(self) -> None:
        if self.is_open:
            self.is_open = False
            self.end.holders -= 1

    @property
    def is_ready(self) -> bool:
        return self.end.is_ready


class Sentinel:
    """Ready once its process has ended."""

    def __init__(self, process: Process) -> None:
        self._process = process

    @property
    def is_ready(self) -> bool:
        return self._process.is_gone


class Child:
    """`multiprocessing.Process`."""

    def __init__(self, target: Callable[..., object], args: tuple[Any, ...], daemon: bool = False) -> None:
        self._target, self._args = target, args

    def start(self) -> None:
        world = _world()
        order = self._args[0]
        name = f"worker {getattr(getattr(order, 'attempt', order), 'task_id', order)}"
        self.process = world.start(name, lambda: self._target(*handed))
        handed = [Connection(arg.end, self.process) if isinstance(arg, Connection) else arg for arg in self._args]
        self.sentinel = Sentinel(self.process)

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def exitcode(self) -> int | None:
        return self.process.exitcode

    def is_alive(self) -> bool:
        return not self.process.is_dead

    def kill(self) -> None:
        if _is_inside() and not self.process.is_dead:
            _world().end(self.process)

    def join(self, timeout: float | None = None) -> None:
        _world().block(lambda: self.sentinel.is_ready, timeout)


class Context:
    """`multiprocessing.get_context("forkserver")`."""

    Process = Child

    def Pipe(self) -> tuple[Connection, Connection]:
        ours, theirs = End(), End()
        ours.other, theirs.other = theirs, ours
        process = _world().process
        return Connection(ours, process), Connection(theirs, process)


def _wait(handles: Iterable[Any], timeout: float | None = None) -> list[Any]:
    handles = list(handles)
    _world().block(lambda: any(handle.is_ready for handle in handles), timeout)
    return [handle for handle in handles if handle.is_ready]


# --------------------------------------------------------------------------- the response cache


class Database(sqlite3.Connection):
    """A connection of one process. A statement on its own is a crash point, and so is a transaction as a whole."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._crash: Crash | None = None  # at the end of the transaction
        self.process = _world().process
        self.process.held.append(self)

    def execute(self, statement: str, *args: Any) -> Any:
        if self.process.is_dead:
            raise Killed
        if self.in_transaction or statement.startswith(("select", "pragma")):
            return super().execute(statement, *args)
        crash = self._reach(" ".join(statement.split()[:3]))
        if statement == "begin":
            self._crash = crash
            return super().execute(statement)
        done = super().execute(statement, *args)
        self._stop(crash)
        return done

    def __exit__(self, *error: Any) -> Any:
        crash, self._crash = self._crash, None
        if crash is not None and crash.extent is Extent.TORN:
            self._stop(crash)
        done = super().__exit__(*error)
        self._stop(crash)
        return done

    def _reach(self, words: str) -> Crash | None:
        assert _on is not None
        crash = _on.points.reach(f"sql {words}", "")
        if crash is not None and crash.extent is Extent.LOST:
            self._stop(crash)
        return crash

    def _stop(self, crash: Crash | None) -> None:
        assert _on is not None
        if crash is not None:
            _on.disk.stop(crash.scope)


_connect_really = sqlite3.connect


def _connect(*args: Any, **options: Any) -> sqlite3.Connection:
    return _connect_really(*args, **({"factory": Database} if _is_inside() else {}), **options)


class Inline(concurrent.futures.Executor):
    """A pool of threads that has only its caller's."""

    def __init__(self, *_: Any, **__: Any) -> None: ...

    def submit(self, function: Callable[..., Any], /, *args: Any, **options: Any) -> concurrent.futures.Future[Any]:
        done: concurrent.futures.Future[Any] = concurrent.futures.Future()
        done.set_result(function(*args, **options))
        return done
