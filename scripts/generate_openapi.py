"""Writes docs/reference/openapi.json, the description of `/v1`, from the routes as they are declared, and the table of
routes in docs/reference/http.md.

``--check`` writes nothing, and fails if the files differ.
"""

from __future__ import annotations

import sys
from pathlib import Path

from durasleep.gateway.api.openapi import render
from durasleep.gateway.api.table import TABLE

REFERENCE = Path(__file__).parents[1] / "docs" / "reference"
FILE, PAGE = REFERENCE / "openapi.json", REFERENCE / "http.md"
BEGIN, END = "\n## Routes\n", "\n## Problems\n"


def page() -> str:
    """The page as it should be."""
    text = PAGE.read_text(encoding="utf-8")
    head, rest = text.split(BEGIN, 1)
    rows = [f"| `{route.method} {route.path}` | {route.summary}. |" for route in TABLE.routes]
    table = "\n".join(["| route | does |", "| --- | --- |", *rows])
    return f"{head}{BEGIN}\n{table}\n{END}{rest.split(END, 1)[1]}"


def main() -> None:
    wanted = {FILE: render(TABLE).decode(), PAGE: page()}
    for path, text in wanted.items():
        if "--check" not in sys.argv:
            path.write_text(text, encoding="utf-8")
        elif not path.exists() or path.read_text(encoding="utf-8") != text:
            raise SystemExit(f"{path} is not what the routes say; scripts/fix writes it")


if __name__ == "__main__":
    main()
