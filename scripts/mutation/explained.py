"""Mutants that no test can notice, each with the reason: ``explained.toml``."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

from scripts.mutation.mutant import Name


def read(file: Path) -> dict[Name, str]:
    """The reason for each mutant, by its name."""
    tables: dict[str, list[dict[str, Any]]] = tomllib.loads(file.read_text(encoding="utf-8"))
    found: dict[Name, str] = {}
    for path, entries in tables.items():
        for entry in entries:
            for change in entry["changes"]:
                found[path, entry["where"], change] = entry["why"]
    return found
