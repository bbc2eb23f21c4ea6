"""Encodes and decodes arguments, results and errors, through a hook that may encrypt them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol, cast

from durasleep.codec.calls import call_of, shape_args
from durasleep.codec.exceptions import (
    ERROR_TEXT_MAX,
    ErrorAttributes,
    ErrorMapper,
    error_of,
    shorten,
    type_name,
    unreadable_error,
)
from durasleep.codec.packing import PLAIN_WRITER, name_arguments, pack, writer_for
from durasleep.codec.shapes import shape
from durasleep.codec.type_hints import function_name
from durasleep.codec.values import unpack
from durasleep.errors import CorruptData, PayloadTooLarge
from durasleep.model import PAYLOAD_BYTES_MAX

_LIST = (list, tuple)
_ARGUMENTS = (list, dict)
_NEITHER: Any = (None, None)


class PayloadHook(Protocol):
    """Encrypts or compresses payloads on their way; ``unwrap`` undoes ``wrap``.

    Payloads are arguments, results and errors. An error is stored with its message, notes and traceback, and with its
    ``args`` and attributes as far as they can be sent: a request, a password, whatever its class keeps in them. A hook
    that has ``error_attributes``, see ``ErrorHook``, says which of them are. The worker's log has type and message.
    """

    def wrap(self, payload: bytes) -> bytes: ...
    def unwrap(self, payload: bytes) -> bytes: ...


class ErrorHook(PayloadHook, Protocol):
    """A hook that also decides what is stored of an error."""

    def error_attributes(self, error: BaseException, attributes: dict[str, object]) -> dict[str, object]:
        """Answer what is stored of these: by name the attributes of the error, its ``args`` among them.

        It is asked for each cause and each member of a group, too. Leave the error itself as it is: retries look at it.
        Where it raises, nothing of them is stored. The message and the notes are always, so they are for no secrets.
        """
        ...


class Codec:
    """Encodes and decodes arguments, results and errors; one object may serve all threads."""

    def __init__(
        self, *, payload_bytes_max: int = PAYLOAD_BYTES_MAX, outer: PayloadHook | ErrorHook | None = None
    ) -> None:
        self._payload_bytes_max = payload_bytes_max
        self._outer = outer
        self._error_attributes: ErrorAttributes | None = getattr(outer, "error_attributes", None)

    @property
    def payload_bytes_max(self) -> int:
        """The cap of one payload."""
        return self._payload_bytes_max

    def encode(self, value: object, what: str, fn: Callable[..., Any] | None = None) -> bytes:
        """The payload for a value; NotSerializable or PayloadTooLarge name ``what`` and the place in it.

        Where it is the result of ``fn``, whose hints could be read in two ways, it says which is meant.
        """
        payload = self._wrap(pack(value, what, fn))
        if len(payload) > self._payload_bytes_max:
            raise PayloadTooLarge(f"{what}: {len(payload)} bytes are over the cap of {self._payload_bytes_max}")
        return payload

    def decode(self, payload: bytes, hint: Any = Any) -> Any:
        """The value, shaped by a type hint; CorruptData for what is no payload, UsageError for what does not fit."""
        value = unpack(self._unwrap(payload)) if payload else None
        return value if hint is Any else shape(value, hint, "the value")

    def encode_args(
        self,
        args: Sequence[object],
        kwargs: dict[str, object],
        what: str,
        fn: Callable[..., Any] | None = None,
    ) -> bytes:
        """The payload for the arguments of ``what``; errors as ``encode``, naming the argument.

        ``fn`` is the function they are for, where it is known here.
        """
        writer = PLAIN_WRITER if fn is None else writer_for(fn, of_result=False)
        try:
            payload = self._wrap(writer.pack_call(args, kwargs))
        except Exception:  # packed one by one, the one that failed is named
            for name, value in name_arguments(args, kwargs):
                pack(value, f"argument {name} of {what}", None)
            raise
        if len(payload) > self._payload_bytes_max:
            sizes = {name: len(writer.pack(value)) for name, value in name_arguments(args, kwargs)}
            largest = max(sizes, key=sizes.__getitem__)
            raise PayloadTooLarge(
                f"the arguments of {what}: {len(payload)} bytes are over the cap of {self._payload_bytes_max}, "
                f"{sizes[largest]} of them in argument {largest}"
            )
        return payload

    def decode_args(
        self, payload: bytes, fn: Callable[..., Any], *, skip_first: bool
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The arguments in ``payload``, shaped by the annotations of ``fn``: by position, and by name.

        UsageError if they do not fit it, CorruptData for what is no payload of arguments. ``skip_first`` leaves out the
        context parameter of a workflow.
        """
        found: Any = unpack(payload if self._outer is None else self._unwrap(payload))
        args, kwargs = found if type(found) in _LIST and len(found) == 2 else _NEITHER
        if (type(args), type(kwargs)) != _ARGUMENTS:  # hot: to match a pattern takes twice as long
            raise CorruptData(f"the arguments of {function_name(fn)} are not a list of arguments")
        if not kwargs and tuple(map(type, args)) == call_of(fn).types[skip_first]:
            return tuple(args), kwargs  # as most are: whole, and of the types that the function names
        return shape_args(fn, args, kwargs, skip_first)

    def show_args(self, payload: bytes) -> str:
        """What arguments there are in ``payload``, without their values: ``2 arguments, and 'days'``."""
        found: Any = unpack(self._unwrap(payload))
        args, kwargs = found if type(found) in _LIST and len(found) == 2 else _NEITHER
        if (type(args), type(kwargs)) != _ARGUMENTS:
            return "no list of arguments"
        return ", and ".join([f"{len(args)} argument{'s' * (len(args) != 1)}", *map(repr, kwargs)])

    def show_misfit(self, misfit: Exception) -> str:
        """What ``misfit``, an error of ``decode``, says where no hook encrypts: if there is a hook, without values."""
        text = str(misfit)
        return text if self._outer is None else text.partition(": ")[0]

    def encode_error(self, error: BaseException, *, retried: bool | None = None) -> bytes:
        """The payload for an error: type, message, arguments, attributes, notes, causes and a trimmed traceback.

        Whatever the error is made of, there is a payload within the cap; only a failing hook can prevent it. With
        ``retried`` it says whether another attempt follows the one that failed so.
        """
        verdict = {} if retried is None else {"r": retried}
        for detail, text_max in ((2, ERROR_TEXT_MAX), (1, ERROR_TEXT_MAX), (0, self._payload_bytes_max // 4)):
            mapper = ErrorMapper(detail, min(text_max, ERROR_TEXT_MAX), self._error_attributes)
            try:
                packed = PLAIN_WRITER.pack(mapper.to_map(error, 0) | verdict)
            except Exception:  # noqa: BLE001, S112 - a user's error may do anything when looked at; less is told of it
                continue
            payload = self._wrap(packed)
            if len(payload) <= self._payload_bytes_max:
                return payload
        return self._wrap(
            PLAIN_WRITER.pack({"t": shorten(type_name(error), 200), "m": "(it cannot be shown)"} | verdict)
        )

    def decode_error(self, payload: bytes) -> Exception:
        """An exception for any payload: of its own class if that is loaded here, else RemoteError."""
        try:
            return self.read_error(payload)
        except CorruptData as problem:
            return unreadable_error(problem)

    def read_error(self, payload: bytes) -> Exception:
        """As ``decode_error``, but CorruptData for what the hook cannot read, or what is none of our payloads."""
        return error_of(unpack(self._unwrap(payload)))

    def was_retried(self, payload: bytes) -> bool | None:
        """What ``encode_error`` was told of another attempt; CorruptData as ``read_error``."""
        found = unpack(self._unwrap(payload))
        retried = cast("dict[str, Any]", found).get("r") if isinstance(found, dict) else None
        return retried if isinstance(retried, bool) else None

    def _wrap(self, payload: bytes) -> bytes:
        return payload if self._outer is None else self._outer.wrap(payload)

    def _unwrap(self, payload: bytes) -> bytes:
        if self._outer is None:
            return payload
        try:
            return self._outer.unwrap(payload)
        except Exception as error:
            raise CorruptData(f"the payload hook cannot read a payload: {error}") from error
