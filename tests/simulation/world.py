"""A machine on a virtual clock: processes, their threads, and which of them goes on next.

Every simulated thread is a real one, but only the one that holds the baton runs. It hands the baton on in `block`:
where it would sleep, wait for somebody, or touch a disk. Then the world draws who goes on, among those whose time has
come or whose condition holds; if there is nobody, the clock jumps to the next moment at which there is. So a run of
hours takes milliseconds, and one seed is one schedule.

To kill a process is to raise `Killed` in its threads at the place where each of them waits. What they do on their way
out reaches nothing: every operation of a dead process raises `Killed` again.
"""

from __future__ import annotations

import _thread
import asyncio
import contextlib
import sys
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import count
from random import Random
from typing import Any, Protocol

LONGEST_S = 400.0  # of virtual time: what is not over by then goes round in circles
KILLED = -9  # exit status
FIRST_PID = 100  # numbers are used again as soon as they are free, as in a container that starts anew


class Killed(BaseException):
    """The process of this thread is dead."""


class Stuck(Exception):
    """Nobody can go on, or nobody came to an end."""


class Held(Protocol):
    """What a process has open, and the machine closes for it when it dies."""

    def close(self) -> None: ...


@dataclass(eq=False)
class Process:
    """One process: alive until its first thread returns, it leaves, or it is killed."""

    name: str
    pid: int
    exitcode: int | None = None
    handlers: dict[int, Callable[[int, object], None]] = field(default_factory=dict)
    signals: list[int] = field(default_factory=list)  # sent, not yet delivered
    held: list[Held] = field(default_factory=list)
    loops: list[asyncio.AbstractEventLoop] = field(default_factory=list)
    threads: list[Thread] = field(default_factory=list)
    died_at: float = -1.0
    is_bystander: bool = False  # nobody waits for it to end
    kept_until: float | None = None  # what it wrote by then outlives it; None: all that it wrote

    @property
    def is_dead(self) -> bool:
        return self.exitcode is not None

    @property
    def is_gone(self) -> bool:
        """Dead, and none of its threads is on its way out any more."""
        return self.is_dead and not self.threads


class Thread:
    """A real thread that runs only while it holds the baton."""

    def __init__(self, world: World, process: Process, target: Callable[[], object]) -> None:
        self.process = process
        self.wakes_at: float | None = world.now
        self.until: Callable[[], bool] | None = None
        self.is_over = False
        self.reaper: Thread | None = None  # who waits for it to be gone
        self.baton = _thread.allocate_lock()
        self.baton.acquire()
        self._world, self._target = world, target
        _thread.start_new_thread(self._live, ())

    def _live(self) -> None:
        self.baton.acquire()
        world, process = self._world, self.process
        world.current = self
        try:
            if not process.is_dead:
                self._target()
        except Killed:
            pass
        except BaseException as error:
            world.errors.append(error)
        finally:
            self.is_over = True
            if process.threads[0] is self and not process.is_dead:
                with contextlib.suppress(Killed):
                    world.end(process, 0)
            process.threads.remove(self)
            world.threads.remove(self)
            if process.is_dead and not process.threads:
                _bury(process)
            world.leave(self)


def _bury(process: Process) -> None:
    """Close what its event loops still hold, while it is dead and can reach nothing."""
    for loop in process.loops:
        if not loop.is_closed():
            for task in asyncio.all_tasks(loop):
                task._log_destroy_pending = False
                with contextlib.suppress(BaseException):
                    task.get_coro().close()
            loop.close()
    process.loops.clear()


class World:
    """The clock, the processes and the draws of one schedule."""

    def __init__(self, seed: int, longest_s: float = LONGEST_S) -> None:
        self.rng = Random(seed)
        self._longest_s = longest_s
        self.now = 0.0
        self.processes: list[Process] = []
        self.threads: list[Thread] = []
        self.errors: list[BaseException] = []
        self.current: Thread | None = None
        self._done = _thread.allocate_lock()
        self._done.acquire()
        self._stuck = ""

    # ------------------------------------------------------------------ from outside

    def run(self, name: str, target: Callable[[], object]) -> Process:
        """A process with all that it starts, until they are over. Raises what one of them raised, or Stuck."""
        process = self.start(name, target)
        self._pass_on()
        self._done.acquire()
        self.current = None
        errors, self.errors = self.errors, []
        if errors:
            raise errors[0]
        if self._stuck:
            raise Stuck(self._stuck)
        return process

    def close(self) -> None:
        """End the bystanders."""

        def end() -> None:
            for process in self.alive():
                if process.is_bystander:
                    self.end(process)

        self.run("the end", end)

    # ------------------------------------------------------------------ from inside

    @property
    def process(self) -> Process:
        """The one whose thread is running. Raises Killed where it is dead."""
        assert self.current is not None
        if self.current.process.is_dead:
            raise Killed
        return self.current.process

    def start(self, name: str, target: Callable[[], object], *, is_bystander: bool = False) -> Process:
        """A new process."""
        taken = {process.pid for process in self.alive()}
        pid = next(pid for pid in count(FIRST_PID) if pid not in taken)
        process = Process(name, pid, is_bystander=is_bystander)
        self.processes.append(process)
        self.spawn(process, target)
        return process

    def spawn(self, process: Process, target: Callable[[], object]) -> Thread:
        """A new thread of a process."""
        thread = Thread(self, process, target)
        process.threads.append(thread)
        self.threads.append(thread)
        return thread

    def block(self, until: Callable[[], bool] | None = None, timeout: float | None = None) -> bool:
        """Let others go on until a condition holds or the time is over; True if it holds."""
        me = self.current
        assert me is not None
        if me.process.is_dead:
            raise Killed
        me.until = until
        me.wakes_at = None if timeout is None else self.now + max(0.0, timeout)
        self._pass_on(me)
        if me.process.is_dead:
            raise Killed
        me.until = me.wakes_at = None
        self._deliver(me)
        return until() if until is not None else True

    def end(self, process: Process, status: int = KILLED) -> None:
        """A process is no more. Raises Killed where it is the one that calls."""
        if not process.is_dead:
            process.exitcode, process.died_at = status, self.now
            for thing in reversed(process.held):
                thing.close()
            process.held.clear()
        me = self.current
        for thread in list(process.threads):
            if thread is not me and not thread.is_over:
                thread.reaper = me
                thread.baton.release()
                assert me is not None
                me.baton.acquire()
                self.current = me
        if me is not None and me.process is process:
            raise Killed

    def end_all(self) -> None:
        """Every process but bystanders is killed, the one that calls last. Raises Killed."""
        mine = self.process
        for process in self.alive():
            if process is not mine and not process.is_bystander:
                self.end(process)
        self.end(mine)

    def alive(self) -> list[Process]:
        return [process for process in self.processes if not process.is_dead]

    def leave(self, me: Thread) -> None:
        """Hand the baton on for good."""
        if me.reaper is not None:
            me.reaper.baton.release()
        elif all(thread.process.is_bystander for thread in self.threads):
            self._done.release()
        else:
            self._pass_on(None)

    # ------------------------------------------------------------------ whose turn it is

    def _pass_on(self, me: Thread | None = None) -> None:
        following = self._choose()
        if following is None:
            self._give_up()
            following = self.threads[0]
        if following is not me:
            following.baton.release()
            if me is not None:
                me.baton.acquire()
        if me is not None:
            self.current = me

    def _choose(self) -> Thread | None:
        ready = self._ready()
        if not ready:
            moments = [thread.wakes_at for thread in self.threads if thread.wakes_at is not None]
            if not moments or min(moments) > self._longest_s:
                return None
            self.now = max(self.now, min(moments))
            ready = self._ready()
        return ready[0] if len(ready) == 1 else self.rng.choice(ready)

    def _ready(self) -> list[Thread]:
        now = self.now
        return [
            thread
            for thread in self.threads
            if (thread.wakes_at is not None and thread.wakes_at <= now)
            or (thread.until is not None and thread.until())
            or (thread.process.signals and thread.process.threads[0] is thread)
        ]

    def _give_up(self) -> None:
        """Nobody can go on: everybody is killed, and `run` tells."""
        waiting = ", ".join(sorted({thread.process.name for thread in self.threads}))
        self._stuck = f"after {self.now:.0f} s nobody goes on; waiting: {waiting}"
        for process in self.alive():
            process.exitcode, process.died_at = KILLED, self.now
            for thing in reversed(process.held):
                thing.close()
            process.held.clear()
        for thread in self.threads:
            thread.wakes_at = self.now

    def _deliver(self, me: Thread) -> None:
        """Signals go to the first thread of a process, where it waits."""
        process = me.process
        while process.signals and process.threads[0] is me:
            number = process.signals.pop(0)
            if handler := process.handlers.get(number):
                handler(number, None)


@contextlib.contextmanager
def quiet_deaths() -> Iterator[None]:
    """What the garbage of dead processes raises is nobody's concern."""
    before = sys.unraisablehook

    def hook(unraisable: Any) -> None:
        if not isinstance(unraisable.exc_value, Killed):
            before(unraisable)

    sys.unraisablehook = hook
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="coroutine .* was never awaited")
            yield
    finally:
        sys.unraisablehook = before
