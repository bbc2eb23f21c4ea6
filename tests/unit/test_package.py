"""The package as a whole: its public names, and the map of its layers."""

from __future__ import annotations

import importlib.metadata
import pkgutil

import pytest

import durasleep
import durasleep.sync
from durasleep import Context, Durasleep, Handle
from durasleep.testing import Env


def test_the_public_names_are_these_and_no_others() -> None:
    assert durasleep.__all__ == [
        "Canceled",
        "ClientClosed",
        "Codec",
        "Context",
        "Current",
        "Description",
        "Disposition",
        "Durasleep",
        "DurasleepError",
        "ExecutionError",
        "Handle",
        "InvalidId",
        "Mismatch",
        "NotAllowed",
        "NotFound",
        "NotReplicated",
        "OtherFunction",
        "RemoteError",
        "Retry",
        "RetryAfter",
        "Settings",
        "State",
        "StoreRefused",
        "StoreUnavailable",
        "Target",
        "ThreadsLost",
        "TimedOut",
        "UsageError",
        "WaitTimeout",
        "Winner",
        "Worker",
        "__version__",
        "current",
    ]
    assert all(hasattr(durasleep, name) for name in durasleep.__all__)


def test_the_version_is_that_of_the_distribution() -> None:
    assert durasleep.__version__ == importlib.metadata.version("durasleep")


def test_the_docstring_maps_every_module() -> None:
    shown = (durasleep.__doc__ or "").split("\n\n")[2]
    modules = {module.name for module in pkgutil.iter_modules(durasleep.__path__)} - {"__main__"}
    assert modules <= set(shown.replace("|", " ").split())


KINDS = [Durasleep, Handle, Context, Env, durasleep.sync.Client, durasleep.sync.Handle]


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_called_for_users_is_not_shown_to_them(kind: type[object]) -> None:
    """It is not mentioned, by its name or in a docstring."""
    shown = {name: getattr(kind, name) for name in dir(kind) if not name.startswith("_")}
    internal = {"begin", "expect", "new_call", "opened", "pointed_at", "attach", "known", "ending", "inbox", "look"}
    assert not internal & shown.keys()
    assert not [name for name, value in shown.items() if "called for you" in str(value.__doc__).lower()]
