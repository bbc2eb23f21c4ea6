"""What runs around each task and step: an application context, a check of database connections, a log scope."""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Callable, Generator, Iterator, Sequence
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, contextmanager
from typing import Any, TypeVar, cast

from durasleep.errors import DefinitionError

Middleware = Callable[[], Iterator[None]] | Callable[[], AsyncIterator[None]]
"""A generator function that yields once, where the task or step runs; sync or async."""

AnyMiddleware = TypeVar("AnyMiddleware", bound=Middleware)


def check_middleware(fn: AnyMiddleware) -> AnyMiddleware:
    """The function, if it is one that yields and takes no arguments; else DefinitionError."""
    if not inspect.isgeneratorfunction(fn) and not inspect.isasyncgenfunction(fn):
        raise DefinitionError(f"a middleware is a function that yields once, and {fn!r} is not")
    try:
        inspect.signature(fn).bind()
    except TypeError as error:
        raise DefinitionError(f"a middleware is called without arguments, and {fn!r} needs some: {error}") from None
    return fn


def surrounded(fn: Callable[..., Any], middleware: Sequence[Middleware], *, is_async: bool) -> Callable[..., Any]:
    """The function with the middleware around it: all of it if it ``is_async``, else that which is not."""

    async def call_async(*args: Any, **kwargs: Any) -> Any:
        async with AsyncExitStack() as stack:
            for each in middleware:
                if inspect.isasyncgenfunction(each):
                    await stack.enter_async_context(asynccontextmanager(each)())
                else:
                    stack.enter_context(contextmanager(cast("Callable[[], Generator[None]]", each))())
            return await fn(*args, **kwargs)

    def call_sync(*args: Any, **kwargs: Any) -> Any:
        with ExitStack() as stack:
            for each in middleware:
                if not inspect.isasyncgenfunction(each):
                    stack.enter_context(contextmanager(cast("Callable[[], Generator[None]]", each))())
            return fn(*args, **kwargs)

    return call_async if is_async else call_sync
