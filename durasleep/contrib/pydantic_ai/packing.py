"""Messages as bytes, for the next run of a long chat."""

from __future__ import annotations

import zlib
from collections.abc import Sequence

from pydantic_ai import ModelMessage, ModelMessagesTypeAdapter

from durasleep.errors import UsageError

_VERSION = 1


def pack_messages(messages: Sequence[ModelMessage]) -> bytes:
    """Messages as an argument of the next run, or of another workflow: ``ctx.continue_as_new(pack_messages(...))``.

    They are compressed, and begin with the number of their format.
    """
    return bytes([_VERSION]) + zlib.compress(ModelMessagesTypeAdapter.dump_json(list(messages)))


def unpack_messages(packed: bytes) -> list[ModelMessage]:
    """The messages that ``pack_messages`` has packed; none for ``b""``. UsageError for anything else."""
    if not packed:
        return []
    if packed[0] != _VERSION:
        raise UsageError("these are no messages that this durasleep has packed")
    try:
        return ModelMessagesTypeAdapter.validate_json(zlib.decompress(packed[1:]))
    except (ValueError, zlib.error) as error:
        raise UsageError(f"packed messages cannot be read: {error}") from error
