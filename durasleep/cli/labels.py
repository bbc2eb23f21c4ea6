"""Labels on the command line: ``--label customer=7``."""

from __future__ import annotations

from collections.abc import Sequence

from durasleep.errors import UsageError


def read_labels(texts: Sequence[str]) -> dict[str, str] | None:
    """The labels in texts such as ``customer=7``; None without any."""
    labels: dict[str, str] = {}
    for text in texts:
        name, mark, value = text.partition("=")
        if not mark:
            raise UsageError(f"--label {text!r}: write NAME=VALUE, such as customer=7")
        labels[name] = value
    return labels or None
