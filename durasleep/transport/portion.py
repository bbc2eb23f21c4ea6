"""How much to ask for in one call, after an answer that broke the connection."""

from __future__ import annotations

_GROWS_AFTER = 8  # successes in a row: too large an answer is tried seldom, and an outage is soon forgotten


class Portion:
    """How many at a time: half as many after the connection was lost, twice as many after several successes.

    A server closes a connection whose answers exceed its limit (``client-output-buffer-limit``), and the same question
    would also break the next connection.
    """

    __slots__ = ("_well", "most", "now")

    def __init__(self, most: int) -> None:
        self.most = most
        self.now = most
        """At most this many, and at least one."""
        self._well = 0

    def halve(self, asked: int) -> None:
        """This many were too many, or the connection was lost for another reason; then the number soon grows again."""
        self.now, self._well = max(1, asked // 2), 0

    def grow(self) -> None:
        """A call succeeded."""
        if self.now < self.most:
            self._well += 1
            if self._well == _GROWS_AFTER:
                self.now, self._well = min(2 * self.now, self.most), 0
