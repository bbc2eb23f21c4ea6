"""Durable timers and workflows, and a task queue, on the Redis you already run.

The layers, each importing only what stands below it:

    cli | pytest_plugin     the command line; fixtures for users' tests
    devserver | testing     an embedded server; a whole service in one process
    app                     Durasleep: registry, client and worker in one object
    client | sync | worker  the verbs, async and sync; the loops that serve a group
    inbox                   what settles for one client
    runtime | store         user code made durable; everything Redis
    telemetry               log fields and counters
    codec | settings        values as bytes; every limit and its reason
    model                   the words of the design as types
    errors                  one tree
"""

from durasleep.app import Durasleep
from durasleep.client import Handle
from durasleep.codec import Codec
from durasleep.errors import (
    Canceled,
    ClientClosed,
    DurasleepError,
    ExecutionError,
    InvalidId,
    Mismatch,
    NotAllowed,
    NotFound,
    NotReplicated,
    OtherFunction,
    RemoteError,
    StoreRefused,
    StoreUnavailable,
    TimedOut,
    UsageError,
    WaitTimeout,
)
from durasleep.model import Disposition, State, Target
from durasleep.runtime.context import Context, Winner
from durasleep.runtime.retry import Retry
from durasleep.settings import Settings
from durasleep.store.calls import Description
from durasleep.worker.worker import Worker

__version__ = "0.1.0"

__all__ = [
    "Canceled",
    "ClientClosed",
    "Codec",
    "Context",
    "Description",
    "Disposition",
    "Durasleep",
    "DurasleepError",
    "ExecutionError",
    "Handle",
    "InvalidId",
    "Mismatch",
    "NotAllowed",
    "NotFound",
    "NotReplicated",
    "OtherFunction",
    "RemoteError",
    "Retry",
    "Settings",
    "State",
    "StoreRefused",
    "StoreUnavailable",
    "Target",
    "TimedOut",
    "UsageError",
    "WaitTimeout",
    "Winner",
    "Worker",
    "__version__",
]
