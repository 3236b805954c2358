"""Queues: values in partitions, each taken once. Nobody waits here: a partition that is empty gives nothing."""

from __future__ import annotations

from grpclib.const import Status
from modal_proto import api_pb2 as pb

from tests.servers.modal.ground import Ground
from tests.servers.modal.rpc import Caller, refuse

MOST = 5000  # values of a partition


class Queues:
    """All queues by id, their partitions by key."""

    def __init__(self, ground: Ground) -> None:
        self.ground = ground
        self.by_name: dict[str, str] = {}
        self.partitions: dict[str, dict[bytes, list[bytes]]] = {}  # queue id -> key -> values

    def QueueGetOrCreate(self, caller: Caller, asked: pb.QueueGetOrCreateRequest) -> pb.QueueGetOrCreateResponse:
        name = asked.deployment_name
        if name not in self.by_name:
            if asked.object_creation_type == pb.OBJECT_CREATION_TYPE_UNSPECIFIED:
                refuse(Status.NOT_FOUND, f"Queue '{name}' not found in environment 'main'")
            self.by_name[name] = self.ground.new("qu")
            self.partitions[self.by_name[name]] = {}
        return pb.QueueGetOrCreateResponse(queue_id=self.by_name[name], metadata=pb.QueueMetadata(name=name))

    def QueuePut(self, caller: Caller, asked: pb.QueuePutRequest) -> None:
        values = self.partitions[asked.queue_id].setdefault(asked.partition_key, [])
        if len(values) + len(asked.values) > MOST:
            refuse(Status.RESOURCE_EXHAUSTED, f"a partition takes {MOST} values")
        values.extend(asked.values)

    def QueueGet(self, caller: Caller, asked: pb.QueueGetRequest) -> pb.QueueGetResponse:
        values = self.partitions[asked.queue_id].get(asked.partition_key, [])
        taken, values[: asked.n_values] = values[: asked.n_values], []
        return pb.QueueGetResponse(values=taken)
