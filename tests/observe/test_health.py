"""What a worker answers to probes: whether it lives, and whether it is ready; and what systemd is told."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from durasleep import Durasleep, UsageError
from durasleep.devserver import DevServer
from durasleep.observe import health
from durasleep.observe.http_server import REQUEST_S, REQUESTS_MAX, HealthServer
from tests.observe.asking import answer, answered, ask
from tests.service.fixtures import NewApp
from tests.service.functions import QUICK, double, loop_passage, nap, passage
from tests.service.workers import PATIENCE_S, Effects, Workers, eventually, serving, until

ANYWHERE = "127.0.0.1:0"


class ServiceManager:
    """Hears what a service tells, as systemd does."""

    def __init__(self, address: str, monkeypatch: pytest.MonkeyPatch) -> None:
        self._environment = monkeypatch
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(address)
        self._socket.setblocking(False)
        monkeypatch.setenv("NOTIFY_SOCKET", address.replace("\0", "@"))
        self._heard: list[str] = []

    def watch(self, seconds: float) -> None:
        self._environment.setenv("WATCHDOG_USEC", str(round(seconds * 1e6)))

    def count(self, text: str) -> int:
        with contextlib.suppress(BlockingIOError):
            while True:
                self._heard.append(self._socket.recv(4096).decode())
        return self._heard.count(text)

    async def told(self, text: str, times: int = 1) -> None:
        await eventually(lambda: self.count(text) >= times, text)

    def close(self) -> None:
        self._socket.close()


@pytest.fixture
def is_abstract() -> bool:
    return True


@pytest.fixture
def service_manager(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_abstract: bool) -> Iterator[ServiceManager]:
    address = f"\0durasleep-test-{secrets.token_hex(8)}" if is_abstract else str(tmp_path / "notify")
    manager = ServiceManager(address, monkeypatch)
    yield manager
    manager.close()


def ask_until(url: str, path: str, status: int) -> str:
    give_up_at = time.monotonic() + PATIENCE_S
    while (found := ask(url, path))[0] != status:
        assert time.monotonic() < give_up_at, f"{path} answers {found}"
    return found[1]


async def test_a_loop_that_hangs_is_not_live_and_says_so_itself(
    app: Durasleep, effects: Effects, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(health, "PULSE_MAX_S", 1.2)  # more than twice the time between two pulses

    def watch(url: str) -> str:
        said = ask_until(url, "/livez", 503)
        assert ask(url, "/metrics")[0] == 200, "all else answers, too"
        effects.open("gate")
        return said

    async with serving(app, health=ANYWHERE) as worker:
        assert worker.health_url is not None
        assert await answer(worker.health_url, "/livez") == (200, "ok\n")
        watching = asyncio.create_task(asyncio.to_thread(watch, worker.health_url))
        handle = await app.rpc("hangs", loop_passage, effects.path)
        assert await handle.result(PATIENCE_S) == "through gate"
        assert (await watching).startswith("the event loop has been blocked for ")
        await answered(worker.health_url, "/livez", 200)


async def test_without_redis_it_lives_and_is_not_ready_until_redis_is_back(
    own_server: DevServer, new_app: NewApp, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(health, "BEAT_MAX_S", 0.5)
    app = new_app(own_server.url, settings=QUICK)
    async with serving(app, health=ANYWHERE) as worker:
        assert worker.health_url is not None
        assert await answer(worker.health_url, "/readyz") == (200, "ok\n")
        own_server.kill()
        said = await answered(worker.health_url, "/readyz", 503)
        assert said.startswith("Redis has answered no heartbeat for ")
        assert await answer(worker.health_url, "/livez") == (200, "ok\n")
        own_server.start()
        await answered(worker.health_url, "/readyz", 200)


async def test_before_it_has_joined_it_lives_and_is_not_ready(own_server: DevServer, new_app: NewApp) -> None:
    own_server.kill()
    worker = new_app(own_server.url, settings=QUICK).worker(health=ANYWHERE)
    running = asyncio.create_task(worker.run())
    url = await eventually(lambda: worker.health_url, "its address")
    assert await answer(url, "/livez") == (200, "ok\n")
    assert await answer(url, "/readyz") == (503, "this worker has not joined its group yet\n")
    own_server.start()
    await answered(url, "/readyz", 200)
    worker.stop()
    await running
    assert worker.health_url is None


async def test_told_to_stop_it_is_not_ready_while_it_finishes_its_work(
    app: Durasleep, effects: Effects, workers: Workers
) -> None:
    worker = await workers.begin("w1", "--health", ANYWHERE).ready()
    url = (await worker.line("health at http")).partition("health at ")[2].partition("/livez")[0]
    handle = await app.rpc("stands", passage, effects.path)
    await effects.standing("gate")
    worker.signal(signal.SIGTERM)
    assert await answered(url, "/readyz", 503) == "this worker is leaving\n"
    assert await answer(url, "/livez") == (200, "ok\n")
    effects.open("gate")
    assert await worker.exited() == 0
    async with serving(app):
        assert await handle.result(PATIENCE_S) == "through gate"
    assert effects.count("gate") == 1, "it has finished there"


async def test_several_processes_answer_at_one_address_and_tell_systemd_when_all_are_ready(
    workers: Workers, service_manager: ServiceManager, app: Durasleep
) -> None:
    service_manager.watch(10.0)
    several = workers.begin("w", "--processes", "2", "--health", ANYWHERE)
    await service_manager.told("READY=1")
    await service_manager.told("WATCHDOG=1")
    url = (await several.line("health of 2 processes at http")).partition(" at ")[2].partition("/livez")[0]
    await answered(url, "/readyz", 200)
    for number in range(20):
        await (await app.rpc(f"n{number}", double, number)).result(PATIENCE_S)
    _, text = await answer(url, "/metrics")
    ended = [line for line in text.splitlines() if line.startswith("durasleep_executions_ended_total{")]
    assert sum(float(line.rpartition(" ")[2]) for line in ended) == 20
    assert 'process="1"' in text
    assert 'process="2"' in text
    several.signal(signal.SIGTERM)
    await service_manager.told("STOPPING=1")
    assert await several.exited() == 0
    assert service_manager.count("READY=1") == 1


@pytest.mark.parametrize("is_abstract", [False])
async def test_systemd_is_told_of_a_worker_and_its_own_processes_are_not(
    workers: Workers, service_manager: ServiceManager
) -> None:
    service_manager.watch(1.0)
    worker = workers.begin("w1")
    await service_manager.told("READY=1")
    assert "is ready" in worker.log()
    await service_manager.told("WATCHDOG=1", times=2)
    worker.signal(signal.SIGTERM)
    await service_manager.told("STOPPING=1")
    assert await worker.exited() == 0


def test_slow_clients_keep_no_probe_away() -> None:
    server = HealthServer(ANYWHERE, lambda _: health.said(""))
    server.start()
    address = "127.0.0.1", int(server.url.rpartition(":")[2])
    with contextlib.ExitStack() as stack:
        for _ in range(REQUESTS_MAX + 10):
            stack.enter_context(socket.create_connection(address)).send(b"GET /li")
        began = time.monotonic()
        assert ask(server.url, "/livez") == (200, "ok\n")
        assert time.monotonic() - began < REQUEST_S
    server.close()


@pytest.mark.parametrize("wrong", ["8080x", "host:port:1", "70000", "[::1", "", "a/b:1", "::1:80", "٣"])
def test_what_is_no_address_is_said(app: Durasleep, wrong: str) -> None:
    with pytest.raises(UsageError, match="write"):
        app.worker(health=wrong)


async def test_a_taken_port_is_said(app: Durasleep) -> None:
    async with serving(app, health=ANYWHERE) as worker:
        assert worker.health_url is not None
        taken = worker.health_url.removeprefix("http://")
        with pytest.raises(UsageError, match=f"cannot listen on {taken}: Address already in use"):
            await app.worker(name="w2", health=taken).run()


async def test_a_worker_that_only_fires_wakes_sleepers_of_all_groups_and_takes_nothing(
    new_app: NewApp, effects: Effects
) -> None:
    app, other = new_app(settings=QUICK), new_app(settings=QUICK, group="other")
    handle = await app.rpc("sleeps", nap, effects.path, 0.3)
    async with serving(app):
        await until(app, "sleeps", "suspended")
    await other.rpc("later", double, 1, delay=0.3)
    async with serving(app, "firing", fire_only=True):
        await until(app, "sleeps", "queued")
        await until(app, "later", "queued")
        assert effects.count("sleeps gets up") == 0
        names = {worker.name for group in (await app.overview()).groups for worker in group.workers}
        assert names == {"firing"}
    assert (await app.overview()).groups[0].workers == []
    async with serving(app):
        await handle.result(PATIENCE_S)
    async with serving(other):
        await until(app, "later", "done")
