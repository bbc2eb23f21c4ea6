"""What systemd is told of a service of ``Type=notify``, see sd_notify(3)."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import MutableMapping


class Notify:
    """Tells the service manager what becomes of this process; without one it tells nobody, and nothing fails."""

    def __init__(self, address: str = "", watchdog_s: float = 0.0) -> None:
        """``watchdog_s``: a service that has not been told to be alive for so long is ended; 0 for never."""
        self._address = f"\0{address[1:]}" if address.startswith("@") else address  # an abstract one has no file
        self._every_s = watchdog_s / 2
        self._told_at = -watchdog_s
        self._is_stopping = False
        self.is_ready = False
        """Whether it was told that the service does its work."""

    @classmethod
    def take(cls, environment: MutableMapping[str, str]) -> Notify:
        """As the environment says, which then says it no more: what this process starts is another one."""
        address, microseconds, pid = [
            environment.pop(name, "") for name in ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID")
        ]
        is_watched = address and microseconds.isdecimal() and pid in ("", str(os.getpid()))
        return cls(address, int(microseconds) / 1e6 if is_watched else 0.0)

    @property
    def is_heard(self) -> bool:
        """Whether there is a service manager."""
        return bool(self._address)

    def ready(self) -> None:
        """The service does its work from now on."""
        self.is_ready = True
        self._send("READY=1")

    def stopping(self) -> None:
        """It ends; said once."""
        if not self._is_stopping:
            self._is_stopping = True
            self._send("STOPPING=1")

    def alive(self) -> None:
        """Call it often: the watchdog is told as often as it needs."""
        if self.is_due:
            self._told_at = time.monotonic()
            self._send("WATCHDOG=1")

    @property
    def is_due(self) -> bool:
        """Whether the watchdog is to be told again."""
        return self._every_s > 0 and time.monotonic() - self._told_at >= self._every_s

    def _send(self, text: str) -> None:
        if not self._address:
            return
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as told:
            told.setblocking(False)
            try:
                told.sendto(text.encode(), self._address)
            except OSError:  # nobody is there to be told
                return
