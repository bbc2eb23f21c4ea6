"""What is declared of a function for all its executions: their limit, priority and retention."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from durasleep.errors import DefinitionError, UsageError
from durasleep.limit import Limit
from durasleep.model import Duration, retention_ms
from durasleep.traits import check_limit_key, check_priority


@dataclass(frozen=True, slots=True)
class Declared:
    """What is declared of a function for all its executions."""

    limit: Limit | None = None
    by: Callable[..., Any] | None = None
    """Makes the key for the limit from the arguments of a call."""
    priority: int | None = None
    retention_ms: int | None = None

    @property
    def needs_key(self) -> bool:
        """Whether each call has a key."""
        return self.limit is not None and (self.by is not None or self.limit.per_key is not None)

    def check_key(self, name: str, key: str | None) -> None:
        """UsageError for a key that a call of function ``name`` gives, and nothing counts."""
        if key is not None and self.limit is None:
            raise UsageError(f"{name} has no limit, so key {key!r} does nothing: leave it out")

    def key_of(self, name: str, args: Sequence[Any], kwargs: dict[str, Any]) -> str:
        """The key for its limit of a call of function ``name`` with these arguments; UsageError if it has none."""
        if self.by is None:
            return ""
        try:
            key = self.by(*args, **kwargs)
        except Exception as error:
            raise UsageError(f"the key of a call of {name} cannot be computed: by= raises {error!r}") from error
        return check_limit_key(key)


NOTHING_DECLARED = Declared()


def declare(
    limit: Limit | None, by: Callable[..., Any] | None, priority: int | None, retention: Duration | None, what: str
) -> Declared:
    """What a decorator declares; DefinitionError for what cannot be."""
    if limit is None and by is None and priority is None and retention is None:
        return NOTHING_DECLARED
    if limit is not None and not isinstance(limit, Limit):  # pyright: ignore[reportUnnecessaryIsInstance] - callers may be untyped
        raise DefinitionError(f"{what}: limit is a durasleep.Limit, not {limit!r}")
    if by is not None and (limit is None or not callable(by)):
        raise DefinitionError(f"{what}: by= is a function that makes the key for a limit=")
    try:
        return Declared(
            limit,
            by,
            None if priority is None else check_priority(priority),
            None if retention is None else retention_ms(retention),
        )
    except UsageError as error:
        raise DefinitionError(f"{what}: {error}") from None
