"""The HTTP side: transfers of blobs and of the blocks of volume files."""

from __future__ import annotations

import hashlib
import socket
from collections.abc import Iterable

from aiohttp import web

from tests.servers.modal.blobs import Blobs, block_key
from tests.servers.modal.volumes import BLOCK, Volumes

LARGEST = 2 << 30  # bytes of one transfer


async def serve_http(listening: socket.socket, routes: Iterable[web.RouteDef]) -> web.AppRunner:
    """Serves these routes on this socket until the runner that it returns is cleaned up."""
    app = web.Application(client_max_size=LARGEST)
    app.add_routes(routes)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.SockSite(runner, listening).start()
    return runner


class Transfers:
    """The addresses that answers to blob and volume requests point to."""

    def __init__(self, blobs: Blobs, volumes: Volumes) -> None:
        self.blobs = blobs
        self.volumes = volumes

    def routes(self) -> list[web.RouteDef]:
        return [
            web.put("/blob/{key}", self.put_blob),
            web.get("/blob/{key}", self.get_blob),
            web.put("/block", self.put_block),
            web.get("/volume/{id}", self.get_volume_block),
        ]

    async def put_blob(self, request: web.Request) -> web.Response:
        content = await request.read()
        self.blobs.put(request.match_info["key"], content)
        return web.Response(headers={"ETag": f'"{hashlib.md5(content).hexdigest()}"'})  # the client compares it

    async def get_blob(self, request: web.Request) -> web.Response:
        key = request.match_info["key"]
        if not self.blobs.has(key):
            raise web.HTTPNotFound
        return web.Response(body=self.blobs.get(key))

    async def put_block(self, request: web.Request) -> web.Response:
        content = await request.read()
        sha256 = hashlib.sha256(content).digest()
        self.blobs.put(block_key(sha256), content)
        return web.Response(body=sha256)

    async def get_volume_block(self, request: web.Request) -> web.Response:
        volume = self.volumes.by_id[request.match_info["id"]]
        with volume.path(request.query["path"]).open("rb") as file:
            file.seek(int(request.query["offset"]))
            content = file.read(min(BLOCK, int(request.query["length"])))
        volume.statistics.read_bytes += len(content)
        return web.Response(body=content)
