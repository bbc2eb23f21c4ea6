"""An execution in hand: from its stream entry to the commit that lets go of it."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec

from durasleep.model import Number, StepResult
from durasleep.runtime.replay import Activation
from durasleep.store.commands import Lease


class Running(msgspec.Struct, eq=False):
    """What a worker knows of an execution it holds."""

    lease: Lease
    task: asyncio.Task[None] | None = None
    """Its own; None as long as it is driven together with others."""
    order: int = 0
    """The newest order stamp heard of; above what was fed, there is news."""
    changed: asyncio.Event = msgspec.field(default_factory=asyncio.Event)
    """Set by a finished step, by news, and when the worker starts to leave."""
    steps: dict[Number, asyncio.Task[StepResult | None]] = msgspec.field(default_factory=dict[Number, Any])
    news: bool = False
    is_suspect: bool = False
    activation: Activation | None = None
    """To be put away when it is let go of."""

    def tell(self) -> None:
        """Something may have settled for it."""
        self.news = True
        self.changed.set()
