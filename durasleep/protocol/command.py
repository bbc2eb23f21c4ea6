"""What is asked of Redis and how its answer is read, with no I/O: commands, items of a batch, and plans of several.

A ``Command`` goes as it is; a ``BatchItem`` may travel with others of its script in one EVALSHA. A ``Plan`` yields
calls that may go together and is sent their answers, in order; an answer may be the error of that call alone (see
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
from durasleep.protocol.script import Script, Value

T = TypeVar("T")
S = TypeVar("S")

Reply = Any
"""What Redis answers to a command; an error reply is the exception it is."""
STATE_OF = {code.encode(): state for state, code in STATE.items()}
PLACE_OF = {code.encode(): place for place, code in PLACE.items()}
KIND_OF = {code.encode(): kind for kind, code in KIND.items()}
_FUTURE_CODE = re.compile(rb"[a-z]")
"""What a newer version may write where we have none of its codes; all else is not ours."""
DISPOSITION_OF = {word.value.encode(): word for word in Disposition}
_CODE = re.compile(r"(?:ERR )?(?:user_script:\d+: )?([A-Z][A-Z_]+) ?(.*)", re.DOTALL)


class Route(msgspec.Struct, frozen=True, eq=False):
    """What calls have in common that may travel together: a script, its keys, and what stands before the items."""

    script: Script
    command: tuple[Value, ...]
    """The EVALSHA that runs it, up to where the items follow."""


@lru_cache(maxsize=256)
def route(name: str, keys: Keyspace, shared_args: tuple[Value, ...] = ()) -> Route:
    """The route of a script that takes a batch; the same object for the same arguments."""
    lua = script.load(name, keys.movable_clock, keys.value_bytes_max)
    return Route(lua, tuple(script.evalsha(lua, key_list(keys), shared_args)))


class BatchItem(msgspec.Struct, Generic[T], frozen=True):
    """One call of a batching script: its answer is its own, whatever the others' are."""

    route: Route
    args: list[Value]
    """Their number first, see ``Script.item``."""
    parse: Callable[[Any], T]
    known_bytes: int = -1
    """What the caller's values take, if whoever made the item knows."""

    @property
    def script(self) -> Script:
        return self.route.script

    @property
    def payload_bytes(self) -> int:
        """What travels of the caller's, in bytes."""
        if self.known_bytes >= 0:
            return self.known_bytes
        return sum([len(value) for value in self.args if isinstance(value, bytes)])


class Command(msgspec.Struct, Generic[T], frozen=True):
    """One command of Redis, or a script that takes no batch."""

    args: Sequence[Value]
    parse: Callable[[Any], T]
    script: Script | None = None

    def map(self, change: Callable[[T], S]) -> Command[S]:
        """The same, its answer changed."""
        parse = self.parse
        return Command(self.args, lambda reply: change(parse(reply)), self.script)


Call = BatchItem[Any] | Command[Any]


def error_of(text: bytes | str) -> errors.DurasleepError:
    """The exception for an error text of a script, ``CODE what happened``."""
    message = text.decode(errors="replace") if isinstance(text, bytes) else text
    if message.endswith("no such key"):  # XINFO of a stream that is not there
        return errors.NotFound(message)
    match = _CODE.match(message)
    return errors.from_code(match[1], match[2]) if match else errors.StoreError(message)


@lru_cache(maxsize=64)
def key_list(keys: Keyspace) -> tuple[bytes, ...]:
    """KEYS of every script."""
    return tuple(key.encode() for key in keys.named().values())


def to_text(value: bytes | None) -> str:
    """A field that holds text, or nothing."""
    return value.decode(errors="replace") if value else ""


def to_number(value: bytes | None) -> int:
    """A field that holds a whole number, or nothing."""
    return int(value) if value else 0


def pairs(flat: Sequence[Any]) -> list[tuple[Any, Any]]:
    """What Redis answers flat: names and values in turn."""
    return list(zip(flat[::2], flat[1::2], strict=True))


def check_code(codes: Mapping[bytes, object], code: bytes | None, what: str) -> None:
    """NewerVersion for a code that is none of ours, but may well be one."""
    if code is not None and code not in codes and _FUTURE_CODE.fullmatch(code):
        raise errors.NewerVersion(f"only a newer version of durasleep knows {what} ({code.decode()})")


def state_of(code: bytes) -> State:
    """The state a script answers; NewerVersion for one that only a newer version knows."""
    check_code(STATE_OF, code, "the state it is in")
    return STATE_OF[code]


Plan = Generator[Sequence[Call], list[Any], T]


def unwrap(answer: T | DurasleepError) -> T:
    """The answer to a call of a plan, or raise the error it is."""
    if isinstance(answer, DurasleepError):
        raise answer
    return answer
