"""How much is asked for together, after an answer that the connection did not survive."""

from __future__ import annotations

GROWS_AFTER = 8  # that went well in a row: what is too much is tried seldom, and an outage is soon forgotten


class Portion:
    """So many at a time: half after a connection was lost over them, twice as many after some that went well.

    A server closes a connection that is to carry more than it allows (``client-output-buffer-limit``), and the same
    question would end the next one as well.
    """

    __slots__ = ("_well", "most", "now")

    def __init__(self, most: int) -> None:
        self.most = most
        self.now = most
        """At most so many, and at least one."""
        self._well = 0

    def halve(self, asked: int) -> None:
        """So many were too many, or the connection was lost for another reason: then it soon grows again."""
        self.now, self._well = max(1, asked // 2), 0

    def grow(self) -> None:
        """It went well."""
        if self.now < self.most:
            self._well += 1
            if self._well == GROWS_AFTER:
                self.now, self._well = min(2 * self.now, self.most), 0
