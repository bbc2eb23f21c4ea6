"""Plain HTTP for programs in any language: ``/v1``, described by OpenAPI.

``routes`` says what a route is, ``table`` has all of them, ``api`` answers requests by it, ``openapi`` describes it.
"""

from durasleep.gateway.api.api import Api

__all__ = ["Api"]
