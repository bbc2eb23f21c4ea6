"""``durasleep ui``: the dashboard in a browser."""

from __future__ import annotations

import ipaddress
import os
import re
import subprocess
from collections.abc import Generator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer

from durasleep.cli import address
from durasleep.cli.options import (
    ByOption,
    LogFormat,
    LogFormatOption,
    LogLevelOption,
    NamespaceOption,
    UrlOption,
    level_of,
)
from durasleep.cli.output import console
from durasleep.errors import UsageError

if TYPE_CHECKING:
    from durasleep.client import Client

_END_S = 5.0  # a dashboard that was told to end does so at once
LISTEN = "127.0.0.1:8090"
TOKEN = "DURASLEEP_UI_TOKEN"  # noqa: S105 - its name

ListenOption = Annotated[str, typer.Option("--listen", metavar="HOST:PORT", help="Where to serve it.")]
WritableOption = Annotated[bool, typer.Option("--writable", help="Let people wake, cancel, retry and the like.")]
ValuesOption = Annotated[bool, typer.Option("--show-values", help="Show arguments, results and published values.")]
HeaderOption = Annotated[
    str | None,
    typer.Option(
        "--user-header", metavar="NAME", help="A header in which a proxy names who asks; needs --trusted-proxy."
    ),
]
ProxyOption = Annotated[
    list[str] | None,
    typer.Option("--trusted-proxy", metavar="CIDR", help="The address or network of that proxy. May be repeated."),
]
HostOption = Annotated[
    list[str] | None,
    typer.Option(
        "--allow-host", metavar="NAME", help="Another name than localhost by which it may be opened. May be repeated."
    ),
]


@address.explained
def ui(
    listen: ListenOption = LISTEN,
    writable: WritableOption = False,
    show_values: ValuesOption = False,
    user_header: HeaderOption = None,
    trusted_proxy: ProxyOption = None,
    allow_host: HostOption = None,
    by: ByOption = None,
    fd: Annotated[
        int | None, typer.Option("--fd", hidden=True, help="A socket of the parent that listens there.")
    ] = None,
    log_format: LogFormatOption = LogFormat.TEXT,
    log_level: LogLevelOption = None,
    url: UrlOption = None,
    namespace: NamespaceOption = None,
) -> int:
    """Serve the dashboard until Ctrl-C. Only this machine reaches it, and nothing can be changed, unless you say so.

    With DURASLEEP_UI_TOKEN in the environment, it asks for this token first.
    """
    from durasleep import dashboard
    from durasleep.cli import processes

    dashboard.check_installed()
    processes.end_with_parent()
    console.log_to_stderr(level_of(log_level), as_json=log_format is LogFormat.JSON)
    host, port = parse_listen(listen)
    token = os.environ.get(TOKEN) or None
    if not is_loopback(host) and token is None and user_header is None:
        raise UsageError(
            f"--listen {listen}: other machines would reach it without a password: "
            f"set {TOKEN}, or use --user-header and --trusted-proxy"
        )
    client = address.open_client(url, namespace)
    made = dashboard.create_app(
        client,
        writable=writable,
        token=token,
        user_header=user_header,
        trusted_proxies=tuple(trusted_proxy or ()),
        allowed_hosts=tuple(allow_host or ()),
        user=address.find_by(by),
        show_values=show_values,
    )
    return _serve(client, made, host, port, fd=fd)


def _serve(client: Client, made: object, host: str, port: int, *, fd: int | None) -> int:
    import asyncio
    from typing import Any, cast

    from durasleep.dashboard import serving

    socket = serving.listen(host, port) if fd is None else serving.inherited(fd)
    server = serving.server(cast("Any", made))

    async def run() -> None:
        try:
            if fd is None:
                console.note(f"the dashboard is at {url_of(host, socket.getsockname()[1])}; Ctrl-C ends it")
            await server.serve(sockets=[socket])
        finally:
            await client.aclose()

    asyncio.run(run())
    return 0


@contextmanager
def running(url: str, namespace: str | None) -> Generator[str]:
    """Serve the dashboard of a Redis in a process of its own during the block; gives its URL. Without a ``namespace``
    it finds that as every command does.

    It may change and show everything: it is for a Redis that was started on this machine to try something.
    """
    from durasleep import dashboard
    from durasleep.cli import processes
    from durasleep.dashboard import serving

    dashboard.check_installed()
    host, port = parse_listen(LISTEN)
    try:
        listening = serving.listen(host, port)
    except UsageError:
        listening = serving.listen(host, 0)  # another dashboard has the port of the documentation
    with listening:
        port = listening.getsockname()[1]
        command = ["ui", "--listen", f"{host}:{port}", "--fd", str(listening.fileno()), "--writable", "--show-values"]
        command += ["--namespace", namespace] if namespace else []
        process = processes.start(command, {"DURASLEEP_REDIS_URL": url}, pass_fds=(listening.fileno(),))
    try:
        yield url_of(host, port)
    finally:
        process.terminate()
        try:
            process.wait(_END_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def parse_listen(text: str) -> tuple[str, int]:
    """The host and port of ``HOST:PORT``, ``[::1]:PORT`` or ``:PORT``, which is all addresses; UsageError otherwise."""
    match = re.fullmatch(r"(\[[0-9a-fA-F:.]+\]|[^:\[\]\s/]*):(\d{1,5})", text)
    if match is None or int(match[2]) > 65_535:
        raise UsageError(f"--listen {text!r}: write HOST:PORT, such as {LISTEN}")
    return match[1].strip("[]") or "0.0.0.0", int(match[2])  # noqa: S104 - refused without a password


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches a host."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def url_of(host: str, port: int) -> str:
    """The URL for a browser."""
    return f"http://{f'[{host}]' if ':' in host else host}:{port}/"
