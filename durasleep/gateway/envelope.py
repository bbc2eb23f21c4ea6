"""The envelope of Resonate's protocol: one JSON object for each request and each answer. The scripts read and write it;
here is what is left.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, cast

import msgspec

from durasleep.gateway.http import Response
from durasleep.protocol import resonate_requests


@dataclass(frozen=True, slots=True)
class Asked:
    """What a request says of itself, as far as it can be read; the rest is empty."""

    kind: str = ""
    corr_id: str = ""
    auth: str | None = None
    data: dict[str, Any] = field(default_factory=dict[str, Any])


def read(body: bytes) -> Asked:
    """What a request says of itself."""
    try:
        found: Any = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return Asked()
    if not isinstance(found, dict):
        return Asked()
    sent = cast("dict[str, Any]", found)
    kind, head = sent.get("kind"), sent.get("head")
    said = cast("dict[str, Any]", head) if isinstance(head, dict) else {}
    corr_id, auth, data = said.get("corrId"), said.get("auth"), sent.get("data")
    return Asked(
        kind if isinstance(kind, str) else "",
        corr_id if isinstance(corr_id, str) else "",
        auth if isinstance(auth, str) else None,
        cast("dict[str, Any]", data) if isinstance(data, dict) else {},
    )


def refuse(status: int, why: str, asked: Asked) -> Response:
    """An answer whose data is a sentence."""
    answer = resonate_requests.refusal(status, why, kind=asked.kind, corr_id=asked.corr_id)
    return Response(answer.status, answer.body)
