"""The border at which the errors of redis-py end: failed connections and error replies become our errors.

Nothing else imports ``redis.exceptions``.
"""

from __future__ import annotations

import os
import re
import socket
import ssl
from enum import StrEnum

import redis.exceptions as redis_errors

from durasleep.errors import StoreError, StoreRefused, StoreUnavailable
from durasleep.protocol.command import Reply

CONNECTION_FAILED = (OSError, TimeoutError, EOFError, redis_errors.RedisError)
"""The errors of redis-py connections without an answer; and error replies, see ``is_reply``."""

# The server is there but cannot serve us now. Waiting helps, and nothing was applied.
_PASSING = ("LOADING", "READONLY", "MASTERDOWN", "CLUSTERDOWN", "TRYAGAIN", "BUSY ", "NOREPLICAS", "MISCONF", "OOM")
_PASSING_ERRORS = (  # those whose code redis-py removes from the text
    redis_errors.BusyLoadingError,
    redis_errors.ReadOnlyError,
    redis_errors.ClusterDownError,
    redis_errors.TryAgainError,
    redis_errors.OutOfMemoryError,
)
# Missing rights. For commands inside a script Redis has its own sentence, and since version 8 another one.
_REFUSED = ("NOPERM", "NOAUTH", "WRONGPASS")
_REFUSED_IN_SCRIPT = ("can't run this command", "ACL failure in script")
# Errors for a connection with wrong settings: they do not pass by themselves.
_REFUSED_AT_CONNECTING = ("DENIED", "DB index is out of range", "invalid DB index")
# Redis 6.2 puts the position in front of the error of a script.
_PLACE = re.compile(r"(?:ERR )?Error running script .*?(?:@user_script: ?[\d?]+: -?)+(?=[A-Z]{2})", re.DOTALL)


class Routing(StrEnum):
    """Answers about the node and not about the call: it is not served here, or not now, and nothing was applied."""

    MOVED = "MOVED"
    """Another node has the slot."""
    ASK = "ASK"
    """The slot is moving, and the keys are not here."""
    TRYAGAIN = "TRYAGAIN"
    """The slot is moving, and only some of the keys are here."""
    CLUSTERDOWN = "CLUSTERDOWN"
    """The node serves nothing: slots are served by nobody, or it sees too few of the other nodes."""
    MASTERDOWN = "MASTERDOWN"
    """This is a replica that has lost its master."""
    READONLY = "READONLY"
    """This is a replica."""
    LOADING = "LOADING"
    """It has just started."""
    UNBLOCKED = "UNBLOCKED"
    """A blocked read has ended because the node has become a replica."""
    CROSSSLOT = "CROSSSLOT"
    """The keys of a call are in several slots: our own mistake."""


# Since some release redis-py has a class for each, and removes the code from the text; a class stands before its base.
_ROUTING_ERRORS: tuple[tuple[type[Exception], Routing], ...] = (
    (redis_errors.MovedError, Routing.MOVED),
    (redis_errors.AskError, Routing.ASK),
    (redis_errors.TryAgainError, Routing.TRYAGAIN),
    (redis_errors.MasterDownError, Routing.MASTERDOWN),
    (redis_errors.ClusterDownError, Routing.CLUSTERDOWN),
    (redis_errors.ReadOnlyError, Routing.READONLY),
    (redis_errors.BusyLoadingError, Routing.LOADING),
    (redis_errors.ClusterCrossSlotError, Routing.CROSSSLOT),
)
_WRONG_NODE = {Routing.MOVED, Routing.CLUSTERDOWN, Routing.MASTERDOWN, Routing.READONLY, Routing.UNBLOCKED}
_FOREIGN_KEY = "non local key"  # a script has named a key that it did not declare


def routing(reply: Reply) -> Routing | None:
    """Why the node does not serve a call; None for any other answer."""
    return _routing_of(reply, error_text(reply)) if isinstance(reply, Exception) else None


def _routing_of(error: BaseException | str, text: str) -> Routing | None:
    for error_class, found in _ROUTING_ERRORS:
        if isinstance(error, error_class):
            return found
    if _FOREIGN_KEY in text:
        return Routing.CROSSSLOT
    code = text.partition(" ")[0]
    return Routing(code) if code in Routing.__members__ else None


MOVING = (Routing.ASK, Routing.TRYAGAIN)
"""The slot is moving, and nothing was applied. Its keys come over one by one, and a script needs them all: so the same
node is asked again, until it says MOVED. ASKING would find only the keys that are there already."""


def is_of_moving_slot(error: Exception) -> bool:
    """Whether an operator moves the slot to another node, or has moved it: soon it is served again."""
    return isinstance(error, StoreUnavailable) and error.reason in (*MOVING, Routing.MOVED, Routing.UNBLOCKED)


def gone_elsewhere(reply: Reply) -> StoreUnavailable | None:
    """The error of a blocked read in a cluster whose stream has gone with its slot to another node."""
    if not (isinstance(reply, Exception) and error_text(reply).startswith("NOGROUP")):
        return None
    error = StoreUnavailable(f"the stream has moved to another node: {reply}")
    error.reason = Routing.UNBLOCKED
    return error


def is_of_wrong_node(reply: Reply) -> bool:
    """Whether another connection may find a node that serves the call."""
    return isinstance(reply, Exception) and (routing(reply) in _WRONG_NODE or "READONLY" in str(reply))


def is_reply(error: Exception) -> bool:
    """Whether the server has sent this error; if not, the connection has failed."""
    if isinstance(error, redis_errors.BusyLoadingError):
        return True
    transport = (redis_errors.ConnectionError, redis_errors.TimeoutError, redis_errors.InvalidResponse)
    return isinstance(error, redis_errors.RedisError) and not isinstance(error, transport)


def is_unknown_script(reply: Reply) -> bool:
    """Whether the server has forgotten a script (restart, SCRIPT FLUSH)."""
    if not isinstance(reply, Exception):
        return False
    return isinstance(reply, redis_errors.NoScriptError) or str(reply).startswith("NOSCRIPT")


def refusal(error: BaseException | str) -> StoreError | None:
    """The error if a reply, or its text, is about the server and not about the call: not now, or no permission."""
    text = error_text(error)
    reason = _routing_of(error, text)
    if reason is Routing.CROSSSLOT:
        return StoreError(f"durasleep has named keys of two slots in one call: {text}")
    if reason or isinstance(error, _PASSING_ERRORS) or text.startswith(_PASSING):
        code = "" if reason is None or text.startswith(reason) else f"{reason} "
        unavailable = StoreUnavailable(f"Redis cannot serve us now: {code}{text}")
        unavailable.reason = reason or text.partition(" ")[0]
        return unavailable
    if (
        isinstance(error, redis_errors.NoPermissionError)
        or text.startswith(_REFUSED)
        or any(sentence in text for sentence in _REFUSED_IN_SCRIPT)
    ):
        return StoreRefused(f"Redis refuses us: {text}")
    return None


def error_text(error: BaseException | str) -> str:
    """The text of an error reply, with its code first, as every server sends it."""
    return _PLACE.sub("", str(error), count=1)


def unavailable(address: str, error: BaseException) -> StoreError:
    """The error for a failed connection. A refused password is final; other problems may pass."""
    if isinstance(error, redis_errors.AuthenticationError | redis_errors.NoPermissionError) or str(error).startswith(
        _REFUSED_AT_CONNECTING
    ):
        return StoreRefused(f"Redis at {address} refuses us: {error}")
    if isinstance(error, TimeoutError | redis_errors.TimeoutError | socket.timeout):
        return StoreUnavailable(f"Redis at {address} does not answer")
    unreachable = StoreUnavailable(f"Redis at {address} cannot be reached: {_reason(error)}")
    unreachable.is_unreachable = True
    return unreachable


def _reason(error: BaseException) -> str:
    """The system's message, without the text that redis-py and asyncio add."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLError):  # an OSError whose number is not one of the system
            return str(cause).rstrip(".")
        if isinstance(cause, OSError) and cause.errno:
            return (isinstance(cause, socket.gaierror) and cause.strerror) or os.strerror(cause.errno)
        cause = cause.__cause__ or cause.__context__
    return str(error).rstrip(".") or type(error).__name__
