"""What holds the leases of a worker: the executor, which runs them here, or another one, which passes them on."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import Protocol

from durasleep.protocol.commit import EntryKey, Lease
from durasleep.protocol.keys import Keyspace
from durasleep.protocol.membership import Beat
from durasleep.runtime.waits import Wait
from durasleep.settings import Settings
from durasleep.transport.store import Store


class Holder(Protocol):
    """What the loops of a worker ask of whatever takes its executions. See ``Executor`` for each of them."""

    @property
    def functions(self) -> str:
        """A fingerprint of the functions whose executions it takes; may be asked from another thread."""
        ...

    def described(self) -> str: ...

    @property
    def free(self) -> int: ...

    @property
    def running(self) -> int: ...

    @property
    def in_threads(self) -> int: ...

    @property
    def lost_threads(self) -> int: ...

    def slots(self) -> dict[str, int]: ...

    def own_loop(self) -> None: ...

    def begin_reading(self, count: int) -> None: ...

    def end_reading(self, count: int) -> None: ...

    async def wait_until_free(self) -> int: ...

    def held(self) -> list[Lease]: ...

    def in_slots(self) -> list[Lease]: ...

    def waits(self) -> list[Wait]: ...

    async def submit(self, leases: Iterable[Lease]) -> None: ...

    def take_offer(self, lease: Lease) -> None: ...

    async def release_waiting(self, partition: int) -> None: ...

    async def return_unheard(self, entry_key: EntryKey) -> bool: ...

    def notify(self, id: str) -> None: ...

    def notify_all(self) -> None: ...

    def on_beat(self, beat: Beat) -> None: ...

    def holds(self, partition: int) -> bool: ...

    def leave_partition(self, keys: Keyspace) -> None: ...

    def leave(self) -> None: ...

    async def drain(self, grace_s: float) -> bool: ...

    async def abort(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What a worker gives to its holder."""

    store: Store
    incoming: Store
    """Over a second connection."""
    consumer: str
    settings: Settings
    require: Callable[[str], Awaitable[None]]
    """Makes the namespace need a feature."""


MakeHolder = Callable[[Surroundings], Holder]
