"""Names that have changed: the old name works for one release, with a warning that gives the new one."""

from __future__ import annotations

import warnings


def warn_renamed(old: str, new: str, *, stacklevel: int = 3) -> None:
    """A DeprecationWarning that points at the use of the old name: the caller of the function that calls this."""
    warnings.warn(f"{old} is called {new} now; the old name goes with the next release", DeprecationWarning, stacklevel)
