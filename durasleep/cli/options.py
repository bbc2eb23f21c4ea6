"""Options that several commands take."""

from __future__ import annotations

from typing import Annotated

import typer

JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]
UrlOption = Annotated[
    str | None, typer.Option("--url", metavar="URL", help="The Redis to use; else DURASLEEP_REDIS_URL, and so on.")
]
NamespaceOption = Annotated[
    str | None, typer.Option("--namespace", metavar="NAME", help="The namespace to use; else DURASLEEP_NAMESPACE.")
]
