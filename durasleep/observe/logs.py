"""Log lines that say to which execution they belong, as text or as JSON; each event is one line, whatever is in it."""

from __future__ import annotations

import asyncio
import json
import logging
import re
import traceback
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, TextIO, cast

from durasleep import tracebacks
from durasleep.errors import RemoteError
from durasleep.observe import tracing
from durasleep.runtime.waits import inside

if TYPE_CHECKING:
    from durasleep.runtime.event_loop import WorkflowLoop

IDS = ("execution", "function", "step", "attempt", "worker", "group", "trace")
"""What a line says of where it was logged, as attributes of its record; each is empty where it does not apply."""
TEXT_MAX = 64 << 10  # characters of one message, traceback or value
_VALUES_MAX = 100  # of one line
_DEPTH_MAX = 8
_FRAMES_MAX = 50
_FAILURE = "durasleep_failure"
_NO_LINES = ("is_shadow", "replaying", "evicting")
_STANDARD = frozenset(
    (*vars(logging.LogRecord("", 0, "", 0, "", None, None)), "message", "asctime", "taskName", _FAILURE, *IDS)
)
_UNSAFE_IN_JSON = re.compile("[\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")

Failure = BaseException | Callable[[], BaseException]
"""An error, or what reads it from its payload."""


def about(
    execution: str,
    function: str = "",
    *,
    attempt: int = 0,
    group: str = "",
    trace: str = "",
    failure: Failure | None = None,
) -> dict[str, Any]:
    """The ``extra`` of a line about an execution that is not logged inside it; ``trace`` is that of its record.

    With a ``failure`` a line of JSON has its class, its message and its traceback.
    """
    extra: dict[str, Any] = {"execution": execution}
    if function:
        extra["function"] = function
    if attempt:
        extra["attempt"] = attempt
    if group:
        extra["group"] = group
    if trace and (trace_id := tracing.trace_id_of(trace)):
        extra["trace"] = trace_id
    if failure is not None:
        extra[_FAILURE] = failure
    return extra


class ExecutionIds(logging.Filter):
    """A filter for handlers: the records of all loggers get ``execution``, ``function``, ``attempt``, ``step``,
    ``worker``, ``group`` and ``trace``; a value that a record has already stays, and one that does not apply is empty.

    ``durasleep worker`` and ``durasleep dev`` add it to each handler that the application has. What the code of a
    workflow logs while it is replayed is dropped: it was logged before.
    """

    def __init__(self, worker: str = "", group: str = "") -> None:
        super().__init__()
        self.worker = worker
        self.group = group

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether the line is new."""
        known = record.__dict__
        ids: Mapping[str, object] = {}
        if (loop := _workflow_loop()) is not None:
            if not record.name.startswith("durasleep") and any(getattr(loop, name) for name in _NO_LINES):
                return False
            ids = _ids_of_workflow(loop)
        elif (call := inside()) is not None and call[3] is not None:
            ids = {**call[3].ids()}
            ids["trace"] = tracing.current_trace_id() or ids["trace"]
        if ids and known.get("execution", ids["execution"]) != ids["execution"]:  # about another one
            ids = {}
        for name in IDS:
            if name not in known:
                known[name] = ids.get(name, "")
        known["worker"] = known["worker"] or self.worker
        known["group"] = known["group"] or self.group
        if not known["trace"]:
            known["trace"] = tracing.current_trace_id()
        return True

    def attach(self) -> None:
        """Add it to every handler that there is."""
        loggers = [logging.getLogger(), *logging.root.manager.loggerDict.values()]
        for one in loggers:
            if isinstance(one, logging.Logger):
                self.attach_to(one)

    def attach_to(self, logger: logging.Logger) -> None:
        """Add it to the handlers of a logger, once."""
        for handler in logger.handlers:
            if not any(isinstance(one, ExecutionIds) for one in handler.filters):
                handler.addFilter(self)


def _workflow_loop() -> WorkflowLoop | None:
    loop = asyncio._get_running_loop()
    return cast("WorkflowLoop", loop) if getattr(loop, "is_of_a_workflow", False) else None


def _ids_of_workflow(loop: WorkflowLoop) -> Mapping[str, object]:
    info = loop.info
    if info is None:
        return {}
    return {
        "execution": info.id,
        "function": info.function,
        "attempt": info.crash_count + 1,
        "group": info.group,
        "trace": loop.trace_id,
    }


class OneLine(logging.StreamHandler[TextIO]):
    """Writes each record in one piece. ``together`` keeps other processes from writing into the middle of it."""

    def __init__(self, stream: TextIO, together: Callable[[], Any]) -> None:
        super().__init__(stream)
        self._together = together

    def emit(self, record: logging.LogRecord) -> None:
        """Write it; nothing that a record contains may raise."""
        try:
            line = self.format(record) + self.terminator
            with self._together():
                self.stream.write(line)
                self.flush()
        except RecursionError:
            raise
        except Exception:  # noqa: BLE001 - as the handlers of logging do
            self.handleError(record)


class Formatter(logging.Formatter):
    """One event is one paragraph: what follows its first line is indented, so that no text can look like another event.

    Lines of other loggers than ours begin with the execution and the name of their logger.
    """

    def __init__(self, format: str, visible: Callable[[str], str], *, indent: str = "    ") -> None:
        """``visible`` escapes the characters that would control a terminal."""
        super().__init__(format)
        self._visible = visible
        self._indent = indent

    def format(self, record: logging.LogRecord) -> str:
        """The lines of a record."""
        said = record.__dict__.copy()
        text = message_of(record)
        if not record.name.startswith("durasleep"):
            where = said.get("execution") or ""
            text = f"{where} {record.name}: {text}" if where else f"{record.name}: {text}"
        said |= {"msg": text, "args": None}
        shown = logging.makeLogRecord(said)
        return self._visible(super().format(shown)).replace("\n", f"\n{self._indent}")


class JsonFormatter(logging.Formatter):
    """One event is one line of JSON: timestamp, level, logger, message, the ids, an error, and what ``extra`` has."""

    def format(self, record: logging.LogRecord) -> str:
        """The line of a record."""
        known = record.__dict__
        line: dict[str, Any] = {
            "timestamp": _instant(record.created),
            "level": record.levelname,
            "logger": record.name,
            "message": message_of(record),
        }
        line |= {name: known[name] for name in IDS if known.get(name) not in ("", None)}
        line |= _error_of(record)
        for name, value in known.items():
            if name not in _STANDARD and name not in line:
                line[name] = value
        if record.stack_info:
            line["stack"] = record.stack_info
        text = json.dumps(_plain(line, 0), ensure_ascii=False, allow_nan=False)
        return _UNSAFE_IN_JSON.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def message_of(record: logging.LogRecord) -> str:
    """The message of a record, also of one whose arguments do not fit it."""
    try:
        return _cut(record.getMessage())
    except Exception as error:  # noqa: BLE001 - arguments are objects of users
        return _cut(f"{_text_of(record.msg)} (its arguments cannot be shown: {type(error).__name__})")


def _instant(seconds: float) -> str:
    try:
        return datetime.fromtimestamp(seconds).astimezone().isoformat(timespec="milliseconds")
    except (OverflowError, OSError, ValueError):
        return datetime.now(UTC).isoformat(timespec="milliseconds")


def _error_of(record: logging.LogRecord) -> dict[str, Any]:
    error: BaseException | None = record.exc_info[1] if record.exc_info else None
    failure: Failure | None = record.__dict__.get(_FAILURE)
    try:
        if error is not None:
            text = "".join(traceback.format_exception(error))
        elif failure is not None:
            error = failure if isinstance(failure, BaseException) else failure()
            text = _traceback_of(error)
        else:
            return {}
        name = error.type if isinstance(error, RemoteError) else ""
        shown = name or tracing.class_of(error)
        return {"error_type": shown, "error_message": str(error), "exception": text}
    except Exception as unreadable:  # noqa: BLE001 - errors are objects of users
        return {"exception": record.exc_text or f"the error cannot be shown: {type(unreadable).__name__}"}


def _traceback_of(error: BaseException) -> str:
    """As Python shows it, without our own frames."""
    frames = tracebacks.of_user(error, _FRAMES_MAX) if error.__traceback__ is not None else ""
    last = "".join(traceback.format_exception_only(error))
    return f"Traceback (most recent call last):\n{frames}{last}" if frames else last


def _plain(value: object, depth: int) -> object:
    """A value for JSON, of bounded size; what JSON lacks becomes its text."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return _cut(str(value))
    if type(value) is int and abs(value) < 1 << 63:
        return value
    if type(value) is float and value == value and abs(value) != float("inf"):  # noqa: PLR0124 - not for NaN
        return value
    if depth < _DEPTH_MAX and isinstance(value, Mapping):
        items = list(cast("Mapping[object, object]", value).items())[:_VALUES_MAX]
        named: dict[str, object] = {_text_of(name): _plain(one, depth + 1) for name, one in items}
        return named
    if depth < _DEPTH_MAX and isinstance(value, list | tuple | set | frozenset):
        return [_plain(one, depth + 1) for one in list(cast("list[object]", value))[:_VALUES_MAX]]
    return _text_of(value)


def _text_of(value: object) -> str:
    try:
        return _cut(value if isinstance(value, str) else str(value))
    except Exception as error:  # noqa: BLE001 - the text of an object of users
        return f"<{type(value).__name__}, which cannot be shown: {type(error).__name__}>"


def _cut(text: str) -> str:
    more = len(text) - TEXT_MAX
    return text if more <= 0 else f"{text[:TEXT_MAX]}... ({more:,} more characters)"


@contextmanager
def alone() -> Generator[None]:
    """For ``OneLine``: this process is the only one that writes."""
    yield
