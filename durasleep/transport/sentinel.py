"""Redis behind Sentinel: the sentinels are asked for the primary before each connection, so a failover is followed."""

from __future__ import annotations

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
from durasleep.protocol.slots import Address
from durasleep.transport import addresses

PORT = 26379
_ASKED_S = 2.0  # for the answer of one sentinel, by default; then the next one is asked

_AS_WRITTEN = "a Sentinel URL is redis+sentinel://[USER:PASSWORD@]HOST[:PORT][,HOST[:PORT]...]/SERVICE[/DB][?OPTIONS]"

_OWN = "sentinel_"  # the prefix of URL options that are for the sentinels

AnySentinelPool = SentinelConnectionPool | AsyncSentinelPool


@dataclass(frozen=True, slots=True)
class Sentinels:
    """Which sentinels to ask, and for which service."""

    addresses: tuple[Address, ...]
    service: str
    options: dict[str, Any]
    """How to connect to them; redis-py calls it ``sentinel_kwargs``."""

    def __str__(self) -> str:
        asked = ",".join(f"{host}:{port}" for host, port in self.addresses)
        return f"{self.service} of {asked}"

    async def find(self) -> Address:
        """The primary, from the first sentinel that knows it; ConnectionError if none does."""
        asked: Any = AsyncSentinel(self.addresses, sentinel_kwargs={"retry": AsyncRetry(NoBackoff(), 0)} | self.options)
        try:
            host, port = await asked.discover_master(self.service)
        finally:
            for client in asked.sentinels:
                await client.aclose()
        return host, int(port)

    def find_sync(self) -> Address:
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
    try:
        asked = addresses.read(hosts, PORT)
    except ValueError:
        raise UsageError(f"the address of a sentinel is not valid, or may be a password: {_AS_WRITTEN}") from None
    return Sentinels(asked, unquote(service), _in_time(own)), primary


def of_pool(pool: AnySentinelPool) -> Sentinels:
    """The sentinels of a pool that redis-py's Sentinel made; UsageError for one of replicas, which take no writes."""
    if not pool.is_master:
        raise UsageError("this is a client of replicas: pass the client of the primary, `sentinel.master_for(...)`")
    given = cast("Any", pool)
    manager = given.sentinel_manager
    asked = [client.connection_pool.connection_kwargs for client in manager.sentinels]
    found = tuple((one["host"], int(one["port"])) for one in asked)
    return Sentinels(found, str(given.service_name), _in_time(dict(manager.sentinel_kwargs)))


def _in_time(options: dict[str, Any]) -> dict[str, Any]:
    """Options with a timeout: a sentinel that is gone must not block the others."""
    return {"socket_timeout": _ASKED_S, "socket_connect_timeout": _ASKED_S} | options
