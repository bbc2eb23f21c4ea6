"""Every error durasleep raises, as one tree; scripts name theirs by code.

DurasleepError
├── UsageError (also a ValueError)       the call was wrong; nothing was written
│   ├── InvalidId                        an id, name or target that cannot be used
│   ├── InvalidDuration                  negative, NaN, infinite, or a naive datetime
│   ├── NotSerializable                  a value MessagePack cannot carry; says which
│   ├── PayloadTooLarge                  a value over the payload cap
│   ├── DefinitionError                  a function that cannot be registered as asked
│   └── OtherFunction                    the id is in use by another function
├── NotFound                             no promise under this id
├── NotAllowed                           the promise is not in a state that permits it
├── StoreError                           something between us and Redis
│   ├── StoreUnavailable                 Redis cannot be reached, does not answer, or is full
│   │   └── NotReplicated                written, but not by so many replicas, or not to disk
│   ├── StoreFull                        Redis is full: what would make more of it was not written
│   ├── StoreRefused                     Redis lacks nothing but our password or our rights
│   ├── UnsupportedServer                older than Redis 6.2, or lacking what we need
│   ├── SchemaMismatch                   the namespace was written by an incompatible version
│   ├── NewerVersion                     written by a newer version, for that to go on with
│   ├── CorruptData                      a key holds what durasleep never writes
│   └── Fenced                           the execution belongs to somebody else now; nothing was written
├── ExecutionError                       how an execution ended, as its caller sees it
│   ├── RemoteError                      it raised; carries the type, message and traceback of there
│   ├── Canceled                         it was canceled
│   └── TimedOut (also a TimeoutError)   its deadline passed
├── WaitTimeout (also a TimeoutError)    we stopped waiting; the execution goes on
├── ClientClosed                         our client was closed while we waited; the execution goes on
├── Mismatch                             code and journal disagree; the execution is halted
├── NotDurable (also a RuntimeError)     a workflow asked its loop for I/O
├── Stuck                                something would wait for itself, or for what waits for it
└── Stalled (also an AssertionError)     a test waits for what nothing in it will bring about

WorkflowEvicted (a BaseException) is raised inside a workflow that is being put away, or that goes on as a new run.
"""

from __future__ import annotations

from typing import Any

from durasleep.deprecation import warn_renamed


class DurasleepError(Exception):
    """The root: catch this to catch everything durasleep raises on purpose."""


class UsageError(DurasleepError, ValueError):
    """The call was wrong; nothing was written."""


class InvalidId(UsageError):
    """An id, name or target that cannot be used; nothing was written."""


class InvalidDuration(UsageError):
    """A duration or instant that cannot be waited for; no timer was made."""


class NotSerializable(UsageError):
    """A value that MessagePack cannot carry; nothing was written. The message names the value."""


class PayloadTooLarge(UsageError):
    """A value over the payload cap; nothing was written."""


class DefinitionError(UsageError):
    """A function that cannot be registered as asked; the registry is unchanged."""


class OtherFunction(UsageError):
    """The id belongs to an execution of another function; nothing was written."""


class NotFound(DurasleepError):
    """There is no promise under this id; nothing was written."""


class NotAllowed(DurasleepError):
    """The promise is not in a state that permits this; nothing was written."""


class StoreError(DurasleepError):
    """Something between us and Redis went wrong."""


class StoreUnavailable(StoreError):
    """Redis cannot be reached, or cannot serve us now; what was not answered may have been carried out or not."""

    is_unreachable = False
    """Whether no Redis was found where one should be, as opposed to one that does not serve us now."""


class NotReplicated(StoreUnavailable):
    """Written, but fewer replicas than asked for have received it in time, or no disk; to repeat the call is safe."""


class StoreFull(StoreError):
    """Redis has reached its limit of memory, and this would make more of it; nothing was written."""


class StoreRefused(StoreError):
    """Redis does not take our password, or does not allow what we ask; nothing was written."""


class UnsupportedServer(StoreError):
    """The server lacks what durasleep needs; nothing was written."""


class SchemaMismatch(StoreError):
    """The namespace was written by an incompatible version; nothing was written."""


class NewerVersion(StoreError):
    """A newer version of durasleep wrote what is there; it was left as it is, for that version to go on with."""


class CorruptData(StoreError):
    """A key holds what durasleep never writes; it was left as it is."""


class Fenced(StoreError):
    """The execution belongs to another worker or a later epoch; nothing was written."""


class ThreadsLost(DurasleepError):
    """All threads of a worker are held by functions nobody waits for any more. It has left its work to others, and its
    process needs a new start.
    """


class ClientClosed(DurasleepError):
    """The client was closed while something was waited for. What has been started goes on."""


class ExecutionError(DurasleepError):
    """How an execution ended, as its caller sees it."""


class RemoteError(ExecutionError):
    """The execution raised an error whose class is not known here.

    ``type`` is its qualified class name, ``remote_traceback`` the trimmed text of its traceback.
    """

    def __init__(self, type: str, message: str, remote_traceback: str = "") -> None:
        super().__init__(f"{type}: {message}" if message else type)
        self.type = type
        self.message = message
        self.remote_traceback = remote_traceback

    def __reduce__(self) -> tuple[type[RemoteError], tuple[str, str, str]]:
        return (RemoteError, (self.type, self.message, self.remote_traceback))


class Canceled(ExecutionError):
    """The execution or promise was canceled."""


class TimedOut(ExecutionError, TimeoutError):
    """The deadline of the execution or promise passed before it settled."""


class WaitTimeout(DurasleepError, TimeoutError):
    """We stopped waiting; the execution itself goes on."""


class Mismatch(DurasleepError):
    """The code asks for something else than its journal holds; the execution is halted, not failed."""


class NotDurable(DurasleepError, RuntimeError):
    """A workflow asked its event loop for I/O, a thread or a process; nothing was started."""


class Stuck(DurasleepError):
    """Something would wait for itself, or for what called it and goes on only after it; nothing was started."""


class Stalled(DurasleepError, AssertionError):
    """A test waits for what nothing in it will bring about; the message says where its executions stand."""


class WorkflowEvicted(BaseException):
    """Ends the code of a workflow that is being put away, or goes on as a new run; never catch it."""


_BY_CODE: dict[str, type[DurasleepError]] = {
    "FENCED": Fenced,
    "NOT_FOUND": NotFound,
    "NOGROUP": NotFound,  # of Redis: nobody has ever served this group
    "NOT_ALLOWED": NotAllowed,
    "OTHER_FUNCTION": OtherFunction,
    "FULL": StoreFull,
    "NOAUTH": StoreRefused,
    "WRONGPASS": StoreRefused,
    "NOPERM": StoreRefused,
    "NEWER_VERSION": NewerVersion,
    "CORRUPT": CorruptData,
    "WRONGTYPE": CorruptData,  # of Redis: the key holds another type
    "INVALID": UsageError,
}


def from_code(code: str, message: str) -> DurasleepError:
    """The exception for an error code of a script; an unknown code is a StoreError that shows it."""
    known = _BY_CODE.get(code)
    return known(message) if known is not None else StoreError(f"{code} {message}".strip())


def __getattr__(name: str) -> Any:
    if name != "Detached":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    warn_renamed("Detached", "WorkflowEvicted")
    return WorkflowEvicted
