"""Apps: deploying, the ephemeral ones of `modal run`, stopping, tags, and the logs that a run shows."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator

from grpclib.const import Status
from modal_proto import api_pb2 as pb

from tests.servers.modal.calls import Calls
from tests.servers.modal.functions import is_deployed
from tests.servers.modal.ground import Ground
from tests.servers.modal.objects import Objects
from tests.servers.modal.records import App, Function
from tests.servers.modal.rpc import Caller, refuse
from tests.servers.modal.volumes import Volumes

LOGS_POLL_S = 5.0  # the longest wait without a look at whether the client's time is up


class Apps:
    """The requests about apps. `by_id` and `functions` are all apps and functions, by id."""

    def __init__(
        self,
        ground: Ground,
        by_id: dict[str, App],
        functions: dict[str, Function],
        calls: Calls,
        objects: Objects,
        volumes: Volumes,
    ) -> None:
        self.ground = ground
        self.by_id = by_id
        self.functions = functions
        self.calls = calls
        self.objects = objects
        self.volumes = volumes

    def get(self, app_id: str) -> App:
        if app_id not in self.by_id:
            refuse(Status.NOT_FOUND, f"App {app_id} not found")
        return self.by_id[app_id]

    def page(self, app: App) -> str:
        """The address that stands for the app's page on Modal's site."""
        return f"{self.ground.http_url}/apps/{app.id}"

    # ------------------------------------------------------------------- deploying and running

    def AppGetByDeploymentName(
        self, caller: Caller, asked: pb.AppGetByDeploymentNameRequest
    ) -> pb.AppGetByDeploymentNameResponse:
        found = [app.id for app in self.by_id.values() if app.name == asked.name and is_deployed(app)]
        return pb.AppGetByDeploymentNameResponse(app_id=found[0] if found else "", environment_name="main")

    def AppCreate(self, caller: Caller, asked: pb.AppCreateRequest) -> pb.AppCreateResponse:
        app = App(self.ground.new("ap"), asked.description, asked.app_state, dict(asked.tags))
        self.by_id[app.id] = app
        page = self.page(app)
        return pb.AppCreateResponse(app_id=app.id, app_page_url=page, app_logs_url=f"{page}/logs")

    def AppPublish(self, caller: Caller, asked: pb.AppPublishRequest) -> pb.AppPublishResponse:
        """A new version of the app: containers of older ones finish what they have and take no more."""
        app = self.get(asked.app_id)
        app.functions = {name: self.functions[function_id] for name, function_id in asked.function_ids.items()}
        app.state = asked.app_state or app.state
        app.name = asked.name or app.name
        app.tags.update(asked.tags)
        app.version += 1
        for container in app.containers:
            container.leave()
        return pb.AppPublishResponse(url=self.page(app), deployed_at=time.time())

    def AppGetLayout(self, caller: Caller, asked: pb.AppGetLayoutRequest) -> pb.AppGetLayoutResponse:
        return pb.AppGetLayoutResponse(app_layout=self.layout(self.get(asked.app_id)))

    def layout(self, app: App) -> pb.AppLayout:
        """The app's functions and every object that they use: a container cannot find one that is not listed."""
        layout = pb.AppLayout(function_ids={name: function.id for name, function in app.functions.items()})
        used: dict[str, None] = {}
        for function in app.functions.values():
            layout.objects.add(object_id=function.id, function_handle_metadata=function.handle)
            used.update((dependency.object_id, None) for dependency in function.definition.object_dependencies)
        for object_id in used:
            entry = layout.objects.add(object_id=object_id)
            if volume := self.volumes.by_id.get(object_id):
                entry.volume_metadata.CopyFrom(pb.VolumeMetadata(version=volume.version, name=volume.name))
            elif object_id in self.objects.mounts:
                entry.mount_handle_metadata.content_checksum_sha256_hex = object_id
        return layout

    def AppHeartbeat(self, caller: Caller, asked: pb.AppHeartbeatRequest) -> None:
        self.get(asked.app_id)

    def AppSetTags(self, caller: Caller, asked: pb.AppSetTagsRequest) -> None:
        self.get(asked.app_id).tags = dict(asked.tags)

    def AppGetTags(self, caller: Caller, asked: pb.AppGetTagsRequest) -> pb.AppGetTagsResponse:
        return pb.AppGetTagsResponse(tags=self.get(asked.app_id).tags)

    # ------------------------------------------------------------------- stopping

    def AppClientDisconnect(self, caller: Caller, asked: pb.AppClientDisconnectRequest) -> None:
        """The end of a `modal run`; a deployed app stays."""
        app = self.get(asked.app_id)
        if app.state in (pb.APP_STATE_EPHEMERAL, pb.APP_STATE_INITIALIZING):
            self._stop(app, "the client disconnected")

    def AppStop(self, caller: Caller, asked: pb.AppStopRequest) -> None:
        self._stop(self.get(asked.app_id), "the app was stopped")

    def _stop(self, app: App, why: str) -> None:
        if app.is_stopped:
            return
        app.state = pb.APP_STATE_STOPPED
        for call in self.calls.by_id.values():
            if call.function.app is app:
                self.calls.cancel(call, terminate=True)
        for container in app.containers:
            container.stop(why)
        self.ground.start(self._end_logs(app))

    # ------------------------------------------------------------------- logs

    async def _end_logs(self, app: App) -> None:
        """Marks the end of the logs once no container can add to them."""
        while app.containers:
            await asyncio.sleep(0.05)
        app.log(pb.TaskLogsBatch(app_done=True))

    async def AppGetLogs(self, caller: Caller, asked: pb.AppGetLogsRequest) -> AsyncIterator[pb.TaskLogsBatch]:
        app = self.get(asked.app_id)
        seen = int(asked.last_entry_id.split("-")[0]) if asked.last_entry_id else 0
        end = time.monotonic() + asked.timeout
        while True:
            for batch in app.logs[seen:]:
                seen += 1
                yield batch
                if batch.app_done:
                    return
            left = end - time.monotonic()
            if left <= 0:
                return
            if seen == len(app.logs):
                await app.logged.heard(min(left, LOGS_POLL_S))
