"""What a dashboard shows, and who may use it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Options:
    """The options of ``create_app``."""

    writable: bool = False
    token: str | None = None
    user_header: str | None = None
    trusted_proxies: tuple[str, ...] = ()
    allowed_hosts: tuple[str, ...] = ()
    user: str | None = None
    secret: str | None = None
    show_values: bool = False
