"""Every error durasleep raises, as one tree; scripts name theirs by code.

DurasleepError
├── UsageError (also a ValueError)       the call was wrong; nothing was written
│   ├── NamespaceMissing                 no such namespace in this cluster; `durasleep init` makes it
│   ├── InvalidId                        an id, name or target that cannot be used
│   ├── InvalidDuration                  negative, NaN, infinite, or a naive datetime
│   ├── NotSerializable                  a value MessagePack cannot carry; says which
│   ├── PayloadTooLarge                  a value over the payload cap
│   ├── DefinitionError                  a function that cannot be registered as asked
│   └── OtherFunction                    the id is in use by another function
├── NotFound                             no promise under this id
├── NotAllowed                           the state of the promise does not permit this
├── Ended                                it has ended, and takes no messages any more
├── MailboxFull                          too many unread messages: there is no room for another one
├── LimitFull                            the limit of its function has no room for another one to wait
├── StoreError                           a problem between durasleep and Redis
│   ├── StoreUnavailable                 Redis cannot be reached, does not answer, or is full
│   │   └── NotReplicated                written, but too few replicas or disks have confirmed it
│   ├── StoreFull                        Redis is full: nothing was written that needs more memory
│   ├── StoreRefused                     Redis rejects our password or our permissions
│   ├── UnsupportedServer                older than Redis 6.2, or without a feature that we need
│   ├── SchemaMismatch                   the namespace was written by an incompatible version
│   ├── NewerVersion                     a newer version wrote this, and only that version can use it
│   ├── CorruptData                      a key holds data that durasleep never writes
│   └── Fenced                           another worker has the lease of the execution; nothing was written
├── ExecutionError                       how an execution ended, for its caller
│   ├── RemoteError                      it raised an error; has the type, message and traceback of that error
│   ├── Canceled                         it was canceled
│   └── TimedOut (also a TimeoutError)   its deadline passed
├── WaitTimeout (also a TimeoutError)    we stopped waiting; the execution goes on
├── ThreadsLost                          a worker has no free thread left, and its process must start again
├── ClientClosed                         the client was closed during a wait; the execution goes on
├── Mismatch                             code and journal disagree; the execution is halted
├── NotDurable (also a RuntimeError)     a workflow asked its event loop for I/O
├── Stuck                                an execution would wait for itself, or for one that waits for it
└── Stalled (also an AssertionError)     a test waits for a result that cannot come

WorkflowEvicted (a BaseException) is raised inside a workflow that is evicted, or that goes on as a new run.
"""

from __future__ import annotations

from typing import Any

from durasleep.deprecation import warn_renamed


class DurasleepError(Exception):
    """The root: catch this to catch everything durasleep raises on purpose."""


class UsageError(DurasleepError, ValueError):
    """The call was wrong; nothing was written."""


class NamespaceMissing(UsageError):
    """There is no such namespace in this cluster; nothing was written."""


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
    """The state of the promise does not permit this; nothing was written."""


class Ended(DurasleepError):
    """The execution has ended, and takes no messages any more; nothing was written."""


class MailboxFull(DurasleepError):
    """The execution has too many unread messages; nothing was written. Send it again when it has read some."""


class LimitFull(DurasleepError):
    """The limit of its function has no room for another execution to wait; nothing was started."""


class StoreError(DurasleepError):
    """A problem between durasleep and Redis."""


class StoreUnavailable(StoreError):
    """Redis cannot be reached, or cannot serve us now. A call without an answer may have been carried out, or not."""

    is_unreachable = False
    """Whether no Redis was found at the address. False if there is one that cannot serve us now."""
    reason = ""
    """The code of its answer, such as ``LOADING``; empty if there was none."""


class NotReplicated(StoreUnavailable):
    """Written, but too few replicas or disks have confirmed it in time. It is safe to repeat the call."""


class StoreFull(StoreError):
    """Redis has reached its memory limit, and this call would need more memory; nothing was written."""


class StoreRefused(StoreError):
    """Redis rejects our password, or does not permit the command; nothing was written."""


class UnsupportedServer(StoreError):
    """The server lacks a feature that durasleep needs; nothing was written."""


class SchemaMismatch(StoreError):
    """The namespace was written by an incompatible version; nothing was written."""


class NewerVersion(StoreError):
    """A newer version of durasleep wrote this. It was left as it is, for that version."""


class CorruptData(StoreError):
    """A key holds data that durasleep never writes; it was left as it is."""


class Fenced(StoreError):
    """The lease belongs to another worker or a later epoch; nothing was written."""


class ThreadsLost(DurasleepError):
    """All threads of a worker are held by functions that nobody waits for any more. The worker has left its work to
    others, and its process must be started again.
    """


class ClientClosed(DurasleepError):
    """The client was closed while a call waited for a result. The executions go on."""


class ExecutionError(DurasleepError):
    """How an execution ended, for its caller."""


class RemoteError(ExecutionError):
    """The execution raised an error whose class is not known here.

    ``type`` is its qualified class name, ``remote_traceback`` the shortened text of its traceback.
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
    """The code does not match its journal; the execution is halted, not failed."""


class NotDurable(DurasleepError, RuntimeError):
    """A workflow asked its event loop for I/O, a thread or a process; nothing was started."""


class Stuck(DurasleepError):
    """An execution would wait for itself, or for a caller that waits for it; nothing was started."""


class Stalled(DurasleepError, AssertionError):
    """A test waits for a result that cannot come. The message says what its executions wait for."""


class WorkflowEvicted(BaseException):
    """Ends the code of a workflow that is evicted, or that goes on as a new run; never catch it."""


_BY_CODE: dict[str, type[DurasleepError]] = {
    "FENCED": Fenced,
    "NOT_FOUND": NotFound,
    "NOGROUP": NotFound,  # of Redis: nobody has ever served this group
    "NOT_ALLOWED": NotAllowed,
    "ENDED": Ended,
    "MAILBOX_FULL": MailboxFull,
    "LIMIT_FULL": LimitFull,
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
