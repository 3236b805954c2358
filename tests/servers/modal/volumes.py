"""Volumes from outside (list, read, upload, remove) and inside (commit, reload)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from urllib.parse import urlencode

from grpclib.const import Status
from modal_proto import api_pb2 as pb

from tests.servers.modal.blobs import Blobs, block_key, file_key
from tests.servers.modal.ground import Ground
from tests.servers.modal.records import Container
from tests.servers.modal.rpc import Caller, refuse
from tests.servers.modal.volume import Entry, Volume

BLOCK = 8 * 1024 * 1024  # the client reads and writes files in blocks of this size
PAGE = 1000  # entries in one message of a listing


class Volumes:
    """The volumes by id, and the requests about them. `containers` are those alive, by id."""

    def __init__(self, ground: Ground, blobs: Blobs, containers: dict[str, Container]) -> None:
        self.ground = ground
        self.blobs = blobs
        self.containers = containers
        self.by_id: dict[str, Volume] = {}

    def get(self, volume_id: str) -> Volume:
        if volume_id not in self.by_id:
            refuse(Status.NOT_FOUND, f"Volume {volume_id} not found")
        return self.by_id[volume_id]

    def VolumeGetOrCreate(self, caller: Caller, asked: pb.VolumeGetOrCreateRequest) -> pb.VolumeGetOrCreateResponse:
        name = asked.deployment_name
        volume = next((each for each in self.by_id.values() if name and each.name == name), None)
        if volume is None:
            if name and asked.object_creation_type == pb.OBJECT_CREATION_TYPE_UNSPECIFIED:
                refuse(Status.NOT_FOUND, f"Volume '{name}' not found in environment 'main'")
            volume_id = self.ground.new("vo")
            folder = self.ground.folder / "volumes" / (name or volume_id)
            volume = Volume(
                volume_id, name, asked.version or pb.VOLUME_FS_VERSION_V1, folder, self.ground.settings.volume_mode
            )
            self.by_id[volume_id] = volume
        elif asked.object_creation_type == pb.OBJECT_CREATION_TYPE_CREATE_FAIL_IF_EXISTS:
            refuse(Status.ALREADY_EXISTS, f"Volume '{name}' already exists")
        metadata = pb.VolumeMetadata(version=volume.version, name=volume.name)
        return pb.VolumeGetOrCreateResponse(volume_id=volume.id, version=volume.version, metadata=metadata)

    # ------------------------------------------------------------------- inside

    def _container(self, caller: Caller, verb: str) -> Container:
        if caller.container_id not in self.containers:
            refuse(Status.FAILED_PRECONDITION, f"{verb}() works only in a container that mounts the volume")
        return self.containers[caller.container_id]

    async def VolumeCommit(self, caller: Caller, asked: pb.VolumeCommitRequest) -> pb.VolumeCommitResponse:
        volume, container = self.get(asked.volume_id), self._container(caller, "commit")
        files = await asyncio.to_thread(volume.commit, container.id)
        self.ground.note(f"commit of {volume.name} by {container.id}: {files} files")
        return pb.VolumeCommitResponse(skip_reload=True)

    async def VolumeReload(self, caller: Caller, asked: pb.VolumeReloadRequest) -> None:
        volume, container = self.get(asked.volume_id), self._container(caller, "reload")
        if container.process and (path := volume.open_file(container.id, container.process.pid)):
            refuse(Status.FAILED_PRECONDITION, f"there are open files preventing the operation: {path}")
        await asyncio.to_thread(volume.reload, container.id)

    # ------------------------------------------------------------------- listing

    async def VolumeListFiles(
        self, caller: Caller, asked: pb.VolumeListFilesRequest
    ) -> AsyncIterator[pb.VolumeListFilesResponse]:
        for page in await self._pages(asked.volume_id, asked.path, asked.recursive):
            yield pb.VolumeListFilesResponse(entries=page)

    async def VolumeListFiles2(
        self, caller: Caller, asked: pb.VolumeListFiles2Request
    ) -> AsyncIterator[pb.VolumeListFiles2Response]:
        for page in await self._pages(asked.volume_id, asked.path, asked.recursive):
            yield pb.VolumeListFiles2Response(entries=page)

    async def _pages(self, volume_id: str, path: str, recursive: bool) -> list[list[pb.FileEntry]]:
        volume = self.get(volume_id)
        try:
            entries = await asyncio.to_thread(lambda: [_message(e) for e in volume.entries(path, recursive=recursive)])
        except FileNotFoundError:
            refuse(Status.NOT_FOUND, f"No such file or directory: {path}")
        return [entries[first : first + PAGE] for first in range(0, len(entries), PAGE)]

    # ------------------------------------------------------------------- files

    def VolumePutFiles(self, caller: Caller, asked: pb.VolumePutFilesRequest) -> None:
        """Version 1: the files came as those of mounts do."""
        volume = self.get(asked.volume_id)
        if asked.disallow_overwrite_existing_files:
            _refuse_existing(volume, [file.filename for file in asked.files])
        for file in asked.files:
            volume.write(file.filename, self.blobs.get(file_key(file.sha256_hex)), file.mode)

    def VolumePutFiles2(self, caller: Caller, asked: pb.VolumePutFiles2Request) -> pb.VolumePutFiles2Response:
        """Names the blocks that are to be uploaded; when there are none, asked the second time, the files appear."""
        volume = self.get(asked.volume_id)
        if asked.disallow_overwrite_existing_files:
            _refuse_existing(volume, [file.path for file in asked.files])
        answer = pb.VolumePutFiles2Response()
        for i, file in enumerate(asked.files):
            for j, block in enumerate(file.blocks):
                if not self.blobs.has(block_key(block.contents_sha256)):
                    answer.missing_blocks.add(file_index=i, block_index=j, put_url=f"{self.ground.http_url}/block")
        if not answer.missing_blocks:
            for file in asked.files:
                content = b"".join(self.blobs.get(block_key(block.contents_sha256)) for block in file.blocks)
                # the client leaves zeros at the end of a block out
                volume.write(file.path, content[: file.size].ljust(file.size, b"\0"), file.mode)
        return answer

    def VolumeGetFile2(self, caller: Caller, asked: pb.VolumeGetFile2Request) -> pb.VolumeGetFile2Response:
        volume = self.get(asked.volume_id)
        try:
            size = volume.path(asked.path).stat().st_size
        except FileNotFoundError:
            refuse(Status.NOT_FOUND, f"No such file: {asked.path}")
        if volume.path(asked.path).is_dir():
            refuse(Status.INVALID_ARGUMENT, f"{asked.path} is a directory")
        volume.statistics.reads += 1
        end = min(size, asked.start + (asked.len or size))
        urls = []
        offset = asked.start
        while offset < end:
            length = min(BLOCK - offset % BLOCK, end - offset)
            query = urlencode({"path": asked.path, "offset": offset, "length": length})
            urls.append(f"{self.ground.http_url}/volume/{volume.id}?{query}")
            offset += length
        length = max(0, end - asked.start)
        return pb.VolumeGetFile2Response(get_urls=urls, size=size, start=asked.start, len=length)

    def VolumeRemoveFile(self, caller: Caller, asked: pb.VolumeRemoveFileRequest) -> None:
        try:
            self.get(asked.volume_id).remove(asked.path, recursive=asked.recursive)
        except FileNotFoundError:
            refuse(Status.NOT_FOUND, f"No such file: {asked.path}")
        except IsADirectoryError:
            refuse(Status.INVALID_ARGUMENT, f"{asked.path} is a directory")

    VolumeRemoveFile2 = VolumeRemoveFile


def _refuse_existing(volume: Volume, paths: list[str]) -> None:
    for path in paths:
        if volume.path(path).exists():
            refuse(Status.ALREADY_EXISTS, f"{path} already exists")


def _message(entry: Entry) -> pb.FileEntry:
    kind = pb.FileEntry.DIRECTORY if entry.is_folder else pb.FileEntry.FILE
    return pb.FileEntry(path=entry.path, type=kind, mtime=entry.mtime, size=entry.size)
