"""``Channel``: a name for messages and the type of their values, for the code on both sides."""

from __future__ import annotations

import re
from typing import Any, Generic, TypeVar, overload

from durasleep.errors import InvalidId
from durasleep.model import shown

T = TypeVar("T")

_NAME_MAX = 255  # characters
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")


def check_channel(name: str) -> str:
    """Return the name of a channel, or raise InvalidId."""
    if not isinstance(name, str) or not 1 <= len(name) <= _NAME_MAX or _CONTROL.search(name):  # pyright: ignore[reportUnnecessaryIsInstance] - callers may be untyped
        raise InvalidId(f"channel {shown(name)}: use 1 to {_NAME_MAX} characters, none of them a control character")
    try:
        name.encode()
    except UnicodeEncodeError:
        raise InvalidId(f"channel {shown(name)}: it is not valid Unicode") from None
    return name


class Channel(Generic[T]):
    """The name of some messages, and the type of their values, declared once for both sides::

        PAYMENT = Channel("payment", Payment)

        payment = await ctx.receive(PAYMENT)                  # in the workflow: a Payment
        await app.send("order-42", PAYMENT, Payment(4200))    # whoever sends: anything else is refused

    ``name`` has 1 to 255 characters, none of them a control character; InvalidId otherwise. The type shapes what
    arrives, as the hints of a function do.
    """

    __slots__ = ("name", "type_hint")

    name: str
    """Its name."""
    type_hint: Any
    """The type of its values; Any for any."""

    @overload
    def __init__(self: Channel[Any], name: str, /) -> None: ...
    @overload
    def __init__(self, name: str, type_hint: type[T], /) -> None: ...
    @overload
    def __init__(self: Channel[Any], name: str, type_hint: Any, /) -> None: ...
    def __init__(self, name: str, type_hint: Any = Any, /) -> None:
        self.name = check_channel(name)
        self.type_hint = type_hint

    def __repr__(self) -> str:
        return f"Channel({self.name!r})"


def channel_of(channel: Channel[Any] | str, type_hint: Any = Any) -> tuple[str, Any]:
    """The name and type hint of a channel that a caller gives as one of these; InvalidId for a bad name."""
    if isinstance(channel, Channel):
        return channel.name, channel.type_hint
    return check_channel(channel), type_hint
