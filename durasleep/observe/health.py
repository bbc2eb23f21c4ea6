"""Whether a worker lives and is ready, and what a probe is answered."""

from __future__ import annotations

import time
from dataclasses import dataclass

from durasleep.errors import UsageError

PULSE_MAX_S = 10.0
"""An event loop that has not run for so long hangs."""
BEAT_MAX_S = 3.0
"""A worker whose last heartbeat was answered longer ago is not ready; at least three of its heartbeats."""
PORT_MAX = 65535
UNIX = "unix:"
"""Before the path of a Unix socket, which stands for an address."""


class Health:
    """What is known of a worker; its event loop and its heartbeats say it, other threads ask."""

    def __init__(self, *, heartbeat_s: float = 1.0) -> None:
        self._beat_max_s = max(BEAT_MAX_S, 3 * heartbeat_s)
        self._pulse_at = time.monotonic()
        self._beat_at: float | None = None
        self._has_joined = False
        self._is_leaving = False

    def pulse(self) -> None:
        """The event loop runs."""
        self._pulse_at = time.monotonic()

    def note_beat(self) -> None:
        """A heartbeat was answered, by any node."""
        self._beat_at = time.monotonic()

    def note_joined(self) -> None:
        """The worker takes executions from now on."""
        self._has_joined = True

    def note_leaving(self) -> None:
        """It takes no more."""
        self._is_leaving = True

    def why_not_live(self) -> str:
        """Empty if the event loop runs, else a sentence."""
        silent_s = time.monotonic() - self._pulse_at
        return f"the event loop has been blocked for {silent_s:.0f} s" if silent_s > PULSE_MAX_S else ""

    def why_not_ready(self) -> str:
        """Empty if the worker takes executions, else a sentence."""
        if why_not_live := self.why_not_live():
            return why_not_live
        if self._is_leaving:
            return "this worker is leaving"
        if not self._has_joined or self._beat_at is None:
            return "this worker has not joined its group yet"
        silent_s = time.monotonic() - self._beat_at
        return f"Redis has answered no heartbeat for {silent_s:.0f} s" if silent_s > self._beat_max_s else ""


@dataclass(frozen=True, slots=True)
class Answer:
    """What a request gets."""

    status: int
    body: bytes
    content_type: str = "text/plain; charset=utf-8"


def said(why_not: str) -> Answer:
    """The answer to a probe."""
    return Answer(503, f"{why_not}\n".encode()) if why_not else Answer(200, b"ok\n")


def not_found(*paths: str) -> Answer:
    """There are only these paths."""
    return Answer(404, f"there is {', '.join(paths)}\n".encode())


def parse_listen(text: str) -> tuple[str, int]:
    """``[HOST:]PORT`` as host and port; an empty host is every address of this machine. UsageError for all else but
    a Unix socket.
    """
    if text.startswith(UNIX):
        return "", 0
    host, colon, port = text.rpartition(":")
    if host.startswith("[") and host.endswith("]"):  # of IPv6
        host = host[1:-1]
    elif ":" in host:
        raise UsageError(f"{text!r}: write an IPv6 address as [HOST]:PORT")
    if not (port.isascii() and port.isdecimal() and int(port) <= PORT_MAX) or (colon and "/" in host):
        raise UsageError(f"{text!r} is no address to listen on: write PORT, :PORT or HOST:PORT, such as :8080")
    return host, int(port)
