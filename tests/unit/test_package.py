"""The package as a whole: its public names, and the map of its layers."""

from __future__ import annotations

import importlib.metadata
import inspect
import pkgutil
import typing
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import durasleep
import durasleep.sync
import durasleep.testing
from durasleep import Context, Durasleep, Handle
from durasleep.testing import Env


def test_the_public_names_are_these_and_no_others() -> None:
    assert durasleep.__all__ == [
        "Batch",
        "Canceled",
        "Channel",
        "ClientClosed",
        "Codec",
        "Context",
        "Current",
        "Delivery",
        "Description",
        "Disposition",
        "Durasleep",
        "DurasleepError",
        "Ended",
        "ExecutionError",
        "Handle",
        "InvalidId",
        "Limit",
        "LimitFull",
        "MailboxFull",
        "Message",
        "Messages",
        "Mismatch",
        "NotAllowed",
        "NotFound",
        "NotReplicated",
        "OtherFunction",
        "RemoteError",
        "Retry",
        "RetryAfter",
        "ScheduleDescription",
        "ScheduleOptions",
        "Settings",
        "State",
        "StoreRefused",
        "StoreUnavailable",
        "Target",
        "ThreadsLost",
        "TimedOut",
        "UsageError",
        "View",
        "WaitTimeout",
        "Winner",
        "Worker",
        "__version__",
        "checkpoint",
        "current",
        "progress",
        "publish",
    ]
    assert all(hasattr(durasleep, name) for name in durasleep.__all__)


def test_the_version_is_that_of_the_distribution() -> None:
    assert durasleep.__version__ == importlib.metadata.version("durasleep")


def test_the_docstring_maps_every_module() -> None:
    shown = (durasleep.__doc__ or "").split("\n\n")[2]
    modules = {module.name for module in pkgutil.iter_modules(durasleep.__path__)} - {"__main__"}
    assert modules <= set(shown.replace("|", " ").split())


def called_by_users() -> Iterator[tuple[str, Callable[..., Any]]]:
    for module in (durasleep, durasleep.sync, durasleep.testing):
        for name in getattr(module, "__all__", dir(module)):
            value = getattr(module, name)
            if inspect.isfunction(value):
                yield f"{module.__name__}.{name}", value
            if not inspect.isclass(value) or not value.__module__.startswith("durasleep"):
                continue
            for method, function in inspect.getmembers(value, inspect.isfunction):
                if not method.startswith("_"):
                    yield f"{module.__name__}.{name}.{method}", function


def test_the_type_hints_of_all_that_users_call_can_be_read() -> None:
    """Also those that name what is imported late."""
    unread: list[str] = []
    for name, function in called_by_users():
        try:
            typing.get_type_hints(function)
        except NameError as error:
            unread.append(f"{name}: {error}")
    assert not unread


def test_a_setting_without_an_effect_says_so() -> None:
    with pytest.warns(DeprecationWarning, match="inbox_ttl_s has no effect"):
        durasleep.Settings(inbox_ttl_s=600)


KINDS = [Durasleep, Handle, Context, Env, durasleep.sync.Client, durasleep.sync.Handle]


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_called_for_users_is_not_shown_to_them(kind: type[object]) -> None:
    """It is not mentioned, by its name or in a docstring."""
    shown = {name: getattr(kind, name) for name in dir(kind) if not name.startswith("_")}
    internal = {"begin", "expect", "new_call", "opened", "pointed_at", "attach", "known", "ending", "inbox", "look"}
    assert not internal & shown.keys()
    assert not [name for name, value in shown.items() if "called for you" in str(value.__doc__).lower()]
