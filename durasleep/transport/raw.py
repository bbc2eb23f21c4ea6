"""Connections of redis-py as we use them; and connections that find their server as they connect, behind Sentinel or in
a cluster.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol, cast

import hiredis

from durasleep.protocol.command import Reply
from durasleep.protocol.script import Value
from durasleep.protocol.slots import Address
from durasleep.transport.reply_errors import CONNECTION_FAILED, is_reply

_pack_one = cast("Callable[[tuple[Value, ...]], bytes]", hiredis.pack_command)  # its stub says a tuple of one


class RawConnection(Protocol):
    """The methods that we use of a redis-py asyncio connection."""

    async def connect(self) -> None: ...
    async def disconnect(self, nowait: bool = False) -> None: ...
    async def send_packed_command(self, command: list[bytes], check_health: bool = True) -> None: ...
    async def read_response(self, disable_decoding: bool = False) -> Reply: ...


class RawSyncConnection(Protocol):
    """The methods that we use of a redis-py connection."""

    def connect(self) -> None: ...
    def disconnect(self) -> None: ...
    def send_packed_command(self, command: list[bytes], check_health: bool = True) -> None: ...
    def read_response(self, disable_decoding: bool = False) -> Reply: ...


class Finder(Protocol):
    """Knows where a server is now."""

    async def find(self) -> Address: ...
    def find_sync(self) -> Address: ...


class FoundConnection:
    """A connection for asyncio to the server that is found as it connects."""

    def __init__(self, finder: Finder, open: Callable[[Address], RawConnection]) -> None:
        self._finder = finder
        self._open = open
        self._connection: RawConnection | None = None

    async def connect(self) -> None:
        self._connection = self._open(await self._finder.find())
        await self._connection.connect()

    async def disconnect(self, nowait: bool = False) -> None:
        if self._connection is not None:
            await self._connection.disconnect(nowait=nowait)

    async def send_packed_command(self, command: list[bytes], check_health: bool = True) -> None:
        assert self._connection is not None, "not connected"
        await self._connection.send_packed_command(command, check_health=check_health)

    async def read_response(self, disable_decoding: bool = False) -> Reply:
        assert self._connection is not None, "not connected"
        return await self._connection.read_response(disable_decoding=disable_decoding)


class FoundSyncConnection:
    """The same without asyncio."""

    def __init__(self, finder: Finder, open: Callable[[Address], RawSyncConnection]) -> None:
        self._finder = finder
        self._open = open
        self._connection: RawSyncConnection | None = None

    def connect(self) -> None:
        self._connection = self._open(self._finder.find_sync())
        self._connection.connect()

    def disconnect(self) -> None:
        if self._connection is not None:
            self._connection.disconnect()

    def send_packed_command(self, command: list[bytes], check_health: bool = True) -> None:
        assert self._connection is not None, "not connected"
        self._connection.send_packed_command(command, check_health=check_health)

    def read_response(self, disable_decoding: bool = False) -> Reply:
        assert self._connection is not None, "not connected"
        return self._connection.read_response(disable_decoding=disable_decoding)


def pack(commands: Sequence[Sequence[Value]]) -> bytes:
    """Commands as Redis reads them. hiredis packs them: redis-py's own packing, in Python, took a tenth of a worker's
    time.
    """
    return b"".join([_pack_one(tuple(command)) for command in commands])


async def read_reply(connection: RawConnection) -> Reply:
    """The next reply, an error reply as the exception it is."""
    try:
        return await connection.read_response(disable_decoding=True)
    except CONNECTION_FAILED as error:
        if is_reply(error):
            return error
        raise


def read_reply_sync(connection: RawSyncConnection) -> Reply:
    """See ``read_reply``."""
    try:
        return connection.read_response(disable_decoding=True)
    except CONNECTION_FAILED as error:
        if is_reply(error):
            return error
        raise


async def disconnect(connection: RawConnection | None) -> None:
    """At once, without a word to the server."""
    if connection is None:
        return
    try:
        await connection.disconnect(nowait=True)
    except CONNECTION_FAILED:
        return  # it was broken already


def disconnect_sync(connection: RawSyncConnection | None) -> None:
    """See ``disconnect``."""
    if connection is None:
        return
    try:
        connection.disconnect()
    except CONNECTION_FAILED:
        return  # it was broken already
