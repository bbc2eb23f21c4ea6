"""``durasleep worker`` and ``durasleep dev``."""

from __future__ import annotations

import io
import logging
import os
import re
import signal
import sys
import threading
from collections.abc import Generator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from durasleep.address import project_directory
from durasleep.cli import address
from durasleep.cli.options import (
    FsyncOption,
    LogFormat,
    LogFormatOption,
    LogLevelOption,
    ReplicasOption,
    UrlOption,
    level_of,
)
from durasleep.cli.output import console
from durasleep.errors import StoreError, UsageError

if TYPE_CHECKING:
    from durasleep import devserver
    from durasleep.address import Address
    from durasleep.app import Durasleep
    from durasleep.observe import logs

_SAME_SIGNAL_S = 1.0  # systemd, for example, stops a parent and its children; the parent passes it on within this time
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
UiOption = Annotated[bool, typer.Option("--ui", help="Serve the dashboard, too.")]
HealthOption = Annotated[
    str | None,
    typer.Option(
        "--health",
        metavar="[HOST:]PORT",
        help="Answer /livez, /readyz and /metrics here; :8080 is port 8080 at all addresses of this machine.",
    ),
]
FireOnlyOption = Annotated[
    bool,
    typer.Option("--fire-only", help="Keep the timers of all groups, and run no functions. It needs no application."),
]
FiredNamespaceOption = Annotated[
    str | None,
    typer.Option("--namespace", metavar="NAME", help="The namespace for --fire-only, if no application names it."),
]
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
    health: HealthOption = None,
    fire_only: FireOnlyOption = False,
    namespace: FiredNamespaceOption = None,
    reload: ReloadOption = False,
    log_format: LogFormatOption = LogFormat.TEXT,
    log_level: LogLevelOption = None,
    verbose: VerboseOption = False,
) -> None:
    """Serve a group: run its workflows and tasks until SIGTERM or Ctrl-C.

    If the application names its own Redis, that one is used, unless --url names another.
    """
    from durasleep import humanize
    from durasleep.cli import processes as several
    from durasleep.cli.output import log_lines

    as_json = log_format is LogFormat.JSON
    ids = _prepare_output(level_of(log_level, verbose=verbose), as_json=as_json)
    numbers = None if partitions is None else _parse_numbers(partitions)
    served: dict[str, str | int | None] = {
        "group": group,
        "concurrency": concurrency,
        "debug": debug,
        "accept_eviction": accept_eviction,
        "min_replicas": min_replicas,
        "fsync": fsync,
        "fire_only": fire_only,
    }
    shown = {
        "namespace": namespace,
        "partitions": partitions,
        "log_format": log_format,
        "log_level": log_level,
        "verbose": verbose,
    }
    if reload:
        return _serve_reloaded(module, {**served, **shown, "name": name, "health": health}, url, processes)
    sample = None if fire_only or namespace or address.named_app(module) else address.sample_app()
    module = sample or module
    app = _application(module, fire_only=fire_only, namespace=namespace)
    humanize.be_heard()
    log_lines.fit_application(ids, log_level, as_json=as_json and not several.is_child())
    url = url or os.environ.get(_GIVEN_URL)
    where = _point(app, url)
    if sample:
        _introduce_sample(app, where.url)
    if processes > 1:
        # Not among the arguments, which everybody on the machine can read: a URL may contain a password.
        environment = {_GIVEN_URL: where.url} if url or not app.is_addressed else {}
        command = ["worker", *_words(module, {**served, **shown})]
        raise typer.Exit(_serve_several(processes, command, name, health, environment))
    several.end_with_parent()
    return _serve(app, ids, name=name, partitions=numbers, health=health, **served)


def _point(app: Durasleep, url: str | None) -> Address:
    """Let the application use this URL, and say once for all processes what it uses."""
    from durasleep.cli import processes as several

    where = address.point(app, url)
    if not several.is_child():
        logger.info("this worker uses %s", where)
    return where


def _introduce_sample(app: Durasleep, url: str) -> None:
    """Say what the sample has and how to try it. Whoever tries it first hears at once if there is no Redis."""
    import asyncio

    async def reach() -> None:
        async with address.open_client(url, app.namespace) as client:
            await client.last_heartbeat("nobody")

    asyncio.run(reach())
    logger.info(
        "no application is named, and no Python file is here: this worker serves the sample, %s, which has %s",
        address.SAMPLE,
        ", ".join(app.registry.names()),
    )
    logger.info("try it in another terminal: durasleep rpc sleep-workflow-1 sleeping_workflow 5")


def _serve_reloaded(
    module: str | None, options: Mapping[str, str | int | None], url: str | None, processes: int
) -> None:
    """Run a worker in a process of its own, and start it again whenever the code changes."""
    from durasleep.cli import reload as reloading

    if processes > 1:
        raise UsageError("--reload and --processes: a worker that is started again is one process")
    environment = {_GIVEN_URL: url} if url else {}
    reloading.serve(["worker", *_words(module, options)], environment, project_directory() or Path.cwd(), lambda: None)


def _serve_several(
    count: int, command: list[str], name: str | None, health: str | None, environment: dict[str, str]
) -> int:
    """Run several worker processes, whose health is answered, and told to the service manager, here."""
    from durasleep.cli import processes as several
    from durasleep.cli.output import log_lines
    from durasleep.observe.notify import Notify
    from durasleep.observe.several import several_processes

    sharing, descriptors = log_lines.share()
    environment = {**environment, **sharing}
    notify = Notify.take(os.environ)
    if health is None and not notify.is_heard:
        names = [["--name", f"{name}-{number}"] if name else [] for number in range(1, count + 1)]
        return several.serve([[*command, *own] for own in names], environment, descriptors=descriptors)
    with several_processes(count, health) as all:

        def on_look(is_ending: bool) -> None:
            if is_ending:
                notify.stopping()
            elif not notify.is_ready and not all.why_not_ready():
                notify.ready()
            if notify.is_due and not all.why_not_live():
                notify.alive()

        commands = [
            [*command, *(["--name", f"{name}-{number}"] if name else []), *all.options(number)]
            for number in range(1, count + 1)
        ]
        return several.serve(commands, environment, on_look if notify.is_heard else lambda _: None, descriptors)


def _application(module: str | None, *, fire_only: bool, namespace: str | None) -> Durasleep:
    """The application to serve. To fire timers, only a namespace is needed."""
    if namespace and not fire_only:
        raise UsageError("--namespace goes with --fire-only: an application names its own namespace")
    if namespace and module:
        raise UsageError("--namespace and MODULE: the application names its own namespace, leave one of them out")
    named = None if namespace else address.named_app(module)
    if fire_only and named is None:
        from durasleep.app import Durasleep

        return Durasleep(namespace=address.find_namespace(namespace))
    return address.load_app(address.find_app(named))


def dev(
    module: ModuleArgument = None,
    group: GroupOption = None,
    concurrency: ConcurrencyOption = 100,
    debug: DebugOption = False,
    reload: ReloadOption = False,
    ui: UiOption = False,
    log_format: LogFormatOption = LogFormat.TEXT,
    log_level: LogLevelOption = None,
    verbose: VerboseOption = False,
) -> None:
    """Run a Redis and a worker for this directory, until Ctrl-C.

    The Redis keeps its data in ./.durasleep/. Programs and commands in this directory and below use it.
    """
    from durasleep import devserver
    from durasleep.cli import reload as reloading
    from durasleep.cli.output import log_lines

    if ui:
        from durasleep import dashboard

        dashboard.check_installed()
    as_json = log_format is LogFormat.JSON
    ids = _prepare_output(level_of(log_level, verbose=verbose), as_json=as_json)
    if reload:
        reloading.watcher()
    named = address.find_app(module) if reload else address.named_app(module)
    app = None if named is None or reload else address.load_app(named)
    log_lines.fit_application(ids, log_level, as_json=as_json)
    with devserver.DevServer(devserver.DIRECTORY) as server, _dashboard_of(server, app) if ui else nullcontext():
        kept = f"keeps its data in ./{devserver.DIRECTORY}/" if server.keeps else "keeps nothing"
        console.note(f"{server.binary.kind} at {server.url} {kept}; Ctrl-C ends it")
        if reload:
            options = ["--concurrency", str(concurrency)]
            options += ["--group", group] if group else []
            options += ["--log-format", log_format, *(["--log-level", log_level] if log_level else [])]
            options += [option for option, is_set in (("--debug", debug), ("--verbose", verbose)) if is_set]
            reloading.serve(
                ["worker", str(named), *options],
                {_GIVEN_URL: server.url},
                project_directory() or Path.cwd(),
                lambda: _check_running(server),
            )
        elif app is None:
            console.note(
                "no application is named, so there is no worker: "
                + (
                    "durasleep worker serves the built-in sample here"
                    if address.sample_app()
                    else "durasleep worker MODULE starts one here"
                )
            )
            _until_told_to_stop(server)
        else:
            app.connect(server.url)
            _serve(app, ids, group=group, concurrency=concurrency, debug=debug)


def _serve(app: Durasleep, ids: logs.ExecutionIds, **options: Any) -> None:
    """Serve with these options of ``app.worker``; log lines name the worker."""
    from durasleep.app import run_worker
    from durasleep.cli import processes as several

    serving = app.worker(**options)
    ids.worker, ids.group = serving.name, serving.group
    run_worker(serving, same_signal_s=_SAME_SIGNAL_S if several.is_child() else 0.0)


@contextmanager
def _dashboard_of(server: devserver.DevServer, app: Durasleep | None) -> Generator[None]:
    """Serve the dashboard during the block; it may change everything, and shows values."""
    from durasleep.cli.commands import ui

    with ui.running(server.url, app.namespace if app else None) as url:
        console.note(f"the dashboard is at {url}")
        yield


def _words(module: str | None, options: Mapping[str, str | int | None]) -> list[str]:
    """The arguments of a command with these options, by the names of their parameters; None is left out."""
    words = [] if module is None else [module]
    for name, value in options.items():
        option = "--i-accept-eviction" if name == "accept_eviction" else f"--{name.replace('_', '-')}"
        if name == "fsync" and value is False:
            words.append("--no-fsync")
        elif isinstance(value, bool):
            words += [option] if value else []
        elif value is not None:
            words += [option, str(value)]
    return words


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


def _prepare_output(level: int, *, as_json: bool) -> logs.ExecutionIds:
    """Log lines go to stderr; what workflows print is shown at once, in a file or a pipe, too."""
    from durasleep.cli.output import log_lines

    ids = log_lines.log_to_stderr(level, as_json=as_json)
    log_lines.log_what_python_prints()
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(line_buffering=True)
    return ids


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
