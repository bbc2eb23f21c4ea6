"""Which executions publish something, with no I/O: a plan of bounded reads."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from durasleep.codec import Codec
from durasleep.errors import DurasleepError
from durasleep.model import PromiseId
from durasleep.protocol import view as views
from durasleep.protocol.command import Plan
from durasleep.protocol.keys import NEAR
from durasleep.protocol.keyspaces import Keyspaces
from durasleep.protocol.view import RawView
from durasleep.query import search
from durasleep.query.search import SearchPage
from durasleep.query.view import View, view_of

LOOKED_MAX = 500  # executions read for one answer


@dataclass(frozen=True, slots=True)
class Publisher:
    """An execution that publishes something."""

    view: View
    """What it publishes."""
    at_ms: int
    """When it published something last, in ms since 1970."""


class PublisherPage(list[Publisher]):
    """Some executions, those that published last first."""

    is_all = True
    """Whether there are no others."""


def latest(keyspaces: Keyspaces, limit: int, codec: Codec) -> Plan[PublisherPage]:
    """Executions that publish something, also those that have ended; at most ``LOOKED_MAX`` are looked at."""
    found = SearchPage()
    named = {id: keys for keys, id in (yield from search.named_keys(keyspaces, NEAR["view"], found))}
    looked_at = list(named.items())[:LOOKED_MAX]
    answers: list[Any] = (yield [views.read_view(keys, PromiseId(id)) for id, keys in looked_at]) if looked_at else []
    raw = [(id, answer) for (id, _), answer in zip(looked_at, answers, strict=True) if isinstance(answer, RawView)]
    raw.sort(key=lambda one: (-_at_ms(one[1]), one[0]))
    page = PublisherPage()
    for id, one in raw[:limit]:
        try:
            page.append(Publisher(view_of(PromiseId(id), one, codec), _at_ms(one)))
        except DurasleepError:  # of another codec: others are shown
            page.is_all = False
    page.is_all = page.is_all and found.is_all and len(named) <= LOOKED_MAX and len(raw) <= limit
    return page


def _at_ms(raw: RawView) -> int:
    return max([one.at_ms for one in (raw.workflow, *raw.steps.values()) if one is not None], default=0)
