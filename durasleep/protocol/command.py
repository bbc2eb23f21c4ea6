"""Calls to Redis and the reading of their answers, with no I/O: commands, items of a batch, and plans of several.

A ``Command`` is sent as it is; a ``BatchItem`` may be sent with other items of its script in one EVALSHA. A ``Plan``
yields calls that may be sent together, and gets their answers, in order. An answer may be the error of that call (see
``unwrap``).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Generator, Mapping, Sequence
from functools import lru_cache
from typing import Any, Generic, TypeVar

import msgspec

from durasleep import errors
from durasleep.errors import DurasleepError
from durasleep.model import Disposition, State
from durasleep.protocol import script
from durasleep.protocol.keys import KIND, PLACE, STATE, Keyspace
from durasleep.protocol.partitions import PARTITIONS_MAX, slot_of
from durasleep.protocol.script import Script, Value

T = TypeVar("T")
S = TypeVar("S")

Reply = Any
"""The answer of Redis to a command; an error reply is an exception."""
STATE_OF = {code.encode(): state for state, code in STATE.items()}
PLACE_OF = {code.encode(): place for place, code in PLACE.items()}
KIND_OF = {code.encode(): kind for kind, code in KIND.items()}
_FUTURE_CODE = re.compile(rb"[a-z]")
"""Codes that a newer version may write and that we do not know; any other text is not ours."""
DISPOSITION_OF = {word.value.encode(): word for word in Disposition}
_WORDS_BEFORE_KEY = 4  # EVALSHA digest count KEY
_CODE = re.compile(r"(?:ERR )?(?:user_script:\d+: )?([A-Z][A-Z_]+) ?(.*)", re.DOTALL)


class Route(msgspec.Struct, frozen=True, eq=False):
    """The common part of calls that may be sent together: a script, its keys, and the arguments before the items."""

    script: Script
    command: tuple[Value, ...]
    """The EVALSHA that runs it, up to the items."""
    slot: int
    """The hash slot of its keys."""


@lru_cache(maxsize=16 * PARTITIONS_MAX)
def route(name: str, keys: Keyspace, shared_args: tuple[Value, ...] = ()) -> Route:
    """The route of a script that takes a batch; the same object for the same arguments."""
    lua = script.load(name, keys.movable_clock, keys.value_bytes_max)
    return Route(lua, tuple(script.evalsha(lua, key_list(keys), shared_args)), keys.slot)


class BatchItem(msgspec.Struct, Generic[T], frozen=True):
    """One call of a batching script; its answer does not depend on the other items."""

    route: Route
    args: list[Value]
    """The arguments, their number first, see ``Script.item``."""
    parse: Callable[[Any], T]
    known_bytes: int = -1
    """The size of the caller's values, if it is known."""

    @property
    def script(self) -> Script:
        return self.route.script

    @property
    def payload_bytes(self) -> int:
        """The bytes of the caller's values."""
        if self.known_bytes >= 0:
            return self.known_bytes
        return sum([len(value) for value in self.args if isinstance(value, bytes)])


class Command(msgspec.Struct, Generic[T], frozen=True):
    """One command of Redis, or a script that takes no batch."""

    args: Sequence[Value]
    parse: Callable[[Any], T]
    script: Script | None = None
    slot: int | None = None
    """On whose node it runs; None if its first key says it. Outside a cluster this means nothing."""
    is_optional: bool = False
    """If we have no right to it, its answer is that error: nobody waits until the right is given."""

    def at(self, slot: int) -> Command[T]:
        """The same command, which names no key, on the node of a slot."""
        return Command(self.args, self.parse, self.script, slot, self.is_optional)

    def optional(self) -> Command[T]:
        """The same command, see ``is_optional``."""
        return Command(self.args, self.parse, self.script, self.slot, is_optional=True)

    def map(self, change: Callable[[T], S]) -> Command[S]:
        """The same command with a changed answer."""
        parse = self.parse
        return Command(self.args, lambda reply: change(parse(reply)), self.script, self.slot, self.is_optional)


Call = BatchItem[Any] | Command[Any]


def slot_of_call(call: Call) -> int:
    """The hash slot of the keys of a call, or the one it was given. StoreError if it has neither: our own mistake."""
    if isinstance(call, BatchItem):
        return call.route.slot
    if call.slot is not None:
        return call.slot
    for word in call.args[1:_WORDS_BEFORE_KEY]:
        key = word.encode() if isinstance(word, str) else word
        if key.startswith(b"{"):  # as each of our keys
            return slot_of(key[1 : key.index(b"}")])
    raise errors.StoreError(f"{call.args[0]!r} names neither a key nor the node on which it runs")


def error_of(text: bytes | str) -> errors.DurasleepError:
    """The exception for an error text of a script, ``CODE what happened``."""
    message = text.decode(errors="replace") if isinstance(text, bytes) else text
    if message.endswith("no such key"):  # XINFO of a stream that does not exist
        return errors.NotFound(message)
    match = _CODE.match(message)
    return errors.from_code(match[1], match[2]) if match else errors.StoreError(message)


@lru_cache(maxsize=4 * PARTITIONS_MAX)
def key_list(keys: Keyspace) -> tuple[bytes, ...]:
    """The KEYS of every script."""
    return tuple(key.encode() for key in keys.named().values())


def to_text(value: bytes | None) -> str:
    """A field of text; empty if it is missing."""
    return value.decode(errors="replace") if value else ""


def to_number(value: bytes | None) -> int:
    """A field with a whole number; 0 if it is missing."""
    return int(value) if value else 0


def pairs(flat: Sequence[Any]) -> list[tuple[Any, Any]]:
    """A flat answer of Redis as pairs of names and values."""
    return list(zip(flat[::2], flat[1::2], strict=True))


def check_code(codes: Mapping[bytes, object], code: bytes | None, what: str) -> None:
    """NewerVersion for a code that we do not know, but that looks like one."""
    if code is not None and code not in codes and _FUTURE_CODE.fullmatch(code):
        raise errors.NewerVersion(f"only a newer version of durasleep knows {what} ({code.decode()})")


def state_of(code: bytes) -> State:
    """The state that a script returns; NewerVersion for one that only a newer version knows."""
    check_code(STATE_OF, code, "the state it is in")
    return STATE_OF[code]


Plan = Generator[Sequence[Call], list[Any], T]


def unwrap(answer: T | DurasleepError) -> T:
    """The answer to a call of a plan; raises it if it is an error."""
    if isinstance(answer, DurasleepError):
        raise answer
    return answer
