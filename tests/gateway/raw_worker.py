"""A worker that speaks Resonate's protocol as bytes: what an SDK does, without one."""

from __future__ import annotations

import asyncio
import time
from typing import Any

from tests.gateway.gateways import FAR_MS, Poll, rpc
from tests.service.workers import eventually


def tags(id: str, group: str, **more: str) -> dict[str, str]:
    """The tags of a promise with a task for a group."""
    root = id.partition(":")[0]
    own = {"origin": root, "branch": id, "parent": root, "scope": "global", "target": f"poll://any@{group}"}
    return {f"resonate:{name}": value for name, value in {**own, **more}.items()}


async def create(url: str, id: str, group: str = "raw", *, timeout_at: int = FAR_MS, **more: str) -> Any:
    """Start a function."""
    status, data = await rpc(
        url, "promise.create", id=id, timeoutAt=timeout_at, param={"data": "e30="}, tags=tags(id, group, **more)
    )
    assert status == 200, data
    return data["promise"]


async def settled(url: str, id: str) -> Any:
    """A promise, once it has settled. The gateway may be away meanwhile."""

    async def look() -> Any:
        try:
            status, data = await rpc(url, "promise.get", id=id)
        except OSError:
            return None
        return data["promise"] if status == 200 and data["promise"]["state"] != "pending" else None

    return await eventually(look, f"{id} to settle")


class RawWorker:
    """One process of a group. Its function sleeps once, by a timer of its own, and returns who has finished it."""

    def __init__(self, url: str, pid: str, group: str = "raw") -> None:
        self.url = url
        self.pid = pid
        self.group = group
        self.poll: Poll

    async def connect(self) -> RawWorker:
        """Poll."""
        self.poll = await Poll.open(int(self.url.rpartition(":")[2]), self.group, self.pid)
        return self

    async def acquire(self, ttl_ms: int = 60_000) -> Any:
        """Take the next task that it is told of and may have."""
        while True:
            task = (await self.poll.message())["data"]["task"]
            status, data = await rpc(
                self.url, "task.acquire", id=task["id"], version=task["version"], pid=self.pid, ttl=ttl_ms
            )
            if status == 200:
                return data["task"]
            assert status == 409, data

    async def sleep(self, task: Any, ms: int) -> int:
        """Suspend it until a timer is due, whose instant is returned."""
        id, due = f"{task['id']}:1", round(time.time() * 1000) + ms
        timer = {"id": id, "timeoutAt": due, "param": {}, "tags": tags(id, self.group, timer="true")}
        head = {"corrId": "c", "version": "2026-04-01"}
        action = {"kind": "promise.create", "head": head, "data": timer}
        status, data = await rpc(self.url, "task.fence", id=task["id"], version=task["version"], action=action)
        assert (status, data["action"]["head"]["status"]) == (200, 200), data
        wait = {"kind": "promise.register_callback", "head": head, "data": {"awaited": id, "awaiter": task["id"]}}
        status, data = await rpc(self.url, "task.suspend", id=task["id"], version=task["version"], actions=[wait])
        assert status == 200, data
        return due

    async def finish(self, task: Any) -> int:
        """Finish it; returns the status."""
        head = {"corrId": "c", "version": "2026-04-01"}
        end = {"id": task["id"], "state": "resolved", "value": {"data": self.pid}}
        action = {"kind": "promise.settle", "head": head, "data": end}
        status, _ = await rpc(self.url, "task.fulfill", id=task["id"], version=task["version"], action=action)
        return status

    async def finish_all(self) -> None:
        """Finish whatever comes, until it is cancelled."""
        while True:
            assert await self.finish(await self.acquire()) == 200

    def finishing(self) -> asyncio.Task[None]:
        """The same in a task."""
        return asyncio.create_task(self.finish_all())
