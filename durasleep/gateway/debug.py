"""What the tests of SDKs ask of a server whose time they choose: `durasleep serve --debug`."""

from __future__ import annotations

from typing import Any

import msgspec

from durasleep.gateway.delivery import DUE_MAX, Delivery
from durasleep.protocol import resonate_requests, server
from durasleep.protocol.command import Command
from durasleep.protocol.keys import Keyspace
from durasleep.protocol.resonate import Answer
from durasleep.transport.store import Store

_TIME_MAX = 2**53 - 1  # a double of Redis counts no further
_PAGE = 1000  # keys that are looked at together


class Debug:
    """Answers requests of the kinds ``debug.*``."""

    def __init__(self, store: Store, delivery: Delivery) -> None:
        self._store = store
        self._delivery = delivery

    async def answer(self, kind: str, corr_id: str, data: dict[str, Any]) -> Answer:
        """The answer to one."""
        match kind:
            case "debug.start" | "debug.stop":
                self._delivery.is_of_own_time = kind == "debug.stop"
                self._delivery.wake()
                return _answered(kind, corr_id, {})
            case "debug.tick":
                time = data.get("time")
                if type(time) is not int or not 0 <= time <= _TIME_MAX:
                    return resonate_requests.refusal(400, "time must be a number of ms", kind=kind, corr_id=corr_id)
                await self._tick(time)
                return _answered(kind, corr_id, [])
            case "debug.reset":
                for keys in self._store.keyspaces:
                    await self._reset(keys)
                return _answered(kind, corr_id, {})
            case _:
                return resonate_requests.refusal(501, f"{kind} is not implemented", kind=kind, corr_id=corr_id)

    async def _tick(self, now_ms: int) -> None:
        """Do all that is due at this time."""
        for keys in self._store.keyspaces:
            while True:
                plan = resonate_requests.tick(self._store.keyspaces, keys, limit=DUE_MAX, now_ms=now_ms)
                if (await self._store.run(plan)).due < DUE_MAX:
                    break
        self._delivery.wake()

    async def _reset(self, keys: Keyspace) -> None:
        """Remove all promises, tasks and schedules of a partition."""
        cursor = b"0"
        while True:
            page: Command[tuple[bytes, list[bytes]]] = server.scan(f"{keys.resonate}*", cursor, count=_PAGE)
            cursor, found = await self._store.call(page.at(keys.slot))
            if found:
                await self._store.call(server.delete(found))
            if cursor == b"0":
                return


def _answered(kind: str, corr_id: str, data: object) -> Answer:
    head = {"corrId": corr_id, "status": 200, "version": resonate_requests.VERSION}
    return Answer(200, msgspec.json.encode({"kind": kind, "head": head, "data": data}))
