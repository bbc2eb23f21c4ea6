"""The functions that the programs of these tests call."""

from __future__ import annotations

from dataclasses import dataclass

from durasleep import Context, Durasleep
from durasleep.sync import Client

app = Durasleep()
client = Client("redis://localhost")


@dataclass(frozen=True)
class Receipt:
    order: str
    cents: int


@app.workflow
async def order(ctx: Context, id: str, cents: int = 0) -> Receipt:
    return Receipt(id, cents)


@app.workflow(name="other")
async def no_arguments(ctx: Context) -> None:
    """Of a decorator with options."""


@app.task
async def charge(id: str, *, timeout: int, delay: bool = False) -> int:
    return timeout


@app.task(timeout="30s")
def send(target: str, text: str) -> bool:
    return bool(target and text)
