"""A worker of a test that speaks HTTP, and nothing else."""

from __future__ import annotations

import asyncio
import contextlib
import json
from dataclasses import dataclass
from typing import Any

import httpx

from tests.gateway.described import Described
from tests.gateway.gateways import HOST, Answered
from tests.service.workers import PATIENCE_S

THUMBNAIL = ("thumbnail",)
DESCRIBED = Described()


async def post(port: int, path: str, body: Any, *, kind: str = "application/json") -> Answered:
    """One request on a connection of its own, which is closed at once if this is cancelled. An answer that is not
    described by OpenAPI fails the test.
    """
    reader, writer = await asyncio.open_connection(HOST, port)
    try:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        head = f"POST {path} HTTP/1.1\r\nHost: {HOST}\r\nContent-Type: {kind}\r\nConnection: close\r\n"
        writer.write(f"{head}Content-Length: {len(data)}\r\n\r\n".encode() + data)
        answer = await asyncio.wait_for(reader.read(), PATIENCE_S)
    finally:
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()
    first, _, rest = answer.partition(b"\r\n")
    lines, _, content = rest.partition(b"\r\n\r\n")
    headers = dict(line.split(": ", 1) for line in lines.decode().split("\r\n"))
    answered = Answered(int(first.split(b" ")[1]), headers, content)
    operation = DESCRIBED.operation("POST", path.partition("?")[0])
    if operation is not None:
        DESCRIBED.check_answer(operation, httpx.Response(answered.status, headers=headers, content=content))
        if answered.status < 400:
            assert DESCRIBED.is_valid_body(operation, json.loads(data)), f"a body that is not described: {body}"
    return answered


@dataclass
class HttpWorker:
    """A worker of one group, at one gateway or at several."""

    port: int
    name: str = "w1"
    group: str = "go"

    async def ask(self, verb: str, **body: Any) -> Answered:
        """One request about the group."""
        return await post(self.port, f"/v1/groups/{self.group}:{verb}", body)

    async def poll(self, functions: Any = THUMBNAIL, *, wait: float = 10, lease_s: float = 30, **more: Any) -> Any:
        """The next execution; None if there is none in time."""
        asked = {"worker": self.name, "functions": functions, "wait": wait, "lease_s": lease_s, **more}
        answered = await self.ask("poll", **asked)
        if answered.status == 204:
            assert not answered.body
            return None
        assert answered.status == 200, answered
        return answered.json()

    async def done(self, verb: str, **body: Any) -> Any:
        """The answer to a request that succeeds."""
        answered = await self.ask(verb, **body)
        assert answered.status == 200, answered
        return answered.json()

    async def refused(self, verb: str, **body: Any) -> tuple[int, str]:
        """Status and kind of the problem of a request that does not."""
        return problem_of(await self.ask(verb, **body))


def problem_of(answered: Answered) -> tuple[int, str]:
    """The status and the kind of a problem, which is as RFC 9457 has it."""
    assert answered.headers["Content-Type"] == "application/problem+json", answered
    problem = answered.json()
    assert problem["status"] == answered.status
    assert problem["detail"]
    return answered.status, problem["type"].rpartition("#")[2]
