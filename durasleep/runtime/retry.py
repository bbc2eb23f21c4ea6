"""When a failed step or task gets another attempt."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import timedelta

from durasleep.codec.exceptions import error_line
from durasleep.codec.marks import class_name, loaded_class
from durasleep.errors import Canceled, DurasleepError, NotSerializable, PayloadTooLarge, RemoteError, UsageError
from durasleep.model import Duration, duration_ms

_ATTEMPTS_MAX = 1_000  # each takes entries of the journal, which has a cap

ErrorKind = type[BaseException] | str
"""An exception class, or its name: ``ValueError``, ``billing.errors.Declined``."""


class RetryAfter(DurasleepError):
    """Raise it in a task or step to ask for another attempt after ``delay``.

    ``delay`` is seconds, a timedelta, or text such as ``"30s"``; InvalidDuration if it cannot be waited for.
    The attempt counts as one of its ``Retry``; the ``Retry``'s own delays, ``retry_on`` and ``give_up_on`` do not
    apply. If no attempt is left, or there is no ``Retry``, the call fails with the error this was raised from, ``raise
    RetryAfter(30) from error``, or with this one.
    """

    def __init__(self, delay: Duration) -> None:
        super().__init__(duration_ms(delay, "delay") / 1000)

    @property
    def delay_ms(self) -> int:
        """The least time to wait, in milliseconds."""
        return duration_ms(self.args[0])

    def __str__(self) -> str:
        asked = f"asks for another attempt in {self.args[0]:g} s"
        cause = _behind(self)
        return asked if cause is None else f"{asked}, after {error_line(cause)}"


def _behind(wish: RetryAfter) -> BaseException | None:
    """The error that caused the wish for another attempt: raised from it, or raised while it was handled."""
    error: BaseException | None = wish
    while isinstance(error, RetryAfter):
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return error


def failure_of(error: BaseException) -> BaseException:
    """The final error of a call: for a wish to retry, the error it was raised from."""
    while isinstance(error, RetryAfter) and error.__cause__ is not None:
        error = error.__cause__
    return error


def vain_wish(error: BaseException, retry: Retry | None) -> str:
    """The end of a log line about a call that has failed: why it gets no other attempt although it asks for one."""
    if retry is not None or not isinstance(error, RetryAfter):
        return ""
    return "; RetryAfter was in vain: without a retry= there is one attempt"


@dataclass(frozen=True, slots=True, kw_only=True)
class Retry:
    """Try up to ``attempts`` times, waiting ``delay`` after the first failure and ``backoff`` times longer each time.

    ``delay`` and ``delay_max`` are seconds, timedeltas, or text such as ``"30s"``. No wait is longer than
    ``delay_max``, except the first. Each wait is longer by a random part of itself, at most ``jitter`` (0 to 1), so
    that many do not come back at once. A wait of a second or more is a timer, which occupies no worker. ``retry_on``
    names the errors that get another attempt, ``give_up_on`` those that do not, and wins over ``retry_on``;
    ``Exception`` stands for any error. The worker that ran the attempt decides, and its decision is stored: a later
    deployment does not change it. An error that is a ``RetryAfter`` decides itself when the next attempt comes. Raises
    UsageError for a number of attempts that is not 1 to 1,000, and for other values that cannot be used.
    """

    attempts: int = 5
    delay: Duration = 1.0
    backoff: float = 2.0
    delay_max: Duration = timedelta(hours=1)
    jitter: float = 0.2
    """Each wait is longer by a random part of itself, at most this one, so that calls which failed together spread
    out."""
    retry_on: tuple[ErrorKind, ...] = (Exception,)
    give_up_on: tuple[ErrorKind, ...] = ()

    def __post_init__(self) -> None:
        if not 1 <= self.attempts <= _ATTEMPTS_MAX:
            raise UsageError(f"a retry has 1 to {_ATTEMPTS_MAX} attempts, not {self.attempts}")
        if not (self.backoff >= 1 and 0 <= self.jitter <= 1):
            raise UsageError(f"a retry's backoff is at least 1 and its jitter between 0 and 1: {self}")
        for kinds in (self.retry_on, self.give_up_on):
            if not isinstance(kinds, tuple) or not all(map(_is_kind, kinds)):  # pyright: ignore[reportUnnecessaryIsInstance]
                raise UsageError(f"a retry names errors in a tuple of exception classes and names, not {kinds!r}")
        duration_ms(self.delay, "delay")
        duration_ms(self.delay_max, "delay_max")

    def wants(self, error: BaseException, attempt: int) -> bool:
        """Whether another attempt follows ``attempt``, which failed with ``error``; the first attempt is 1."""
        if attempt >= self.attempts or isinstance(error, Canceled | NotSerializable | PayloadTooLarge):
            return False
        if isinstance(error, RetryAfter):
            return True
        return _is_one_of(error, self.retry_on) and not _is_one_of(error, self.give_up_on)

    def delay_ms(self, error: BaseException, attempt: int, chance: float) -> int:
        """How long to wait after ``attempt``, which failed with ``error``, in milliseconds.

        ``chance`` is a random number in [0, 1).
        """
        if isinstance(error, RetryAfter):
            return error.delay_ms
        first_ms = duration_ms(self.delay)
        delay_max_ms = max(first_ms, duration_ms(self.delay_max))
        try:
            delay_ms = first_ms * float(self.backoff) ** (attempt - 1)
        except OverflowError:
            return delay_max_ms
        return round(min(delay_ms * (1 + float(self.jitter) * chance), delay_max_ms))


def _is_one_of(error: BaseException, kinds: Iterable[ErrorKind]) -> bool:
    return any(kind in _names(error) if isinstance(kind, str) else _is_a(error, kind) for kind in kinds)


def _is_kind(kind: object) -> bool:
    return isinstance(kind, str) or (isinstance(kind, type) and issubclass(kind, BaseException))


def _is_a(error: BaseException, kind: type[BaseException]) -> bool:
    if kind is Exception or isinstance(error, kind):
        return True
    if not isinstance(error, RemoteError):
        return False
    known = loaded_class(error.type)  # no instance of it could be made here
    return error.type == class_name(kind) or (known is not None and issubclass(known, kind))


def _names(error: BaseException) -> set[str]:
    """The names of an error's classes, or of the class it had in another process."""
    named: list[type] = list(type(error).__mro__)
    names: set[str] = set()
    if isinstance(error, RemoteError):
        known = loaded_class(error.type)
        named = [] if known is None else list(known.__mro__)
        names = {error.type, error.type.rpartition(".")[2]}
    return names | {name for cls in named for name in (cls.__name__, f"{cls.__module__}.{cls.__qualname__}")}
