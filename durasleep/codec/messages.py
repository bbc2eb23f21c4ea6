"""The values of messages, as workflows and clients send them."""

from __future__ import annotations

from typing import Any

from durasleep.codec.codec import Codec
from durasleep.errors import UsageError


def encode_message(codec: Codec, name: str, type_hint: Any, value: object) -> bytes:
    """The payload of a message; UsageError if it does not fit the type of its channel."""
    payload = codec.encode(value, f"message for channel {name!r}")
    if type_hint is not Any:
        try:
            codec.decode(payload, type_hint)
        except UsageError as misfit:
            raise UsageError(f"channel {name!r} takes no such message: {misfit}") from None
    return payload
