"""Modules that a start must not import: a program or a command imports only what it needs."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest

import durasleep

ROOT = Path(__file__).parents[2]
ABOVE = Path(durasleep.__file__).parents[1]

ONLY_FOR_SOME = (
    "durasleep.cli",
    "durasleep.contrib",
    "durasleep.cron",
    "durasleep.devserver",
    "durasleep.query.attention",
    "durasleep.query.call_tree",
    "durasleep.query.doctor",
    "durasleep.query.fsck",
    "durasleep.query.search",
    "durasleep.runtime.context",
    "durasleep.runtime.event_loop",
    "durasleep.runtime.journal",
    "durasleep.sync",
    "durasleep.testing",
    "durasleep.transport.cluster",
    "durasleep.transport.sentinel",
    "durasleep.transport.sync_store",
    "durasleep.transport.topology",
    "durasleep.worker",
    "django",
    "fakeredis",
    "flask",
    "pydantic",
    "rich",
    "tomllib",
    "typer",
)
"""Modules that an application needs only for some of its methods, or never."""

ONLY_TO_RUN = (
    "asyncio",
    "durasleep.app",
    "durasleep.client",
    "durasleep.codec",
    "durasleep.devserver",
    "durasleep.model",
    "durasleep.runtime",
    "durasleep.transport",
    "durasleep.worker",
    "hiredis",
    "msgpack",
    "msgspec",
    "redis",
)
"""Modules that a command needs only when it does its work."""

STARTS = {
    "import durasleep": (("-c", "import durasleep"), (*ONLY_FOR_SOME, *ONLY_TO_RUN)),
    "an application": (("-c", "from durasleep import Durasleep; Durasleep('redis://host')"), ONLY_FOR_SOME),
    "--help": (("-m", "durasleep", "--help"), ONLY_TO_RUN),
    "get --help": (("-m", "durasleep", "get", "--help"), ONLY_TO_RUN),
    "--version": (("-m", "durasleep", "--version"), ("durasleep.app", "redis", "rich")),
}


def imported(*arguments: str) -> set[str]:
    """The modules that a Python imports, by its own report."""
    done = subprocess.run(
        [sys.executable, "-X", "importtime", *arguments],
        cwd=ROOT,
        env=os.environ | {"TERM": "dumb"},
        check=True,
        capture_output=True,
        text=True,
        timeout=50,
    )
    told = [line.rpartition("|")[2].strip() for line in done.stderr.splitlines() if line.startswith("import time:")]
    assert told
    return set(told)


@pytest.mark.parametrize("start", STARTS)
def test_a_start_imports_nothing_it_does_not_need(start: str) -> None:
    arguments, unneeded = STARTS[start]
    found = imported(*arguments)
    if "rich" in unneeded:  # older releases of typer import it themselves
        found -= imported("-c", "import durasleep, typer")
    assert not [name for name in found if any(name == one or name.startswith(f"{one}.") for one in unneeded)]


def test_an_import_of_the_package_imports_nothing_but_it_and_what_python_brings() -> None:
    found = imported("-c", "import durasleep") - imported("-c", "pass")
    assert {name.partition(".")[0] for name in found} - sys.stdlib_module_names == {"durasleep"}


def test_all_that_is_unneeded_exists() -> None:
    """Otherwise a list with old names would prove nothing."""
    ours = {name for name in (*ONLY_FOR_SOME, *ONLY_TO_RUN) if name.startswith("durasleep.")}
    lacking = [
        name for name in ours if not list((ABOVE / name.replace(".", "/")).parent.glob(f"{name.split('.')[-1]}*"))
    ]
    assert not lacking


def test_a_star_import_and_dir_have_all_public_names() -> None:
    names: dict[str, object] = {}
    exec("from durasleep import *", names)
    assert set(durasleep.__all__) <= names.keys() & set(dir(durasleep))


def test_a_name_is_one_object_however_it_is_reached() -> None:
    from durasleep.app import Durasleep
    from durasleep.runtime.current import current

    assert durasleep.Durasleep is Durasleep
    assert durasleep.current is current
    assert pickle.loads(pickle.dumps(durasleep.Retry)) is durasleep.Retry


def test_a_module_of_the_package_is_an_attribute_without_an_import_of_its_own() -> None:
    program = "import durasleep; print(durasleep.errors.UsageError.__name__, durasleep.settings.DEFAULTS.fsync)"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True, capture_output=True, text=True)
    assert done.stdout.split() == ["UsageError", "False"]


@pytest.mark.parametrize("name", ["Durasleeep", "_private", "__wrapped__"])
def test_a_name_there_is_none_of_is_an_attribute_error(name: str) -> None:
    with pytest.raises(AttributeError, match=f"module 'durasleep' has no attribute '{name}'"):
        getattr(durasleep, name)
