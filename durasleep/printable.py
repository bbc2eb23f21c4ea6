"""Texts of anybody, made harmless for a terminal or a page. It imports nothing: the command line starts with it."""

from __future__ import annotations

_CONTROLS = [code for code in (*range(0x20), *range(0x7F, 0xA0)) if chr(code) not in "\n\t"]
_TURNS = (*range(0x202A, 0x202F), *range(0x2066, 0x206A))  # characters that change the direction of the text after them
_HIDDEN = {code: f"\\x{code:02x}" for code in _CONTROLS} | {code: f"\\u{code:04x}" for code in _TURNS}


def visible(text: str) -> str:
    """A text with its control characters escaped, also those that would change the direction of what stands behind."""
    return text.translate(_HIDDEN)
