"""Calls from their submission to their result: waiting, retries, cancelling, and what is done for a lost input."""

from __future__ import annotations

import asyncio
import time

from grpclib.const import Status
from modal_proto import api_pb2 as pb

from tests.servers.modal.ground import Ground
from tests.servers.modal.records import Call, Container, Function, State
from tests.servers.modal.rpc import Caller, refuse

FAILURE = pb.GenericResult.GENERIC_STATUS_FAILURE
TIMEOUT = pb.GenericResult.GENERIC_STATUS_TIMEOUT
LOST = pb.GenericResult.GENERIC_STATUS_INTERNAL_FAILURE
CANCELLED = pb.GenericResult(status=pb.GenericResult.GENERIC_STATUS_TERMINATED, exception="Input was cancelled by user")


class Calls:
    """The calls by id, and the requests about them. `functions` are all of them, by id."""

    def __init__(self, ground: Ground, functions: dict[str, Function]) -> None:
        self.ground = ground
        self.functions = functions
        self.by_id: dict[str, Call] = {}
        self.by_input_id: dict[str, Call] = {}

    def get(self, call_id: str) -> Call:
        if call_id not in self.by_id:
            refuse(Status.NOT_FOUND, f"Function call {call_id} not found")
        return self.by_id[call_id]

    # ------------------------------------------------------------------- from the client

    def FunctionMap(self, caller: Caller, asked: pb.FunctionMapRequest) -> pb.FunctionMapResponse:
        """A call of `.remote` or `.spawn`; the name is from the days when only `.map` existed."""
        function = self.functions.get(asked.function_id)
        if function is None or function.app.is_stopped:
            refuse(Status.NOT_FOUND, f"no function {asked.function_id}, or its app is stopped")
        if asked.function_call_type != pb.FUNCTION_CALL_TYPE_UNARY or len(asked.pipelined_inputs) != 1:
            refuse(Status.UNIMPLEMENTED, "calls with more than one input are not part of this double of Modal")
        limit = self.ground.settings.max_pending
        if limit and len(function.pending) >= limit:
            refuse(Status.RESOURCE_EXHAUSTED, f"function {function.name} has {len(function.pending)} pending inputs")
        [item] = asked.pipelined_inputs
        call = Call(
            self.ground.new("fc"), self.ground.new("in"), function, item.input, asked.function_call_invocation_type
        )
        self.by_id[call.id] = self.by_input_id[call.input_id] = call
        function.pending[call.id] = call
        function.work.ring()
        answer = pb.FunctionMapResponse(function_call_id=call.id, max_inputs_outstanding=1000)
        answer.pipelined_inputs.add(idx=item.idx, input_id=call.input_id)
        return answer

    def FunctionCallFromId(self, caller: Caller, asked: pb.FunctionCallFromIdRequest) -> pb.FunctionCallFromIdResponse:
        function = self.get(asked.function_call_id).function
        metadata = pb.FunctionCallHandleMetadata(app_id=function.app.id, function_id=function.id)
        return pb.FunctionCallFromIdResponse(function_call_id=asked.function_call_id, num_inputs=1, metadata=metadata)

    async def FunctionGetOutputs(
        self, caller: Caller, asked: pb.FunctionGetOutputsRequest
    ) -> pb.FunctionGetOutputsResponse:
        """The result, as soon as there is one within the time asked for."""
        call = self.get(asked.function_call_id)
        end = time.monotonic() + asked.timeout
        while call.output is None and (left := end - time.monotonic()) > 0:
            await call.done.heard(left)
        if call.output is None:
            return pb.FunctionGetOutputsResponse(last_entry_id="0-0", num_unfinished_inputs=1)
        return pb.FunctionGetOutputsResponse(outputs=[call.output], idxs=[0], last_entry_id="1-0")

    def FunctionCallCancel(self, caller: Caller, asked: pb.FunctionCallCancelRequest) -> None:
        self.cancel(self.get(asked.function_call_id), terminate=asked.terminate_containers)

    def cancel(self, call: Call, *, terminate: bool) -> None:
        """Cancels the call. A running one is told by its container's next heartbeat, or killed with the container."""
        if call.state is State.DONE:
            return
        call.is_cancelled = True
        container = call.container
        if container is None:
            call.function.pending.pop(call.id, None)
            self.finish(call, CANCELLED)
        elif terminate:
            self.finish(call, CANCELLED)
            container.stop("cancelled", at_once=True)
        else:
            container.cancels.append(call.input_id)

    # ------------------------------------------------------------------- from the containers

    def finish(self, call: Call, result: pb.GenericResult, told: pb.FunctionPutOutputsItem | None = None) -> None:
        """Ends the attempt with this result, and the call with it, unless it is to be retried.

        `told` is the container's message about it; a result that no container sent has none.
        """
        container = self._release(call)
        policy = call.function.definition.retry_policy
        failed = result.status in (FAILURE, TIMEOUT)
        if failed and not call.is_cancelled and call.retries < policy.retries:
            delay_s = policy.initial_delay_ms / 1000 * (policy.backoff_coefficient or 1.0) ** call.retries
            if policy.max_delay_ms:
                delay_s = min(delay_s, policy.max_delay_ms / 1000)
            call.retries += 1
            call.state = State.WAITING
            self.ground.note(f"retry {call.retries} of {call.id} in {delay_s:.2f} s")
            self.ground.start(self._requeue_later(call, delay_s))
            return
        call.state = State.DONE
        call.output = pb.FunctionGetOutputsItem(
            result=result,
            idx=0,
            input_id=call.input_id,
            data_format=told.data_format if told else pb.DATA_FORMAT_UNSPECIFIED,
            task_id=container.id if container else "",
            input_started_at=told.input_started_at if told else 0.0,
            output_created_at=told.output_created_at if told else time.time(),
            retry_count=call.retries,
        )
        call.done.ring()

    def lose(self, call: Call, why: str) -> None:
        """The container ended under the call: it runs again before any other, and no retry is used up."""
        self._release(call)
        call.lost += 1
        if call.is_cancelled:
            self.finish(call, CANCELLED)
        elif call.lost > self.ground.settings.crash_retries:
            text = f"container of {call.input_id} was lost {call.lost} times"
            self.finish(call, pb.GenericResult(status=LOST, exception=text))
        else:
            self.ground.note(f"{call.id} lost ({why}) and queued again")
            self._requeue(call)
            call.function.pending.move_to_end(call.id, last=False)

    def fail_pending(self, function: Function, result: pb.GenericResult) -> None:
        """Fails everything that waits for a function that cannot start; retries would not help."""
        while function.pending:
            _, call = function.pending.popitem(last=False)
            call.is_cancelled = True
            self.finish(call, result)

    def _requeue(self, call: Call) -> None:
        call.state = State.PENDING
        call.function.pending[call.id] = call
        call.function.work.ring()

    async def _requeue_later(self, call: Call, delay_s: float) -> None:
        await asyncio.sleep(delay_s)
        if call.state is State.WAITING:  # it may have been cancelled
            self._requeue(call)

    @staticmethod
    def _release(call: Call) -> Container | None:
        """Parts the call from its container, which is free then."""
        container, call.container = call.container, None
        if container is not None:
            container.call = None
            container.idle_since = time.time()
        return container
