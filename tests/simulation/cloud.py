"""Modal, as the product meets it, on a `World`: a volume, calls, containers, and a client's way to them.

`install` puts it in the place of Modal's client. What it promises is what Modal documents, and no more:

- A container works on a copy of the volume. Others see its writes once it commits, it sees theirs once it reloads. A
  commit may happen behind its back at any moment, and ends with it: what was not committed is lost.
- A container may be lost, or preempted (`KeyboardInterrupt`, then a kill after half a minute); its input runs again in
  another one. It also runs again where only its answer was lost.
- An exchange may fail on its way there or back. An upload that may not replace leaves what stands there: its writer is
  told so, or not.
"""

from __future__ import annotations

import asyncio
import json
import signal
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from functools import cache
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import modal

from modal_utils import coordinator, storage, worker_core
from modal_utils.deployment import LLM_SECRET, MOUNT, PREFLIGHT, RUN_TASK
from modal_utils.storage import RUNS, Mounted
from modal_utils.worker_core import Order, look_around, run_optimization_task
from tests.simulation.disk import Crash, Disk, Extent, File, Log, Points
from tests.simulation.machine import Inline
from tests.simulation.world import Process, World
from utils.records import TaskSpec
from utils.serialization import decode

EXCHANGE_S = 0.1  # at most, each way
START_S = 2.0  # at most, of a container
BEHIND_S = (2.0, 10.0)  # between the commits behind a container's back
GRACE_S = 30.0  # of a container that is preempted
WORST = 3  # times that one call is disturbed: more are a failure of its own
PREEMPTED = 1  # exit status
CANCEL = int(signal.SIGUSR1)  # in this world


@dataclass(frozen=True)
class Sky:
    """What goes wrong with Modal itself: shares of exchanges, and of containers."""

    away: float = 0.0  # exchanges that fail
    full: float = 0.0  # calls that the queue has no room for
    unanswered: float = 0.0  # containers whose answer is lost
    behind: bool = False  # commits behind the back


# --------------------------------------------------------------------------- the volume


@dataclass
class Volume:
    """What is committed, and what a client does with it from outside; also `modal.Volume`."""

    cloud: Cloud
    files: dict[Path, bytes] = field(default_factory=dict)
    replaced: list[tuple[Path, bytes, bytes]] = field(default_factory=list)  # name, content before and after

    def put(self, path: Path, content: bytes) -> None:
        """A file as all see it from now on."""
        before = self.files.get(path, content)
        if before != content:
            self.replaced.append((path, before, content))
        self.files[path] = content

    def hydrate(self) -> None:
        """At once, as a secret is: a property that is kept holds a real lock while it is made."""

    def read_file(self, path: str) -> Iterator[bytes]:
        with self.cloud.exchanged():
            if _inside(path) not in self.files:
                raise FileNotFoundError(path)
            content = self.files[_inside(path)]
        yield content

    def listdir(self, path: str, *, recursive: bool) -> list[Any]:
        with self.cloud.exchanged():
            within = [file.relative_to(_inside(path)) for file in self.files if file.is_relative_to(_inside(path))]
            return [SimpleNamespace(path=f"{path}/{name}") for name in sorted({name.parts[0] for name in within})]

    @contextmanager
    def batch_upload(self, *, force: bool) -> Iterator[Any]:
        put: list[tuple[Path, bytes]] = []
        yield SimpleNamespace(put_file=lambda file, path: put.append((_inside(path), file.read())))
        for path, content in put:
            crash = self.cloud.points.reach(f"upload {path.parent.name}", path.name)
            self.cloud.stop(crash, Extent.LOST)
            with self.cloud.exchanged():
                if force or path not in self.files:
                    self.put(path, content)
                elif self.cloud.world.rng.random() < 0.5:
                    raise FileExistsError(str(path))
            self.cloud.stop(crash)


class Mount(Disk):
    """A container's copy: everything in it is the product's, until a commit carries it away."""

    def __init__(self, cloud: Cloud, root: Path) -> None:
        super().__init__(cloud.world, cloud.points, root)
        self.cloud = cloud
        self.folders.update(root.parents)
        self._seen: dict[Path, bytes] = {}  # as they were when they were last the same here and there
        self._written: dict[Path, None] = {}  # in the order in which they were last
        self._open = 0

    def commit(self) -> None:
        """All see what was written here: in one moment, or what came through, where the container is lost meanwhile."""
        crash = self.points.reach("commit", "")
        self.cloud.stop(crash, Extent.LOST)
        moment = self.world.now
        changed = [path for path in self._written if path in self.names_]
        if crash is not None and crash.extent is Extent.TORN:
            changed = changed[: self.world.rng.randint(0, len(changed))]
        for path in changed:
            content = self.names_[path].content
            if self._seen.get(path) != content:
                self.cloud.volume.put(path, content)
                self._seen[path] = content
        for path in [path for path in self._seen if path not in self.names_]:
            self.cloud.volume.files.pop(path, None)
            del self._seen[path]
        self.cloud.stop(crash, Extent.TORN)
        self.world.process.kept_until = moment
        self.cloud.stop(crash)
        self.world.block(timeout=self.world.rng.uniform(0, EXCHANGE_S))

    def reload(self) -> None:
        """See what all see."""
        if self._open:
            raise RuntimeError("there are open files preventing the operation")
        self.points.reach("reload", "")
        for path, content in self.cloud.volume.files.items():
            mine = self.names_.get(path)
            if mine is None or mine.content == self._seen.get(path):
                self.names_[path] = File(content)
                self._seen[path] = content
                self.folders.update(path.parents)

    def rename(self, path: Path, target: Path) -> None:
        super().rename(path, target)
        self._note(target)

    def append(self, file: File, path: Path, content: bytes) -> int:
        size = super().append(file, path, content)
        self._note(path)
        return size

    def write(self, path: Path, content: bytes) -> None:
        super().write(path, content)
        self._note(path)

    def sync(self, path: Path) -> None:
        """Nothing, as on a `CommittedDisk`."""

    def open_log(self, path: Path) -> Log:
        log = super().open_log(path)
        self._open += 1
        return OpenLog(self, log.file, path)

    def shut(self) -> None:
        """One file less is open."""
        self._open -= 1

    def _note(self, path: Path) -> None:
        self._written.pop(path, None)
        self._written[path] = None


@dataclass
class OpenLog(Log):
    """The end of a file on a volume, which cannot be reloaded meanwhile."""

    disk: Mount

    def close(self) -> None:
        self.disk.shut()


# --------------------------------------------------------------------------- calls and containers


@dataclass(eq=False)
class Call:
    """A call of the task function."""

    id: str
    order: dict[str, Any]
    pool: Pool
    by: Process  # who made it
    is_told: bool = False  # its maker knows its id
    process: Process | None = None  # the container, while there is one
    output: Any = None  # what `get` gives or raises, once it is done
    is_cancelled: bool = False
    disturbed: int = 0
    began: list[Process] = field(default_factory=list)

    @property
    def is_done(self) -> bool:
        return self.output is not None

    @property
    def task_id(self) -> str:
        return decode(TaskSpec, self.order["spec"]).task_id


@dataclass(eq=False)
class Pool:
    """A variant of a function; also `modal.Function`."""

    cloud: Cloud
    name: str
    object_id: str
    most: int = 1  # containers at once

    def with_options(self, *, max_containers: int = 1, **_: Any) -> Pool:
        return Pool(self.cloud, self.name, f"fu-{next(self.cloud.numbers)}", max_containers)

    def hydrate(self) -> None:
        self.cloud.exchange()

    @property
    def spawn(self) -> Any:
        return Spawn(self)


@dataclass
class Spawn:
    """`Function.spawn`, in both its forms."""

    pool: Pool

    def __call__(self, *words: Any) -> Any:
        assert self.pool.name == PREFLIGHT
        self.pool.cloud.exchange()
        answer = _look_around(json.dumps(words))
        return SimpleNamespace(object_id="fc-preflight", get=lambda timeout: answer)

    async def aio(self, order: dict[str, Any]) -> FunctionCall:
        assert self.pool.name == RUN_TASK
        cloud = self.pool.cloud
        await cloud.on_the_way()
        if cloud.world.rng.random() < cloud.sky.full:
            raise modal.exception.ResourceExhaustedError("too many calls")
        call = Call(f"fc-{next(cloud.numbers):012d}", order, self.pool, cloud.world.process)
        cloud.calls[call.id] = call
        await cloud.on_the_way()
        call.is_told = True
        return FunctionCall(cloud, call.id)


@cache
def _look_around(words: str) -> dict[str, Any]:
    models, params, metric, tasks = json.loads(words)
    return look_around(models, params, metric, [decode(TaskSpec, task) for task in tasks])


@dataclass
class FunctionCall:
    """`modal.FunctionCall`."""

    cloud: Cloud
    object_id: str

    @property
    def get(self) -> Any:
        return SimpleNamespace(aio=self._get)

    @property
    def cancel(self) -> Any:
        return SimpleNamespace(aio=self._cancel)

    async def _get(self, *, timeout: float) -> Any:
        await self.cloud.on_the_way()
        output = self.cloud.calls[self.object_id].output
        await self.cloud.on_the_way()
        if output is None:
            raise TimeoutError
        if isinstance(output, BaseException):
            raise output
        return output

    async def _cancel(self) -> None:
        await self.cloud.on_the_way()
        call = self.cloud.calls[self.object_id]
        call.is_cancelled = True
        if call.process is None:
            call.output = call.output or modal.exception.RemoteError("cancelled")
        elif not call.process.signals:
            call.process.signals.append(CANCEL)
        await self.cloud.on_the_way()


class Cloud:
    """The control plane, and all that it keeps."""

    def __init__(self, world: World, points: Points, sky: Sky) -> None:
        self.world, self.points, self.sky = world, points, sky
        self.volume = Volume(self)
        self.calls: dict[str, Call] = {}
        self.queued: Counter[str] = Counter()  # by partition
        self.numbers = count(1)

    # ------------------------------------------------------------------ the way there and back

    def exchange(self) -> None:
        with self.exchanged():
            pass

    @contextmanager
    def exchanged(self) -> Iterator[None]:
        """Something is asked of Modal: it happens half-way, unless it does not get there; its answer may be lost."""
        self._lag()
        yield
        self._lag()

    def _lag(self) -> None:
        self.world.block(timeout=self.world.rng.uniform(0, EXCHANGE_S))
        self._fail()

    async def on_the_way(self) -> None:
        await asyncio.sleep(self.world.rng.uniform(0, EXCHANGE_S))
        self._fail()

    def _fail(self) -> None:
        if self.world.rng.random() < self.sky.away:
            raise modal.exception.ConnectionError("away")

    def stop(self, crash: Crash | None, extent: Extent | None = None) -> None:
        """The end of who reached a crash point, if it is one of this extent."""
        if crash is not None and extent in (None, crash.extent):
            self.world.end(self.world.process)

    # ------------------------------------------------------------------ containers

    @property
    def is_quiet(self) -> bool:
        """Nothing is queued, nothing runs."""
        return all(call.is_done for call in self.calls.values())

    def serve(self) -> None:
        """Give each call a container, and another one where that is lost."""
        while True:
            self.world.block(lambda: bool(self._lost() or self._due()))
            for call in self._lost():
                call.process = None
                call.disturbed += 1
                if call.is_cancelled:
                    call.output = modal.exception.RemoteError("cancelled")
            for call in self._due():
                call.process = self.world.start(f"worker {call.task_id}", lambda call=call: self._live(call))
                call.process.kept_until = 0.0
                call.began.append(call.process)

    def _lost(self) -> list[Call]:
        running = (call for call in self.calls.values() if call.process and not call.is_done)
        return [call for call in running if call.process and call.process.is_gone]

    def _due(self) -> list[Call]:
        busy: dict[Pool, int] = {}
        due = []
        for call in self.calls.values():
            if not call.is_done and call.process is None:
                due.append(call)
            elif call.process and not call.process.is_dead:
                busy[call.pool] = busy.get(call.pool, 0) + 1
        found = []
        for call in due:
            busy[call.pool] = busy.get(call.pool, 0) + 1
            if busy[call.pool] <= call.pool.most:
                found.append(call)
        return found

    def _live(self, call: Call) -> None:
        """One container with one input."""
        process = self.world.process
        order = decode(Order, call.order)
        root = Path(MOUNT) / RUNS / order.run_id
        mount = Mount(self, root)
        process.handlers[signal.SIGINT] = signal.default_int_handler
        process.handlers[CANCEL] = _cancelled
        try:
            self.world.block(timeout=self.world.rng.uniform(0, START_S))
            if self.sky.behind:
                self.world.spawn(process, lambda: self._commit_behind(mount))
            blobs = Mounted(root, mount.commit, mount.reload, mount)
            output: Any = run_optimization_task(order, blobs, call.id, f"ta-{next(self.numbers)}")
        except (KeyboardInterrupt, modal.exception.InputCancellation):
            process.handlers.clear()
            with suppress(KeyboardInterrupt):
                mount.commit()
            self.world.end(process, PREEMPTED)
        except Exception as error:
            output = error
        if call.disturbed >= WORST or self.world.rng.random() >= self.sky.unanswered:
            call.output = output
        else:
            self.world.end(process, PREEMPTED)

    def _commit_behind(self, mount: Mount) -> None:
        while True:
            self.world.block(timeout=self.world.rng.uniform(*BEHIND_S))
            mount.commit()

    def preempt(self, process: Process) -> None:
        """A container has to go."""
        process.signals.append(signal.SIGINT)

        def insist() -> None:
            self.world.block(lambda: process.is_dead, GRACE_S)
            if not process.is_dead:
                self.world.end(process)

        self.world.start("grace", insist, is_bystander=True)


def _cancelled(number: int, frame: object) -> None:
    raise modal.exception.InputCancellation


def _inside(path: str) -> Path:
    return Path(MOUNT) / path.strip("/")


# --------------------------------------------------------------------------- in the place of Modal's client

_on: Cloud | None = None


def use(cloud: Cloud | None) -> None:
    """The control plane that the product talks to from now on."""
    global _on
    _on = cloud


def current() -> Cloud:
    """The control plane of the world that runs just now."""
    assert _on is not None
    return _on


@dataclass
class Queue:
    """`modal.Queue`."""

    cloud: Cloud

    def get_many(self, count: int, *, block: bool, partition: str) -> list[int]:
        with self.cloud.exchanged():
            taken = min(count, self.cloud.queued[partition])
            self.cloud.queued[partition] -= taken
        return [1] * taken

    def put_many(self, values: Sequence[int], *, block: bool, partition: str, partition_ttl: int) -> None:
        with self.cloud.exchanged():
            self.cloud.queued[partition] += len(values)


@dataclass
class Secret:
    """`modal.Secret`."""

    name: str

    def hydrate(self) -> None:
        if self.name != LLM_SECRET:
            raise modal.exception.NotFoundError(f"no secret {self.name}")


def install() -> None:
    """Put it in the place of Modal's client, for the rest of this process."""
    modal.Function = SimpleNamespace(from_name=lambda app, name: Pool(current(), name, name))
    modal.FunctionCall = SimpleNamespace(from_id=lambda call: FunctionCall(current(), call))
    modal.Queue = SimpleNamespace(from_name=lambda name, **_: Queue(current()))
    modal.Secret = SimpleNamespace(from_name=Secret)
    modal.Volume = SimpleNamespace(from_name=lambda name, **_: current().volume)
    storage.ThreadPoolExecutor = Inline
    coordinator.code_hash = worker_core.code_hash = cache(worker_core.code_hash)
    worker_core._logged = lambda path, level: nullcontext()  # logging belongs to the whole process
