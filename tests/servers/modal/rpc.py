"""From a request to the method of its name: a servicer for every RPC that Modal's protobuf definitions describe.

A room answers an RPC by having a method of that name, `(caller, asked)` to the answer: a message, None for an empty
one, or an async iterator of messages. It may be a coroutine. An RPC that no room answers is UNIMPLEMENTED, and counted.

A request that is sent again, with the same idempotency key, gets the answer of the first time.
"""

from __future__ import annotations

import asyncio
import inspect
import traceback
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

from google.protobuf import message_factory
from google.protobuf.message import Message
from grpclib.const import Cardinality, Handler, Status
from grpclib.exceptions import GRPCError, ProtocolError, StreamTerminatedError
from grpclib.server import Stream
from modal_proto import api_pb2 as pb

from tests.servers.modal.faults import Faults
from tests.servers.modal.ground import Ground

SERVICE = pb.DESCRIPTOR.services_by_name["ModalClient"]
CONTAINER_HEADER = "x-test-container"  # given to each container for its requests, which do not name it
KEPT_ANSWERS = 5000  # far more than are sent within the seconds that a client retries for


@dataclass(frozen=True)
class Caller:
    """Who sent a request: a container, or a client with a token."""

    container_id: str
    has_token: bool
    idempotency_key: str

    @classmethod
    def of(cls, metadata: Mapping[str, Any]) -> Caller:
        return cls(
            container_id=str(metadata.get(CONTAINER_HEADER, "")),
            has_token=bool(metadata.get("x-modal-token-id") and metadata.get("x-modal-token-secret")),
            idempotency_key=str(metadata.get("x-idempotency-key", "")),
        )


def refuse(status: Status, message: str) -> NoReturn:
    """Ends the request with a status; `modal` turns it into an exception of its own, with this message."""
    raise GRPCError(status, message)


class Servicer:
    """All rooms as one gRPC service, with its faults and its ledger."""

    def __init__(self, rooms: Iterable[object], ground: Ground, faults: Faults) -> None:
        self.ground = ground
        self.faults = faults
        self.requests: Counter[str] = Counter()
        self.bytes_in: Counter[str] = Counter()
        self.bytes_out: Counter[str] = Counter()
        self.unimplemented: Counter[str] = Counter()
        self._kept: OrderedDict[str, Message] = OrderedDict()
        self._methods: dict[str, Callable[[Caller, Any], Any]] = {}
        for room in rooms:
            for rpc in SERVICE.methods:
                if method := getattr(room, rpc.name, None):
                    assert rpc.name not in self._methods, f"{rpc.name} is answered in two rooms"
                    self._methods[rpc.name] = method

    def __mapping__(self) -> dict[str, Handler]:
        """What grpclib asks a servicer for."""
        handlers = {}
        for rpc in SERVICE.methods:
            request = message_factory.GetMessageClass(rpc.input_type)
            answer = message_factory.GetMessageClass(rpc.output_type)
            kind = Cardinality.UNARY_STREAM if rpc.server_streaming else Cardinality.UNARY_UNARY
            handlers[f"/{SERVICE.full_name}/{rpc.name}"] = Handler(self._handler(rpc.name), kind, request, answer)
        return handlers

    def _handler(self, name: str) -> Callable[[Stream[Any, Any]], Any]:
        empty = message_factory.GetMessageClass(SERVICE.methods_by_name[name].output_type)

        async def handle(stream: Stream[Any, Any]) -> None:
            caller = Caller.of(stream.metadata or {})
            asked = await stream.recv_message()
            if asked is None:  # the client left before it had asked
                return
            self.requests[name] += 1
            self.bytes_in[name] += asked.ByteSize()
            try:
                lose_answer = await self._before(name, caller)
                answer = self._kept.get(f"{name} {caller.idempotency_key}") or self._method(name)(caller, asked)
                if inspect.isasyncgen(answer):
                    async for part in answer:
                        await self._send(name, stream, part)
                    return
                if inspect.isawaitable(answer):
                    answer = await answer
                answer = empty() if answer is None else answer
                self._keep(name, caller, answer)
                if lose_answer:
                    raise lose_answer
                await self._send(name, stream, answer)
            except GRPCError as refusal:
                self.ground.note(f"{name} -> {refusal.status.name}: {refusal.message}")
                raise
            except (StreamTerminatedError, ProtocolError):  # the client left
                raise
            except Exception as error:  # a mistake of ours: the client shall see it rather than wait
                self.ground.note(f"{name} raised\n{traceback.format_exc()}")
                raise GRPCError(Status.INTERNAL, f"{type(error).__name__}: {error}") from error

        return handle

    async def _before(self, name: str, caller: Caller) -> GRPCError | None:
        """Checks the token and lets the faults strike; returns what to say in place of the answer, if it is lost."""
        if not caller.container_id and not caller.has_token:
            refuse(Status.UNAUTHENTICATED, "Token missing: MODAL_TOKEN_ID and MODAL_TOKEN_SECRET must not be empty")
        for rule in self.faults.of_request(name):
            await self.faults.meet(rule)
            if rule.delay:
                await asyncio.sleep(rule.delay)
            if rule.status:
                error = GRPCError(Status[rule.status], rule.message)
                if rule.carried_out:
                    return error
                raise error
        return None

    def _method(self, name: str) -> Callable[[Caller, Any], Any]:
        if name not in self._methods:
            self.unimplemented[name] += 1
            refuse(Status.UNIMPLEMENTED, f"{name} is not part of this double of Modal")
        return self._methods[name]

    def _keep(self, name: str, caller: Caller, answer: Message) -> None:
        if caller.idempotency_key:
            self._kept[f"{name} {caller.idempotency_key}"] = answer
            while len(self._kept) > KEPT_ANSWERS:
                self._kept.popitem(last=False)

    async def _send(self, name: str, stream: Stream[Any, Any], answer: Message) -> None:
        self.bytes_out[name] += answer.ByteSize()
        await stream.send_message(answer)
