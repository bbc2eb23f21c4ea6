"""What settles for one client, as the scripts tell it: hints with the value in them, heard while anybody waits."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator

from durasleep.errors import DurasleepError, StoreError
from durasleep.model import PromiseId
from durasleep.settings import Settings
from durasleep.store import commands
from durasleep.store.calls import Ending, ending_of_created
from durasleep.store.commands import Created
from durasleep.store.connection import Link
from durasleep.store.store import Store

TTL_REFRESH_S = 20.0  # of the inbox: well within its life
READ_MAX = 256  # entries of it in one answer

logger = logging.getLogger("durasleep")


class Expected:
    """The ending of one promise, once the inbox tells it; it may be told that nothing is known: look yourself."""

    __slots__ = ("_inbox", "future", "id")

    def __init__(self, inbox: Inbox, id: str) -> None:
        self._inbox = inbox
        self.id = id
        self.future: asyncio.Future[Ending | None] = asyncio.get_running_loop().create_future()

    def hear(self, asked: asyncio.Future[Created]) -> None:
        """What attaching has answered: that it has ended already, or whatever else whoever waits will see himself."""
        failed = asked.cancelled() or asked.exception() is not None
        ending = None if failed else ending_of_created(PromiseId(self.id), asked.result())
        if not self.future.done() and (ending is None or ending.is_final):
            self.future.set_result(ending)

    def forget(self) -> None:
        """Nobody waits for it any more."""
        self._inbox.forget(self)


class Inbox:
    """Reads what settles for this client from one stream, in the background, while anybody waits."""

    def __init__(self, store: Store, name: str, settings: Settings) -> None:
        self.name = name
        self._store = store
        self._settings = settings
        self._key = store.keys().inbox(name).encode()
        self._link: Link = store.link()
        self._last = b"0-0"
        self._waiting: dict[str, set[Expected]] = {}
        self._task: asyncio.Task[None] | None = None
        self._fresh_until = 0.0
        self._look_at = 0.0

    @property
    def is_listening(self) -> bool:
        """Whether what it is told from now on is heard."""
        return self._link.connected and self._task is not None and not self._task.done()

    def expect(self, id: str) -> Expected:
        """What will be told of a promise."""
        expected = Expected(self, id)
        self._waiting.setdefault(id, set()).add(expected)
        if self._task is None or self._task.done():
            self._task = asyncio.get_running_loop().create_task(self._run(), name="durasleep-inbox")
        return expected

    def forget(self, expected: Expected) -> None:
        """Nobody waits for this any more."""
        waiting = self._waiting.get(expected.id)
        if waiting is not None:
            waiting.discard(expected)
            if not waiting:
                self._waiting.pop(expected.id, None)

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        for waiting in tuple(self._waiting.values()):
            for expected in waiting:
                expected.future.cancel()
        self._waiting.clear()
        await self._link.close()

    def _tell(self, id: str, ending: Ending | None) -> None:
        for expected in self._waiting.pop(id, ()):
            if not expected.future.done():
                expected.future.set_result(ending)

    def _tell_to_look(self) -> None:
        """Something may have been missed."""
        for id in tuple(self._waiting):
            self._tell(id, None)

    async def _run(self) -> None:
        heard = False
        while self._waiting or heard:  # who was just told something often asks again: not to be missed
            try:
                heard = await self._once()
            except DurasleepError as error:
                heard = False
                logger.warning("results are looked up one by one: the inbox cannot be read (%s)", error)
                self._tell_to_look()
                await asyncio.sleep(1.0)

    async def _once(self) -> bool:
        """Waits until something is told, a while at most; whether anything was."""
        now = asyncio.get_running_loop().time()
        if not self._link.connected or now > self._fresh_until:
            is_new = not self._link.connected
            [kept] = await self._link.exchange([[b"PEXPIRE", self._key, b"%d" % (self._settings.inbox_ttl_s * 1000)]])
            if kept != 1 or is_new:
                await self._begin_again(kept == 1)
                self._look_at = now + self._settings.client_check_s
            self._fresh_until = now + TTL_REFRESH_S
        if now > self._look_at:  # what an inbox is told are hints
            self._tell_to_look()
            self._look_at = now + self._settings.client_check_s
            return False
        block_s = self._settings.read_block_s
        read = [b"XREAD", b"BLOCK", b"%d" % (block_s * 1000), b"COUNT", b"%d" % READ_MAX]
        [found] = await self._link.exchange([[*read, b"STREAMS", self._key, self._last]], block_s=block_s)
        if isinstance(found, Exception):
            raise StoreError(f"{found}")
        for _, rows in found or ():
            before = self._last
            for entry, fields in rows:
                self._last = entry
                for told in _split(fields):
                    self._hear(told)
            if len(rows) == READ_MAX:
                await self._check_gap(before)
        return bool(found)

    async def _check_gap(self, last: bytes) -> None:
        """A reader far behind may have missed what the cap of the stream has cut."""
        [rows] = await self._link.exchange([[b"XRANGE", self._key, b"-", b"+", b"COUNT", b"1"]])
        if isinstance(rows, Exception):
            raise StoreError(f"{rows}")
        if rows and _instant(rows[0][0]) > _instant(last):
            self._tell_to_look()

    async def _begin_again(self, exists: bool) -> None:
        """After a gap everyone looks for himself, and the stream is read from its own end."""
        if not exists:
            await self._link.exchange(
                [
                    [b"XADD", self._key, b"*", b"o", b""],
                    [b"PEXPIRE", self._key, b"%d" % (self._settings.inbox_ttl_s * 1000)],
                ]
            )
        [rows] = await self._link.exchange([[b"XREVRANGE", self._key, b"+", b"-", b"COUNT", b"1"]])
        if isinstance(rows, Exception):
            raise StoreError(f"{rows}")
        self._last = rows[0][0] if rows else b"0-0"
        self._tell_to_look()

    def _hear(self, content: dict[bytes, bytes]) -> None:
        id = content.get(b"i", b"").decode(errors="replace")
        state = commands.STATE_OF.get(content.get(b"s", b""))
        if not id:
            return
        value = content.get(b"v")
        self._tell(id, Ending(PromiseId(id), state, value) if state and value is not None else None)


def _split(fields: list[bytes]) -> Iterator[dict[bytes, bytes]]:
    """The endings one entry tells of; each begins with its id."""
    told: dict[bytes, bytes] = {}
    for name, value in zip(fields[::2], fields[1::2], strict=False):
        if name == b"i" and told:
            yield told
            told = {}
        told[name] = value
    yield told


def _instant(entry: bytes) -> tuple[int, int]:
    """The id of a stream entry, to be compared."""
    ms, _, number = entry.partition(b"-")
    return int(ms), int(number)
