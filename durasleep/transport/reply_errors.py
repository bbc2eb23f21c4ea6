"""The border at which the errors of redis-py end: what a failed connection or an error reply says, as our errors.

Nothing else imports ``redis.exceptions``.
"""

from __future__ import annotations

import os
import re
import socket
import ssl

import redis.exceptions as redis_errors

from durasleep.errors import StoreError, StoreRefused, StoreUnavailable
from durasleep.protocol.command import Reply

CONNECTION_FAILED = (OSError, TimeoutError, EOFError, redis_errors.RedisError)
"""What a connection of redis-py raises where no answer comes; and error replies, see ``is_reply``."""

# The server is there but cannot serve this now: waiting helps, and nothing was applied.
_PASSING = ("LOADING", "READONLY", "MASTERDOWN", "CLUSTERDOWN", "TRYAGAIN", "BUSY ", "NOREPLICAS", "MISCONF", "OOM")
_PASSING_ERRORS = (  # those of them whose code redis-py takes out of the text
    redis_errors.BusyLoadingError,
    redis_errors.ReadOnlyError,
    redis_errors.ClusterDownError,
    redis_errors.TryAgainError,
    redis_errors.OutOfMemoryError,
)
# Rights that are missing; of what a script does, Redis says so in a sentence of its own, another one since 8.
_REFUSED = ("NOPERM", "NOAUTH", "WRONGPASS")
_REFUSED_IN_SCRIPT = ("can't run this command", "ACL failure in script")
# What a server says to whoever connects as we were told to: it does not pass by itself.
_REFUSED_AT_CONNECTING = ("DENIED", "DB index is out of range", "invalid DB index")
# Redis 6.2 puts the place in front of what failed in a script.
_PLACE = re.compile(r"(?:ERR )?Error running script .*?(?:@user_script: ?\d+: -?)+(?=[A-Z]{2})", re.DOTALL)


def is_of_replica(reply: Reply) -> bool:
    """Whether the server says that it takes no writes: another connection may find the one that does."""
    return isinstance(reply, Exception) and (isinstance(reply, redis_errors.ReadOnlyError) or "READONLY" in str(reply))


def is_reply(error: Exception) -> bool:
    """Whether the server said so, as opposed to the connection having failed."""
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
    """What an error reply, or the text of one, says of the server and not of the call: not now, or not to us."""
    text = error_text(error)
    if isinstance(error, _PASSING_ERRORS) or text.startswith(_PASSING):
        return StoreUnavailable(f"Redis cannot serve us now: {text}")
    if (
        isinstance(error, redis_errors.NoPermissionError)
        or text.startswith(_REFUSED)
        or any(sentence in text for sentence in _REFUSED_IN_SCRIPT)
    ):
        return StoreRefused(f"Redis refuses us: {text}")
    return None


def error_text(error: BaseException | str) -> str:
    """The text of an error reply, its code first, as every server says it."""
    return _PLACE.sub("", str(error), count=1)


def unavailable(address: str, error: BaseException) -> StoreError:
    """The error for a connection that failed; a refused password is final, the rest may pass."""
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
    """What the system said, without what redis-py and asyncio wrap around it."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLError):  # an OSError whose number is not the system's
            return str(cause).rstrip(".")
        if isinstance(cause, OSError) and cause.errno:
            return (isinstance(cause, socket.gaierror) and cause.strerror) or os.strerror(cause.errno)
        cause = cause.__cause__ or cause.__context__
    return str(error).rstrip(".") or type(error).__name__
