"""``ctx.transaction()``: Redis commands that run together with their journal entry."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable, Generator, Sequence
from types import FrameType
from typing import Any

from durasleep.errors import NotSerializable, PayloadTooLarge, UsageError
from durasleep.model import Kind, Number, Transaction, plain_number
from durasleep.runtime.journal import Journal

TRANSACTION_COMMANDS_MAX = 1_000  # one or two milliseconds of Redis


class TransactionBuilder:
    """Redis commands to run together: ``tx.incr("k")``, ``tx.execute("SET", "k", 1)``, then ``results = await tx``.

    A method is the command in lower case (``tx.del_("k")`` for a Python keyword). The answer has one item for each
    command.
    """

    __slots__ = ("_call_site", "_commands", "_future", "_journal")

    def __init__(self, journal: Journal, frame: FrameType) -> None:
        self._journal = journal
        self._call_site = frame.f_code, frame.f_lineno
        self._commands: list[tuple[bytes, ...]] = []
        self._future: asyncio.Future[list[Any]] | None = None

    def execute(self, command: str, *args: str | bytes | float) -> TransactionBuilder:
        """Queue one command, as redis-cli would take it."""
        if self._future is not None:
            raise UsageError(
                f"this transaction has been sent, {command} was not added: begin another, ctx.transaction()"
            )
        self._commands.append((command.encode(), *(_argument(arg, command) for arg in args)))
        return self

    def __getattr__(self, command: str) -> Callable[..., TransactionBuilder]:
        if command.startswith("_"):
            raise AttributeError(command)
        return functools.partial(self.execute, command.rstrip("_").upper())

    def __del__(self) -> None:
        if self._commands and self._future is None:
            code, line = self._call_site
            self._journal.note_unsent(f"{code.co_filename}:{line} in {code.co_qualname}")

    def __await__(self) -> Generator[Any, None, list[Any]]:
        if self._future is None:
            commands = tuple(self._commands)
            if not commands:
                raise UsageError("this transaction has no commands: nothing was sent")
            bytes_max = self._journal.codec.payload_bytes_max

            def make(number: Number) -> Transaction:  # the journal's one was sent, even if it is not allowed now
                check_transaction(commands, bytes_max)
                return Transaction(number, commands)

            self._future = self._journal.call(Kind.TRANSACTION, "", Any, make)
        return self._future.__await__()


def check_transaction(commands: Sequence[tuple[bytes, ...]], bytes_max: int) -> None:
    """One script call carries all of it, and Redis does nothing else during that time."""
    if len(commands) > TRANSACTION_COMMANDS_MAX:
        raise UsageError(
            f"this transaction has {len(commands):,} commands, more than {TRANSACTION_COMMANDS_MAX:,}: nothing was sent"
        )
    size = sum([len(word) for command in commands for word in command])
    if size > bytes_max:
        raise PayloadTooLarge(
            f"the commands of this transaction have {size} bytes, over the cap of {bytes_max}: nothing was sent"
        )


def _argument(value: object, command: str) -> bytes:
    if isinstance(value, bytes):
        return value
    if isinstance(value, str):
        return value.encode()
    number = plain_number(value)
    if isinstance(number, int | float):
        return repr(number).encode()
    raise NotSerializable(f"an argument of {command} is a {type(value).__name__}: Redis takes str, bytes, int or float")
