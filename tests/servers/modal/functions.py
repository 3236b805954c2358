"""Functions and their variants: definitions, look-up, statistics."""

from __future__ import annotations

from grpclib.const import Status
from modal_proto import api_pb2 as pb

from tests.servers.modal.blobs import digest
from tests.servers.modal.ground import Ground
from tests.servers.modal.records import App, Function
from tests.servers.modal.rpc import Caller, refuse


class Functions:
    """The requests about functions. `apps` and `by_id` are all apps and functions, by id."""

    def __init__(self, ground: Ground, apps: dict[str, App], by_id: dict[str, Function]) -> None:
        self.ground = ground
        self.apps = apps
        self.by_id = by_id

    def get(self, function_id: str) -> Function:
        if function_id not in self.by_id:
            refuse(Status.NOT_FOUND, f"Function {function_id} not found")
        return self.by_id[function_id]

    # ------------------------------------------------------------------- deploying

    def _get_or_add(self, function_id: str, app_id: str, name: str) -> Function:
        """The function of this id; a new one for the first deploy, which knows none."""
        if function_id in self.by_id:
            return self.by_id[function_id]
        function = Function(self.ground.new("fu"), self.apps[app_id], name)
        self.by_id[function.id] = function
        return function

    def FunctionPrecreate(self, caller: Caller, asked: pb.FunctionPrecreateRequest) -> pb.FunctionPrecreateResponse:
        function = self._get_or_add(asked.existing_function_id, asked.app_id, asked.function_name)
        function.handle = _handle(function, asked)
        return pb.FunctionPrecreateResponse(function_id=function.id, handle_metadata=function.handle)

    def FunctionCreate(self, caller: Caller, asked: pb.FunctionCreateRequest) -> pb.FunctionCreateResponse:
        whole = asked.HasField("function")
        definition = asked.function if whole else asked.function_data.ranked_functions[0].function
        if definition.is_class or definition.max_concurrent_inputs > 1:
            refuse(Status.UNIMPLEMENTED, "classes and concurrent inputs are not part of this double of Modal")
        if definition.function_type == pb.Function.FUNCTION_TYPE_GENERATOR:
            refuse(Status.UNIMPLEMENTED, "generators are not part of this double of Modal")
        function = self._get_or_add(asked.existing_function_id, asked.app_id, definition.function_name)
        function.handle = _handle(function, definition)
        function.handle.definition_id = f"de-{digest(definition.SerializeToString(deterministic=True))[:16]}"
        redefine(function, definition)
        return pb.FunctionCreateResponse(
            function_id=function.id,
            function=definition,
            handle_metadata=function.handle,
            function_data=_facts(function),
        )

    # ------------------------------------------------------------------- look-up

    def FunctionGet(self, caller: Caller, asked: pb.FunctionGetRequest) -> pb.FunctionGetResponse:
        app = next((app for app in self.apps.values() if app.name == asked.app_name and is_deployed(app)), None)
        if app is None:
            refuse(Status.NOT_FOUND, f"App '{asked.app_name}' not found in environment 'main'")
        function = app.functions.get(asked.object_tag)
        if function is None:
            refuse(Status.NOT_FOUND, f"App '{asked.app_name}' has no function named '{asked.object_tag}'")
        return pb.FunctionGetResponse(
            function_id=function.id, handle_metadata=function.handle, function=_facts(function)
        )

    def FunctionGetById(self, caller: Caller, asked: pb.FunctionGetByIdRequest) -> pb.FunctionGetByIdResponse:
        function = self.get(asked.function_id)
        return pb.FunctionGetByIdResponse(handle_metadata=function.handle, function=_facts(function))

    def FunctionBindParams(self, caller: Caller, asked: pb.FunctionBindParamsRequest) -> pb.FunctionBindParamsResponse:
        """The variant with these options, from `with_options`: the same one for the same options."""
        base = self.get(asked.function_id)
        key = asked.function_options.SerializeToString(deterministic=True)
        variant = base.variants.get(key)
        if variant is None:
            variant = Function(self.ground.new("fu"), base.app, base.name, base=base, options=asked.function_options)
            self.by_id[variant.id] = base.variants[key] = variant
            redefine(variant, with_options(base.definition, variant.options))
        variant.handle.CopyFrom(base.handle)
        variant.handle.base_function_id = base.id
        return pb.FunctionBindParamsResponse(bound_function_id=variant.id, handle_metadata=variant.handle)

    def FunctionGetCurrentStats(self, caller: Caller, asked: pb.FunctionGetCurrentStatsRequest) -> pb.FunctionStats:
        function = self.get(asked.function_id)
        return pb.FunctionStats(
            backlog=len(function.pending),
            num_total_tasks=len(function.containers),
            num_running_inputs=function.running,
        )


def is_deployed(app: App) -> bool:
    return app.state == pb.APP_STATE_DEPLOYED


def redefine(function: Function, definition: pb.Function) -> None:
    """Gives the function a new definition, and its variants with it."""
    function.definition = definition
    for variant in function.variants.values():
        redefine(variant, with_options(definition, variant.options))


def with_options(definition: pb.Function, options: pb.FunctionOptions) -> pb.Function:
    """The definition with a variant's options applied: they replace, and cannot unset."""
    out = pb.Function()
    out.CopyFrom(definition)
    if options.HasField("retry_policy"):
        out.retry_policy.CopyFrom(options.retry_policy)
    if options.timeout_secs:
        out.timeout_secs = options.timeout_secs
    if options.concurrency_limit:
        out.autoscaler_settings.max_containers = options.concurrency_limit
    if options.task_idle_timeout_secs:
        out.autoscaler_settings.scaledown_window = options.task_idle_timeout_secs
    if options.replace_secret_ids:
        del out.secret_ids[:]
    out.secret_ids.extend(options.secret_ids)
    if options.replace_volume_mounts:
        del out.volume_mounts[:]
    out.volume_mounts.extend(options.volume_mounts)
    if options.HasField("resources"):
        out.resources.MergeFrom(options.resources)
    return out


def _handle(function: Function, described: pb.Function | pb.FunctionPrecreateRequest) -> pb.FunctionHandleMetadata:
    """What a client has to know in order to call the function."""
    return pb.FunctionHandleMetadata(
        function_name=described.function_name,
        function_type=described.function_type,
        app_id=function.app.id,
        function_schema=described.function_schema,
        supported_input_formats=described.supported_input_formats,
        supported_output_formats=described.supported_output_formats,
    )


def _facts(function: Function) -> pb.FunctionData:
    definition = function.definition
    facts = pb.FunctionData(
        module_name=definition.module_name,
        function_name=definition.function_name,
        function_type=definition.function_type,
        timeout_secs=definition.timeout_secs,
        autoscaler_settings=definition.autoscaler_settings,
    )
    facts.ranked_functions.add(rank=0, function=definition)
    return facts
