"""What to answer to a request when durasleep raises an error, for the error handlers of any web framework."""

from __future__ import annotations

from durasleep.answers import Answer, answer_to

__all__ = ["Answer", "answer_to"]
