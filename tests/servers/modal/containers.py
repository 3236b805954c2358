"""Containers: their processes from start to end, and what the container runtime in them asks for.

A container's life: `start` lays out its files and volumes and runs `launch.py`; the runtime says hello, takes one input
after the other and puts its output, and leaves when it is told to, or when it has waited long enough. What it held
when its process ended is lost and runs again.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import sys
import time
import traceback
from pathlib import Path
from typing import Any

from google.protobuf.empty_pb2 import Empty
from modal_proto import api_pb2 as pb

from tests.servers.modal.apps import Apps
from tests.servers.modal.blobs import file_key
from tests.servers.modal.calls import Calls
from tests.servers.modal.faults import Faults
from tests.servers.modal.ground import Ground
from tests.servers.modal.links import Links
from tests.servers.modal.objects import Objects
from tests.servers.modal.records import Call, Container, Function, State
from tests.servers.modal.rpc import CONTAINER_HEADER, Caller
from tests.servers.modal.volumes import Volumes

LAUNCHER = Path(__file__).with_name("launch.py")
HOST_VARIABLES = ("PATH", "LANG", "LC_ALL", "TZ", "TMPDIR")  # passed on to every container
FAILED_STARTS = 3  # in a row: then what waits for the function fails
POLL_S = 5.0  # the longest wait without a look at whether the container is to leave
DEFAULT_WINDOW_S = 60  # Modal's scaledown window
LINE_LIMIT = 1 << 20  # bytes of a line of output


class Containers:
    """The requests of the container runtime, and the processes. `alive` are the containers by id."""

    def __init__(
        self,
        ground: Ground,
        alive: dict[str, Container],
        faults: Faults,
        objects: Objects,
        volumes: Volumes,
        calls: Calls,
        apps: Apps,
    ) -> None:
        self.ground = ground
        self.alive = alive
        self.faults = faults
        self.objects = objects
        self.volumes = volumes
        self.calls = calls
        self.apps = apps
        self.ended: list[dict[str, Any]] = []
        self.peak = 0
        self.logs: dict[str, list[str]] = {}  # of every container there was, by id
        self.links = Links()

    # ------------------------------------------------------------------- what the runtime asks for

    def ContainerHello(self, caller: Caller, asked: Empty) -> None:
        if container := self.alive.get(caller.container_id):
            container.ready_at = time.time()

    def ContainerHeartbeat(self, caller: Caller, asked: pb.ContainerHeartbeatRequest) -> pb.ContainerHeartbeatResponse:
        answer = pb.ContainerHeartbeatResponse()
        container = self.alive.get(caller.container_id)
        if container and container.cancels:
            answer.cancel_input_event.input_ids.extend(container.cancels)
            container.cancels.clear()
        return answer

    async def FunctionGetInputs(
        self, caller: Caller, asked: pb.FunctionGetInputsRequest
    ) -> pb.FunctionGetInputsResponse:
        """The next input, as soon as there is one; the kill switch when the container is to leave."""
        container = self.alive.get(caller.container_id)
        while container is not None and not container.is_leaving:
            function = container.function
            if function.pending:
                _, call = function.pending.popitem(last=False)
                return self._hand_out(call, container)
            window = function.definition.autoscaler_settings.scaledown_window or DEFAULT_WINDOW_S
            left = container.idle_since + min(window, self.ground.settings.scaledown_s) - time.time()
            if left <= 0:
                container.leave()
            else:
                await function.work.heard(min(left, POLL_S))
        return pb.FunctionGetInputsResponse(inputs=[pb.FunctionGetInputsItem(kill_switch=True)])

    def _hand_out(self, call: Call, container: Container) -> pb.FunctionGetInputsResponse:
        function = container.function
        call.state, call.container, call.started = State.RUNNING, container, time.time()
        call.attempts += 1
        container.call = call
        container.served += 1
        function.peak_running = max(function.peak_running, function.running)
        if rule := self.faults.of_input("input", function.name, call.input.args):
            asyncio.get_running_loop().call_later(rule.after, self._strike, rule.action, call, container)
        item = pb.FunctionGetInputsItem(
            input_id=call.input_id,
            input=call.input,
            function_call_id=call.id,
            retry_count=call.retries,
            function_call_invocation_type=call.invocation,
        )
        if function.definition.single_use_containers:
            item.input.final_input = True
            container.leave()
        return pb.FunctionGetInputsResponse(inputs=[item])

    def _strike(self, action: str, call: Call, container: Container) -> None:
        if container.call is not call:
            return  # it was over before
        self.ground.note(f"fault {action} on {call.id} in {container.id}")
        if action == "cancel":
            container.cancels.append(call.input_id)
        else:
            container.stop(f"fault {action}", at_once=action == "crash")

    def FunctionPutOutputs(self, caller: Caller, asked: pb.FunctionPutOutputsRequest) -> None:
        """Ends attempts, unless they ended before in another way, such as by a timeout."""
        container = self.alive.get(caller.container_id)
        for told in asked.outputs:
            call = self.calls.by_input_id[told.input_id]
            if container is None or container.call is not call:
                self.ground.note(f"stale output of {call.id} from {caller.container_id} ignored")
            elif self.faults.of_input("output", call.function.name, call.input.args):
                self.ground.note(f"fault drop_output on {call.id} in {container.id}")
                container.stop("fault drop_output", at_once=True)
            else:
                self.calls.finish(call, told.result, told)

    def TaskResult(self, caller: Caller, asked: pb.TaskResultRequest) -> None:
        """The runtime could not get as far as an input, for instance because an import failed."""
        if container := self.alive.get(caller.container_id):
            container.failure = asked.result
            self.ground.note(f"{container.id} failed before its first input: {asked.result.exception}")

    # ------------------------------------------------------------------- processes

    def start(self, function: Function) -> None:
        """Starts another container of this function."""
        container_id = self.ground.new("ta")
        folder = self.ground.folder / "containers" / container_id
        grace_s = self.ground.settings.grace_s
        container = Container(container_id, function, folder, grace_s, function.app.version)
        self.alive[container_id] = container
        self.logs[container_id] = []
        function.containers.append(container)
        function.app.containers.append(container)
        function.last_start = time.time()
        function.peak_containers = max(function.peak_containers, len(function.containers))
        self.peak = max(self.peak, len(self.alive))
        self.ground.start(self._live(container))

    def stop_matching(self, container_id: str, why: str, *, at_once: bool) -> int:
        """Stops the container of this id, or all if it is empty; returns how many."""
        meant = [each for each in self.alive.values() if container_id in ("", each.id)]
        for container in meant:
            container.stop(why, at_once=at_once)
        return len(meant)

    async def _live(self, container: Container) -> None:
        exit_code = None
        try:
            container.process = process = await self._launch(container)
            if container.why:  # it was stopped before there was a process
                container.kill()
            assert process.stdout
            assert process.stderr
            await asyncio.gather(
                self._read(container, process.stdout, pb.FILE_DESCRIPTOR_STDOUT),
                self._read(container, process.stderr, pb.FILE_DESCRIPTOR_STDERR),
                process.wait(),
            )
            exit_code = process.returncode
        except Exception as error:  # whatever it is, the function's callers shall hear of it
            self.ground.note(f"{container.id} did not start\n{traceback.format_exc()}")
            container.failure = _init_failure(f"container did not start: {error!r}")
        finally:
            await self._bury(container, exit_code)

    async def _bury(self, container: Container, exit_code: int | None) -> None:
        function = container.function
        del self.alive[container.id]
        function.containers.remove(container)
        function.app.containers.remove(container)
        self.ground.note(f"{container.id} ended with {exit_code}, served {container.served} {container.why}")
        self.ended.append(
            {
                "id": container.id,
                "function": function.name,
                "exit_code": exit_code,
                "why": container.why,
                "failure": container.failure.exception if container.failure else "",
                "served": container.served,
                "boot_s": round(container.ready_at - container.created, 3) if container.ready_at else None,
                "life_s": round(time.time() - container.created, 3),
            }
        )
        if container.call is not None:
            self.calls.lose(container.call, container.why or f"exit code {exit_code}")
        self._count_start(container, exit_code)
        for volume_id in container.volumes:
            await asyncio.to_thread(self.volumes.get(volume_id).detach, container.id)
        await asyncio.to_thread(shutil.rmtree, container.folder, ignore_errors=True)

    def _count_start(self, container: Container, exit_code: int | None) -> None:
        """Fails what waits for a function whose containers end, time after time, before they take an input."""
        function = container.function
        if container.served:
            function.failed_starts = 0
        elif not container.why and (container.failure or exit_code != 0):
            function.failed_starts += 1
            if function.failed_starts >= FAILED_STARTS and function.pending:
                self.ground.note(f"{function.name} cannot start: {len(function.pending)} pending inputs fail")
                self.calls.fail_pending(
                    function, container.failure or _init_failure(f"container ended with exit code {exit_code}")
                )

    async def _read(self, container: Container, stream: asyncio.StreamReader, descriptor: int) -> None:
        """Takes down what the container prints, under the input that it has at that moment."""
        while True:
            try:
                line = (await stream.readline()).decode("utf-8", "replace")
            except ValueError:
                line = f"(a line of more than {LINE_LIMIT} bytes)\n"
            if not line:
                return
            self.logs[container.id].append(line)
            batch = pb.TaskLogsBatch(task_id=container.id, function_id=container.function.id)
            call = container.call
            batch.items.add(
                data=line,
                timestamp=time.time(),
                timestamp_ns=time.time_ns(),
                file_descriptor=descriptor,
                function_call_id=call.id if call else "",
                input_id=call.input_id if call else "",
            )
            container.function.app.log(batch)

    async def _launch(self, container: Container) -> asyncio.subprocess.Process:
        settings = self.ground.settings
        definition = container.function.definition
        app = container.function.app
        files = container.folder / "files"
        scratch = container.folder / "scratch"
        arguments_file = container.folder / "arguments"
        await asyncio.to_thread(self._lay_files, definition, files)
        scratch.mkdir()
        variables, work_folder = self._surroundings(container, arguments_file)
        arguments = pb.ContainerArguments(
            task_id=container.id,
            function_id=container.function.id,
            app_id=app.id,
            function_def=definition,
            environment_name="main",
            app_layout=self.apps.layout(app),
        )
        arguments_file.write_bytes(arguments.SerializeToString())
        plan = {
            "isolation": settings.isolation,
            "folder": str(container.folder),
            "files": str(files),
            "scratch": str(scratch),
            "volumes": await self._attach_volumes(container, definition),
            "hide": [os.path.abspath(path) for path in settings.hide],
            "show": str(Path(settings.python).absolute().parents[1]),
            "variables": variables,
            "work_folder": work_folder,
            "command": [settings.python, "-m", "modal._container_entrypoint"],
        }
        plan_file = container.folder / "plan.json"
        plan_file.write_text(json.dumps(plan))
        return await asyncio.create_subprocess_exec(
            *(sys.executable, "-I", "-S", str(LAUNCHER), str(plan_file)),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            start_new_session=True,
            limit=LINE_LIMIT,
        )

    def _lay_files(self, definition: pb.Function, files: Path) -> None:
        (files / "root").mkdir(parents=True)
        for file in self.objects.files_of(definition):
            target = files / file.filename.lstrip("/")
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(self.objects.blobs.path(file_key(file.sha256_hex)), target)
            if file.mode:
                target.chmod(file.mode & 0o7777)

    def _surroundings(self, container: Container, arguments_file: Path) -> tuple[dict[str, str], str]:
        """The container's variables and working folder; secrets win over the image, settings over secrets."""
        settings = self.ground.settings
        definition = container.function.definition
        passed = {*HOST_VARIABLES, *settings.pass_env}
        variables = {name: value for name, value in os.environ.items() if name in passed}
        of_image, work_folder = self.objects.image_surroundings(definition.image_id)
        variables |= of_image
        for secret_id in definition.secret_ids:
            variables |= self.objects.secrets[secret_id]
        variables |= settings.env
        variables |= {
            "HOME": "/root",
            "PYTHONPATH": os.pathsep.join(filter(None, ["/root", variables.get("PYTHONPATH")])),
            "PYTHONUNBUFFERED": "1",
            "MODAL_IS_REMOTE": "1",
            "MODAL_SERVER_URL": self.ground.grpc_url,
            "MODAL_TASK_ID": container.id,
            "MODAL_IMAGE_ID": definition.image_id,
            "MODAL_ENVIRONMENT": "main",
            "MODAL_CLOUD_PROVIDER": "CLOUD_PROVIDER_LOCAL",
            "MODAL_REGION": "local",
            "MODAL_HEARTBEAT_INTERVAL": "1",
            "MODAL_OVERRIDE_HEADERS": f"{CONTAINER_HEADER}:{container.id}",
            "MODAL_CONTAINER_ARGUMENTS_PATH": str(arguments_file),
        }
        return variables, work_folder

    async def _attach_volumes(self, container: Container, definition: pb.Function) -> list[dict[str, Any]]:
        mounted = []
        for mount in definition.volume_mounts:
            folder = await asyncio.to_thread(self.volumes.get(mount.volume_id).attach, container.id)
            container.volumes.append(mount.volume_id)
            if self.ground.settings.isolation == "links":
                self.links.make(Path(mount.mount_path), folder)
            mounted.append({"path": mount.mount_path, "folder": str(folder), "read_only": mount.read_only})
        return mounted


def _init_failure(exception: str) -> pb.GenericResult:
    return pb.GenericResult(status=pb.GenericResult.GENERIC_STATUS_INIT_FAILURE, exception=exception)
