"""Sync views and async views. Both start, see and cancel executions: by ``app.sync``, and by ``await app``."""

import json
from collections.abc import AsyncGenerator
from contextlib import aclosing

from django.db import transaction
from django.http import HttpRequest, JsonResponse, StreamingHttpResponse
from django.shortcuts import get_object_or_404
from django.urls import reverse
from django.views.decorators.csrf import csrf_exempt
from django.views.decorators.http import require_GET, require_http_methods, require_POST

from durasleep import View
from durasleep.contrib.django import app
from orders.models import Order
from orders.workflows import PAYMENT, start


@csrf_exempt
@require_POST
def place(request: HttpRequest) -> JsonResponse:
    """The execution starts when the row is there. If Redis fails then, ``start_missed`` does it later."""
    wanted = json.loads(request.body)
    with transaction.atomic():
        order = Order.objects.create(customer=wanted["customer"], parcels=wanted.get("parcels", 1))
        transaction.on_commit(lambda: start(order.pk), robust=True)  # no partial: Django logs its name
    return JsonResponse(
        {"order": order.pk}, status=202, headers={"Location": reverse("order", kwargs={"number": order.pk})}
    )


@csrf_exempt
@require_http_methods(["GET", "DELETE"])
def order(request: HttpRequest, number: int) -> JsonResponse:
    if request.method == "DELETE":
        return JsonResponse({"order": app.sync.get(f"order-{number}").cancel()}, status=202)
    found = get_object_or_404(Order, pk=number)
    return JsonResponse({"order": number, "customer": found.customer, "status": found.status})


@csrf_exempt
@require_POST
async def pay(request: HttpRequest) -> JsonResponse:
    """A webhook: the id of its event is the key, so that an event that comes twice counts once."""
    paid = json.loads(request.body)
    sent = await app.send(f"order-{paid['order']}", PAYMENT, paid["cents"], key=paid["event"])
    return JsonResponse({"payment": sent})


@require_GET
async def events(_: HttpRequest, number: int) -> StreamingHttpResponse:
    """Server-sent events, one for each change, until the end; an ASGI server sends each of them at once."""
    await app.view(f"order-{number}")  # an unknown order is a 404: a stream that has begun cannot say so

    async def lines() -> AsyncGenerator[str]:
        async with aclosing(app.watch(f"order-{number}")) as views:
            async for view in views:
                yield f"data: {json.dumps(seen(view))}\n\n"

    return StreamingHttpResponse(lines(), content_type="text/event-stream")


def seen(view: View) -> dict[str, object]:
    return {"state": view.state, "progress": view.progress and [view.progress.done, view.progress.total]}
