"""A task of durasleep that is called as a task of Celery: ``task.delay(...)`` and ``task.apply_async(...)``.

With it the body of a task moves first, and its call sites later, or never.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, Generic, ParamSpec, TypeVar

from durasleep import Durasleep, Limit, Retry
from durasleep.sync import Client, Handle

P = ParamSpec("P")
R = TypeVar("R")


class Moved(Generic[P, R]):
    """A function, and a client that starts it; ``group`` names the workers that run it, by default the client's."""

    def __init__(self, fn: Callable[P, R], client: Client, group: str | None) -> None:
        self.fn = fn
        self._client = client
        self._group = group

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Call the function here and now, as in Celery."""
        return self.fn(*args, **kwargs)

    def delay(self, *args: P.args, **kwargs: P.kwargs) -> Handle[R]:
        """Start it as soon as a worker is free."""
        return self.apply_async(args, kwargs)

    def apply_async(
        self,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
        *,
        countdown: float | timedelta | None = None,
        eta: datetime | None = None,
        task_id: str | None = None,
        queue: str | None = None,
    ) -> Handle[Any]:
        """Start it in ``countdown`` seconds, or at ``eta``, an aware datetime. TypeError for any other option.

        With a ``task_id`` the call is made once, however often it is repeated. ``queue`` is the group that runs it.
        """
        caller = self._client.options(delay=countdown if eta is None else eta, target=queue or self._group)
        fn: Any = self.fn  # Celery's way to give arguments has no types
        if task_id is not None:
            return caller.rpc(task_id, fn, *args, **(kwargs or {}))
        return caller.start(fn, *args, **(kwargs or {}))


def moved(
    app: Durasleep,
    client: Client,
    *,
    was: Callable[[Any], Any] | None = None,
    group: str | None = None,
    retry: Retry | None = None,
    limit: Limit | None = None,
) -> Callable[[Callable[P, R]], Moved[P, R]]:
    """Make a function a task of durasleep that is called as one of Celery.

    ``was`` is the decorator that made it a task of Celery: its workers run what still waits in its queues.
    """

    def decorate(fn: Callable[P, R]) -> Moved[P, R]:
        if was is not None:
            was(fn)
        return Moved(app.task(retry=retry, limit=limit)(fn), client, group)

    return decorate
