"""The ``durasleep`` command: its options, its exit codes, and one sentence for each error."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any, cast

import typer

from durasleep import __version__
from durasleep.cli.commands import (
    audit,
    demo,
    doctor,
    executions,
    exporter,
    fsck,
    group,
    indexes,
    limits,
    listing,
    load,
    messages,
    move,
    namespace,
    partitions,
    promise,
    replay,
    rpc,
    schedule,
    serve,
    top,
    ui,
    view,
    worker,
)
from durasleep.cli.output import console, json_values, streams
from durasleep.errors import DurasleepError, StoreError, StoreUnavailable, UsageError

EXIT_FAILED = 1
_EXIT_USAGE = 2
_EXIT_NO_REDIS = 4
_EXIT_INTERRUPTED = 130

# Typer contains click as a part of itself since 0.26, and used the package before.
_Refused = cast(
    "type[Exception]", next(kind for kind in typer.BadParameter.__mro__ if kind.__name__ == "ClickException")
)

app = typer.Typer(
    name="durasleep",
    help="Durable timers and workflows, and a task queue, on the Redis you already run.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("worker")(worker.worker)
app.command("dev")(worker.dev)
app.command("rpc")(rpc.rpc)
app.command("send")(messages.send)
app.command("ask")(messages.ask)
app.command("get")(rpc.get)
app.command("view")(view.view)
app.command("ls")(listing.ls)
app.command("tree")(listing.tree)
app.command("export")(replay.export)
app.command("replay")(replay.replay)
app.command("timers")(listing.timers)
app.command("wake")(executions.wake)
app.command("reschedule")(executions.reschedule)
app.command("cancel")(executions.cancel)
app.command("halt")(executions.halt)
app.command("resume")(executions.resume)
app.command("retry")(executions.retry)
app.command("fork")(executions.fork)
app.command("audit")(audit.audit)
app.command("groups")(load.groups)
app.command("workers")(load.workers)
app.command("stats")(load.stats)
app.command("top")(top.top)
app.add_typer(group.app, name="group")
app.add_typer(promise.app, name="promise")
app.add_typer(limits.app, name="limit")
app.add_typer(indexes.app, name="index")
app.add_typer(schedule.app, name="schedule")
app.command("doctor")(doctor.doctor)
app.command("fsck")(fsck.fsck)
app.add_typer(namespace.app, name="namespace")
app.add_typer(namespace.old_app, name="control", hidden=True)
app.command("init")(partitions.init)
app.command("partitions")(partitions.partitions)
app.command("move")(move.move)
app.command("ui")(ui.ui)
app.command("serve")(serve.serve)
app.command("exporter")(exporter.exporter)
app.command("ping")(exporter.ping)
app.command("demo")(demo.demo)


def _show_version(asked: bool) -> None:
    if asked:
        from durasleep.runtime import event_loop

        is_compiled = not event_loop.__file__.endswith(
            (".py", ".pyc")
        )  # either all modules that the accelerator compiles, or none
        json_values.data(f"{__version__} (accelerated)" if is_compiled else __version__)
        raise typer.Exit


@app.callback()
def _options(
    version: bool = typer.Option(False, "--version", callback=_show_version, is_eager=True, help="Show the version."),
) -> None:
    pass


def main() -> None:
    """Run the command line; a user's mistake never shows a traceback."""
    sys.exit(run(sys.argv[1:]))


def run(arguments: Sequence[str], name: str = "durasleep") -> int:
    """Run one command, under the ``name`` of the program in its help; returns its exit code."""
    streams.prepare()
    try:
        code = app(list(arguments), prog_name=name, standalone_mode=False)
    except (typer.Abort, KeyboardInterrupt):
        return _EXIT_INTERRUPTED
    except _Refused as error:
        return _print_usage_error(error)
    except UsageError as error:
        console.error(str(error))
        return _EXIT_USAGE
    except StoreUnavailable as error:
        advice = ". Start one with `durasleep dev`, or say where it is with --url." if error.is_unreachable else ""
        console.error(f"{error}{advice}")
        return _EXIT_NO_REDIS
    except StoreError as error:
        console.error(str(error))
        return _EXIT_NO_REDIS
    except DurasleepError as error:
        console.error(str(error))
        return EXIT_FAILED
    return code if isinstance(code, int) else 0


def _print_usage_error(error: Any) -> int:
    """Show an error of typer as one sentence; a command without arguments has shown its help already."""
    if type(error).__name__ == "NoArgsIsHelpError":
        return _EXIT_USAGE
    command = error.ctx.command_path if getattr(error, "ctx", None) else "durasleep"
    text = error.format_message().rstrip(".")
    if type(error).__name__ == "NoSuchOption" and command.endswith((" rpc", " send", " ask")):
        text += "; an argument that begins with a dash comes after --"
    console.error(f"{text}; see `{command} --help`.")
    return _EXIT_USAGE
