"""Bad input gets an error that says what is wrong, and changes nothing."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta
from typing import Any, cast

import pytest

from durasleep import Codec, Context, Durasleep, Settings, UsageError
from durasleep.client.client import store_of
from durasleep.errors import InvalidDuration, InvalidId, NotSerializable, PayloadTooLarge
from durasleep.sync import Client as SyncClient
from harness.servers import Server
from tests.service.fixtures import NewApp
from tests.service.functions import double, note, sleeping_workflow
from tests.service.workers import Effects, serving, until

SMALL = Settings(payload_bytes_max=5000)
NAIVE = datetime(2030, 1, 1)  # noqa: DTZ001

BAD_IDS = {"empty": "", "too long": "x" * 513, "too long in bytes": "é" * 257, "a tilde": "order~1", "control": "a\nb",
    "a C1 control": "a\x85b", "no Unicode": "\ud800"}  # fmt: skip
BAD_SECONDS = {"negative": -1, "a hair negative": -1e-9, "NaN": math.nan, "infinite": math.inf, "a bool": True,
    "text": "5", "a negative timedelta": timedelta(seconds=-1)}  # fmt: skip
BAD_NAMES = {"braces": "a{b}", "empty": "", "too long": "x" * 65, "a slash": "a/b", "a space": "a b"}


Call = Callable[[Durasleep, Any], Awaitable[object]]

BAD_CALLS: dict[str, tuple[Call, dict[str, Any], type[Exception]]] = {
    "rpc": (lambda app, name: app.rpc(name, double, 1), BAD_IDS, InvalidId),
    "promise": (lambda app, name: app.promises.create(name), BAD_IDS, InvalidId),
    "target": (lambda app, name: app.rpc("x", double, 1, target=f"poll://any@{name}"), BAD_NAMES, InvalidId),
    "worker target": (lambda app, name: app.rpc("x", double, 1, target=f"poll://uni@g/{name}"), BAD_NAMES, InvalidId),
    "schedule": (lambda app, name: app.schedule(name, "* * * * *", double, 1), BAD_NAMES, InvalidId),
    "timeout": (lambda app, secs: app.rpc("x", double, 1, timeout=secs), BAD_SECONDS, InvalidDuration),
    "delay": (lambda app, secs: app.rpc("x", double, 1, delay=secs), BAD_SECONDS, InvalidDuration),
    "naive delay": (lambda app, when: app.rpc("x", double, 1, delay=when), {"naive": NAIVE}, InvalidDuration),
    "promise timeout": (lambda app, secs: app.promises.create("x", timeout=secs), BAD_SECONDS, InvalidDuration),
    "naive timeout": (lambda app, when: app.promises.create("x", timeout=when), {"naive": NAIVE}, InvalidDuration),
    "reschedule": (lambda app, secs: app.reschedule("kept~1", secs), BAD_SECONDS, InvalidDuration),
    "timer": (lambda app, _: app.promises.create("x", timer=True), {"without a timeout": None}, UsageError),
}


@pytest.mark.parametrize("call", BAD_CALLS)
async def test_a_bad_argument_is_refused_and_nothing_is_written(
    app: Durasleep, real_server: Server, namespace: str, call: str
) -> None:
    await app.rpc("kept", double, 1)
    before = real_server.contents(f"{{{namespace}")
    act, values, error = BAD_CALLS[call]
    for what, value in values.items():
        with pytest.raises(error) as raised:
            await act(app, value)
        assert str(raised.value), what
        assert isinstance(raised.value, ValueError)
    assert real_server.contents(f"{{{namespace}") == before


async def test_a_good_id_is_taken_up_to_its_last_byte(app: Durasleep) -> None:
    async with serving(app):
        for id in ("x" * 512, "é" * 256, "order 42/é:{}*?", "~"[1:] or "-"):
            assert await (await app.rpc(id, double, 2)) == 4


async def test_what_cannot_be_sent_is_named_and_nothing_is_written(
    new_app: NewApp, real_server: Server, namespace: str
) -> None:
    app = new_app(settings=SMALL)
    await app.rpc("kept", double, 1)
    before = real_server.contents(f"{{{namespace}")
    with pytest.raises(NotSerializable, match="argument 2 of note"):
        await app.rpc("x", note, "fine", object())
    with pytest.raises(NotSerializable, match="argument 'line' of note"):
        await app.rpc("x", note, "fine", line={"deep": [1, {2, object()}]})
    with pytest.raises(PayloadTooLarge, match=r"note.*5,?000"):
        await app.rpc("x", note, "x" * 6000)
    with pytest.raises(NotSerializable, match=r"kept~9|value"):
        await app.promises.resolve("kept~9", object())
    with pytest.raises(PayloadTooLarge, match=r"5,?000"):
        await app.promises.resolve("kept~9", "x" * 6000)

    def use() -> None:
        with SyncClient(real_server.url, namespace=namespace, settings=SMALL) as client:
            for id in BAD_IDS.values():
                with pytest.raises(InvalidId):
                    client.rpc(id, double, 1)
            with pytest.raises(NotSerializable):
                client.rpc("x", note, object())
            with pytest.raises(PayloadTooLarge):
                client.rpc("x", note, "x" * 6000)

    await asyncio.to_thread(use)
    assert real_server.contents(f"{{{namespace}") == before


async def test_what_a_workflow_asks_for_wrongly_is_raised_at_its_call(new_app: NewApp, effects: Effects) -> None:
    """It can be caught, starts nothing, and takes no number."""
    app = new_app(settings=SMALL)

    async def clumsy(ctx: Context) -> list[str]:
        said: list[str] = []
        attempts: list[Callable[[], object]] = [
            *(lambda secs=secs: ctx.sleep(secs) for secs in (-1, math.nan, math.inf)),
            lambda: ctx.sleep_until(NAIVE),
            lambda: ctx.promise(timeout=-1),
            lambda: ctx.rpc(double, object()),
            lambda: ctx.rpc(double, "x" * 6000),
            lambda: ctx.rpc(double, 1, id="a~b"),
            lambda: ctx.rpc(double, 1, target="no {braces}"),
            lambda: ctx.run(cast("Any", sleeping_workflow), 1),
        ]
        for attempt in attempts:
            try:
                attempt()
            except UsageError as error:
                said.append(type(error).__name__)
        await ctx.sleep(0.01)
        return said

    app.workflow(clumsy)
    async with serving(app):
        assert await (await app.rpc("clumsy", clumsy)).result(timeout=30) == [
            *["InvalidDuration"] * 5,
            "NotSerializable",
            "PayloadTooLarge",
            "InvalidId",
            "InvalidId",
            "DefinitionError",
        ]
        store = await store_of(app)
        loaded = await store.load((await app.describe("clumsy")).id)  # type: ignore[arg-type]
        assert loaded
        assert len(loaded.entries) == 1


async def test_a_result_that_cannot_be_kept_rejects_naming_the_function(new_app: NewApp) -> None:
    app = new_app(settings=SMALL)

    async def odd(ctx: Context) -> object:
        return object()

    async def large(ctx: Context) -> str:
        return await ctx.run(_large)

    def huge() -> str:
        return "x" * 6000

    async def error_large(ctx: Context) -> None:
        raise ValueError("x" * 50_000)

    for workflow in (odd, large, error_large):
        app.workflow(workflow)
    app.task(huge)
    async with serving(app):
        with pytest.raises(NotSerializable, match="odd"):
            await (await app.rpc("odd", odd)).result(timeout=30)
        with pytest.raises(PayloadTooLarge, match="_large"):
            await (await app.rpc("large", large)).result(timeout=30)
        with pytest.raises(PayloadTooLarge, match="huge"):
            await (await app.rpc("huge", huge)).result(timeout=30)
        with pytest.raises(ValueError, match="xxx"):
            await (await app.rpc("error", error_large)).result(timeout=30)


def _large() -> str:
    return "x" * 6000


async def test_arguments_that_do_not_fit_reject_an_execution_whose_caller_does_not_know_the_function(
    app: Durasleep, real_server: Server, namespace: str
) -> None:
    def call(name: str) -> None:
        with SyncClient(real_server.url, namespace=namespace) as client:
            handle = client.rpc(f"misfit-{name}", name, 1, 2, 3, surprise=4)
            with pytest.raises(UsageError, match=name):
                handle.result(timeout=30)

    async with serving(app):
        for name in ("double", "sleeping_workflow"):
            await asyncio.to_thread(call, name)
        assert await (await app.rpc("fits", double, 1)) == 2


class Reversed:
    """Encrypts, as far as a test needs it."""

    def wrap(self, payload: bytes) -> bytes:
        return b"\xc1" + payload[::-1]  # no MessagePack begins like this

    def unwrap(self, payload: bytes) -> bytes:
        return payload[:0:-1]


async def test_who_cannot_read_the_payloads_sees_everything_else(new_app: NewApp) -> None:
    app, stranger = new_app(), new_app()
    app.codec = Codec(outer=Reversed())

    @app.workflow
    async def secretive(ctx: Context, name: str) -> str:
        await ctx.promise(name="answer")
        return f"the secret of {name}"

    async with serving(app):
        handle = await app.rpc("secret", secretive, "Ada")
        await until(app, "secret", "suspended")
        await app.promises.resolve("secret~1", "a word")
        assert await handle == "the secret of Ada"
    for id in ("secret", "secret~1"):
        described = await stranger.describe(id)
        assert described.state == "resolved"
        assert str(described.value).startswith("cannot be read: ")
    assert (await app.describe("secret")).value == "the secret of Ada"
