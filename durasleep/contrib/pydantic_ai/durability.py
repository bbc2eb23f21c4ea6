"""The capability that makes steps of what an agent does, see ``DurasleepDurability``."""

# Each step works on a copy of the run, and so it knows three fields of it that pydantic-ai keeps for itself.
# pyright: reportPrivateUsage=false

from __future__ import annotations

import copy
import functools
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, fields, replace
from datetime import datetime, timedelta
from types import MappingProxyType
from typing import Any, ClassVar, Literal, NamedTuple

from pydantic import TypeAdapter
from pydantic_ai import AgentStreamEvent, ModelMessage, ModelRequest, ModelResponse, RunContext, RunUsage
from pydantic_ai._utils import disable_threads
from pydantic_ai.agent import EventStreamHandler
from pydantic_ai.capabilities import WrapRunHandler
from pydantic_ai.durable_exec import (
    JSON_CODEC,
    BaseDurabilityCapability,
    BoundDurableOperation,
    DurabilityEngineSpec,
    DurableOperation,
    DurableOperationId,
    JournalCallableOperationBackend,
    ResultCodec,
    RoleBasedOperationConfig,
    conversation_id_from_run_id,
)
from pydantic_ai.exceptions import (
    FallbackExceptionGroup,
    ModelAPIError,
    ModelHTTPError,
    ModelQuotaExceededError,
    ModelRequestRejectedError,
    UserError,
)
from pydantic_ai.messages import CapabilityEvent, CustomEvent
from pydantic_ai.models import Model, ModelRequestContext
from pydantic_ai.run import AgentRunResult
from pydantic_ai.tools import AgentDepsT
from pydantic_ai.toolsets import ToolsetTool

from durasleep.errors import DurasleepError, NotSerializable, UsageError
from durasleep.model import Duration, duration_ms
from durasleep.runtime.context import Context, current_context, running_context
from durasleep.runtime.retry import Retry, RetryAfter

_VERSION = 1
"""The format of a step's result: this number, the result as pydantic-ai writes it, usage, and events."""
_USAGE: TypeAdapter[RunUsage] = TypeAdapter(RunUsage)
_KEY = "durasleep"  # of a tool's metadata
_MODEL_RETRY = Retry(attempts=6, delay=1.0, delay_max=60.0)
_MODEL_TIMEOUT = timedelta(minutes=10)  # as long as the clients of most providers wait
_TRANSIENT_STATUS = frozenset({408, 409, 425, 429})  # and all from 500 on


class _Codec:
    """Values as JSON, as pydantic-ai reads and writes them; responses without the fields that say nothing.

    That is half of a short response. Only fields are left out whose default says the same.
    """

    def dump(self, tp: Any, value: Any) -> Any:
        found: Any = JSON_CODEC.dump(tp, value)
        if not isinstance(value, ModelResponse):
            return found
        short: dict[str, Any] = {name: one for name, one in found.items() if one is not None or name not in _OPTIONAL}
        short["usage"] = {name: one for name, one in found["usage"].items() if one}
        return short

    def load(self, tp: Any, payload: Any) -> Any:
        return JSON_CODEC.load(tp, payload)


_OPTIONAL = {field.name for field in fields(ModelResponse) if field.default is None}


class DurasleepDurability(BaseDurabilityCapability[AgentDepsT]):
    """Makes the runs of an agent durable that are awaited in a workflow; elsewhere it changes nothing.

    A step is made of each model request, of each tool call, and of what an MCP server is asked. A tool with
    ``metadata={"durasleep": False}`` runs in the workflow instead, where it may sleep, receive messages and call other
    workflows, and may do no I/O.

    ``model_retry`` is for model requests. Unless it has a ``retry_on`` of its own, only errors that may pass are
    retried: a connection that failed, a timeout, HTTP 408, 409, 425, 429 and 5xx. If the provider says how long to
    wait, that is how long it waits. ``tool_retry`` is for tools; by default an error of a tool ends the run. A
    ``ModelRetry`` is no error: the model gets it. The timeouts are for each attempt: seconds, a timedelta, or text
    such as ``"30s"``. A tool may have its own:
    ``metadata={"durasleep": {"timeout": "1m", "retry": Retry(attempts=3)}}``.

    ``event_stream_handler`` runs in the step of the model request, while the model speaks: see ``publish_text``.
    ``models`` are other models that a run may use, by name. ``name`` is by default that of the agent. Steps are named
    after it, so that it must stay the same while executions run.
    """

    engine_spec: ClassVar[DurabilityEngineSpec] = DurabilityEngineSpec(
        engine_name="durasleep",
        durable_unit_noun="step",
        durable_container_noun="workflow",
        codec=_Codec(),
        serialization_failure=lambda error: NotSerializable(f"a result of an agent's step cannot be sent: {error}"),
        # A step runs on the loop of the worker, and may not enter what the workflow leaves on another loop.
        toolset_lifecycles={"function": "enter-always", "mcp": "enter-outside-durable", "dynamic": "enter-never"},
        unsupported_runtime_toolset_kinds=frozenset({"function", "mcp", "dynamic"}),
        tool_config_key=_KEY,
    )

    def __init__(
        self,
        *,
        models: Mapping[str, Model] | None = None,
        event_stream_handler: EventStreamHandler[AgentDepsT] | None = None,
        name: str | None = None,
        model_retry: Retry | None = _MODEL_RETRY,
        model_timeout: Duration | None = _MODEL_TIMEOUT,
        tool_retry: Retry | None = None,
        tool_timeout: Duration | None = None,
    ) -> None:
        super().__init__(models=models, event_stream_handler=event_stream_handler, name=name)
        self._model_options = StepOptions(_of_models(model_retry), model_timeout)
        self._tool_options = StepOptions(tool_retry, tool_timeout)
        self._backend: _Backend | None = None

    @property
    def in_durable_context(self) -> bool:
        """Whether the code of a workflow is running."""
        return running_context() is not None

    def get_durable_operation_backend(self) -> _Backend:
        """What makes the steps of this agent."""
        if self._backend is None or self._backend.agent_name != self.name:
            self._backend = _Backend(self.name, self.default_model_id, self._model_options, self._tool_options)
        return self._backend

    def get_default_run_id(self) -> str | None:
        """An id that is the same in every replay."""
        ctx = running_context()
        return None if ctx is None else str(ctx.uuid())

    def get_default_conversation_id(self, run_id: str) -> str | None:
        """Likewise."""
        return conversation_id_from_run_id(run_id) if self.in_durable_context else None

    def get_run_clock(self) -> Callable[[], datetime] | None:
        """The time of the workflow, for the deadline of a run."""
        ctx = running_context()
        return None if ctx is None else ctx.now

    async def wrap_run(self, ctx: RunContext[AgentDepsT], *, handler: WrapRunHandler) -> AgentRunResult[Any]:
        """Run the agent in the workflow: without threads, and without spans of what is only replayed."""
        workflow = running_context()
        if workflow is None:
            return await handler()
        with disable_threads(), _telemetry_and_events(workflow):
            result = await super().wrap_run(ctx, handler=handler)
        _stamp(result.all_messages(), workflow.now())
        return result

    async def before_model_request(
        self, ctx: RunContext[AgentDepsT], request_context: ModelRequestContext
    ) -> ModelRequestContext:
        """Give the newest messages the time of the workflow, not that of the replay."""
        workflow = running_context()
        if workflow is not None:
            _stamp(ctx.messages, workflow.now())
            _stamp(request_context.messages, workflow.now())
        return await super().before_model_request(ctx, request_context)


@dataclass(frozen=True, slots=True)
class StepOptions:
    """How often a step is tried, and how long an attempt may take."""

    retry: Retry | None = None
    timeout: Duration | None = None

    def with_those_of(self, metadata: Mapping[str, Any] | None, tool_name: str) -> StepOptions | Literal[False]:
        """With what the metadata of a tool says; False if it is no step. UserError for what it cannot say."""
        asked: object = (metadata or {}).get(_KEY)
        if asked is None or asked is False:
            return self if asked is None else False
        if not isinstance(asked, Mapping):
            raise UserError(f"tool {tool_name!r}: its metadata {_KEY!r} is {asked!r}, neither False nor a dict")
        options: dict[str, Any] = dict(asked)  # pyright: ignore[reportUnknownArgumentType]
        if unknown := ", ".join(map(str, options.keys() - {"retry", "timeout"})):
            raise UserError(f"tool {tool_name!r}: its metadata {_KEY!r} has {unknown}, and may have retry and timeout")
        try:
            # The tools of a dynamic toolset come out of the journal: as plain data
            if isinstance(retry := options.get("retry"), Mapping):
                options["retry"] = Retry(**retry)  # pyright: ignore[reportUnknownArgumentType]
            if options.get("timeout") is not None:
                duration_ms(options["timeout"], "timeout")
        except (DurasleepError, TypeError) as wrong:
            raise UserError(f"tool {tool_name!r}: its metadata {_KEY!r} cannot be used: {wrong}") from wrong
        return replace(self, **options)


class _Recorded(NamedTuple):
    """The result of a step, what it has added to the usage of the run, and the events that it has emitted."""

    result: Any
    usage: Mapping[str, Any] = MappingProxyType({})
    events: Sequence[AgentStreamEvent] = ()


class _RecordedCodec:
    """A step's result with its format."""

    def __init__(self, inner: ResultCodec[Any]) -> None:
        self._inner = inner

    def dump(self, value: _Recorded) -> object:
        result = self._inner.dump(value.result)
        if value.events:
            return [_VERSION, result, dict(value.usage), _events_adapter().dump_python(list(value.events), mode="json")]
        return [_VERSION, result, dict(value.usage)] if value.usage else [_VERSION, result]

    def load(self, payload: Any) -> _Recorded:
        parts: list[Any] = payload
        version, result = parts[:2]
        usage: dict[str, Any] = parts[2] if len(parts) > 2 else {}
        events: list[Any] = parts[3] if len(parts) > 3 else []
        if version != _VERSION:
            raise UsageError(f"this agent's step was written by a newer durasleep, in format {version}")
        return _Recorded(self._inner.load(result), usage, _events_adapter().validate_python(events) if events else ())


def _events_adapter() -> TypeAdapter[list[AgentStreamEvent]]:
    """Reads and writes events of all classes that are known by now; one that was made earlier knows no later ones."""
    return _adapter_of(len(CustomEvent.__subclasses__()) + len(CapabilityEvent.__subclasses__()))


@functools.lru_cache(maxsize=1)
def _adapter_of(_known: int) -> TypeAdapter[list[AgentStreamEvent]]:
    return TypeAdapter(list[AgentStreamEvent])


class _Bound:
    """An operation whose step also returns what it has done to the run: usage, and events.

    A step that is replayed does not run, and one that runs does so on the loop of the worker. So it works on a copy of
    the run, and the workflow does to the run what the journal says.
    """

    def __init__(self, inner: BoundDurableOperation[Any, Any, Any]) -> None:
        self._inner = inner

    @property
    def operation(self) -> DurableOperation[Any, Any, Any]:
        return self._inner.operation

    async def __call__(self, params: Any, *, config: object | None = None) -> Any:
        recorded: _Recorded = await self._inner(params, config=config)
        run: Any = getattr(params, _run_in(params) or "", None)
        if recorded.usage:
            run.usage.incr(_USAGE.validate_python(recorded.usage))
        for event in recorded.events:
            run._emit_event(event)
        return recorded.result


def _run_in(params: object) -> str | None:
    """The name of the field that has the context of the run, if there is one."""
    return next((name for name in ("ctx", "run_context") if getattr(params, name, None) is not None), None)


class _Backend(JournalCallableOperationBackend[StepOptions]):
    """Makes a step of each operation."""

    def __init__(self, agent_name: str, model_id: str | None, model: StepOptions, tool: StepOptions) -> None:
        def resolve(_: DurableOperationId, found: object, tool_name: str) -> StepOptions | Literal[False]:
            metadata = found.tool_def.metadata if isinstance(found, ToolsetTool) else None
            return tool.with_those_of(metadata, tool_name)

        super().__init__(
            agent_name=agent_name,
            default_model_id=model_id,
            config=RoleBasedOperationConfig(
                model=model, event=StepOptions(), capability=tool, tool=tool, resolve_tool=resolve
            ),
        )
        self.agent_name = agent_name
        self._step_of = functools.lru_cache(maxsize=1_000)(_step)

    def bind(self, operation: DurableOperation[Any, Any, Any]) -> Any:
        """The operation as a step, if it is called in a workflow."""

        async def handler(params: Any) -> _Recorded:
            field = _run_in(params)
            if field is None:
                return _Recorded(await operation.handler(params))
            run: RunContext[Any] = getattr(params, field)
            # Capabilities return their usage themselves, and models none but in their response.
            own = replace(run, usage=copy.deepcopy(run.usage)) if field == "ctx" else copy.copy(run)
            own._run_held_toolsets = None  # they belong to the loop of the workflow
            events: list[AgentStreamEvent] = []
            if run._event_stream_buffer is not None:
                own._event_stream_buffer = events
            result = await operation.handler(replace(params, **{field: own}))
            added = own.usage - run.usage if field == "ctx" else None
            return _Recorded(result, {} if added is None else _USAGE.dump_python(added, exclude_defaults=True), events)

        codec: Any = _RecordedCodec(operation.result_codec)
        return _Bound(super().bind(replace(operation, handler=handler, result_codec=codec)))

    async def execute(
        self,
        *,
        operation_id: DurableOperationId,
        name: str,
        body: Callable[[], Awaitable[object]],
        cache_key: tuple[object, ...],
        config: StepOptions,
    ) -> object:
        """Run ``body`` as a step of the running workflow."""
        del operation_id, cache_key
        ctx = current_context()
        return await ctx.run(self._step_of(self._shown(name)), body, retry=config.retry, timeout=config.timeout)

    def _shown(self, name: str) -> str:
        """The name of the step: ``support: refund`` for a tool, else ``support: model.request`` and the like."""
        operation = name.removeprefix(f"{self.agent_name}__")
        request, is_call, tool = operation.partition(".call_tool:")
        return f"{self.agent_name}: {tool if is_call else request}"


def _step(name: str) -> Callable[[Callable[[], Awaitable[object]]], Awaitable[Any]]:
    """The function of a step of this name. What it calls is its argument, which nobody remembers."""

    async def step(body: Callable[[], Awaitable[object]]) -> Any:
        try:
            return await body()
        except ModelAPIError as error:
            if error.retry_after and error.retry_after > 0 and _may_pass(error):
                raise RetryAfter(error.retry_after) from error
            raise

    step.__qualname__ = name
    return step


class _ModelRetry(Retry):
    """Retries only errors that may pass."""

    __slots__ = ()

    def wants(self, error: BaseException, attempt: int) -> bool:
        """Whether another attempt follows."""
        return (isinstance(error, RetryAfter) or _may_pass(error)) and Retry.wants(self, error, attempt)


def _of_models(retry: Retry | None) -> Retry | None:
    if retry is None or retry.retry_on != (Exception,):
        return retry
    return _ModelRetry(**{field.name: getattr(retry, field.name) for field in fields(retry)})


def _may_pass(error: BaseException) -> bool:
    """Whether a later request may succeed."""
    if isinstance(error, FallbackExceptionGroup):
        return any(map(_may_pass, error.exceptions))
    if isinstance(error, ModelQuotaExceededError | ModelRequestRejectedError):
        return False
    if isinstance(error, ModelHTTPError):
        return error.status_code in _TRANSIENT_STATUS or error.status_code >= 500
    return isinstance(error, ModelAPIError | TimeoutError | ConnectionError)


def _stamp(messages: Sequence[ModelMessage], now: datetime) -> None:
    """The workflow makes the newest request again in every replay; it gets the time of the workflow's last event."""
    newest = messages[-1] if messages else None
    if isinstance(newest, ModelRequest):
        newest.timestamp = now
        for part in newest.parts:
            if hasattr(part, "timestamp"):
                part.timestamp = now  # pyright: ignore[reportAttributeAccessIssue]


def _telemetry_and_events(workflow: Context) -> AbstractContextManager[None]:
    """See there; older ones than 2.68 have neither."""
    try:
        from durasleep.contrib.pydantic_ai.events import durable_scope
    except ImportError:
        return nullcontext()
    return durable_scope(workflow)
