"""The processes that poll for messages, over connections that stay open."""

from __future__ import annotations

from collections.abc import Sequence

from durasleep.gateway.connection import Connection
from durasleep.gateway.delivery import Delivery
from durasleep.protocol.resonate import Message

POLLS_MAX = 1_000
_ROOM = 16  # messages that one process is given at a time, so that others get theirs
_COMMENT = b": still here\n\n"


class _Group:
    """The processes of one group: each message goes to one of them."""

    def __init__(self, name: str) -> None:
        self.address = f"poll://any@{name}"
        self.polls: dict[str, _Poll] = {}

    def room(self) -> int:
        return _ROOM * sum(poll.connection.is_writable for poll in self.polls.values())

    def deliver(self, messages: Sequence[Message]) -> None:
        """To whom a message prefers, else to the others in turn."""
        for message in messages:
            poll = self.polls.get(message.preferred)
            if poll is None or not poll.connection.is_writable:
                poll = self._next()
            if poll is None:
                return  # the scripts send them again
            poll.send(message)

    def _next(self) -> _Poll | None:
        for pid, poll in list(self.polls.items()):
            self.polls[pid] = self.polls.pop(pid)  # behind the others
            if poll.connection.is_writable:
                return poll
        return None


class _Poll:
    """One process."""

    def __init__(self, group: str, pid: str, connection: Connection) -> None:
        self.address = f"poll://uni@{group}/{pid}"
        self.group = group
        self.pid = pid
        self.connection = connection

    def room(self) -> int:
        return _ROOM if self.connection.is_writable else 0

    def deliver(self, messages: Sequence[Message]) -> None:
        for message in messages:
            self.send(message)

    def send(self, message: Message) -> None:
        self.connection.send(b"data: " + message.body + b"\n\n")


class Polls:
    """All of this gateway."""

    def __init__(self, delivery: Delivery) -> None:
        self._delivery = delivery
        self._groups: dict[str, _Group] = {}
        self._polls: dict[Connection, _Poll] = {}

    @property
    def is_full(self) -> bool:
        """Whether there is no room for one more."""
        return len(self._polls) >= POLLS_MAX

    def has(self, group: str, pid: str) -> bool:
        """Whether this process polls already."""
        return group in self._groups and pid in self._groups[group].polls

    def open(self, group: str, pid: str, connection: Connection) -> None:
        """A process polls; an earlier connection of it is closed."""
        members = self._groups.get(group)
        if members is None:
            members = self._groups[group] = _Group(group)
        if pid in members.polls:
            earlier = members.polls[pid].connection
            self.close(earlier)
            earlier.cut()
            members = self._groups.setdefault(group, members)
        poll = self._polls[connection] = members.polls[pid] = _Poll(group, pid, connection)
        self._delivery.open(members)
        self._delivery.open(poll)

    def close(self, connection: Connection) -> None:
        """Its connection is gone."""
        poll = self._polls.pop(connection, None)
        if poll is None:
            return
        self._delivery.close(poll)
        members = self._groups[poll.group]
        del members.polls[poll.pid]
        if not members.polls:
            del self._groups[poll.group]
            self._delivery.close(members)

    def wake(self, _connection: Connection) -> None:
        """A client that was slow takes more."""
        self._delivery.wake()

    def comment(self) -> None:
        """Write a line that says nothing: a connection that is broken shows it."""
        for poll in list(self._polls.values()):
            if poll.connection.is_writable:
                poll.connection.send(_COMMENT)
