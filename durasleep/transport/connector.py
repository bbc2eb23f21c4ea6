"""Raw connections of our own, made the way a given redis-py client or URL makes its.

An application's client is taken as a description of how to connect; its connections stay its own.
Ours speak RESP2, decode nothing, and never repeat a command by themselves: only the store repeats.
"""

from __future__ import annotations

import asyncio
import inspect
import os
import re
import socket
import ssl
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Protocol, cast
from urllib.parse import urlsplit

import hiredis
import redis
import redis.asyncio
import redis.exceptions as redis_errors
from redis.asyncio.connection import Connection as AsyncConnection
from redis.asyncio.connection import ConnectionPool as AsyncPool
from redis.asyncio.connection import SSLConnection as AsyncSSLConnection
from redis.asyncio.connection import UnixDomainSocketConnection as AsyncUnixConnection
from redis.asyncio.retry import Retry as AsyncRetry
from redis.asyncio.sentinel import SentinelManagedConnection as AsyncSentinelConnection
from redis.asyncio.sentinel import SentinelManagedSSLConnection as AsyncSentinelSSLConnection
from redis.backoff import NoBackoff
from redis.connection import Connection, SSLConnection, UnixDomainSocketConnection
from redis.credentials import CredentialProvider
from redis.retry import Retry
from redis.sentinel import SentinelManagedConnection, SentinelManagedSSLConnection

from durasleep.errors import StoreError, StoreRefused, StoreUnavailable, UsageError
from durasleep.protocol.script import Value
from durasleep.transport import foreign, sentinel
from durasleep.transport.deadline import Deadline
from durasleep.transport.local import PerThread
from durasleep.transport.sentinel import Sentinels

Reply = Any
AnyClient = redis.Redis | redis.asyncio.Redis  # type: ignore[type-arg]

# From what a client has to what we open. What redis-py's own Sentinel makes asks it through its pool; ours ask before
# they connect.
_TO_ASYNC: dict[type, type] = {
    Connection: AsyncConnection,
    SSLConnection: AsyncSSLConnection,
    UnixDomainSocketConnection: AsyncUnixConnection,
    SentinelManagedConnection: AsyncConnection,
    SentinelManagedSSLConnection: AsyncSSLConnection,
    AsyncSentinelConnection: AsyncConnection,
    AsyncSentinelSSLConnection: AsyncSSLConnection,
}
_TO_SYNC: dict[type, type] = {
    AsyncConnection: Connection,
    AsyncSSLConnection: SSLConnection,
    AsyncUnixConnection: UnixDomainSocketConnection,
    SentinelManagedConnection: Connection,
    SentinelManagedSSLConnection: SSLConnection,
    AsyncSentinelConnection: Connection,
    AsyncSentinelSSLConnection: SSLConnection,
}
_FOUND = ("host", "port", "connection_pool")  # what the sentinels say, and redis-py's own way to ask them

CONNECT_TIMEOUT_S = 5.0  # where the client says nothing: a host that drops packets must not hang a start

# What belongs to the pool the description comes from, or would repeat, decode or time out behind our back.
_NOT_OURS = {
    "retry_on_timeout",
    "retry_on_error",
    "retry",
    "decode_responses",
    "protocol",
    "socket_timeout",
    "health_check_interval",
    "client_name",
    "parser_class",
    "cache",
    "cache_config",
}

_VALKEY = re.compile(r"^valkey(s?)(?=://|\+sentinel://)")  # other words for the same

_pack_one = cast("Callable[[tuple[Value, ...]], bytes]", hiredis.pack_command)  # its stub says a tuple of one

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

HIDDEN = "***"
PORT_MAX = 65_535
_PARTS = re.compile(r"([A-Za-z+]*://|)(.*@|)([^/?#]*)([^?#]*)(\?[^#]*|)(#.*|)", re.DOTALL)
_PLACE_OF_HOST = re.compile(r"(?:\[[0-9A-Fa-f:.]+(?:%[\w.-]+)?\]|[^\[\]:,@]*)(?::([0-9]{0,5}))?")
_SECRET_OPTION = re.compile(r"(.*(?:pass|secret|token|key).*?=).*", re.IGNORECASE | re.DOTALL)
_AS_WRITTEN = (
    "it is redis://USER:PASSWORD@HOST:PORT/DB, and in a user name or password '/' is written as %2F, '#' as %23, "
    "'?' as %3F, '@' as %40, ':' as %3A and '[' as %5B"
)


class RawConnection(Protocol):
    """What we use of a redis-py asyncio connection."""

    async def connect(self) -> None: ...
    async def disconnect(self, nowait: bool = False) -> None: ...
    async def send_packed_command(self, command: list[bytes], check_health: bool = True) -> None: ...
    async def read_response(self, disable_decoding: bool = False) -> Reply: ...


class RawSyncConnection(Protocol):
    """What we use of a redis-py connection."""

    def connect(self) -> None: ...
    def disconnect(self) -> None: ...
    def send_packed_command(self, command: list[bytes], check_health: bool = True) -> None: ...
    def read_response(self, disable_decoding: bool = False) -> Reply: ...


@dataclass(frozen=True, slots=True)
class Connector:
    """How to connect: a connection class of redis-py, sync or async, and its arguments."""

    connection_class: type
    arguments: dict[str, Any] = field(repr=False)  # a password may be among them
    address: str
    sentinels: Sentinels | None = field(default=None, repr=False)
    """Who know the host and the port, if these are not known beforehand."""

    @classmethod
    def of(cls, source: str | AnyClient) -> Connector:
        """From a URL or an existing client; UsageError for what is neither."""
        sentinels = None
        if isinstance(source, str):
            source = _VALKEY.sub(r"redis\1", source)
            _check_url(source)
            if sentinel.is_sentinel(source):
                sentinels, source = sentinel.parse(source)
            try:
                pool = AsyncPool.from_url(source)
            except ValueError as error:  # of its scheme or an option: the rest was looked at
                raise UsageError(f"{without_secret(source)!r} is not a Redis URL: {error}") from None
        elif isinstance(source, redis.Redis | redis.asyncio.Redis):  # pyright: ignore[reportUnnecessaryIsInstance]
            pool = source.connection_pool
            if isinstance(pool, sentinel.AnySentinelPool):
                sentinels = sentinel.of_pool(pool)
                if pool.connection_class not in _TO_ASYNC | _TO_SYNC:
                    raise UsageError(
                        f"a client of Sentinel with connections of its own class, {pool.connection_class.__name__}, "
                        "cannot be used: name the sentinels in a URL, redis+sentinel://..."
                    )
        else:
            raise UsageError(f"a Redis URL or a redis-py client is needed, not {type(source).__name__}")
        arguments = {
            name: value
            for name, value in pool.connection_kwargs.items()
            if name not in _NOT_OURS and not name.startswith(("maint_", "orig_", "oss_", "_"))
        }
        if sentinels is not None:
            arguments = {name: value for name, value in arguments.items() if name not in _FOUND}
        address = str(sentinels) if sentinels else _address(arguments)
        return cls(pool.connection_class, arguments, address, sentinels)

    def open_async(self, name: str) -> RawConnection:
        """A connection for asyncio, not yet connected."""
        if self._is_foreign(is_async=True):
            return foreign.InThread(self._open_sync(name, None))
        return self._open_async(name)

    def open_sync(self, name: str, timeout_s: float) -> RawSyncConnection:
        """A blocking connection, not yet connected, whose reads end after ``timeout_s``."""
        if self._is_foreign(is_async=False):
            return foreign.InLoop(self._open_async(name), timeout_s)
        return self._open_sync(name, timeout_s)

    def _is_foreign(self, *, is_async: bool) -> bool:
        """Whether only connections of the other kind will do: by their class, or by what the application has added."""
        if foreign.is_async(self.connection_class) is is_async:
            return False
        if self.connection_class not in (_TO_ASYNC if is_async else _TO_SYNC) and not _is_fake(self.connection_class):
            return True
        provider = self.arguments.get("credential_provider")
        asked = getattr(provider, "get_credentials_async" if is_async else "get_credentials", None)
        cannot_say = asked is None or getattr(asked, "__func__", None) is CredentialProvider.get_credentials
        return (provider is not None and cannot_say) or self.arguments.get("redis_connect_func") is not None

    def _open_async(self, name: str) -> RawConnection:
        connection_class = _translate(self.connection_class, _TO_ASYNC, is_async=True)

        def open(**address: Any) -> RawConnection:
            # Deadlines are the link's: redis-py 8 would end a blocking read after 5 s by itself.
            return self._make(connection_class, name, None, AsyncRetry(NoBackoff(), 0), address)

        if self.sentinels is None:
            return open()
        return sentinel.FoundConnection(self.sentinels, lambda host, port: open(host=host, port=port))

    def _open_sync(self, name: str, timeout_s: float | None) -> RawSyncConnection:
        connection_class = _translate(self.connection_class, _TO_SYNC, is_async=False)

        def open(**address: Any) -> RawSyncConnection:
            return self._make(connection_class, name, timeout_s, Retry(NoBackoff(), 0), address)

        if self.sentinels is None:
            return open()
        return sentinel.FoundSyncConnection(self.sentinels, lambda host, port: open(host=host, port=port))

    def _make(
        self, connection_class: type, name: str, timeout_s: float | None, retry: object, address: dict[str, Any]
    ) -> Any:
        """One of this class, with the application's arguments, and ours as far as the class takes them."""
        arguments = self.arguments
        taken = _taken(connection_class)
        if connection_class is not self.connection_class:
            arguments = {key: value for key, value in arguments.items() if key in taken}
        ours = {
            "client_name": name,
            "decode_responses": False,
            "protocol": 2,
            "socket_timeout": timeout_s,
            "retry": retry,
            "socket_connect_timeout": arguments.get("socket_connect_timeout") or CONNECT_TIMEOUT_S,
            # A socket of this machine knows no keep-alive.
            **({} if "path" in arguments else {"socket_keepalive": arguments.get("socket_keepalive", True)}),
        }
        return connection_class(**{**arguments, **address, **{key: ours[key] for key in ours if key in taken}})


@cache
def _taken(connection_class: type) -> frozenset[str]:
    """The arguments a class of connections takes, its own and those it passes on."""
    names: set[str] = set()
    for ancestor in connection_class.__mro__:
        init = ancestor.__dict__.get("__init__")
        if init is None or ancestor is object:
            continue
        parameters = inspect.signature(init).parameters
        names |= parameters.keys()
        if not any(one.kind is inspect.Parameter.VAR_KEYWORD for one in parameters.values()):
            break
    return frozenset(names)


def _is_fake(connection_class: type) -> bool:
    """Whether it is one of fakeredis: the same server, whatever the kind of the connection."""
    return connection_class.__name__ in ("FakeRedisConnection", "FakeConnection", "FakeAsyncRedisConnection")


def _translate(connection_class: type, table: dict[type, type], *, is_async: bool) -> type:
    """The class of the other kind, if there is one; a class of an application is as it is."""
    if connection_class in table:
        return table[connection_class]
    if _is_fake(connection_class) and foreign.is_async(connection_class) is not is_async:
        import fakeredis._clients._async as fake_async
        import fakeredis._clients._sync as fake_sync

        return fake_async.FakeAsyncRedisConnection if is_async else fake_sync.FakeRedisConnection
    return connection_class


def _check_url(url: str) -> None:
    """UsageError where it cannot be read, or a password is cut in two or lacks its host.

    What is then read of the password as host, port, path or option would be shown to people, as would be what Python
    says of it.
    """
    try:
        split = urlsplit(url)
    except ValueError:
        raise UsageError(f"{without_secret(url)!r} is not a Redis URL: {_AS_WRITTEN}") from None
    is_cut = "@" in split.fragment or any("@" in part and not _is_option(part) for part in split.query.split("&"))
    if is_cut or ("@" in split.path and split.scheme != "unix"):
        raise UsageError(f"{without_secret(url)!r} is not a Redis URL: {_AS_WRITTEN}")
    if not sentinel.is_sentinel(url) and not _is_place(split.netloc.rpartition("@")[2]):
        raise UsageError(
            f"{without_secret(url)!r} is not a Redis URL: the port is not a number up to 65535, or there is no host "
            f"behind a password; {_AS_WRITTEN}"
        )


def without_secret(url: str) -> str:
    """A URL, right or wrong, to show: without whatever of it may be a part of a password."""
    found = _PARTS.fullmatch(url)
    if found is None:
        return HIDDEN
    scheme, user, hosts, path, query, fragment = found.groups()
    if not all(map(_is_place, hosts.split(","))):
        if not user:
            return f"{scheme}{HIDDEN}"
        hosts = f"{hosts.partition(':')[0]}:{HIDDEN}"
    is_named = scheme == "unix://" or "sentinel" in scheme
    if not is_named and not path.removeprefix("/").isdigit():
        path = path and f"/{HIDDEN}"
    shown = "&".join(map(_shown_option, query.removeprefix("?").split("&"))) if query else ""
    return "".join([scheme, user and f"{HIDDEN}@", hosts, path, shown and f"?{shown}", fragment and f"#{HIDDEN}"])


def _shown_option(part: str) -> str:
    if _is_option(part):
        return _SECRET_OPTION.sub(rf"\1{HIDDEN}", part)
    return part and HIDDEN


def _is_option(part: str) -> bool:
    """Whether a part of a query is ``name=value``, for a connection of redis-py or its pool."""
    name, equals, _ = part.partition("=")
    classes = (Connection, SSLConnection, UnixDomainSocketConnection)
    known = {"timeout", "max_connections"}.union(*map(_taken, classes))
    return bool(equals) and name.removeprefix("sentinel_") in known


def _is_place(text: str) -> bool:
    """Whether it is no more than ``HOST:PORT``, each of which may be left out."""
    found = _PLACE_OF_HOST.fullmatch(text)
    return found is not None and int(found[1] or 0) <= PORT_MAX


def _address(arguments: dict[str, Any]) -> str:
    """Where it connects to, without secrets."""
    if path := arguments.get("path"):
        return f"unix:{path}"
    return f"{arguments.get('host', 'localhost')}:{arguments.get('port', 6379)}"


class Link:
    """One connection: commands out in one write, answers back in order. Not shared between tasks."""

    def __init__(self, connector: Connector, name: str, timeout_s: float) -> None:
        self._connector = connector
        self._name = name
        self._timeout_s = timeout_s
        self._deadline = Deadline()
        self._connection: RawConnection | None = None

    @property
    def connected(self) -> bool:
        return self._connection is not None

    @property
    def may_block(self) -> bool:
        """Whether a read that blocks ends with its connection: in fakeredis it goes on, and takes what others need."""
        return not _is_fake(self._connector.connection_class)

    async def exchange(self, commands: Sequence[Sequence[Value]], *, block_s: float = 0.0) -> list[Reply]:
        """The replies, an error reply as the exception it is.

        StoreUnavailable if the connection fails or no answer comes in time (``block_s`` is added to the
        time allowed); the connection is then dropped, the next call makes a new one.
        """
        self._deadline.begin(self._timeout_s + block_s)
        try:
            if self._connection is None:
                connection = self._connector.open_async(self._name)
                await connection.connect()
                self._connection = connection
            connection = self._connection
            await connection.send_packed_command([pack(commands)], check_health=False)
            replies = [await _read(connection) for _ in commands]
        except (OSError, TimeoutError, redis_errors.RedisError, EOFError) as error:
            await self.close()
            raise unavailable(self._connector, error) from error
        except BaseException as error:
            is_over = isinstance(error, asyncio.CancelledError) and self._deadline.is_over()
            await self.close()  # an answer that nobody waits for must not be taken for the next one's
            if is_over:
                raise unavailable(self._connector, TimeoutError()) from error
            raise
        finally:
            self._deadline.end()
        if any(is_of_replica(reply) for reply in replies):
            await self.close()
        return replies

    async def close(self) -> None:
        self._deadline.close()
        connection, self._connection = self._connection, None
        if connection is not None:
            try:
                await connection.disconnect(nowait=True)
            except (OSError, redis_errors.RedisError):
                return  # it was broken already


def pack(commands: Sequence[Sequence[Value]]) -> bytes:
    """Commands as Redis reads them. By hiredis: redis-py's own packing, in Python, took a tenth of a worker's time."""
    return b"".join([_pack_one(tuple(command)) for command in commands])


async def _read(connection: RawConnection) -> Reply:
    try:
        return await connection.read_response(disable_decoding=True)
    except redis_errors.RedisError as error:
        if is_reply(error):
            return error
        raise


class _Slot:
    """Where a thread keeps its connection between two exchanges."""

    connection: RawSyncConnection | None = None


class SyncLink:
    """The same, blocking: for any thread and any forked child, each over a connection of its own."""

    def __init__(self, connector: Connector, name: str, timeout_s: float) -> None:
        self._connector = connector
        self._name = name
        self._timeout_s = timeout_s
        self._slots = PerThread(_Slot)
        self._closings = 0

    def exchange(self, commands: Sequence[Sequence[Value]]) -> list[Reply]:
        """See ``Link.exchange``."""
        slot, closings = self._slots.here(), self._closings
        # Taken out for the exchange: a signal handler or finalizer that calls meanwhile gets another connection.
        connection, slot.connection = slot.connection, None
        try:
            if connection is None:
                connection = self._connector.open_sync(self._name, self._timeout_s)
                connection.connect()
            connection.send_packed_command([pack(commands)], check_health=False)
            replies = [_read_sync(connection) for _ in commands]
        except (OSError, redis_errors.RedisError, EOFError) as error:
            _disconnect(connection)
            raise unavailable(self._connector, error) from error
        except BaseException:
            _disconnect(connection)  # an answer that nobody waits for must not be taken for the next one's
            raise
        is_kept = slot.connection is None and closings == self._closings
        if is_kept and not any(is_of_replica(reply) for reply in replies):
            slot.connection = connection
        else:
            _disconnect(connection)
        return replies

    def close(self) -> None:
        """Let go of the connections of all threads; whoever is in an exchange does so at its end."""
        self._closings += 1
        for slot in self._slots.all():
            connection, slot.connection = slot.connection, None
            _disconnect(connection)


def _disconnect(connection: RawSyncConnection | None) -> None:
    if connection is None:
        return
    try:
        connection.disconnect()
    except (OSError, redis_errors.RedisError):
        return  # it was broken already


def _read_sync(connection: RawSyncConnection) -> Reply:
    try:
        return connection.read_response(disable_decoding=True)
    except redis_errors.RedisError as error:
        if is_reply(error):
            return error
        raise


def is_of_replica(reply: Reply) -> bool:
    """Whether the server says that it takes no writes: another connection may find the one that does."""
    return isinstance(reply, Exception) and (isinstance(reply, redis_errors.ReadOnlyError) or "READONLY" in str(reply))


def is_reply(error: redis_errors.RedisError) -> bool:
    """Whether the server said so, as opposed to the connection having failed."""
    if isinstance(error, redis_errors.BusyLoadingError):
        return True
    transport = (redis_errors.ConnectionError, redis_errors.TimeoutError, redis_errors.InvalidResponse)
    return not isinstance(error, transport)


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


def unavailable(connector: Connector, error: BaseException) -> StoreError:
    """The error for a connection that failed; a refused password is final, the rest may pass."""
    if isinstance(error, redis_errors.AuthenticationError | redis_errors.NoPermissionError) or str(error).startswith(
        _REFUSED_AT_CONNECTING
    ):
        return StoreRefused(f"Redis at {connector.address} refuses us: {error}")
    if isinstance(error, TimeoutError | redis_errors.TimeoutError | socket.timeout):
        return StoreUnavailable(f"Redis at {connector.address} does not answer")
    unreachable = StoreUnavailable(f"Redis at {connector.address} cannot be reached: {_reason(error)}")
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
