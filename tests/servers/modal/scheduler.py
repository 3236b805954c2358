"""The clock: how many containers each function gets, inputs that run too long, background commits."""

from __future__ import annotations

import asyncio
import time

from modal_proto import api_pb2 as pb

from tests.servers.modal.calls import Calls
from tests.servers.modal.containers import Containers
from tests.servers.modal.ground import Ground
from tests.servers.modal.records import Function
from tests.servers.modal.volumes import Volumes

TICK_S = 0.05
RESTART_S, LONGEST_RESTART_S = 0.2, 30.0  # before another start of a function that failed to; doubled each time


class Scheduler:
    """Looks at everything, every tick. `functions` are all of them, by id."""

    def __init__(
        self, ground: Ground, functions: dict[str, Function], calls: Calls, containers: Containers, volumes: Volumes
    ) -> None:
        self.ground = ground
        self.functions = functions
        self.calls = calls
        self.containers = containers
        self.volumes = volumes

    async def run(self) -> None:
        while True:
            for function in list(self.functions.values()):
                if function.pending:
                    self._scale(function)
            self._time_out()
            await asyncio.sleep(TICK_S)

    def _scale(self, function: Function) -> None:
        """Starts what the function lacks for its pending inputs, within its limit and that of the machine.

        Containers on their way out take no inputs, and still count against the limits.
        """
        free = sum(container.call is None and not container.is_leaving for container in function.containers)
        lacking = len(function.pending) - free
        room = self.ground.settings.max_procs - len(self.containers.alive)
        if function.max_containers:
            room = min(room, function.max_containers - len(function.containers))
        if function.failed_starts:
            wait_s = min(LONGEST_RESTART_S, RESTART_S * 2**function.failed_starts)
            if time.time() - function.last_start < wait_s:
                return
            room = min(room, 1)
        for _ in range(min(lacking, room)):
            self.containers.start(function)
        if room <= 0 < lacking:
            self._make_room(function)

    def _make_room(self, function: Function) -> None:
        """Where the machine is full, whoever of another function has been idle for longest goes."""
        alive = self.containers.alive.values()
        if len(alive) < self.ground.settings.max_procs or any(each.is_leaving for each in alive):
            return
        idle = [each for each in alive if each.ready_at and each.call is None and each.function is not function]
        if idle:
            min(idle, key=lambda each: each.idle_since).leave()

    def _time_out(self) -> None:
        """An input is over its time: its attempt ends, and so does its container, as on a preemption."""
        for container in list(self.containers.alive.values()):
            call = container.call
            limit_s = container.function.definition.timeout_secs
            if call and limit_s and time.time() - call.started > limit_s:
                text = f"Task's current input {call.input_id} hit its timeout of {limit_s}s"
                self.ground.note(text)
                status = pb.GenericResult.GENERIC_STATUS_TIMEOUT
                self.calls.finish(call, pb.GenericResult(status=status, exception=text))
                container.stop("timeout")

    async def commit_in_background(self) -> None:
        """Commits the volumes of running inputs every so often, as Modal does."""
        every_s = self.ground.settings.background_commit_s
        while every_s:
            await asyncio.sleep(every_s)
            for container in list(self.containers.alive.values()):
                for volume_id in container.volumes if container.call else ():
                    await asyncio.to_thread(self.volumes.get(volume_id).commit, container.id)
