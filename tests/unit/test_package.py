"""The package as a whole: its public names, and the map of its layers."""

from __future__ import annotations

import importlib.metadata
import pkgutil

import durasleep


def test_the_public_names_are_these_and_no_others() -> None:
    assert durasleep.__all__ == [
        "Canceled",
        "ClientClosed",
        "Codec",
        "Context",
        "Current",
        "Disposition",
        "Durasleep",
        "DurasleepError",
        "ExecutionError",
        "Handle",
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
