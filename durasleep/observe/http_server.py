"""An HTTP server in a thread, which answers while the event loop hangs. Imported only where something is served."""

from __future__ import annotations

import errno
import logging
import os
import socket
import socketserver
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any, cast
from urllib.parse import unquote, urlsplit
from weakref import WeakSet

from durasleep.errors import UsageError
from durasleep.observe.health import UNIX, Answer, parse_listen

REQUESTS_MAX = 32
"""Requests under way; with one more, the oldest is cut off: slow clients neither take all memory nor keep probes
away."""
REQUEST_S = 5.0
"""A client that is slower is cut off."""

logger = logging.getLogger("durasleep")


class HealthServer:
    """Answers GET and HEAD by one function of the path, each request in a thread; ends with the process."""

    def __init__(self, listen: str, answer: Callable[[str], Answer]) -> None:
        """``listen`` is ``[HOST:]PORT``; port 0 takes a free one. UsageError if nobody can listen there."""
        self._path = listen.removeprefix(UNIX) if listen.startswith(UNIX) else ""
        host, port = parse_listen(listen)
        try:
            self._server = _Server(_listening_at(self._path) if self._path else _listening(host, port), answer)
        except (OSError, UnicodeError) as error:  # no name of a host can be encoded that is too long
            raise UsageError(f"cannot listen on {listen}: {_reason(error)}") from None
        self._thread = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.1}, name="durasleep-http", daemon=True
        )
        self._host = host
        _open.add(self)

    @property
    def _port(self) -> int:
        return int(self._server.socket.getsockname()[1])

    @property
    def url(self) -> str:
        """For people: an address of this machine at which it answers."""
        if self._path:
            return f"{UNIX}{self._path}"
        host = self._host or "localhost"
        return f"http://{f'[{host}]' if ':' in host else host}:{self._port}"

    def start(self) -> None:
        """Answer from now on."""
        self._thread.start()

    def close_in_child(self) -> None:
        """A process that user code has forked may live longer than we do, and must not keep the port."""
        self._server.socket.close()

    def close(self) -> None:
        """Answer no more; requests under way end by themselves."""
        _open.discard(self)
        if self._thread.is_alive():
            self._server.shutdown()
        self._server.server_close()


_open: WeakSet[HealthServer] = WeakSet()


def _close_in_child() -> None:
    for server in tuple(_open):
        server.close_in_child()


if hasattr(os, "register_at_fork"):  # where processes can be forked
    os.register_at_fork(after_in_child=_close_in_child)


def _reason(error: OSError | UnicodeError) -> str:
    if isinstance(error, OSError) and not isinstance(error, socket.gaierror) and error.errno:
        return os.strerror(error.errno)  # its own text repeats the address
    return str(error.strerror) if isinstance(error, OSError) else str(error)


def _listening_at(path: str) -> socket.socket:
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        Path(path).unlink(missing_ok=True)  # of a process that was killed
        listening.bind(path)
        listening.listen()
    except OSError:
        listening.close()
        raise
    return listening


def _listening(host: str, port: int) -> socket.socket:
    if not host:
        if socket.has_dualstack_ipv6():
            try:
                return socket.create_server(("", port), family=socket.AF_INET6, dualstack_ipv6=True)
            except OSError as error:
                if error.errno in (errno.EADDRINUSE, errno.EACCES):
                    raise  # else there is no IPv6 after all
        return socket.create_server(("", port))
    family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
    return socket.create_server((str(address[0]), port), family=family)


class _Server(socketserver.ThreadingMixIn, socketserver.TCPServer):
    """One thread a request, but not more than there is room for."""

    daemon_threads = True
    block_on_close = False

    def __init__(self, listening: socket.socket, answer: Callable[[str], Answer]) -> None:
        super().__init__(listening.getsockname(), _Handler, bind_and_activate=False)
        self.socket.close()
        self.socket = listening
        self.answer = answer
        self._lock = threading.Lock()
        self._requests: dict[Any, None] = {}
        """The connections of those under way, the oldest first."""

    def process_request(self, request: Any, client_address: Any) -> None:
        with self._lock:
            self._requests[request] = None
            oldest = next(iter(self._requests)) if len(self._requests) > REQUESTS_MAX else None
            if oldest is not None:
                del self._requests[oldest]
        if oldest is not None:
            with suppress(OSError):
                oldest.shutdown(socket.SHUT_RDWR)
        super().process_request(request, client_address)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            with self._lock:
                self._requests.pop(request, None)

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ARG002 - as the library calls it
        """A client that goes away in the middle is no error of ours."""
        logger.debug("a request from %s has failed: %r", client_address, sys.exception())


class _Handler(BaseHTTPRequestHandler):
    timeout = REQUEST_S
    server_version = "durasleep"
    sys_version = ""

    def do_GET(self) -> None:
        self._answer(with_body=True)

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def _answer(self, *, with_body: bool) -> None:
        try:
            answer = cast("_Server", self.server).answer(unquote(urlsplit(self.path).path))
        except Exception as error:
            logger.exception("%s could not be answered", self.path)
            answer = Answer(500, f"{type(error).__name__}\n".encode())
        self.send_response(answer.status)
        self.send_header("Content-Type", answer.content_type)
        self.send_header("Content-Length", str(len(answer.body)))
        self.send_header("Cache-Control", "no-store")
        self.end_headers()
        if with_body:
            self.wfile.write(answer.body)

    def log_message(self, format: str, *args: Any) -> None:
        logger.debug("%s: %s", self.client_address, format % args)
