"""Options that several commands take."""

from __future__ import annotations

import logging
from enum import StrEnum
from typing import Annotated

import typer

from durasleep.query.statuses import STATUSES

_FILTER = "Filter"
ANY_WORKER = "poll://any@workers"
"""The target of calls that name none."""


class LogFormat(StrEnum):
    """How log lines are written."""

    TEXT = "text"
    JSON = "json"


class LogLevel(StrEnum):
    """The least level of log lines."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"
    CRITICAL = "critical"


JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]
UrlOption = Annotated[
    str | None,
    typer.Option("--url", metavar="URL", help="The Redis to use; --explain-address shows the default."),
]
NamespaceOption = Annotated[
    str | None,
    typer.Option("--namespace", metavar="NAME", help="The namespace to use; by default that of DURASLEEP_NAMESPACE."),
]
ByOption = Annotated[
    str | None,
    typer.Option(
        "--by",
        metavar="NAME",
        help="Who does it, for `durasleep audit`; by default the user of DURASLEEP_USER, or of this machine.",
    ),
]
StatusOption = Annotated[
    list[str] | None,
    typer.Option(
        "--status",
        metavar="STATUS",
        help=f"Only those with this status: {', '.join(STATUSES)}. May be repeated.",
        rich_help_panel=_FILTER,
    ),
]
GroupFilter = Annotated[
    str | None, typer.Option("--group", metavar="NAME", help="Only those of this group.", rich_help_panel=_FILTER)
]
FunctionOption = Annotated[
    str | None, typer.Option("--func", metavar="NAME", help="Only those of this function.", rich_help_panel=_FILTER)
]
LabelFilter = Annotated[
    list[str] | None,
    typer.Option(
        "--label", metavar="NAME=VALUE", help="Only those with this label. May be repeated.", rich_help_panel=_FILTER
    ),
]
SinceFilter = Annotated[
    str | None,
    typer.Option(
        "--since",
        metavar="TIME",
        help="Only those made since 1h ago, or since 2026-12-24T18:00+01:00.",
        rich_help_panel=_FILTER,
    ),
]
ReplicasOption = Annotated[
    int | None, typer.Option("--min-replicas", metavar="N", min=0, help="Confirm a write only when N replicas have it.")
]
FsyncOption = Annotated[
    bool | None, typer.Option("--fsync/--no-fsync", help="Confirm a write only when it is on disk.", show_default=False)
]
LogFormatOption = Annotated[
    LogFormat, typer.Option("--log-format", help="How log lines are written on stderr: json has one object a line.")
]
LogLevelOption = Annotated[
    LogLevel | None,
    typer.Option(
        "--log-level",
        help="The least level of log lines; also of the application's, unless it sets up logging itself.",
        show_default="info",
    ),
]


def level_of(name: str | None, *, verbose: bool = False) -> int:
    """The level of our lines; by default INFO."""
    if name is not None:
        return logging.getLevelNamesMapping()[name.upper()]
    return logging.DEBUG if verbose else logging.INFO
