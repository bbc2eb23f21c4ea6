"""Asks what answers over HTTP, as a probe does."""

from __future__ import annotations

import asyncio
import http.client
from urllib.parse import urlsplit

from tests.service.workers import eventually


def ask(url: str, path: str) -> tuple[int, str]:
    """Status and body."""
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=20)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        return response.status, response.read().decode()
    finally:
        connection.close()


async def answer(url: str, path: str) -> tuple[int, str]:
    """The same, while the event loop goes on."""
    return await asyncio.to_thread(ask, url, path)


async def answered(url: str, path: str, status: int) -> str:
    """The body, once the status is this one."""

    async def look() -> str:
        found, body = await answer(url, path)
        return body if found == status else ""

    return await eventually(look, f"{path} to answer {status}")
