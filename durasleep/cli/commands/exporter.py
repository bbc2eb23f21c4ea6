"""``durasleep exporter`` and ``durasleep ping``: how a namespace and a worker do, for programs that watch them."""

from __future__ import annotations

import logging
import os
import signal
from contextlib import suppress
from typing import TYPE_CHECKING, Annotated

import typer

from durasleep.cli import address
from durasleep.cli.options import (
    JsonOption,
    LogFormat,
    LogFormatOption,
    LogLevelOption,
    NamespaceOption,
    UrlOption,
    level_of,
)
from durasleep.cli.output import console, json_values
from durasleep.errors import UsageError

if TYPE_CHECKING:
    from durasleep.app import Durasleep

_LISTEN = "127.0.0.1:8080"
_PULSE_S = 0.5
_ANSWER_S = 5.0  # longer than Redis is waited for

logger = logging.getLogger("durasleep")


@address.explained
def exporter(
    listen: Annotated[
        str,
        typer.Option(
            "--listen",
            metavar="[HOST:]PORT",
            help="Where to answer; :8080 is port 8080 at all addresses of this machine.",
        ),
    ] = _LISTEN,
    log_format: LogFormatOption = LogFormat.TEXT,
    log_level: LogLevelOption = None,
    url: UrlOption = None,
    namespace: NamespaceOption = None,
) -> None:
    """Answer for a whole namespace, until SIGTERM or Ctrl-C.

    /metrics has its gauges for Prometheus. /scale/GROUP says how much work a group has, also while no worker of it is
    alive: what is queued, runs, or is due within 30 seconds. /livez and /readyz are for probes. One exporter is enough
    for a namespace.
    """
    import asyncio
    from importlib.util import find_spec

    from durasleep.observe.telemetry import NO_METRICS

    if find_spec("prometheus_client") is None:
        raise UsageError(NO_METRICS)
    console.log_to_stderr(level_of(log_level), as_json=log_format is LogFormat.JSON)
    asyncio.run(_serve(address.open_client(url, namespace), listen))


async def _serve(client: Durasleep, listen: str) -> None:
    """Answer until a signal tells to stop."""
    import asyncio

    from durasleep.observe.health import Answer, Health, said
    from durasleep.observe.http_server import HealthServer
    from durasleep.observe.namespace import Exporter
    from durasleep.observe.notify import Notify

    loop, stop_asked = asyncio.get_running_loop(), asyncio.Event()
    health, notify, answers = Health(), Notify.take(os.environ), Exporter(client.overview, client.due_soon)

    def answer(path: str) -> Answer:
        if path == "/livez":
            return said(health.why_not_live())
        asked = asyncio.run_coroutine_threadsafe(answers.answer(path), loop)
        try:
            return asked.result(_ANSWER_S)
        except TimeoutError:
            return said("the event loop is blocked")

    server = HealthServer(listen, answer)

    def on_signal(_number: int, _frame: object) -> None:
        loop.call_soon_threadsafe(stop_asked.set)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, on_signal)
    server.start()
    logger.info("metrics of namespace %s at %s/metrics, work of a group at /scale/GROUP", client.namespace, server.url)
    notify.ready()
    while not stop_asked.is_set():
        health.pulse()
        notify.alive()
        with suppress(TimeoutError):
            await asyncio.wait_for(stop_asked.wait(), _PULSE_S)
    notify.stopping()
    server.close()
    await client.aclose()


@address.explained
def ping(
    name: Annotated[str, typer.Argument(metavar="NAME", help="The name of a worker, as of `worker --name`.")],
    as_json: JsonOption = False,
    url: UrlOption = None,
    namespace: NamespaceOption = None,
) -> None:
    """Say whether a worker is alive: exit code 0 if its last heartbeat is fresh, else 1.

    It is for probes that run a command.
    """
    import asyncio
    from dataclasses import asdict

    from durasleep.model import check_name
    from durasleep.query.ping import LastHeartbeat

    check_name(name, "worker")
    client = address.open_client(url, namespace)

    async def fetch() -> LastHeartbeat | None:
        async with client:
            return await client.last_heartbeat(name)

    found = asyncio.run(fetch())
    is_alive = found is not None and found.is_fresh
    if as_json:
        known = {"age_s": None, "every_s": None} if found is None else asdict(found)
        json_values.data(json_values.as_json({"name": name, "alive": is_alive, **known}))
    elif found is None:
        console.error(f"there is no worker {name}")
    elif is_alive:
        json_values.data(f"{name}: alive, its last heartbeat is {found.age_s:.1f} s old")
    else:
        console.error(f"worker {name} has sent no heartbeat for {found.age_s:.0f} s")
    if not is_alive:
        raise typer.Exit(1)
