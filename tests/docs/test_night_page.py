"""Each symptom of docs/operate/night.md is brought about on a real server; its commands say and do what it shows."""

from __future__ import annotations

import asyncio
import re
import shlex
import shutil
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import redis

from durasleep import Context, Durasleep, Limit, Retry, Settings
from durasleep.sync import Client
from harness.servers import MakeServer
from tests.cli.conftest import Quick, quick
from tests.cli.terminal import ROOT, Terminal, wait_for
from tests.docs.pages import Block, commands, fits, parts
from tests.service.functions import QUICK
from tests.service.workers import ended

__all__ = ["quick"]

PAGE = (ROOT / "docs" / "operate" / "night.md").read_text()
MOVED = replace(QUICK, movable_clock=True)
SHOP = """
from datetime import timedelta
from durasleep import Context, Durasleep

app = Durasleep()


@app.workflow
async def order(ctx: Context, cents: int) -> str:
    await ctx.run(take_payment, cents)
    await ctx.run(take_payment, cents + 1)
    await ctx.sleep(timedelta(days=30))
    return "shipped"


def take_payment(cents: int) -> int:
    return cents
"""
Scene = Callable[["Night"], None]
SCENES: dict[str, Scene] = {}


def scene(title: str) -> Callable[[Scene], Scene]:
    """What brings about the symptom of a section."""

    def note(bring_about: Scene) -> Scene:
        SCENES[title] = bring_about
        return bring_about

    return note


def sections() -> dict[str, list[Block]]:
    """The commands of each section, a block each."""
    found: dict[str, list[Block]] = {}
    for title, text in re.findall(r"(?ms)^## ([^\n]+)\n(.*?)(?=^## |\Z)", PAGE):
        found[title] = [one for one in parts(text) if isinstance(one, Block) and one.language == "console"]
    return found


class Shop:
    """The functions of the page's examples; each of their gates opens when a test says so."""

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.payments = 0
        self.is_broken = False

    def make_app(self, url: str, settings: Settings) -> Durasleep:
        app = Durasleep(url, settings=settings)
        per_customer = Limit("per-customer", per_key=100)

        @app.workflow
        async def order(ctx: Context, cents: int) -> str:
            await ctx.run(take_payment, cents)
            if self.is_broken:
                await ctx.run(take_payment, cents + 1)
            await ctx.sleep(timedelta(days=30))
            return "shipped"

        @app.workflow
        async def approval(ctx: Context) -> str:
            return str(await ctx.promise(name="boss"))

        @app.workflow
        async def decide(ctx: Context) -> str:
            return str(await ctx.receive("decision"))

        @app.workflow
        async def buy(ctx: Context) -> None:
            await ctx.run(pay)
            await ctx.sleep(timedelta(days=1))

        @app.task(retry=Retry(attempts=3, delay=0.05))
        def pay() -> str:
            self.payments += 1
            if self.payments == 1:
                raise ConnectionError("no answer from the bank")
            return "paid"

        @app.task
        def charge(cents: int) -> int:
            if not self.gate.is_set():
                raise ConnectionError("the bank does not answer")
            return cents

        @app.task(limit=per_customer, by=customer_of)
        def mail(customer: str) -> None:
            self.gate.wait(30)

        @app.task
        async def hashing() -> None:
            self.gate.wait(30)  # it blocks the event loop, which nobody should do

        @app.task
        def nightly() -> str:
            return "report"

        return app


def take_payment(cents: int) -> int:
    return cents


def customer_of(customer: str) -> str:
    return customer


@dataclass
class Night:
    """A server, what runs there, and the commands of one section."""

    make_server: MakeServer
    quick: Quick
    directory: Path
    blocks: list[Block]
    shop: Shop = field(default_factory=Shop)

    def __post_init__(self) -> None:
        self.serve()

    def serve(self, **options: Any) -> None:
        """Have another server from now on."""
        self.server = self.make_server(**options)
        self.terminal = Terminal(self.directory, DURASLEEP_REDIS_URL=self.server.url, COLUMNS="300")
        self.redis: Any = redis.Redis.from_url(self.server.url)
        self.client = Client(self.server.url)

    def run(self) -> None:
        """Run the commands of the next block."""
        for command in commands(self.blocks.pop(0)):
            name, *args = shlex.split(command.text.partition(" > ")[0])
            assert name == "durasleep", command.text
            done = self.quick(self.terminal, *args)
            if target := command.text.partition(" > ")[2]:
                (self.directory / target).write_text(done.out)
            said = f"$ {command.text}\nline {command.line} of the section\n{done.out}{done.err}"
            assert done.code == command.exit_code, said
            outputs = (done.out, done.out + done.err, done.err)
            shown = command.shown or "..."
            assert any(fits(_squeezed(shown), _squeezed(output)) for output in outputs), f"{shown}\n--- but:\n{said}"

    def call(self, id: str, function: str, *args: Any, status: str = "", **options: Any) -> None:
        """Call a function, and wait until its execution has this status."""
        self.client.options(**options).rpc(id, function, *args)
        if status:
            self.until(id, status)

    def until(self, id: str, status: str) -> None:
        wait_for(lambda: self.client.describe(id).status == status, f"{id} to be {status}")

    @contextmanager
    def worker(self, *, settings: Settings = QUICK, concurrency: int = 100) -> Generator[None]:
        """A worker in a thread of its own."""
        app, ready = self.shop.make_app(self.server.url, settings), threading.Event()
        worker = app.worker(name="w1", concurrency=concurrency)

        async def live() -> None:
            running = asyncio.create_task(worker.run())
            started = asyncio.create_task(worker.ready.wait())
            await asyncio.wait((running, started), return_when=asyncio.FIRST_COMPLETED)
            ready.set()
            await running
            await app.aclose()

        loop = asyncio.new_event_loop()
        thread = threading.Thread(target=loop.run_until_complete, args=(live(),))
        thread.start()
        assert ready.wait(30)
        try:
            yield
        finally:
            self.shop.gate.set()
            loop.call_soon_threadsafe(worker.abort)
            assert ended([thread])
            loop.close()


def _squeezed(text: str) -> str:
    """Without the width of columns, which follows from what stands in them."""
    return re.sub(r"(?<=\S)[ ]{2,}", "  ", text)


def test_each_symptom_is_brought_about() -> None:
    with_commands = {title for title, blocks in sections().items() if blocks}
    assert with_commands == set(SCENES)
    links = re.findall(r"\(#([\w-]+)\)", PAGE)
    anchors = {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in sections()}
    assert set(links) <= anchors
    assert {anchor for anchor in anchors if anchor != "look-first"} <= set(links)


@pytest.mark.parametrize("title", SCENES)
def test_its_commands_help(title: str, make_server: MakeServer, quick: Quick, tmp_path: Path) -> None:
    night = Night(make_server, quick, tmp_path, sections()[title])
    try:
        SCENES[title](night)
        assert night.blocks == []
    finally:
        night.shop.gate.set()
        night.redis.close()


# -- the symptoms


@scene("Look first")
def look_first(night: Night) -> None:
    with night.worker():
        night.run()
        night.run()


@scene("Nothing runs")
def nothing_runs(night: Night) -> None:
    night.call("order-42", "order", 100)
    night.run()


@scene("It runs late")
def it_runs_late(night: Night) -> None:
    with night.worker():
        night.call("order-42", "order", 100, status="suspended")
    night.redis.zadd("{durasleep:0}:timers", {"order-42~2": 1_000})  # due long ago: nobody need wait ten seconds
    night.run()


@scene("The queue grows")
def the_queue_grows(night: Night) -> None:
    with night.worker(concurrency=2):
        for number in range(20):
            night.call(f"mail-{number}", "mail", "acme", key="acme")
        night.until("mail-1", "running")
        night.run()


@scene("A worker is alive but does nothing")
def a_loop_is_blocked(night: Night) -> None:
    with night.worker():
        night.call("hash-1", "hashing", status="running")
        wait_for(lambda: "blocked" in night.quick(night.terminal, "workers").out, "the worker to say so")
        night.run()


@scene("One tenant takes all")
def one_tenant_takes_all(night: Night) -> None:
    with night.worker(concurrency=2):
        for number in range(10):
            night.call(f"acme-{number}", "mail", "acme", key="acme", labels={"customer": "acme"})
        night.call("ada-0", "mail", "ada", key="ada", labels={"customer": "ada"})
        night.run()
        night.run()
        night.run()
        assert night.client.describe("acme-9").state == "canceled"
        assert night.client.describe("ada-0").status != "done"


@scene("An execution is stuck")
def an_execution_is_stuck(night: Night) -> None:
    with night.worker():
        night.call("approval-1", "approval", status="suspended")
        night.run()


@scene("A message is not received")
def a_message_is_not_received(night: Night) -> None:
    with night.worker():
        night.call("order-7", "decide", status="suspended")
        night.run()
        first, *others = night.blocks.pop(0).source.split("$ durasleep send order-7 decision", 2)
        assert (first, len(others)) == ("", 2)
        block = Block(0, "console", f"$ durasleep send order-7 decision{others[0]}", None, ())
        night.blocks = [block, replace(block, source=f"$ durasleep send order-7 decision{others[1]}")]
        night.run()
        night.until("order-7", "done")
        night.run()


@scene("A schedule did not fire")
def a_schedule_did_not_fire(night: Night) -> None:
    put = ("schedule", "put", "report", "nightly", "--cron", "0 3 * * *", "--zone", "Europe/Berlin")
    assert night.quick(night.terminal, *put).code == 0
    assert night.quick(night.terminal, "schedule", "pause", "report").code == 0
    night.run()
    night.run()


@scene("Many failed")
def many_failed(night: Night) -> None:
    with night.worker():
        for number in range(3):
            night.call(f"charge-{number}", "charge", number, status="done")
        night.run()
        night.shop.gate.set()
        night.run()
        night.until("charge-2", "done")
        assert night.client.describe("charge-2").value == 2


def deploy_what_breaks(night: Night) -> None:
    """An execution began with one code, and woke up in a worker with another."""
    with night.worker():
        night.call("order-42", "order", 100, status="suspended")
        night.call("order-43", "order", 100, status="suspended")
    (night.directory / "shop_new.py").write_text(SHOP)
    night.shop.is_broken = True
    with night.worker():
        night.client.wake("order-42")
        night.until("order-42", "halted")
    night.shop.is_broken = False


@scene("Halted or quarantined")
def halted(night: Night) -> None:
    deploy_what_breaks(night)
    night.run()


@scene("A deploy broke replays")
def a_deploy_broke_replays(night: Night) -> None:
    deploy_what_breaks(night)
    with night.worker():
        night.run()
        night.until("order-42", "done")
        assert night.client.describe("order-42").value == "shipped"
    night.run()


@scene("An effect happened twice")
def an_effect_happened_twice(night: Night) -> None:
    with night.worker():
        night.call("buy-1", "buy", status="suspended")
        wait_for(lambda: night.shop.payments == 2, "another attempt")
        night.until("buy-1", "suspended")
        night.run()


@scene("Too much was started")
def too_much_was_started(night: Night) -> None:
    with night.worker():
        for number in range(3):
            night.call(f"order-{number}", "order", number, status="suspended")
        night.run()
        night.call("order-4", "order", 4)
        night.run()
        for number in (0, 1, 2, 4):
            night.until(f"order-{number}", "done")
            assert night.client.describe(f"order-{number}").state == "canceled"


@scene("Redis is down, or has failed over")
def redis_is_down(night: Night) -> None:
    with night.worker():
        night.call("order-42", "order", 100, status="suspended")
        night.server.kill()
        night.run()
        night.server.start()
        night.until("order-42", "suspended")
    primary = night.server
    night.serve()
    night.redis.replicaof("127.0.0.1", primary.port)
    wait_for(lambda: night.redis.info("replication")["master_link_status"] == "up", "the replica to follow")
    night.run()


@scene("Redis is full")
def redis_is_full(night: Night) -> None:
    with night.worker():
        night.call("order-42", "order", 100, status="suspended")
        night.redis.config_set("maxmemory", night.redis.info("memory")["used_memory"] // 2)
        night.run()
        night.client.wake("order-42")
        night.until("order-42", "done")
        assert night.client.describe("order-42").value == "shipped"


@scene("Redis came back empty")
def redis_came_back_empty(night: Night) -> None:
    night.serve(persist=False)
    with night.worker():
        night.call("order-42", "order", 100, status="suspended")
        night.server.kill()
        night.server.start()
        night.run()
        night.call("order-42", "order", 100, status="suspended")


@scene("Redis came back with old data")
def redis_came_back_with_old_data(night: Night) -> None:
    with night.worker():
        night.call("order-42", "order", 100, status="suspended")
        night.redis.config_set("appendonly", "no")
        night.redis.save()
        folder, name = night.redis.config_get("dir")["dir"], night.redis.config_get("dbfilename")["dbfilename"]
        night.client.wake("order-42")
        night.until("order-42", "done")
        night.call("order-44", "order", 100, status="suspended")
        night.redis.config_set("save", "")
        night.server.kill()
        for file in Path(folder).glob("appendonly*"):
            shutil.rmtree(file) if file.is_dir() else file.unlink()
        backup = night.directory / "backup"
        backup.mkdir()
        shutil.copy(Path(folder, name), backup / "dump.rdb")
    night.serve(directory=backup, extra_args=("--appendonly", "no", "--save", "3600 1"))
    night.run()
    with night.worker():
        night.call("order-44", "order", 100, status="suspended")
        night.client.wake("order-42")
        night.until("order-42", "done")


@scene("The clock jumped")
def the_clock_jumped(night: Night) -> None:
    night.client = Client(night.server.url, settings=MOVED)
    with night.worker(settings=MOVED):
        night.call("order-42", "order", 100, status="suspended")
        night.redis.incrby("{durasleep:0}:clock", round(timedelta(days=40) / timedelta(milliseconds=1)))
        wait_for(lambda: "NO TIMER" in night.quick(night.terminal, "doctor").out, "the worker to hold back")
        night.run()
        assert night.client.describe("order-42").status == "suspended"
        night.run()  # by the server's own clock, which nobody has moved
        night.client.release_clock()
        night.until("order-42", "done")


@scene("Memory grows")
def memory_grows(night: Night) -> None:
    with night.worker():
        night.shop.gate.set()
        night.call("charge-1", "charge", 1, status="done")
        night.run()


@scene("The dashboard shows nothing")
def the_dashboard_shows_nothing(night: Night) -> None:
    with night.worker():
        night.run()
