"""``durasleep worker`` and ``durasleep dev``."""

from __future__ import annotations

import io
import logging
import os
import re
import signal
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from durasleep.address import project_directory
from durasleep.cli import address
from durasleep.cli.options import FsyncOption, ReplicasOption, UrlOption
from durasleep.cli.output import console
from durasleep.errors import StoreError, UsageError

if TYPE_CHECKING:
    from durasleep import devserver

_GIVEN_URL = "DURASLEEP_GIVEN_URL"
"""The environment variable that passes --url to the processes of --processes."""
LOOK_S = 1.0  # how often it is checked that a server without a worker still runs

logger = logging.getLogger("durasleep")

ModuleArgument = Annotated[
    str | None,
    typer.Argument(metavar="MODULE[:ATTR]", help="The application; by default DURASLEEP_APP, then pyproject.toml."),
]
GroupOption = Annotated[str | None, typer.Option("--group", metavar="NAME", help="The group to serve.")]
ConcurrencyOption = Annotated[
    int, typer.Option("--concurrency", metavar="N", min=1, max=10_000, help="How many executions may run at a time.")
]
NameOption = Annotated[
    str | None, typer.Option("--name", metavar="NAME", help="The worker's name; by default host and pid.")
]
ProcessesOption = Annotated[
    int,
    typer.Option(
        "--processes", metavar="N", min=1, max=256, help="How many worker processes to run, for tasks that compute."
    ),
]
PartitionsOption = Annotated[
    str | None,
    typer.Option(
        "--partitions",
        metavar="NUMBERS",
        help="Serve only these partitions, such as 0-3,8; by default the workers of a group share all of them.",
    ),
]
DebugOption = Annotated[
    bool, typer.Option("--debug", help="Run the code of workflows twice, and log calls that differ.")
]
EvictionOption = Annotated[
    bool,
    typer.Option("--i-accept-eviction", help="Serve even if this Redis may drop sleeping workflows when it is full."),
]
ReloadOption = Annotated[bool, typer.Option("--reload", help="Start the worker again whenever the code changes.")]
VerboseOption = Annotated[bool, typer.Option("--verbose", "-v", help="Log more.")]


@address.explained
def worker(
    module: ModuleArgument = None,
    group: GroupOption = None,
    concurrency: ConcurrencyOption = 100,
    name: NameOption = None,
    processes: ProcessesOption = 1,
    partitions: PartitionsOption = None,
    url: UrlOption = None,
    debug: DebugOption = False,
    accept_eviction: EvictionOption = False,
    min_replicas: ReplicasOption = None,
    fsync: FsyncOption = None,
    verbose: VerboseOption = False,
) -> None:
    """Serve a group: run its workflows and tasks until SIGTERM or Ctrl-C.

    If the application names its own Redis, that one is used, unless --url names another.
    """
    from durasleep import humanize
    from durasleep.app import run_worker
    from durasleep.cli import processes as several

    _prepare_output(verbose)
    numbers = None if partitions is None else _parse_numbers(partitions)
    app = address.load_app(address.find_app(module))
    humanize.be_heard()
    url = url or os.environ.get(_GIVEN_URL)
    where = address.point(app, url)
    if not several.is_child():
        logger.info("this worker uses %s", where)
    if processes > 1:
        given = [*([module] if module else []), "--concurrency", str(concurrency)]
        options = (("--group", group), ("--partitions", partitions), ("--min-replicas", min_replicas))
        for option, value in options:
            given += [] if value is None else [option, str(value)]
        flags = (
            ("--debug", debug),
            ("--i-accept-eviction", accept_eviction),
            ("--fsync", fsync),
            ("--no-fsync", fsync is False),
            ("--verbose", verbose),
        )
        given += [option for option, is_set in flags if is_set]
        names = [["--name", f"{name}-{number}"] if name else [] for number in range(1, processes + 1)]
        # Not among the arguments, which everybody on the machine can read: a URL may contain a password.
        environment = {_GIVEN_URL: where.url} if url or not app.is_addressed else {}
        raise typer.Exit(several.serve([["worker", *given, *own] for own in names], environment))
    several.end_with_parent()
    run_worker(
        app.worker(
            group=group,
            name=name,
            concurrency=concurrency,
            partitions=numbers,
            debug=debug,
            accept_eviction=accept_eviction,
            min_replicas=min_replicas,
            fsync=fsync,
        )
    )


def dev(
    module: ModuleArgument = None,
    group: GroupOption = None,
    concurrency: ConcurrencyOption = 100,
    debug: DebugOption = False,
    reload: ReloadOption = False,
    verbose: VerboseOption = False,
) -> None:
    """Run a Redis and a worker for this directory, until Ctrl-C.

    The Redis keeps its data in ./.durasleep/. Programs and commands in this directory and below use it.
    """
    from durasleep import devserver
    from durasleep.app import run_worker
    from durasleep.cli import reload as reloading

    _prepare_output(verbose)
    if reload:
        reloading.watcher()
    named = address.find_app(module) if reload else address.named_app(module)
    app = None if named is None or reload else address.load_app(named)
    with devserver.DevServer(devserver.DIRECTORY) as server:
        kept = f"keeps its data in ./{devserver.DIRECTORY}/" if server.keeps else "keeps nothing"
        console.note(f"{server.binary.kind} at {server.url} {kept}; Ctrl-C ends it")
        if reload:
            options = ["--concurrency", str(concurrency)]
            options += ["--group", group] if group else []
            options += [option for option, is_set in (("--debug", debug), ("--verbose", verbose)) if is_set]
            reloading.serve(
                ["worker", str(named), *options],
                {_GIVEN_URL: server.url},
                project_directory() or Path.cwd(),
                lambda: _check_running(server),
            )
        elif app is None:
            console.note("no application is named, so there is no worker: durasleep worker MODULE starts one here")
            _until_told_to_stop(server)
        else:
            app.connect(server.url)
            run_worker(app.worker(group=group, concurrency=concurrency, debug=debug))


def _parse_numbers(text: str) -> list[int]:
    """The numbers in a text such as ``0-3,8``; UsageError if it cannot be read, or no partition has such a number."""
    from durasleep.protocol.partitions import PARTITIONS_MAX

    found: list[int] = []
    for part in text.split(","):
        match = re.fullmatch(r"\s*(\d{1,3})\s*(?:-\s*(\d{1,3})\s*)?", part)
        first, last = (int(match[1]), int(match[2] or match[1])) if match else (1, 0)
        if not first <= last < PARTITIONS_MAX:
            raise UsageError(
                f"--partitions {text!r}: write numbers and ranges from 0 to {PARTITIONS_MAX - 1}, such as 0-3,8"
            )
        found += range(first, last + 1)
    return found


def _prepare_output(verbose: bool) -> None:
    """Log lines go to stderr; what workflows print is shown at once, in a file or a pipe, too."""
    console.log_to_stderr(logging.DEBUG if verbose else logging.INFO)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(line_buffering=True)


def _until_told_to_stop(server: devserver.DevServer) -> None:
    """Wait for SIGTERM or Ctrl-C, or for the end of the server."""
    stop_asked = threading.Event()

    def on_signal(_number: int, _frame: object) -> None:
        stop_asked.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, on_signal)
    while not stop_asked.wait(LOOK_S):
        _check_running(server)


def _check_running(server: devserver.DevServer) -> None:
    if not server.running:
        raise StoreError(f"the server has ended; {server.directory}/server.log says why")
