"""Apps, functions, calls, containers: what exists, with the few questions one asks of a single one of them."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from collections import OrderedDict
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from modal_proto import api_pb2 as pb

from tests.servers.modal.ground import Bell


@dataclass(eq=False)
class App:
    """A deployed app, or that of one `modal run`."""

    id: str
    name: str
    state: pb.AppState.ValueType
    tags: dict[str, str] = field(default_factory=dict)
    functions: dict[str, Function] = field(default_factory=dict)  # as published, by name
    containers: list[Container] = field(default_factory=list)  # alive, of all its functions
    version: int = 0
    logs: list[pb.TaskLogsBatch] = field(default_factory=list)
    logged: Bell = field(default_factory=Bell)

    @property
    def is_stopped(self) -> bool:
        return self.state == pb.APP_STATE_STOPPED

    def log(self, batch: pb.TaskLogsBatch) -> None:
        batch.entry_id = f"{len(self.logs) + 1}-0"
        self.logs.append(batch)
        self.logged.ring()


@dataclass(eq=False)
class Function:
    """A function, or a variant of one: other options, and containers of its own."""

    id: str
    app: App
    name: str
    base: Function | None = None
    options: pb.FunctionOptions = field(default_factory=pb.FunctionOptions)  # of a variant
    variants: dict[bytes, Function] = field(default_factory=dict)  # by their options
    definition: pb.Function = field(default_factory=pb.Function)  # with the options in force
    handle: pb.FunctionHandleMetadata = field(default_factory=pb.FunctionHandleMetadata)
    pending: OrderedDict[str, Call] = field(default_factory=OrderedDict)  # by id; taken from the front
    containers: list[Container] = field(default_factory=list)
    work: Bell = field(default_factory=Bell)  # rings when its containers have something to look at
    last_start: float = 0.0
    failed_starts: int = 0  # containers in a row that ended before they took an input
    peak_containers: int = 0
    peak_running: int = 0

    @property
    def running(self) -> int:
        return sum(container.call is not None for container in self.containers)

    @property
    def max_containers(self) -> int:
        return self.definition.autoscaler_settings.max_containers


class State(StrEnum):
    """Where a call stands."""

    PENDING = "pending"  # a container may take it
    WAITING = "waiting"  # for the delay before its retry
    RUNNING = "running"  # in a container
    DONE = "done"  # it has its result


@dataclass(eq=False)
class Call:
    """One call of a function, which has one input."""

    id: str
    input_id: str
    function: Function
    input: pb.FunctionInput
    invocation: pb.FunctionCallInvocationType.ValueType
    state: State = State.PENDING
    container: Container | None = None
    started: float = 0.0  # of this attempt
    attempts: int = 0  # times that a container took it
    retries: int = 0  # attempts that failed and were followed by another
    lost: int = 0  # containers that ended under it
    is_cancelled: bool = False
    output: pb.FunctionGetOutputsItem | None = None
    done: Bell = field(default_factory=Bell)


@dataclass(eq=False)
class Container:
    """A process of the container runtime, from before its start until it is reaped."""

    id: str
    function: Function
    folder: Path
    grace_s: float
    version: int  # of the app, when it was started
    created: float = field(default_factory=time.time)
    ready_at: float = 0.0
    process: asyncio.subprocess.Process | None = None
    call: Call | None = None
    idle_since: float = field(default_factory=time.time)
    is_leaving: bool = False  # takes no more inputs
    why: str = ""  # it was stopped
    served: int = 0
    cancels: list[str] = field(default_factory=list)  # inputs to cancel, told with the next heartbeat
    volumes: list[str] = field(default_factory=list)
    failure: pb.GenericResult | None = None  # why it could not serve, in its own words

    def leave(self) -> None:
        """Takes no more inputs, and ends after the one it has."""
        self.is_leaving = True
        self.function.work.ring()

    def stop(self, why: str, *, at_once: bool = False) -> None:
        """Ends with SIGINT, as a preemption does, and SIGKILL after the grace; or with SIGKILL at once."""
        self.why = self.why or why
        self.leave()
        if self.process is None or self.process.returncode is not None:
            return
        if at_once:
            self.kill()
        else:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.process.pid, signal.SIGINT)
            asyncio.get_running_loop().call_later(self.grace_s, self.kill)

    def kill(self) -> None:
        """SIGKILL to the container and to every process that it started, as long as it was not reaped."""
        if self.process is not None and self.process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
