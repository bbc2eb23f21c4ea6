"""Whether the client of a connection is gone, and has not read what was written: what the system knows of that."""

from __future__ import annotations

import asyncio
import select
import socket
import sys
from contextlib import suppress

if sys.platform != "win32":
    import fcntl
    import termios

LOOK_S = 0.2
"""After a client has closed, a reset by its system may still be on its way for so long."""


def has_left(transport: asyncio.Transport) -> bool:
    """Whether the other side has closed, and nobody has noticed yet; false where the system cannot tell."""
    sock = transport.get_extra_info("socket")
    if sock is None or not hasattr(select, "POLLRDHUP"):
        return False
    poll = select.poll()
    poll.register(sock.fileno(), select.POLLRDHUP)
    return bool(poll.poll(0))


def bytes_left(transport: asyncio.WriteTransport) -> int:
    """How much of what was written the other side has not taken; only what is not yet given to the system, where that
    cannot tell more.
    """
    return transport.get_write_buffer_size() + (_bytes_underway(transport) or 0)


def is_received(transport: asyncio.WriteTransport) -> bool:
    """Whether the system of the other side has said that it has received all; false where ours cannot tell."""
    return not transport.get_write_buffer_size() and _bytes_underway(transport) == 0


def _bytes_underway(transport: asyncio.WriteTransport) -> int | None:
    """Of what was given to the system, what the other side has not received; None where the system cannot tell."""
    sock = transport.get_extra_info("socket")
    if sys.platform != "win32" and sock is not None:
        with suppress(OSError):
            return int.from_bytes(fcntl.ioctl(sock.fileno(), termios.TIOCOUTQ, bytes(4)), sys.byteorder)
    return None


def was_reset(transport: asyncio.Transport) -> bool:
    """Whether the system of the other side has said that something came after the end."""
    sock = transport.get_extra_info("socket")
    try:
        return sock is not None and sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) != 0
    except OSError:
        return False
