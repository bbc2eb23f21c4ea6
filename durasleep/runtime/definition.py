"""Functions that can be started by name: workflows and tasks, and their registry."""

from __future__ import annotations

import base64
import functools
import hashlib
import inspect
import re
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

from durasleep.batch import Batch, BatchFunction, function_of_one
from durasleep.codec.calls import check_call
from durasleep.codec.type_hints import type_hints_of
from durasleep.declared import NOTHING_DECLARED, Declared, declare
from durasleep.errors import DefinitionError, UsageError
from durasleep.limit import Limit
from durasleep.model import Duration, duration_ms, shown
from durasleep.runtime.retry import Retry
from durasleep.signatures import signature_of

AnyFunction = Callable[..., Any]
Overrides = Mapping[AnyFunction, AnyFunction]
"""Functions that a test has replaced, with those to call instead."""

_NAME = re.compile(r"[^\x00-\x1f\x7f-\x9f]{1,255}")
_MARK = "__durasleep__"

_VERSION_MAX = 1_000_000
_FITTING_MAX = 64  # for each function: most are called in one or two ways


Fitting = set[tuple[type, ...]]
"""The argument types of the positional calls seen so far that always fit, whatever the values are."""


@dataclass(frozen=True, slots=True)
class WorkflowDefinition:
    """A registered ``async def f(ctx, ...)``."""

    name: str
    fn: Callable[..., Coroutine[Any, Any, Any]]
    version: int = 1
    registry: Registry | None = field(default=None, repr=False, compare=False)
    """The registry it belongs to, with the functions that it can call by name."""
    declared: Declared = NOTHING_DECLARED
    fitting: Fitting = field(default_factory=set[tuple[type, ...]], init=False, repr=False, compare=False)

    @property
    def returns(self) -> Any:
        """The type hint of its result; Any if it has none that can be resolved."""
        return returns_of(self.fn)

    def check(self, args: Sequence[Any], kwargs: dict[str, Any]) -> None:
        """UsageError, naming the parameter, for arguments that do not fit; the context is not among them."""
        if kwargs or tuple(map(type, args)) not in self.fitting:
            _check(self, args, kwargs, skip_first=True)


@dataclass(frozen=True, slots=True)
class TaskDefinition:
    """A registered plain function, sync or async."""

    name: str
    fn: AnyFunction
    retry: Retry | None = None
    timeout: Duration | None = None
    """For each attempt."""
    declared: Declared = NOTHING_DECLARED
    batch: BatchFunction | None = None
    """The function that is called for many executions at once; ``fn`` calls it for one."""
    fitting: Fitting = field(default_factory=set[tuple[type, ...]], init=False, repr=False, compare=False)

    @property
    def returns(self) -> Any:
        """The type hint of its result; Any if it has none that can be resolved."""
        return returns_of(self.fn)

    def check(self, args: Sequence[Any], kwargs: dict[str, Any]) -> None:
        """UsageError, naming the parameter, for arguments that do not fit."""
        if kwargs or tuple(map(type, args)) not in self.fitting:
            _check(self, args, kwargs, skip_first=False)


Definition = WorkflowDefinition | TaskDefinition


def _check(definition: Definition, args: Sequence[Any], kwargs: dict[str, Any], *, skip_first: bool) -> None:
    fits_always = check_call(definition.fn, args, kwargs, skip_first=skip_first)
    if fits_always and not kwargs and len(definition.fitting) < _FITTING_MAX:
        definition.fitting.add(tuple(map(type, args)))


def fingerprint_of(names: Iterable[str]) -> str:
    """Eight characters that are the same for the same names."""
    digest = hashlib.blake2s("\n\n".join(sorted(names)).encode(), digest_size=6).digest()
    return base64.urlsafe_b64encode(digest).decode()


class Registry:
    """The functions of one application, by name."""

    __slots__ = ("_definitions", "_fingerprint", "_versions", "index")

    def __init__(self) -> None:
        self._fingerprint = ""
        self.index: tuple[str, ...] = ()
        """The labels by which executions are to be found, ``func`` for the function."""
        self._definitions: dict[str, Definition] = {}
        self._versions: dict[tuple[str, int], WorkflowDefinition] = {}

    def workflow(
        self,
        fn: Callable[..., Coroutine[Any, Any, Any]],
        name: str | None = None,
        version: int = 1,
        *,
        limit: Limit | None = None,
        by: AnyFunction | None = None,
        priority: int | None = None,
        retention: Duration | None = None,
    ) -> WorkflowDefinition:
        """Register a workflow under ``name`` or its own; DefinitionError if it cannot run as one.

        It may have several versions: new executions begin with the newest, others stay on the one they began with.
        """
        if not 1 <= version <= _VERSION_MAX:
            raise DefinitionError(f"version {version} of {fn!r}: use 1 to {_VERSION_MAX:,}")
        usable = _usable_name(fn, name)
        declared = declare(limit, by, priority, retention, f"workflow {usable!r}")
        definition = WorkflowDefinition(usable, fn, version, self, declared)
        if not inspect.iscoroutinefunction(fn):
            raise DefinitionError(
                f"workflow {definition.name!r} is a sync function, and a sync function cannot be suspended: "
                "make it `async def`, or register it as a task"
            )
        _check_context_parameter(definition)
        self._add(definition)
        return definition

    def task(
        self,
        fn: AnyFunction,
        name: str | None = None,
        *,
        retry: Retry | None = None,
        timeout: Duration | None = None,
        limit: Limit | None = None,
        by: AnyFunction | None = None,
        priority: int | None = None,
        retention: Duration | None = None,
        batch: Batch | None = None,
    ) -> TaskDefinition:
        """Register a task under ``name`` or its own; DefinitionError if it cannot be called by name."""
        if timeout is not None:
            duration_ms(timeout, "timeout")
        usable = _usable_name(fn, name)
        declared = declare(limit, by, priority, retention, f"task {usable!r}")
        many = None
        if batch is not None:
            if not isinstance(batch, Batch):  # pyright: ignore[reportUnnecessaryIsInstance] - callers may be untyped
                raise DefinitionError(f"{fn!r}: batch is a durasleep.Batch, not {shown(batch)}")
            many, fn = BatchFunction(batch, fn), function_of_one(fn, type_hints_of(fn))
        definition = TaskDefinition(usable, fn, retry, timeout, declared, many)
        if inspect.isgeneratorfunction(fn) or inspect.isasyncgenfunction(fn):
            raise DefinitionError(f"task {definition.name!r} is a generator: a task returns one value")
        _check_no_context(definition)
        self._add(definition)
        return definition

    def get(self, name: str) -> Definition | None:
        """The definition under this name, if there is one: of several versions the newest."""
        return self._definitions.get(name)

    def called(self, fn_or_name: AnyFunction | str) -> Definition | None:
        """The definition that a call begins, if it is known here: the newest of several versions."""
        if isinstance(fn_or_name, str):
            return self._definitions.get(fn_or_name)
        definition = definition_of(fn_or_name)
        if isinstance(definition, WorkflowDefinition):
            newest = self._definitions.get(definition.name)
            if newest is not definition and self.get_version(definition.name, definition.version) is definition:
                return newest
        return definition

    def check_registered(self, fn_or_name: AnyFunction | str) -> None:
        """DefinitionError for a function that was registered nowhere: no worker has it, so its call would wait on.

        A name may be that of another program's function.
        """
        if isinstance(fn_or_name, str) or hasattr(fn_or_name, _MARK) or inspect.ismethod(fn_or_name):
            return  # a method carries no mark of its own
        name = name_of(fn_or_name)
        if name not in self._definitions:  # what is built in carries no mark, either
            raise DefinitionError(
                f"{_where(fn_or_name)} is not registered: put @app.task or @app.workflow above it, or call the "
                f"function of another program by its name, {name!r}"
            )

    def get_version(self, name: str, version: int) -> WorkflowDefinition | None:
        """One version of a workflow, if it is registered here."""
        return self._versions.get((name, version))

    @property
    def fingerprint(self) -> str:
        """Eight characters that are the same for the same functions in the same versions."""
        if not self._fingerprint:
            versions = tuple(self._versions)  # copied in one step, because the heartbeat reads it from its own thread
            names = [*self._definitions, *[f"{name}\n{version}" for name, version in versions]]
            self._fingerprint = fingerprint_of(names)
        return self._fingerprint

    def declared(self) -> dict[str, Declared]:
        """What is declared of each function: of several versions that of the newest."""
        return {name: definition.declared for name, definition in self._definitions.items()}

    def names(self) -> tuple[str, ...]:
        """All names, in the order of their registration."""
        return tuple(self._definitions)

    def described(self) -> str:
        """The same for people."""
        return ", ".join(self.names()) or "no functions"

    def _add(self, definition: Definition) -> None:
        self._fingerprint = ""
        name, fn = definition.name, definition.fn
        known = self._definitions.get(name)
        if isinstance(definition, WorkflowDefinition) and (known is None or isinstance(known, WorkflowDefinition)):
            newest, known = known, self._versions.get((name, definition.version))
        else:
            newest = None
        if known is not None and known != definition:
            raise DefinitionError(f"{name!r} is already registered, as {_where(known.fn)}; give one of them a name=")
        marked = definition_of(fn)
        if marked is not None and marked != definition:
            raise DefinitionError(
                f"{_where(fn)} is already registered, as {_described(marked)}: a function has one name"
            )
        try:
            setattr(fn, _MARK, definition)
        except AttributeError:  # a bound method has no attributes of its own: only its own name finds it
            if name != getattr(fn, "__name__", None):
                raise DefinitionError(f"{_where(fn)} cannot have another name: register a plain function") from None
        if isinstance(definition, WorkflowDefinition):
            self._versions[name, definition.version] = definition
            if isinstance(newest, WorkflowDefinition) and newest.version > definition.version:
                return
        self._definitions[name] = definition


def definition_of(fn: object) -> Definition | None:
    """The definition with which a function was registered, if it was."""
    definition = getattr(fn, _MARK, None)
    if definition is not None and isinstance(definition, Definition) and definition.fn is fn:
        return definition
    return None


def name_of(fn_or_name: AnyFunction | Definition | str) -> str:
    """The name by which a function is called: its registered name, or its own; DefinitionError if it has none."""
    if isinstance(fn_or_name, WorkflowDefinition | TaskDefinition):
        return fn_or_name.name
    if isinstance(fn_or_name, str):
        return _checked_name(fn_or_name)
    definition = definition_of(fn_or_name)
    return _usable_name(fn_or_name, None) if definition is None else definition.name


def called_by(fn_or_name: AnyFunction | Definition | str) -> AnyFunction | None:
    """The function itself, if it is known here."""
    if isinstance(fn_or_name, WorkflowDefinition | TaskDefinition):
        return fn_or_name.fn
    return None if isinstance(fn_or_name, str) else fn_or_name


def check_arguments(fn: AnyFunction, args: Sequence[Any], kwargs: dict[str, Any]) -> None:
    """UsageError for arguments that do not fit a function; their values are not checked."""
    try:
        signature = signature_of(fn)
    except (TypeError, ValueError):  # some C functions have no known signature
        return
    try:
        signature.bind(*args, **kwargs)
    except TypeError as error:
        raise UsageError(f"{step_name_of(fn)}{signature}: {error}") from None


def step_name_of(fn: AnyFunction) -> str:
    """The name of a step in the journal: the name of the task, or the function's qualified name."""
    definition = definition_of(fn)
    if definition is not None:
        return definition.name
    while isinstance(fn, functools.partial):
        fn = cast("AnyFunction", fn.func)
    name = getattr(fn, "__qualname__", None) or type(fn).__qualname__
    return str(name).replace("<locals>.", "")


@functools.lru_cache(maxsize=1024)  # resolving hints takes longer than an activation
def returns_of(fn: AnyFunction) -> Any:
    """The resolved type hint of a function's result; Any if there is none, or it cannot be resolved."""
    while isinstance(fn, functools.partial):
        fn = cast("AnyFunction", fn.func)
    return type_hints_of(fn).get("return", Any)


def not_callable(thing: object) -> str:
    """What to say of something that stands where a function does; who has called the function is told so."""
    if not inspect.iscoroutine(thing):
        return f"{thing!r} is not a function"
    thing.close()  # no warning that it was never awaited: the error says more
    name = thing.__name__
    return f"{name}(...) is a call, not a function: give {name} itself, and then its arguments"


def _usable_name(fn: object, name: str | None) -> str:
    if not callable(fn):
        raise DefinitionError(not_callable(fn))
    if name is not None:
        return _checked_name(name)
    own = getattr(fn, "__name__", None)
    if not isinstance(own, str) or own == "<lambda>":
        raise DefinitionError(f"{fn!r} has no name: use `def`, or pass name=")
    return _checked_name(own)


def _checked_name(name: str) -> str:
    if not _NAME.fullmatch(name):
        raise DefinitionError(f"function name {name[:300]!r}: use 1 to 255 characters, without control characters")
    return name


def _check_context_parameter(definition: WorkflowDefinition) -> None:
    parameters = list(signature_of(definition.fn).parameters.values())
    first = parameters[0] if parameters else None
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    if first is None or first.kind not in positional or not _may_be_context(first.annotation):
        raise DefinitionError(
            f"workflow {definition.name!r} has no context: its first parameter is the Context, "
            f"`async def {definition.name}(ctx: Context, ...)`"
        )


def _check_no_context(definition: TaskDefinition) -> None:
    try:
        parameters = signature_of(definition.fn).parameters.values()
    except (TypeError, ValueError):  # some C functions have no known signature
        return
    for parameter in parameters:
        if _is_our_context(parameter.annotation, getattr(definition.fn, "__globals__", {})):
            raise DefinitionError(
                f"task {definition.name!r} has a Context, {parameter.name!r}, but only a workflow gets one: leave it "
                "out, and ask durasleep.current() for the id and the attempt; or make it a workflow"
            )


def _is_our_context(annotation: Any, names: Mapping[str, Any]) -> bool:
    """Whether it is the Context of durasleep, and not a class of another library that has the same name."""
    if isinstance(annotation, str):  # from __future__ import annotations
        first, *rest = annotation.strip("'\"").split(".")
        annotation = names.get(first)
        for name in rest:
            annotation = getattr(annotation, name, None)
    is_class = inspect.isclass(annotation)
    return is_class and any(base.__module__ == "durasleep.runtime.context" for base in annotation.__mro__)


def _may_be_context(annotation: Any) -> bool:
    if annotation is inspect.Parameter.empty or annotation is Any:
        return True
    annotation = getattr(annotation, "__forward_arg__", annotation)  # its name, where only type checkers know it
    if isinstance(annotation, str):  # from __future__ import annotations
        return annotation.strip("'\"").rpartition(".")[2] in ("Context", "Any")
    return inspect.isclass(annotation) and any(base.__name__ == "Context" for base in annotation.__mro__)


def _described(definition: Definition) -> str:
    kind = "workflow" if isinstance(definition, WorkflowDefinition) else "task"
    return f"{kind} {definition.name!r}"


def _where(fn: AnyFunction) -> str:
    return f"{getattr(fn, '__module__', '?')}.{getattr(fn, '__qualname__', repr(fn))}"
