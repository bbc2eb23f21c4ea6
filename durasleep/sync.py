"""The client without asyncio, for Django, Flask or a script: the same methods, without ``await``."""

from __future__ import annotations

from durasleep import address
from durasleep.client import sync
from durasleep.client.sync import Caller, Handle, Promises
from durasleep.codec import Codec
from durasleep.model import check_name
from durasleep.runtime.definition import Registry
from durasleep.settings import DEFAULTS, Settings, fitting
from durasleep.transport.connector import AnyClient, Connector
from durasleep.transport.sync_store import SyncStore

__all__ = ["Caller", "Client", "Handle", "Promises"]


class Client(sync.Client):
    """Starts, awaits and controls executions in one namespace. It connects at the first call.

    One client serves all threads and forked children: each has a connection of its own, made at its first call::

        client = Client("redis://localhost:6379/0")
        receipt = client.rpc("order-1", "checkout", 20).result(timeout="1h")

    ``url_or_client`` is a Redis URL or an existing redis-py client, which only says how to connect. Without it, the
    client uses the Redis that ``Durasleep()`` would use, and looks for it now. ``namespace``, ``group``, ``codec``,
    ``settings`` and ``by`` are as for ``Durasleep``. So are the errors: every call that asks Redis may raise a
    StoreError, and an id or name that cannot be used raises InvalidId.
    """

    def __init__(
        self,
        url_or_client: str | AnyClient | None = None,
        *,
        namespace: str = "durasleep",
        group: str = "workers",
        codec: Codec | None = None,
        settings: Settings = DEFAULTS,
        by: str | None = None,
    ) -> None:
        codec = codec or Codec(payload_bytes_max=settings.payload_bytes_max)
        settings = fitting(settings, codec.payload_bytes_max)
        check_name(group, "group")
        connector = Connector.of(url_or_client or address.find().url)
        store = SyncStore(connector, namespace=check_name(namespace, "namespace"), settings=settings)
        super().__init__(lambda: store, codec, settings, registry=Registry(), group=group, by=by)
