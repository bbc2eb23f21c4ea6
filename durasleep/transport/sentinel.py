"""Redis behind Sentinel: the sentinels are asked for the primary before each connection, so a failover is followed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast
from urllib.parse import parse_qsl, unquote, urlencode, urlsplit, urlunsplit

from redis.asyncio.retry import Retry as AsyncRetry
from redis.asyncio.sentinel import Sentinel as AsyncSentinel
from redis.asyncio.sentinel import SentinelConnectionPool as AsyncSentinelPool
from redis.backoff import NoBackoff
from redis.retry import Retry
from redis.sentinel import Sentinel, SentinelConnectionPool

from durasleep.errors import UsageError

PORT = 26379
_ASKED_S = 2.0  # for the answer of one sentinel, by default; then the next one is asked

_AS_WRITTEN = "a Sentinel URL is redis+sentinel://[USER:PASSWORD@]HOST[:PORT][,HOST[:PORT]...]/SERVICE[/DB][?OPTIONS]"

_OWN = "sentinel_"  # the prefix of URL options that are for the sentinels

AnySentinelPool = SentinelConnectionPool | AsyncSentinelPool


Open = Callable[[str, int], Any]
"""Makes a connection to a host and a port, not yet connected."""


@dataclass(frozen=True, slots=True)
class Sentinels:
    """Which sentinels to ask, and for which service."""

    addresses: tuple[tuple[str, int], ...]
    service: str
    options: dict[str, Any]
    """How to connect to them; redis-py calls it ``sentinel_kwargs``."""

    def __str__(self) -> str:
        asked = ",".join(f"{host}:{port}" for host, port in self.addresses)
        return f"{self.service} of {asked}"

    async def find(self) -> tuple[str, int]:
        """The primary, from the first sentinel that knows it; ConnectionError if none does."""
        asked: Any = AsyncSentinel(self.addresses, sentinel_kwargs={"retry": AsyncRetry(NoBackoff(), 0)} | self.options)
        try:
            host, port = await asked.discover_master(self.service)
        finally:
            for client in asked.sentinels:
                await client.aclose()
        return host, int(port)

    def find_sync(self) -> tuple[str, int]:
        """See ``find``."""
        asked: Any = Sentinel(self.addresses, sentinel_kwargs={"retry": Retry(NoBackoff(), 0)} | self.options)
        try:
            host, port = asked.discover_master(self.service)
        finally:
            for client in asked.sentinels:
                client.close()
        return host, int(port)


def parse(url: str) -> tuple[Sentinels, str]:
    """``redis+sentinel://[USER:PASSWORD@]HOST[:PORT][,HOST[:PORT]...]/SERVICE[/DB][?OPTIONS]`` in two parts.

    The parts are the sentinels, and the URL of the primary with a placeholder address. User, database and options are
    for the primary; ``rediss+sentinel`` asks for TLS everywhere. Options that begin with ``sentinel_`` are for the
    sentinels: ``sentinel_username``, ``sentinel_password``. UsageError for a wrong URL.
    """
    split = urlsplit(url)
    scheme, is_tls = split.scheme.partition("+")[0], split.scheme.startswith("rediss")
    user, _, hosts = split.netloc.rpartition("@")
    service, _, database = split.path.strip("/").partition("/")
    if not hosts or not service or (database and not database.isdigit()):
        raise UsageError(_AS_WRITTEN)
    options = parse_qsl(split.query)
    own: dict[str, Any] = {name.removeprefix(_OWN): value for name, value in options if name.startswith(_OWN)}
    if is_tls:
        own |= {"ssl": True} | {name: value for name, value in options if name.startswith("ssl_")}
    query = urlencode([(name, value) for name, value in options if not name.startswith(_OWN)])
    primary = urlunsplit((scheme, f"{user}@localhost" if user else "localhost", f"/{database}", query, ""))
    return Sentinels(tuple(_address(host) for host in hosts.split(",")), unquote(service), _in_time(own)), primary


def of_pool(pool: AnySentinelPool) -> Sentinels:
    """The sentinels of a pool that redis-py's Sentinel made; UsageError for one of replicas, which take no writes."""
    if not pool.is_master:
        raise UsageError("this is a client of replicas: pass the client of the primary, `sentinel.master_for(...)`")
    given = cast("Any", pool)
    manager = given.sentinel_manager
    asked = [client.connection_pool.connection_kwargs for client in manager.sentinels]
    addresses = tuple((one["host"], int(one["port"])) for one in asked)
    return Sentinels(addresses, str(given.service_name), _in_time(dict(manager.sentinel_kwargs)))


def _in_time(options: dict[str, Any]) -> dict[str, Any]:
    """Options with a timeout: a sentinel that is gone must not block the others."""
    return {"socket_timeout": _ASKED_S, "socket_connect_timeout": _ASKED_S} | options


def _address(text: str) -> tuple[str, int]:
    """``host``, ``host:port`` or ``[v6]:port``."""
    host, colon, port = text.rpartition(":")
    if not colon or port.endswith("]"):
        host, port = text, str(PORT)
    if not host or not port.isdigit():
        raise UsageError(f"the address of a sentinel is not valid, or may be a password: {_AS_WRITTEN}")
    return host.removeprefix("[").removesuffix("]"), int(port)


class FoundConnection:
    """A connection for asyncio to the server that is the primary when it connects."""

    def __init__(self, sentinels: Sentinels, open: Open) -> None:
        self._sentinels = sentinels
        self._open = open
        self._connection: Any = None

    async def connect(self) -> None:
        self._connection = self._open(*await self._sentinels.find())
        await self._connection.connect()

    async def disconnect(self, nowait: bool = False) -> None:
        if self._connection is not None:
            await self._connection.disconnect(nowait=nowait)

    async def send_packed_command(self, command: list[bytes], check_health: bool = True) -> None:
        await self._connection.send_packed_command(command, check_health=check_health)

    async def read_response(self, disable_decoding: bool = False) -> Any:
        return await self._connection.read_response(disable_decoding=disable_decoding)


class FoundSyncConnection:
    """The same without asyncio."""

    def __init__(self, sentinels: Sentinels, open: Open) -> None:
        self._sentinels = sentinels
        self._open = open
        self._connection: Any = None

    def connect(self) -> None:
        self._connection = self._open(*self._sentinels.find_sync())
        self._connection.connect()

    def disconnect(self) -> None:
        if self._connection is not None:
            self._connection.disconnect()

    def send_packed_command(self, command: list[bytes], check_health: bool = True) -> None:
        self._connection.send_packed_command(command, check_health=check_health)

    def read_response(self, disable_decoding: bool = False) -> Any:
        return self._connection.read_response(disable_decoding=disable_decoding)
