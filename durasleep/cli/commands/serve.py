"""``durasleep serve``: HTTP for workers and callers in other languages."""

from __future__ import annotations

import os
import signal
from contextlib import suppress
from typing import TYPE_CHECKING, Annotated

import typer

from durasleep.cli import address
from durasleep.cli.commands.ui import url_of
from durasleep.cli.options import LogFormat, LogFormatOption, LogLevelOption, NamespaceOption, UrlOption, level_of
from durasleep.cli.output import console
from durasleep.errors import UsageError

if TYPE_CHECKING:
    import asyncio

    from durasleep.app import Durasleep
    from durasleep.gateway.gateway import Gateway, Options

TOKEN = "DURASLEEP_GATEWAY_TOKEN"  # noqa: S105 - its name
_PORT = 8001
_PULSE_S = 0.5
_OTHER_FILES = 512  # of the connections to Redis, of workers and of Python
_GC_YOUNG_MAX = 10_000  # as in a worker: objects made before the youngest are looked at

GatewayModule = Annotated[
    str | None,
    typer.Argument(
        metavar="MODULE[:ATTR]", help="The application whose codec reads and writes values; by default they are plain."
    ),
]
HostOption = Annotated[str, typer.Option("--host", metavar="HOST", help="The name or address at which to serve.")]
PortOption = Annotated[
    int, typer.Option("--port", metavar="PORT", min=0, max=65_535, help="The port; 0 takes a free one.")
]
TokenOption = Annotated[
    str | None,
    typer.Option(
        "--token",
        metavar="TOKEN",
        help=f"What clients must give, as Authorization: Bearer TOKEN; by default {TOKEN} of the environment.",
    ),
]
AllowedOption = Annotated[
    list[str] | None,
    typer.Option(
        "--allow-host",
        metavar="NAME",
        help="A name by which anybody may use it without a token. May be repeated.",
    ),
]
DebugOption = Annotated[bool, typer.Option("--debug", help="Let requests choose the time, for the tests of SDKs.")]
BridgeOption = Annotated[
    list[str] | None,
    typer.Option(
        "--bridge",
        metavar="GROUP",
        help="A group whose functions live in workers of another language. May be repeated.",
    ),
]


@address.explained
def serve(
    module: GatewayModule = None,
    host: HostOption = "127.0.0.1",
    port: PortOption = _PORT,
    token: TokenOption = None,
    allow_host: AllowedOption = None,
    bridge: BridgeOption = None,
    debug: DebugOption = False,
    log_format: LogFormatOption = LogFormat.TEXT,
    log_level: LogLevelOption = None,
    url: UrlOption = None,
    namespace: NamespaceOption = None,
) -> int:
    """Serve workers and callers in other languages by HTTP, until SIGTERM or Ctrl-C.

    Resonate's SDKs use it as their server; all others use /v1. Only this machine reaches it, unless you give a --host
    and a token.
    """
    from durasleep.cli import processes
    from durasleep.gateway.access import is_loopback
    from durasleep.gateway.gateway import Options
    from durasleep.model import check_name

    processes.end_with_parent()
    console.log_to_stderr(level_of(log_level), as_json=log_format is LogFormat.JSON)
    token = os.environ.get(TOKEN) if token is None else token
    if token == "":
        raise UsageError(f"the token is empty: give one, or leave out --token and {TOKEN}")
    if not is_loopback(host) and token is None and not allow_host:
        raise UsageError(
            f"--host {host}: other machines would reach it without a token: set {TOKEN}, or say with --allow-host by "
            "which name anybody may use it"
        )
    groups = [check_name(group, "group") for group in bridge or ()]
    options = Options(token=token, allowed_hosts=tuple(allow_host or ()), debug=debug)
    return _serve(_client(module, url, namespace), host, port, options, groups)


def _client(module: str | None, url: str | None, namespace: str | None) -> Durasleep:
    """The application that is named, or one without functions."""
    if module is None:
        return address.open_client(url, namespace)
    if namespace is not None:
        raise UsageError("--namespace and MODULE: the application names its own namespace, leave one of them out")
    app = address.load_app(module)
    address.point(app, url)
    return app


def _serve(client: Durasleep, host: str, port: int, options: Options, groups: list[str]) -> int:
    import asyncio

    from durasleep.gateway import gateway
    from durasleep.gateway.bridge import Bridge

    made = gateway.Gateway(client, options, [lambda of: Bridge(of, groups).run()])
    sockets = gateway.listen(host, port)
    _prepare_process()

    async def run() -> None:
        stop, loop = asyncio.Event(), asyncio.get_running_loop()
        running = loop.create_task(made.run(sockets, stop))

        def on_signal() -> None:
            if stop.is_set():
                running.cancel()  # the second one
            stop.set()

        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, on_signal)
        telling = loop.create_task(_announce(made, stop, url_of(host, sockets[0].getsockname()[1])))
        try:
            with suppress(asyncio.CancelledError):
                await running
        finally:
            telling.cancel()
            for one in sockets:
                one.close()
            await client.aclose()

    asyncio.run(run())
    return 0


async def _announce(made: Gateway, stop: asyncio.Event, url: str) -> None:
    """Tell the user and the service manager how the gateway does."""
    import asyncio

    from durasleep.observe.notify import Notify

    notify = Notify.take(os.environ)
    await made.ready.wait()
    console.note(f"the gateway is at {url}; Ctrl-C ends it")
    notify.ready()
    while not stop.is_set():
        notify.alive()
        with suppress(TimeoutError):
            await asyncio.wait_for(stop.wait(), _PULSE_S)
    notify.stopping()


def _prepare_process() -> None:
    """Allow it as many connections as it serves, and do not collect the objects that are loaded by now."""
    import gc
    import resource

    from durasleep.gateway.gateway import CONNECTIONS_MAX

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = CONNECTIONS_MAX + _OTHER_FILES
    if 0 <= soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(wanted, hard) if hard >= 0 else wanted, hard))
    gc.freeze()
    gc.set_threshold(_GC_YOUNG_MAX)
