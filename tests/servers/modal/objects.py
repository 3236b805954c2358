"""Secrets, images and mounts, which functions refer to, and blobs, which carry what is too large for a message."""

from __future__ import annotations

import shlex
import sys
from collections.abc import AsyncIterator, Mapping

from google.protobuf.empty_pb2 import Empty
from google.protobuf.timestamp_pb2 import Timestamp
from grpclib.const import Status
from modal_proto import api_pb2 as pb

from tests.servers.modal.blobs import Blobs, digest, file_key
from tests.servers.modal.ground import Ground
from tests.servers.modal.rpc import Caller, refuse

BUILDER = "2025.06"  # the newest version of the image builder that this client knows
BUILT = pb.GenericResult(status=pb.GenericResult.GENERIC_STATUS_SUCCESS)


class Objects:
    """The objects by id, and the requests about them."""

    def __init__(self, ground: Ground, blobs: Blobs) -> None:
        self.ground = ground
        self.blobs = blobs
        self.secrets: dict[str, dict[str, str]] = {}  # id -> variables
        self.secret_names: dict[str, str] = {}  # name -> id
        self.images: dict[str, pb.Image] = {}
        self.mounts: dict[str, list[pb.MountFile]] = {}
        for name, variables in ground.settings.secrets.items():
            self._add_secret(name, variables)

    # ------------------------------------------------------------------- account

    def ClientHello(self, caller: Caller, asked: Empty) -> pb.ClientHelloResponse:
        return pb.ClientHelloResponse(image_builder_version=BUILDER)

    def EnvironmentGetOrCreate(
        self, caller: Caller, asked: pb.EnvironmentGetOrCreateRequest
    ) -> pb.EnvironmentGetOrCreateResponse:
        name = asked.deployment_name or "main"
        if name != "main":
            refuse(Status.NOT_FOUND, f"Environment '{name}' not found")
        metadata = pb.EnvironmentMetadata(name=name, settings=pb.EnvironmentSettings(image_builder_version=BUILDER))
        return pb.EnvironmentGetOrCreateResponse(environment_id="en-main", metadata=metadata)

    # ------------------------------------------------------------------- secrets

    def _add_secret(self, name: str, variables: Mapping[str, str]) -> str:
        secret_id = self.ground.new("st")
        self.secrets[secret_id] = dict(variables)
        if name:
            self.secret_names[name] = secret_id
        return secret_id

    def SecretGetOrCreate(self, caller: Caller, asked: pb.SecretGetOrCreateRequest) -> pb.SecretGetOrCreateResponse:
        name = asked.deployment_name
        secret_id = self.secret_names.get(name)
        if secret_id is None:
            if name and asked.object_creation_type == pb.OBJECT_CREATION_TYPE_UNSPECIFIED:
                refuse(Status.NOT_FOUND, f"Secret '{name}' not found in environment 'main'")
            secret_id = self._add_secret(name, asked.env_dict)
        elif asked.object_creation_type == pb.OBJECT_CREATION_TYPE_CREATE_FAIL_IF_EXISTS:
            refuse(Status.ALREADY_EXISTS, f"Secret '{name}' already exists")
        elif asked.object_creation_type == pb.OBJECT_CREATION_TYPE_CREATE_OVERWRITE_IF_EXISTS:
            self.secrets[secret_id] = dict(asked.env_dict)
        if missing := [key for key in asked.required_keys if key not in self.secrets[secret_id]]:
            refuse(Status.FAILED_PRECONDITION, f"Secret '{name}' is missing key(s): {', '.join(missing)}")
        return pb.SecretGetOrCreateResponse(secret_id=secret_id, metadata=pb.SecretMetadata(name=name))

    def SecretList(self, caller: Caller, asked: pb.SecretListRequest) -> pb.SecretListResponse:
        answer = pb.SecretListResponse(environment_name="main")
        for name, secret_id in self.secret_names.items():
            metadata = pb.SecretMetadata(name=name, keys=list(self.secrets[secret_id]), environment_name="main")
            answer.items.add(label=name, secret_id=secret_id, created_at=self.ground.started, metadata=metadata)
        return answer

    # ------------------------------------------------------------------- mounts

    def MountPutFile(self, caller: Caller, asked: pb.MountPutFileRequest) -> pb.MountPutFileResponse:
        key = file_key(asked.sha256_hex)
        match asked.WhichOneof("data_oneof"):
            case "data":
                self.blobs.put(key, asked.data)
            case "data_blob_id":
                self.blobs.put(key, self.blobs.get(asked.data_blob_id))
        return pb.MountPutFileResponse(exists=self.blobs.has(key), checked_at=_now())

    def MountBatchedCheckExistence(
        self, caller: Caller, asked: pb.MountBatchedCheckExistenceRequest
    ) -> pb.MountBatchedCheckExistenceResponse:
        missing = [sha256 for sha256 in asked.sha256_hex_hashes if not self.blobs.has(file_key(sha256))]
        return pb.MountBatchedCheckExistenceResponse(missing_sha256_hex_hashes=missing, checked_at=_now())

    def MountGetOrCreate(self, caller: Caller, asked: pb.MountGetOrCreateRequest) -> pb.MountGetOrCreateResponse:
        if asked.namespace == pb.DEPLOYMENT_NAMESPACE_GLOBAL:  # Modal's own, such as the client in the container
            content = digest(asked.deployment_name.encode())
        else:
            content = digest("\n".join(sorted(f"{file.filename}:{file.sha256_hex}" for file in asked.files)).encode())
        mount_id = f"mo-{content[:20]}"
        self.mounts[mount_id] = list(asked.files)
        metadata = pb.MountHandleMetadata(content_checksum_sha256_hex=content)
        return pb.MountGetOrCreateResponse(mount_id=mount_id, handle_metadata=metadata)

    def files_of(self, definition: pb.Function) -> list[pb.MountFile]:
        """The files that the function's containers find in their file system."""
        return [file for mount_id in definition.mount_ids for file in self.mounts.get(mount_id, [])]

    # ------------------------------------------------------------------- images

    def ImageGetOrCreate(self, caller: Caller, asked: pb.ImageGetOrCreateRequest) -> pb.ImageGetOrCreateResponse:
        image_id = f"im-{digest(asked.image.SerializeToString(deterministic=True))[:20]}"
        self.images[image_id] = asked.image
        python = "Python {}.{}.{}".format(*sys.version_info[:3])
        metadata = pb.ImageMetadata(image_builder_version=asked.builder_version or BUILDER, python_version_info=python)
        return pb.ImageGetOrCreateResponse(image_id=image_id, result=BUILT, metadata=metadata)

    async def ImageJoinStreaming(
        self, caller: Caller, asked: pb.ImageJoinStreamingRequest
    ) -> AsyncIterator[pb.ImageJoinStreamingResponse]:
        yield pb.ImageJoinStreamingResponse(result=BUILT, eof=True)

    def image_lines(self, image_id: str) -> list[str]:
        """The Dockerfile lines of an image, those of its base first."""
        image = self.images.get(image_id)
        if image is None:
            return []
        below = [line for base in image.base_images for line in self.image_lines(base.image_id)]
        return below + [line for line in image.dockerfile_commands if not line.startswith("FROM base")]

    def image_surroundings(self, image_id: str) -> tuple[dict[str, str], str]:
        """The variables and the working folder that an image gives its containers."""
        variables: dict[str, str] = {}
        folder = "/root"
        for line in self.image_lines(image_id):
            word, _, rest = line.strip().partition(" ")
            if word == "ENV":
                for assignment in shlex.split(rest):
                    name, _, value = assignment.partition("=")
                    variables[name] = value
            elif word == "WORKDIR":
                folder = rest.strip()
        return variables, folder

    # ------------------------------------------------------------------- blobs

    def BlobCreate(self, caller: Caller, asked: pb.BlobCreateRequest) -> pb.BlobCreateResponse:
        blob_id = self.ground.new("bl")
        answer = pb.BlobCreateResponse(blob_id=blob_id, blob_ids=[blob_id])
        answer.upload_urls.items.append(f"{self.ground.http_url}/blob/{blob_id}")
        return answer

    def BlobGet(self, caller: Caller, asked: pb.BlobGetRequest) -> pb.BlobGetResponse:
        return pb.BlobGetResponse(download_url=f"{self.ground.http_url}/blob/{asked.blob_id}")


def _now() -> Timestamp:
    stamp = Timestamp()
    stamp.GetCurrentTime()
    return stamp
