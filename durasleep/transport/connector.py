"""How to connect, read from a URL or an application's redis-py client; and connections made in this way.

The client only says how to connect; its connections stay its own. Our connections speak RESP2, decode nothing, and do
not repeat commands by themselves: only the store repeats.
"""

from __future__ import annotations

import inspect
import re
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import redis
import redis.asyncio
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

from durasleep.errors import UsageError
from durasleep.protocol.slots import Address
from durasleep.transport import foreign
from durasleep.transport.raw import Finder, FoundConnection, FoundSyncConnection, RawConnection, RawSyncConnection

if TYPE_CHECKING:  # imported only for the few who use Sentinel or a cluster
    from durasleep.transport.sentinel import Sentinels
    from durasleep.transport.topology import Remap, Topology

_ServerClient = redis.Redis | redis.asyncio.Redis  # type: ignore[type-arg]
AnyClient = _ServerClient | redis.RedisCluster | redis.asyncio.RedisCluster
# From the connection class of a client to ours. The classes of redis-py's Sentinel ask for the address through their
# pool; ours ask for it before they connect.
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
_FOUND = ("host", "port", "connection_pool")  # the answer of sentinels and nodes, and redis-py's own way to ask
_CONNECT_TIMEOUT_S = 5.0  # if the client has no timeout: a host that drops packets must not block a start
# Arguments that belong to the client's pool, or would repeat, decode or time out without our knowledge.
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
_VALKEY = re.compile(r"^valkey(s?)(?=://|\+sentinel://|\+cluster://)")  # another name for the same
_HIDDEN = "***"
_PORT_MAX = 65_535
_PARTS = re.compile(r"([A-Za-z+]*://|)(.*@|)([^/?#]*)([^?#]*)(\?[^#]*|)(#.*|)", re.DOTALL)
_PLACE_OF_HOST = re.compile(r"(?:\[[0-9A-Fa-f:.]+(?:%[\w.-]+)?\]|[^\[\]:,@]*)(?::([0-9]{0,5}))?")
_SECRET_OPTION = re.compile(r"(.*(?:pass|secret|token|key).*?=).*", re.IGNORECASE | re.DOTALL)
_AS_WRITTEN = (
    "it is redis://USER:PASSWORD@HOST:PORT/DB, and in a user name or password '/' is written as %2F, '#' as %23, "
    "'?' as %3F, '@' as %40, ':' as %3A and '[' as %5B"
)


@dataclass(frozen=True, slots=True)
class Connector:
    """How to connect: a connection class of redis-py, sync or async, and its arguments."""

    connection_class: type
    arguments: dict[str, Any] = field(repr=False)  # may contain a password
    address: str
    sentinels: Sentinels | None = field(default=None, repr=False)
    """The sentinels that know the host and the port, if these are not given."""

    topology: Topology | None = field(default=None, repr=False)
    """The nodes of a cluster, if it is one: then a connection is made to the node of a slot."""

    @classmethod
    def of(cls, source: str | AnyClient) -> Connector:
        """From a URL or an existing client; UsageError for anything else."""
        if isinstance(source, str):
            return cls._of_url(_VALKEY.sub(r"redis\1", source))
        if isinstance(source, redis.Redis | redis.asyncio.Redis):
            return cls._of_client(source)
        if isinstance(source, redis.RedisCluster | redis.asyncio.RedisCluster):  # pyright: ignore[reportUnnecessaryIsInstance]
            from durasleep.transport import cluster

            named = cluster.of_client(source)
            return cls._of_cluster(named.connection_class, named.arguments, named.seeds, named.remap)
        raise UsageError(f"a Redis URL or a redis-py client is needed, not {type(source).__name__}")

    @classmethod
    def _of_url(cls, url: str) -> Connector:
        _check_url(url)
        sentinels, seeds = None, None
        if _is_sentinel(url):
            from durasleep.transport import sentinel

            sentinels, url = sentinel.parse(url)
        elif _is_cluster(url):
            from durasleep.transport import cluster

            seeds, url = cluster.parse(url)
        try:
            pool = AsyncPool.from_url(url)
        except ValueError as error:  # in its scheme or an option: the other parts were checked
            raise UsageError(f"{without_secret(url)!r} is not a Redis URL: {error}") from None
        if unknown := pool.connection_kwargs.keys() - _taken(pool.connection_class):
            raise UsageError(f"{without_secret(url)!r} has an option that is not known: {min(unknown)}")
        if seeds is not None:
            return cls._of_cluster(pool.connection_class, pool.connection_kwargs, seeds, None)
        return cls._of_server(pool.connection_class, pool.connection_kwargs, sentinels)

    @classmethod
    def _of_client(cls, client: _ServerClient) -> Connector:
        from durasleep.transport import sentinel

        pool, sentinels = client.connection_pool, None
        if isinstance(pool, sentinel.AnySentinelPool):
            sentinels = sentinel.of_pool(pool)
            if pool.connection_class not in _TO_ASYNC | _TO_SYNC:
                raise UsageError(
                    f"a client of Sentinel with connections of its own class, {pool.connection_class.__name__}, "
                    "cannot be used: name the sentinels in a URL, redis+sentinel://..."
                )
        return cls._of_server(pool.connection_class, pool.connection_kwargs, sentinels)

    @classmethod
    def _of_server(cls, connection_class: type, given: dict[str, Any], sentinels: Sentinels | None) -> Connector:
        arguments = _ours(given)
        if sentinels is not None:
            arguments = _without_address(arguments)
        return cls(connection_class, arguments, str(sentinels) if sentinels else _address(arguments), sentinels)

    @classmethod
    def _of_cluster(
        cls, connection_class: type, given: dict[str, Any], seeds: tuple[Address, ...], remap: Remap | None
    ) -> Connector:
        from durasleep.transport import cluster
        from durasleep.transport.topology import ANSWER_S, Topology

        cluster.check_database(given)
        taken = _taken(connection_class)  # a client of a cluster has some for its nodes, not for their connections
        arguments = _without_address({name: value for name, value in _ours(given).items() if name in taken})
        connect_s = min(arguments.get("socket_connect_timeout") or ANSWER_S, ANSWER_S)
        asking = cls(connection_class, arguments | {"socket_connect_timeout": connect_s}, "")
        topology = Topology(seeds, lambda node: asking.at(node).open_sync("durasleep", ANSWER_S), remap)
        return cls(connection_class, arguments, str(topology), topology=topology)

    def at(self, node: Address) -> Connector:
        """The same for one node of the cluster."""
        host, port = node
        return Connector(self.connection_class, self.arguments | {"host": host, "port": port}, f"{host}:{port}")

    def distrust(self, slot: int | None) -> None:
        """See ``Topology.distrust``; nothing happens if it is no cluster."""
        if self.topology is not None and slot is not None:
            self.topology.distrust(slot)

    def open_async(self, name: str, slot: int | None = None) -> RawConnection:
        """A connection for asyncio, not yet connected; in a cluster to the node of this slot."""
        if self._is_foreign(is_async=True):
            return foreign.InThread(self._open_sync(name, None, slot))
        return self._open_async(name, slot)

    def open_sync(self, name: str, timeout_s: float, slot: int | None = None) -> RawSyncConnection:
        """A blocking connection, not yet connected, whose reads end after ``timeout_s``; see ``open_async``."""
        if self._is_foreign(is_async=False):
            return foreign.InLoop(self._open_async(name, slot), timeout_s)
        return self._open_sync(name, timeout_s, slot)

    def _finder(self, slot: int | None) -> Finder | None:
        """Who says where the server is; None if its address is known."""
        if self.topology is None:
            return self.sentinels
        from durasleep.transport.topology import SlotFinder

        assert slot is not None, "in a cluster a connection is one to the node of a slot, or to a node: see ``at``"
        return SlotFinder(self.topology, slot)

    def _is_foreign(self, *, is_async: bool) -> bool:
        """Whether only connections of the other kind can be used, because of their class or an argument of the
        application.
        """
        if foreign.is_async(self.connection_class) is is_async:
            return False
        if self.connection_class not in (_TO_ASYNC if is_async else _TO_SYNC) and not is_fake(self.connection_class):
            return True
        provider = self.arguments.get("credential_provider")
        asked = getattr(provider, "get_credentials_async" if is_async else "get_credentials", None)
        cannot_say = asked is None or getattr(asked, "__func__", None) is CredentialProvider.get_credentials
        return (provider is not None and cannot_say) or self.arguments.get("redis_connect_func") is not None

    def _open_async(self, name: str, slot: int | None) -> RawConnection:
        connection_class = _translate(self.connection_class, _TO_ASYNC, is_async=True)

        def open(**address: Any) -> RawConnection:
            # The link keeps its own deadlines: redis-py 8 would end a blocking read after 5 s.
            return self._make(connection_class, name, None, AsyncRetry(NoBackoff(), 0), address)

        finder = self._finder(slot)
        return FoundConnection(finder, lambda node: open(host=node[0], port=node[1])) if finder else open()

    def _open_sync(self, name: str, timeout_s: float | None, slot: int | None) -> RawSyncConnection:
        connection_class = _translate(self.connection_class, _TO_SYNC, is_async=False)

        def open(**address: Any) -> RawSyncConnection:
            return self._make(connection_class, name, timeout_s, Retry(NoBackoff(), 0), address)

        finder = self._finder(slot)
        return FoundSyncConnection(finder, lambda node: open(host=node[0], port=node[1])) if finder else open()

    def _make(
        self, connection_class: type, name: str, timeout_s: float | None, retry: object, address: dict[str, Any]
    ) -> Any:
        """One of this class, with the application's arguments, and those of ours that the class takes."""
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
            "socket_connect_timeout": arguments.get("socket_connect_timeout") or _CONNECT_TIMEOUT_S,
            # A Unix socket has no keep-alive.
            **({} if "path" in arguments else {"socket_keepalive": arguments.get("socket_keepalive", True)}),
        }
        return connection_class(**{**arguments, **address, **{key: ours[key] for key in ours if key in taken}})


def _ours(given: dict[str, Any]) -> dict[str, Any]:
    """The arguments of a client that its connections and ours share."""
    return {
        name: value
        for name, value in given.items()
        if name not in _NOT_OURS and not name.startswith(("maint_", "orig_", "oss_", "_"))
    }


def _without_address(arguments: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in arguments.items() if name not in _FOUND}


@cache
def _taken(connection_class: type) -> frozenset[str]:
    """The arguments of a connection class, its own and those that it passes on."""
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


def is_fake(connection_class: type) -> bool:
    """Whether it is a class of fakeredis: the server is the same for both kinds of connection."""
    return connection_class.__name__ in ("FakeRedisConnection", "FakeConnection", "FakeAsyncRedisConnection")


def _translate(connection_class: type, table: dict[type, type], *, is_async: bool) -> type:
    """The class of the other kind, if there is one; a class of the application stays as it is."""
    if connection_class in table:
        return table[connection_class]
    if is_fake(connection_class) and foreign.is_async(connection_class) is not is_async:
        import fakeredis._clients._async as fake_async
        import fakeredis._clients._sync as fake_sync

        return fake_async.FakeAsyncRedisConnection if is_async else fake_sync.FakeRedisConnection
    return connection_class


def _check_url(url: str) -> None:
    """UsageError if it cannot be read, or if a password is cut in two or has no host.

    Otherwise a part of the password would be read as host, port, path or option, and messages would show it.
    """
    try:
        split = urlsplit(url)
    except ValueError:
        raise UsageError(f"{without_secret(url)!r} is not a Redis URL: {_AS_WRITTEN}") from None
    is_cut = "@" in split.fragment or any("@" in part and not _is_option(part) for part in split.query.split("&"))
    if is_cut or ("@" in split.path and split.scheme != "unix"):
        raise UsageError(f"{without_secret(url)!r} is not a Redis URL: {_AS_WRITTEN}")
    if not _is_sentinel(url) and not _is_cluster(url) and not _is_host(split.netloc.rpartition("@")[2]):
        raise UsageError(
            f"{without_secret(url)!r} is not a Redis URL: the port is not a number up to 65535, or there is no host "
            f"behind a password; {_AS_WRITTEN}"
        )


def _is_sentinel(url: str) -> bool:
    """Whether a URL names sentinels."""
    return url.startswith(("redis+sentinel://", "rediss+sentinel://"))


def _is_cluster(url: str) -> bool:
    """Whether a URL names nodes of a cluster."""
    return url.startswith(("redis+cluster://", "rediss+cluster://"))


def without_secret(url: str) -> str:
    """A URL to show, even a wrong one, without any part that may belong to a password."""
    found = _PARTS.fullmatch(url)
    if found is None:
        return _HIDDEN
    scheme, user, hosts, path, query, fragment = found.groups()
    if not all(map(_is_host, hosts.split(","))):
        if not user:
            return f"{scheme}{_HIDDEN}"
        hosts = f"{hosts.partition(':')[0]}:{_HIDDEN}"
    is_named = scheme == "unix://" or "sentinel" in scheme
    if not is_named and not path.removeprefix("/").isdigit():
        path = path and f"/{_HIDDEN}"
    shown = "&".join(map(_shown_option, query.removeprefix("?").split("&"))) if query else ""
    return "".join([scheme, user and f"{_HIDDEN}@", hosts, path, shown and f"?{shown}", fragment and f"#{_HIDDEN}"])


def _shown_option(part: str) -> str:
    if _is_option(part):
        return _SECRET_OPTION.sub(rf"\1{_HIDDEN}", part)
    return part and _HIDDEN


def _is_option(part: str) -> bool:
    """Whether a part of a query is ``name=value``, for a connection of redis-py or its pool."""
    name, equals, _ = part.partition("=")
    classes = (Connection, SSLConnection, UnixDomainSocketConnection)
    known = {"timeout", "max_connections"}.union(*map(_taken, classes))
    return bool(equals) and name.removeprefix("sentinel_") in known


def _is_host(text: str) -> bool:
    """Whether it is only ``HOST:PORT``; each of the two may be missing."""
    found = _PLACE_OF_HOST.fullmatch(text)
    return found is not None and int(found[1] or 0) <= _PORT_MAX


def _address(arguments: dict[str, Any]) -> str:
    """The address it connects to, without secrets."""
    if path := arguments.get("path"):
        return f"unix:{path}"
    return f"{arguments.get('host', 'localhost')}:{arguments.get('port', 6379)}"
