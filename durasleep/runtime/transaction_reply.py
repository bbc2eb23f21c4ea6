"""The answer to a transaction, as its journal entry keeps it."""

from __future__ import annotations

from typing import Any

from durasleep.errors import CorruptData, RemoteError

_DEPTH_MAX = 100  # Redis itself answers lists in lists in lists


def read_reply(payload: bytes) -> Any:
    """The value of a transaction as Lua wrote it: bytes, int, str, None, a list of them, or a RemoteError."""
    try:
        value, end = _read_item(payload, 0, 0)
    except ValueError as error:
        raise CorruptData(f"a transaction's reply has no number where one belongs: {error}") from None
    if end != len(payload):
        raise CorruptData(f"a transaction's reply has {len(payload) - end} bytes too many")
    return value


def _read_item(payload: bytes, start: int, depth: int) -> tuple[Any, int]:
    if depth > _DEPTH_MAX:
        raise CorruptData(f"a transaction's reply is nested more than {_DEPTH_MAX} deep")
    line_end = payload.find(b"\n", start)
    if line_end < 0:
        raise CorruptData("a transaction's reply is cut short")
    kind, text, end = payload[start : start + 1], payload[start + 1 : line_end], line_end + 1
    match kind:
        case b"$":
            size = int(text)
            if size < 0 or end + size > len(payload):
                raise CorruptData("a transaction's reply is cut short")
            return payload[end : end + size], end + size
        case b":":
            return int(text), end
        case b"+":
            return text.decode(errors="replace"), end
        case b"_":
            return None, end
        case b"-":
            return RemoteError("ResponseError", text.decode(errors="replace")), end
        case b"*":
            items: list[Any] = []
            for _ in range(int(text)):
                item, end = _read_item(payload, end, depth + 1)
                items.append(item)
            return items, end
        case _:
            raise CorruptData(f"a transaction's reply holds {kind!r}, which nobody writes")
