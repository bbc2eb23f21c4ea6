"""Connections: commands out in one write, answers back in order."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import cast

import hiredis

from durasleep.protocol.command import Reply
from durasleep.protocol.script import Value
from durasleep.transport.connector import Connector, RawConnection, RawSyncConnection, is_fake
from durasleep.transport.deadline import Deadline
from durasleep.transport.local import PerThread
from durasleep.transport.reply_errors import CONNECTION_FAILED, is_of_wrong_node, is_reply, unavailable

_pack_one = cast("Callable[[tuple[Value, ...]], bytes]", hiredis.pack_command)  # its stub says a tuple of one


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
        """Whether a blocking read ends with its connection. In fakeredis it goes on, and takes others' entries."""
        return not is_fake(self._connector.connection_class)

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
        except CONNECTION_FAILED as error:
            await self.close()
            raise unavailable(self._connector.address, error) from error
        except BaseException as error:
            is_over = isinstance(error, asyncio.CancelledError) and self._deadline.is_over()
            await self.close()  # a late answer must not be taken for the answer of the next call
            if is_over:
                raise unavailable(self._connector.address, TimeoutError()) from error
            raise
        finally:
            self._deadline.end()
        if any(is_of_wrong_node(reply) for reply in replies):
            await self.close()
        return replies

    async def close(self) -> None:
        self._deadline.close()
        connection, self._connection = self._connection, None
        if connection is not None:
            try:
                await connection.disconnect(nowait=True)
            except CONNECTION_FAILED:
                return  # it was broken already


def pack(commands: Sequence[Sequence[Value]]) -> bytes:
    """Commands as Redis reads them. hiredis packs them: redis-py's own packing, in Python, took a tenth of a worker's
    time.
    """
    return b"".join([_pack_one(tuple(command)) for command in commands])


async def _read(connection: RawConnection) -> Reply:
    try:
        return await connection.read_response(disable_decoding=True)
    except CONNECTION_FAILED as error:
        if is_reply(error):
            return error
        raise


class _Slot:
    """Where a thread keeps its connection between two exchanges."""

    connection: RawSyncConnection | None = None


class SyncLink:
    """The same, blocking, for any thread and any forked child; each has a connection of its own."""

    def __init__(self, connector: Connector, name: str, timeout_s: float) -> None:
        self._connector = connector
        self._name = name
        self._timeout_s = timeout_s
        self._slots = PerThread(_Slot)
        self._closings = 0

    def exchange(self, commands: Sequence[Sequence[Value]]) -> list[Reply]:
        """See ``Link.exchange``."""
        slot, closings = self._slots.here(), self._closings
        # Taken out for the exchange: a signal handler or finalizer that makes a call meanwhile gets another connection.
        connection, slot.connection = slot.connection, None
        try:
            if connection is None:
                connection = self._connector.open_sync(self._name, self._timeout_s)
                connection.connect()
            connection.send_packed_command([pack(commands)], check_health=False)
            replies = [_read_sync(connection) for _ in commands]
        except CONNECTION_FAILED as error:
            _disconnect(connection)
            raise unavailable(self._connector.address, error) from error
        except BaseException:
            _disconnect(connection)  # a late answer must not be taken for the answer of the next call
            raise
        is_kept = slot.connection is None and closings == self._closings
        if is_kept and not any(is_of_wrong_node(reply) for reply in replies):
            slot.connection = connection
        else:
            _disconnect(connection)
        return replies

    def close(self) -> None:
        """Close the connections of all threads; a thread in an exchange closes its own at the end."""
        self._closings += 1
        for slot in self._slots.all():
            connection, slot.connection = slot.connection, None
            _disconnect(connection)


def _disconnect(connection: RawSyncConnection | None) -> None:
    if connection is None:
        return
    try:
        connection.disconnect()
    except CONNECTION_FAILED:
        return  # it was broken already


def _read_sync(connection: RawSyncConnection) -> Reply:
    try:
        return connection.read_response(disable_decoding=True)
    except CONNECTION_FAILED as error:
        if is_reply(error):
            return error
        raise
