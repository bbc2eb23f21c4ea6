"""Ids in URLs. An id may have any character, and proxies decode, merge and drop some of them on their way.

So every other byte than a letter, a digit and ``_ . ~ : @ -`` is written as ``=`` and two digits, which nobody changes.
"""

from __future__ import annotations

import re

from starlette.convertors import Convertor, register_url_convertor

_OTHER = re.compile(rb"[^A-Za-z0-9_.~:@-]")
_DOTS = re.compile(r"\.+")
_ESCAPED = re.compile(rb"=([0-9A-F]{2})")


def quote_id(id: str) -> str:
    """An id as one segment of a path."""
    quoted = _OTHER.sub(lambda match: b"=%02X" % ord(match[0]), id.encode(errors="surrogatepass")).decode()
    return quoted.replace(".", "=2E") if _DOTS.fullmatch(quoted) else quoted  # browsers resolve such segments


def unquote_id(segment: str) -> str:
    """The id of a segment; one that a person has typed may have other characters as they are."""
    raw = segment.encode(errors="surrogatepass")
    return _ESCAPED.sub(lambda match: bytes((int(match[1], 16),)), raw).decode(errors="replace")


class _IdConvertor(Convertor[str]):
    regex = "[^/]+"

    def convert(self, value: str) -> str:
        return unquote_id(value)

    def to_string(self, value: str) -> str:
        return quote_id(value)


register_url_convertor("id", _IdConvertor())
