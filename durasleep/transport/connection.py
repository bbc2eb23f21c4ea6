"""Connections: commands out in one write, answers back in order."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from durasleep.protocol.command import Reply
from durasleep.protocol.script import Value
from durasleep.transport.connector import Connector, is_fake
from durasleep.transport.deadline import Deadline
from durasleep.transport.local import PerThread
from durasleep.transport.raw import (
    RawConnection,
    RawSyncConnection,
    disconnect,
    disconnect_sync,
    pack,
    read_reply,
    read_reply_sync,
)
from durasleep.transport.reply_errors import CONNECTION_FAILED, is_of_wrong_node, unavailable


class Link:
    """One connection: commands out in one write, answers back in order. Not shared between tasks.

    In a cluster it is one to the node of ``slot``, wherever that is when it connects.
    """

    def __init__(self, connector: Connector, name: str, timeout_s: float, slot: int | None = None) -> None:
        self._connector = connector
        self._name = name
        self._timeout_s = timeout_s
        self._slot = slot
        self._deadline = Deadline()
        self._connection: RawConnection | None = None

    @property
    def connected(self) -> bool:
        return self._connection is not None

    @property
    def is_of_cluster(self) -> bool:
        """Whether it may have to go to another node."""
        return self._slot is not None and self._connector.topology is not None

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
                connection = self._connector.open_async(self._name, self._slot)
                await connection.connect()
                self._connection = connection
            connection = self._connection
            await connection.send_packed_command([pack(commands)], check_health=False)
            replies = [await read_reply(connection) for _ in commands]
        except CONNECTION_FAILED as error:
            await self._leave()
            raise unavailable(self._connector.address, error) from error
        except BaseException as error:
            is_over = isinstance(error, asyncio.CancelledError) and self._deadline.is_over()
            await self.close()  # a late answer must not be taken for the answer of the next call
            if is_over:
                self._connector.distrust(self._slot)
                raise unavailable(self._connector.address, TimeoutError()) from error
            raise
        finally:
            self._deadline.end()
        if any(is_of_wrong_node(reply) for reply in replies):
            await self._leave()
        return replies

    async def close(self) -> None:
        self._deadline.close()
        connection, self._connection = self._connection, None
        await disconnect(connection)

    async def _leave(self) -> None:
        """Close it: the next one may have to go elsewhere."""
        self._connector.distrust(self._slot)
        await self.close()


class _Spare:
    """Where a thread keeps its connection between two exchanges."""

    connection: RawSyncConnection | None = None


class SyncLink:
    """The same, blocking, for any thread and any forked child; each has a connection of its own."""

    def __init__(self, connector: Connector, name: str, timeout_s: float, slot: int | None = None) -> None:
        self._connector = connector
        self._name = name
        self._timeout_s = timeout_s
        self._slot = slot
        self._spares = PerThread(_Spare)
        self._closings = 0

    def exchange(self, commands: Sequence[Sequence[Value]]) -> list[Reply]:
        """See ``Link.exchange``."""
        spare, closings = self._spares.here(), self._closings
        # Taken out for the exchange: a signal handler or finalizer that makes a call meanwhile gets another connection.
        connection, spare.connection = spare.connection, None
        try:
            if connection is None:
                connection = self._connector.open_sync(self._name, self._timeout_s, self._slot)
                connection.connect()
            connection.send_packed_command([pack(commands)], check_health=False)
            replies = [read_reply_sync(connection) for _ in commands]
        except CONNECTION_FAILED as error:
            self._connector.distrust(self._slot)
            disconnect_sync(connection)
            raise unavailable(self._connector.address, error) from error
        except BaseException:
            disconnect_sync(connection)  # a late answer must not be taken for the answer of the next call
            raise
        is_wrong = any(is_of_wrong_node(reply) for reply in replies)
        if is_wrong:
            self._connector.distrust(self._slot)
        if not is_wrong and spare.connection is None and closings == self._closings:
            spare.connection = connection
        else:
            disconnect_sync(connection)
        return replies

    def close(self) -> None:
        """Close the connections of all threads; a thread in an exchange closes its own at the end."""
        self._closings += 1
        for spare in self._spares.all():
            connection, spare.connection = spare.connection, None
            disconnect_sync(connection)
