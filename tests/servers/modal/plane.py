"""The whole, put together: the rooms over what they share, and both servers."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import socket
import sys
import time
from pathlib import Path

from grpclib.server import Server

from tests.servers.modal.admin import Admin
from tests.servers.modal.apps import Apps
from tests.servers.modal.blobs import Blobs
from tests.servers.modal.calls import Calls
from tests.servers.modal.containers import Containers
from tests.servers.modal.faults import Faults
from tests.servers.modal.functions import Functions
from tests.servers.modal.ground import Ground
from tests.servers.modal.http_side import Transfers, serve_http
from tests.servers.modal.launch import can_overlay
from tests.servers.modal.objects import Objects
from tests.servers.modal.queues import Queues
from tests.servers.modal.records import App, Container, Function
from tests.servers.modal.rpc import Servicer
from tests.servers.modal.scheduler import Scheduler
from tests.servers.modal.settings import Settings
from tests.servers.modal.volumes import Volumes

READY = "ready.json"  # in the server's folder, once it listens: where, and the isolation and volume mode it has
SHUTDOWN_S = 120.0  # for containers to be reaped, which were killed


class ControlPlane:
    """The rooms, and what they share by id."""

    def __init__(self, folder: Path, settings: Settings) -> None:
        self.ground = Ground(folder, settings)
        faults = Faults(settings.faults)
        self.app_by_id: dict[str, App] = {}
        self.function_by_id: dict[str, Function] = {}
        self.container_by_id: dict[str, Container] = {}
        blobs = Blobs(folder / "blobs")
        objects = Objects(self.ground, blobs)
        volumes = Volumes(self.ground, blobs, self.container_by_id)
        queues = Queues(self.ground)
        calls = Calls(self.ground, self.function_by_id)
        functions = Functions(self.ground, self.app_by_id, self.function_by_id)
        apps = Apps(self.ground, self.app_by_id, self.function_by_id, calls, objects, volumes)
        self.containers = Containers(self.ground, self.container_by_id, faults, objects, volumes, calls, apps)
        self.scheduler = Scheduler(self.ground, self.function_by_id, calls, self.containers, volumes)
        self.servicer = Servicer(
            (objects, volumes, queues, calls, functions, apps, self.containers), self.ground, faults
        )
        admin = Admin(
            self.app_by_id, self.function_by_id, objects, volumes, calls, self.containers, self.servicer, faults
        )
        self.routes = [*Transfers(blobs, volumes).routes(), *admin.routes()]

    async def serve(self, stop: asyncio.Event) -> None:
        """Serves on free ports until `stop`; then no container is left."""
        grpc_socket, http_socket = _listening(), _listening()
        self.ground.grpc_url, self.ground.http_url = _url(grpc_socket), _url(http_socket)
        grpc = Server([self.servicer])
        await grpc.start(sock=grpc_socket)
        http = await serve_http(http_socket, self.routes)
        scheduling = self.ground.start(self.scheduler.run())
        scheduling.add_done_callback(lambda _: stop.set())  # without it nothing would ever run: better no server
        self.ground.start(self.scheduler.commit_in_background())
        self._tell_ready()
        await stop.wait()
        scheduling.cancel()
        self.containers.stop_matching("", "the server ends", at_once=True)
        end = time.monotonic() + SHUTDOWN_S
        while self.container_by_id and time.monotonic() < end:
            await asyncio.sleep(0.02)
        self.containers.links.remove_all()
        grpc.close()
        await http.cleanup()
        await self.ground.close()

    def _tell_ready(self) -> None:
        settings = self.ground.settings
        facts = {
            "grpc": self.ground.grpc_url,
            "http": self.ground.http_url,
            "isolation": settings.isolation,
            "volume_mode": settings.volume_mode,
        }
        aside = self.ground.folder / f".{READY}"
        aside.write_text(json.dumps(facts))
        aside.replace(self.ground.folder / READY)
        print(json.dumps(facts), flush=True)


def _listening() -> socket.socket:
    """A socket on a port that nobody else has.

    It names its protocol, because asyncio turns Nagle's algorithm off only then; with it an exchange takes 40 ms more.
    """
    listening = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listening.bind(("127.0.0.1", 0))
    listening.listen(1024)
    listening.setblocking(False)
    return listening


def _url(listening: socket.socket) -> str:
    return f"http://127.0.0.1:{listening.getsockname()[1]}"


async def serve(folder: Path, settings: Settings, *, until_closed: bool) -> None:
    """Serves until SIGTERM or SIGINT, or, if `until_closed`, until whoever started this process is gone."""
    folder.mkdir(parents=True, exist_ok=True)
    if settings.isolation == "auto":
        settings.isolation = "overlay" if can_overlay() else "links"
    if settings.isolation == "links":
        settings.volume_mode = "shared"  # a symlink on the host is the same for all containers
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for each in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(each, stop.set)
    if until_closed:
        loop.add_reader(sys.stdin.fileno(), lambda: None if os.read(sys.stdin.fileno(), 1) else stop.set())
    await ControlPlane(folder, settings).serve(stop)
    shutil.rmtree(folder / "containers", ignore_errors=True)
