"""Durable timers and workflows, and a task queue, on the Redis you already run.

The layers; each imports only those below it:

    contrib                 what users of other libraries would write otherwise
    cli | pytest_plugin     the command line; fixtures for users' tests
    dashboard | gateway     pages in a browser; HTTP for programs in any language
    testing | sample        a whole service in one process; an application to try
    app | sync              Durasleep: registry, client and worker in one object; the client without asyncio
    client | worker         the calls, async and sync; the loops that serve a group
    observe                 what can be seen from outside: counters, health, spans, log lines
    address                 which Redis to use if none is named
    query | runtime | transport
                            bounded plans that answer a person's question; user code made durable; how a server is
                            reached
    protocol                the commands for Redis, and the meaning of the answers; the Lua scripts
    declared                what is declared of a function for all its executions
    codec | settings | devserver | humanize | cron | traits | limit | batch | channel
                            values as bytes; every bound and its reason; an embedded server; what people read;
                            what a call says of itself; how many run at a time; what a message is
    answers | tracebacks | model
                            what HTTP answers to an error; the place in user code of an error; the words of the design
                            as types
    errors                  one tree
    deprecation | printable | signatures
                            names that have changed; texts of anybody, made harmless; what functions say of themselves
"""

from typing import TYPE_CHECKING

__version__ = "0.1.0"

__all__ = [
    "Batch",
    "Canceled",
    "Channel",
    "ClientClosed",
    "Codec",
    "Context",
    "Current",
    "Delivery",
    "Description",
    "Disposition",
    "Durasleep",
    "DurasleepError",
    "Ended",
    "ExecutionError",
    "Handle",
    "InvalidId",
    "Limit",
    "LimitFull",
    "MailboxFull",
    "Message",
    "Messages",
    "Mismatch",
    "NotAllowed",
    "NotFound",
    "NotReplicated",
    "OtherFunction",
    "RemoteError",
    "Retry",
    "RetryAfter",
    "ScheduleDescription",
    "ScheduleOptions",
    "Settings",
    "State",
    "StoreRefused",
    "StoreUnavailable",
    "Target",
    "ThreadsLost",
    "TimedOut",
    "UsageError",
    "View",
    "WaitTimeout",
    "Winner",
    "Worker",
    "__version__",
    "checkpoint",
    "current",
    "progress",
    "publish",
]

# A name is imported when it is first used. Importing all of it at once takes longer than redis-py itself, and a command
# or a program that only calls needs only a part. Type checkers read the imports instead.
if TYPE_CHECKING:
    from durasleep.app import Durasleep
    from durasleep.batch import Batch
    from durasleep.channel import Channel
    from durasleep.client.client import Handle
    from durasleep.client.schedule_options import ScheduleOptions
    from durasleep.codec import Codec
    from durasleep.errors import (
        Canceled,
        ClientClosed,
        DurasleepError,
        Ended,
        ExecutionError,
        InvalidId,
        LimitFull,
        MailboxFull,
        Mismatch,
        NotAllowed,
        NotFound,
        NotReplicated,
        OtherFunction,
        RemoteError,
        StoreRefused,
        StoreUnavailable,
        ThreadsLost,
        TimedOut,
        UsageError,
        WaitTimeout,
    )
    from durasleep.limit import Limit
    from durasleep.model import Delivery, Disposition, State, Target
    from durasleep.query.describe import Description
    from durasleep.query.schedules import ScheduleDescription
    from durasleep.query.view import View
    from durasleep.runtime.channels import Message, Messages
    from durasleep.runtime.context import Context, Winner
    from durasleep.runtime.current import Current, checkpoint, current, progress, publish
    from durasleep.runtime.retry import Retry, RetryAfter
    from durasleep.settings import Settings
    from durasleep.worker.worker import Worker
else:
    from importlib import import_module

    _NAMES = {
        "durasleep.app": ("Durasleep",),
        "durasleep.batch": ("Batch",),
        "durasleep.channel": ("Channel",),
        "durasleep.client.client": ("Handle",),
        "durasleep.client.schedule_options": ("ScheduleOptions",),
        "durasleep.codec": ("Codec",),
        "durasleep.errors": (
            "Canceled",
            "ClientClosed",
            "DurasleepError",
            "Ended",
            "ExecutionError",
            "InvalidId",
            "LimitFull",
            "MailboxFull",
            "Mismatch",
            "NotAllowed",
            "NotFound",
            "NotReplicated",
            "OtherFunction",
            "RemoteError",
            "StoreRefused",
            "StoreUnavailable",
            "ThreadsLost",
            "TimedOut",
            "UsageError",
            "WaitTimeout",
        ),
        "durasleep.limit": ("Limit",),
        "durasleep.model": ("Delivery", "Disposition", "State", "Target"),
        "durasleep.query.describe": ("Description",),
        "durasleep.query.schedules": ("ScheduleDescription",),
        "durasleep.query.view": ("View",),
        "durasleep.runtime.channels": ("Message", "Messages"),
        "durasleep.runtime.context": ("Context", "Winner"),
        "durasleep.runtime.current": ("Current", "checkpoint", "current", "progress", "publish"),
        "durasleep.runtime.retry": ("Retry", "RetryAfter"),
        "durasleep.settings": ("Settings",),
        "durasleep.worker.worker": ("Worker",),
    }
    _MODULE_OF = {name: module for module, names in _NAMES.items() for name in names}

    def __getattr__(name: str) -> object:
        if module := _MODULE_OF.get(name):
            value = globals()[name] = getattr(import_module(module), name)
            return value
        whole = f"{__name__}.{name}"
        try:
            if not name.startswith("_"):
                return import_module(whole)  # ``durasleep.errors`` works without an import of its own
        except ModuleNotFoundError as error:
            if error.name != whole:
                raise
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}", name=name)

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})
