"""The tests' own questions, under /admin on the HTTP side: what there is, what was printed, what shall go wrong."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass
from typing import Any

from aiohttp import web
from modal_proto import api_pb2 as pb

from tests.servers.modal.calls import Calls
from tests.servers.modal.containers import Containers
from tests.servers.modal.faults import Faults
from tests.servers.modal.objects import Objects
from tests.servers.modal.records import App, Function
from tests.servers.modal.rpc import Servicer
from tests.servers.modal.volumes import Volumes

Json = dict[str, Any]


@dataclass(frozen=True)
class Admin:
    """The answers, from the rooms that know them."""

    apps: dict[str, App]
    functions: dict[str, Function]
    objects: Objects
    volumes: Volumes
    calls: Calls
    containers: Containers
    servicer: Servicer
    faults: Faults

    def routes(self) -> list[web.RouteDef]:
        return [
            web.get("/admin/state", self.get_state),
            web.get("/admin/logs", self.get_logs),
            web.post("/admin/faults", self.post_faults),
            web.post("/admin/kill", self.post_kill),
        ]

    async def get_state(self, request: web.Request) -> web.Response:
        return web.json_response(self.state(full=request.query.get("full") == "1"))

    async def get_logs(self, request: web.Request) -> web.Response:
        task = request.query.get("task", "")
        logs = self.containers.logs
        return web.Response(text="".join(line for each in logs if task in ("", each) for line in logs[each]))

    async def post_faults(self, request: web.Request) -> web.Response:
        try:
            self.faults.replace(await request.json())
        except (TypeError, ValueError) as error:
            raise web.HTTPBadRequest(text=str(error)) from error
        return web.json_response({"rules": len(self.faults.rules)})

    async def post_kill(self, request: web.Request) -> web.Response:
        how = request.query["how"]
        killed = self.containers.stop_matching(request.query["task"], f"admin {how}", at_once=how == "kill")
        return web.json_response({"killed": killed})

    def state(self, *, full: bool) -> Json:
        """Everything that a test may want to know; with `full` also every input, container, image and file."""
        functions = list(self.functions.values())
        calls = list(self.calls.by_id.values())
        state: Json = {
            "apps": [self._app(app) for app in self.apps.values()],
            "functions": [self._function(function) for function in functions],
            "inputs": Counter(call.state for call in calls),
            "attempts": sum(call.attempts for call in calls),
            "containers": [
                {
                    "id": container.id,
                    "function": container.function.name,
                    "call": container.call.id if container.call else None,
                    "version": container.version,
                    "leaving": container.is_leaving,
                    "pid": container.process.pid if container.process else None,
                }
                for container in self.containers.alive.values()
            ],
            "peak_containers": self.containers.peak,
            "dead_containers": len(self.containers.ended),
            "volumes": {each.name or each.id: asdict(each.statistics) for each in self.volumes.by_id.values()},
            "rpc_counts": self.servicer.requests,
            "rpc_bytes_in": self.servicer.bytes_in,
            "rpc_bytes_out": self.servicer.bytes_out,
            "unimplemented": self.servicer.unimplemented,
            "faults": [asdict(rule) for rule in self.faults.rules],
        }
        if full:
            state["dead"] = self.containers.ended
            state["images"] = {image_id: self.objects.image_lines(image_id) for image_id in self.objects.images}
            state["files"] = {
                function.id: sorted(file.filename for file in self.objects.files_of(function.definition))
                for function in functions
            }
            state["input_list"] = [
                {
                    "call": call.id,
                    "function": call.function.id,
                    "state": call.state,
                    "status": call.output.result.status if call.output else None,
                    "attempts": call.attempts,
                    "retries": call.retries,
                    "lost": call.lost,
                }
                for call in calls
            ]
        return state

    def _app(self, app: App) -> Json:
        return {
            "id": app.id,
            "name": app.name,
            "state": pb.AppState.Name(app.state),
            "version": app.version,
            "tags": app.tags,
            "functions": {name: function.id for name, function in app.functions.items()},
        }

    def _function(self, function: Function) -> Json:
        return {
            "id": function.id,
            "name": function.name,
            "base": function.base.id if function.base else None,
            "pending": len(function.pending),
            "running": function.running,
            "peak_running_inputs": function.peak_running,
            "peak_containers": function.peak_containers,
            "max_containers": function.max_containers,
            "timeout": function.definition.timeout_secs,
            "files": len(self.objects.files_of(function.definition)),
        }
