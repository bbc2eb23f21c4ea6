"""Bounded plans that answer a person's question.

These modules are imported when their names are first used. So annotations can name their classes, and programs that
never ask such a question do not import them.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from durasleep.query import (
        audit,
        call_tree,
        doctor,
        due_soon,
        fsck,
        groups,
        history,
        limits,
        overview,
        partitions,
        ping,
        search,
        stats,
    )

    __all__ = [
        "audit",
        "call_tree",
        "doctor",
        "due_soon",
        "fsck",
        "groups",
        "history",
        "limits",
        "overview",
        "partitions",
        "ping",
        "search",
        "stats",
    ]
else:
    from importlib import import_module

    _MODULES = (
        "audit",
        "call_tree",
        "doctor",
        "due_soon",
        "fsck",
        "groups",
        "history",
        "limits",
        "overview",
        "partitions",
        "ping",
        "search",
        "stats",
    )

    def __getattr__(name: str) -> object:
        if name in _MODULES:
            return import_module(f"{__name__}.{name}")
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}", name=name)
