"""A server for the dashboard alone: `durasleep ui`."""

from __future__ import annotations

import signal
import socket
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING

import uvicorn

from durasleep.errors import UsageError

if TYPE_CHECKING:
    from starlette.applications import Starlette
    from starlette.types import ASGIApp

_STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)
_BACKLOG = 128  # connections that wait to be accepted
_GRACE_S = 3  # streams end at once; a page that is being made has this long


class _Server(uvicorn.Server):
    """It ends the streams when it is told to stop: else it would wait for browsers to leave."""

    def __init__(self, config: uvicorn.Config, on_stop: Callable[[], None]) -> None:
        super().__init__(config)
        self._on_stop = on_stop

    @contextmanager
    def capture_signals(self) -> Generator[None]:
        """SIGTERM and Ctrl-C stop it; to be told to stop is no failure, so they are not raised again at the end."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.signal(number, self.handle_exit) for number in _STOP_SIGNALS}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self._on_stop()
        super().handle_exit(sig, frame)


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens there; UsageError if that cannot be."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    made = socket.socket(family, socket.SOCK_STREAM)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        made.bind((host, port))
        made.listen(_BACKLOG)
    except (OSError, OverflowError) as error:
        made.close()
        why = getattr(error, "strerror", None) or str(error)
        raise UsageError(f"--listen {host}:{port}: {why.lower()}") from None
    return made


def inherited(fd: int) -> socket.socket:
    """A socket of the parent process that listens already."""
    return socket.socket(fileno=fd)


def server(app: Starlette) -> uvicorn.Server:
    """A server for what ``create_app`` has made; ``serve(sockets=[...])`` runs it until a signal or ``should_exit``."""
    return _Server(config(app), app.state.site.live.close)


def config(app: ASGIApp) -> uvicorn.Config:
    """How a dashboard is served."""
    return uvicorn.Config(
        app,
        lifespan="off",
        ws="none",
        log_level="warning",
        access_log=False,
        timeout_graceful_shutdown=_GRACE_S,
        server_header=False,
        proxy_headers=False,  # who has connected is what counts; the addresses that proxies name anybody can write
    )
