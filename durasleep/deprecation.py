"""Names that have changed: the old one works for one release, and says which is the new one."""

from __future__ import annotations

import warnings


def warn_renamed(old: str, new: str, *, stacklevel: int = 3) -> None:
    """A DeprecationWarning where the old name was used: in the caller of whoever calls this."""
    warnings.warn(f"{old} is called {new} now; the old name goes with the next release", DeprecationWarning, stacklevel)
