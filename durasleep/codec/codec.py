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
from durasleep.deprecation import warn_renamed
from durasleep.errors import CorruptData, PayloadTooLarge
from durasleep.model import PAYLOAD_BYTES_MAX

_LIST = (list, tuple)
_ARGUMENTS = (list, dict)
_NEITHER: Any = (None, None)


class PayloadHook(Protocol):
    """Encrypts or compresses payloads; ``unwrap`` undoes ``wrap``.

    Payloads are arguments, results and errors. An error is stored with its message, notes and traceback, and with those
    of its ``args`` and attributes that can be sent: a request, a password, or other data that its class keeps. A hook
    that has ``error_attributes``, see ``ErrorHook``, decides which of them are stored. The worker's log has type and
    message.
    """

    def wrap(self, payload: bytes) -> bytes: ...
    def unwrap(self, payload: bytes) -> bytes: ...


class ErrorHook(PayloadHook, Protocol):
    """A hook that also decides which attributes of an error are stored."""

    def error_attributes(self, error: BaseException, attributes: dict[str, object]) -> dict[str, object]:
        """Return the attributes to store: the attributes of the error by name, with its ``args`` among them.

        It is also called for each cause and each member of a group. Do not change the error itself: retries look at it.
        If this method raises, no attributes are stored. The message and the notes are always stored, so keep secrets
        out of them.
        """
        ...


class Codec:
    """Encodes and decodes arguments, results and errors; threads may share one object.

    A payload has at most ``payload_bytes_max`` bytes, by default 1 MiB. ``outer`` encrypts or compresses payloads, and
    may decide what is stored of errors: see ``PayloadHook`` and ``ErrorHook``. By default payloads are plain
    MessagePack. ``read_args``, ``show_args``, ``show_misfit``, ``read_error`` and ``was_retried`` serve durasleep
    itself, and may change.
    """

    def __init__(
        self, *, payload_bytes_max: int = PAYLOAD_BYTES_MAX, outer: PayloadHook | ErrorHook | None = None
    ) -> None:
        self._payload_bytes_max = payload_bytes_max
        self._outer = outer
        self._error_attributes: ErrorAttributes | None = getattr(outer, "error_attributes", None)

    @property
    def payload_bytes_max(self) -> int:
        """The largest size of a payload."""
        return self._payload_bytes_max

    def encode(self, value: object, what: str, fn: Callable[..., Any] | None = None) -> bytes:
        """The payload for a value; NotSerializable or PayloadTooLarge name ``what`` and the wrong part of it.

        If the value is the result of ``fn``, whose type hints could be read in two ways, the payload says which way is
        meant.
        """
        payload = self._wrap(pack(value, what, fn))
        if len(payload) > self._payload_bytes_max:
            raise PayloadTooLarge(f"{what}: {len(payload)} bytes are over the cap of {self._payload_bytes_max}")
        return payload

    def decode(self, payload: bytes, type_hint: Any = Any, *, hint: Any = None) -> Any:
        """The value in ``payload``, shaped by ``type_hint``; by default it is plain data.

        CorruptData if it is no payload, UsageError if the value does not fit. ``hint`` is the old name of
        ``type_hint``.
        """
        if hint is not None:
            warn_renamed("hint", "type_hint")
            type_hint = hint
        value = unpack(self._unwrap(payload)) if payload else None
        return value if type_hint is Any else shape(value, type_hint, "the value")

    def encode_args(
        self,
        args: Sequence[object],
        kwargs: dict[str, object],
        what: str,
        fn: Callable[..., Any] | None = None,
    ) -> bytes:
        """The payload for the arguments of ``what``; NotSerializable or PayloadTooLarge name the argument.

        ``fn`` is their function, if it is known here.
        """
        writer = PLAIN_WRITER if fn is None else writer_for(fn, of_result=False)
        try:
            payload = self._wrap(writer.pack_call(args, kwargs))
        except Exception:  # packed one by one, so that the error names the argument
            for name, value in name_arguments(args, kwargs):
                pack(value, f"argument {name} of {what}", None)
            for name in kwargs:
                pack(name, f"the name of an argument of {what}", None)
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
        """The arguments in ``payload``, shaped by the annotations of ``fn``: positional ones, and those by keyword.

        UsageError if they do not fit ``fn``, CorruptData if it is not a payload of arguments. ``skip_first`` leaves out
        the context parameter of a workflow.
        """
        found: Any = unpack(payload if self._outer is None else self._unwrap(payload))
        args, kwargs = found if type(found) in _LIST and len(found) == 2 else _NEITHER
        if (type(args), type(kwargs)) != _ARGUMENTS:  # hot: matching a pattern takes twice as long
            raise CorruptData(f"the arguments of {function_name(fn)} are not a list of arguments")
        if not kwargs and tuple(map(type, args)) == call_of(fn).types[skip_first]:
            return tuple(args), kwargs  # most calls are like this: complete, with the types that the function names
        return shape_args(fn, args, kwargs, skip_first)

    def read_args(self, payload: bytes, name: str) -> tuple[list[Any], dict[str, Any]]:
        """The arguments of the function of this name as plain data; CorruptData if it is not a payload of arguments."""
        found: Any = unpack(self._unwrap(payload))
        args, kwargs = found if type(found) in _LIST and len(found) == 2 else _NEITHER
        if (type(args), type(kwargs)) != _ARGUMENTS:
            raise CorruptData(f"the arguments of {name} are not a list of arguments")
        return args, kwargs

    def show_args(self, payload: bytes) -> str:
        """Which arguments are in ``payload``, without their values: ``2 arguments, and 'days'``; else CorruptData."""
        found: Any = unpack(self._unwrap(payload))
        args, kwargs = found if type(found) in _LIST and len(found) == 2 else _NEITHER
        if (type(args), type(kwargs)) != _ARGUMENTS:
            return "no list of arguments"
        return ", and ".join([f"{len(args)} argument{'s' * (len(args) != 1)}", *map(repr, kwargs)])

    def show_misfit(self, misfit: Exception) -> str:
        """The text of ``misfit``, an error of ``decode``; without values if there is a hook, which may encrypt."""
        text = str(misfit)
        return text if self._outer is None else text.partition(": ")[0]

    def encode_error(self, error: BaseException, *, retried: bool | None = None) -> bytes:
        """The payload for an error: type, message, arguments, attributes, notes, causes and a shortened traceback.

        Every error gets a payload within the size limit; only a failing hook can prevent it. ``retried`` says whether
        another attempt follows the failed one.
        """
        verdict = {} if retried is None else {"r": retried}
        for detail, text_max in ((2, ERROR_TEXT_MAX), (1, ERROR_TEXT_MAX), (0, self._payload_bytes_max // 4)):
            mapper = ErrorMapper(detail, min(text_max, ERROR_TEXT_MAX), self._error_attributes)
            try:
                packed = PLAIN_WRITER.pack(mapper.to_map(error, 0) | verdict)
            except Exception:  # noqa: BLE001, S112 - a user's error may raise anything; then less is stored
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
        """As ``decode_error``, but CorruptData if the hook cannot read it, or if it is not a payload of ours."""
        return error_of(unpack(self._unwrap(payload)))

    def was_retried(self, payload: bytes) -> bool | None:
        """Whether another attempt follows, as ``encode_error`` has stored it; CorruptData as ``read_error``."""
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
            reason = str(error) or type(error).__name__  # those of cryptography have no text
            raise CorruptData(f"the payload hook cannot read a payload: {reason}") from error
