"""Errors of durasleep as answers."""

from collections.abc import Callable
from typing import Any

from asgiref.sync import iscoroutinefunction, markcoroutinefunction
from django.http import HttpRequest, JsonResponse

from durasleep import DurasleepError
from durasleep.contrib.http import answer_to


class answer_errors:  # noqa: N801 - Django names it in a list of functions
    """For sync and async views: 404 for an unknown order, 409 for one that has ended, 503 without Redis."""

    sync_capable = async_capable = True

    def __init__(self, get_response: Callable[[HttpRequest], Any]) -> None:
        self.get_response = get_response
        if iscoroutinefunction(get_response):
            markcoroutinefunction(self)

    def __call__(self, request: HttpRequest) -> Any:
        return self.get_response(request)

    def process_exception(self, _: HttpRequest, error: Exception) -> JsonResponse | None:
        if isinstance(error, DurasleepError):
            status, detail = answer_to(error)
            return JsonResponse({"detail": detail}, status=status)
        return None
