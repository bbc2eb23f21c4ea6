"""The shop with Flask: an application factory, sync views, and tasks in an application context.

As a worker:   durasleep worker examples.web.flask.worker
As a server:   flask --app examples.web.flask.shop run
               or: gunicorn --workers 2 'examples.web.flask.shop:create_app()'
As a client:   curl -i localhost:5000/orders -H 'idempotency-key: tea-1' --json '{"customer": "ada", "parcels": 2}'
               curl localhost:5000/orders/tea-1
               curl localhost:5000/payments --json '{"event": "evt-1", "order": "tea-1", "cents": 900}'

FLASK_DURASLEEP_URL says where Redis is.
"""

# The configuration of Flask has no types.
# pyright: reportUnknownArgumentType=false

import json
from collections.abc import Iterator
from contextlib import closing
from datetime import timedelta
from typing import Any

from flask import Blueprint, Flask, Response, abort, current_app, jsonify, request, url_for
from flask.typing import ResponseReturnValue

from durasleep import Channel, Context, DurasleepError, TimedOut, View, progress
from durasleep.contrib.flask import Durasleep
from durasleep.contrib.http import answer_to

durasleep = Durasleep()
PAYMENT = Channel("payment", int)
shop = Blueprint("shop", __name__)


def create_app(**config: Any) -> Flask:
    app = Flask(__name__)
    app.config.from_mapping(SHOP_NAME="The tea shop", REVIEW_AFTER_S=7 * 86_400)
    app.config.from_prefixed_env()
    app.config.from_mapping(config)
    durasleep.init_app(app)
    app.register_blueprint(shop)
    return app


@durasleep.workflow
async def fulfil(ctx: Context, customer: str, parcels: int, review_after: timedelta) -> str:
    ctx.publish(status="waiting for payment")
    try:
        cents = await ctx.receive(PAYMENT, timeout=timedelta(days=3))
    except TimedOut:
        return "nobody paid"
    ctx.publish(status="packing")
    await ctx.run(pack, parcels)
    ctx.publish(status="shipped")
    await ctx.sleep(review_after)
    await ctx.run(write_mail, customer, "How do you like it?")
    return f"{parcels} parcels for {cents} cents"


@durasleep.task
def pack(parcels: int) -> None:
    for parcel in range(parcels):
        progress(parcel + 1, parcels)


@durasleep.task
def write_mail(to: str, text: str) -> str:
    mail = f"{current_app.config['SHOP_NAME']} to {to}: {text}"
    current_app.logger.info(mail)
    return mail


@shop.post("/orders")
def place() -> ResponseReturnValue:
    """The same key is the same order, however often it is sent."""
    key, order = request.headers.get("idempotency-key") or abort(400, "idempotency-key is missing"), request.get_json()
    review_after = timedelta(seconds=float(current_app.config["REVIEW_AFTER_S"]))
    handle = durasleep.sync.rpc(f"order-{key}", fulfil, order["customer"], order.get("parcels", 1), review_after)
    location = url_for("shop.show", name=key)
    return {"order": key, "found": handle.disposition}, 202, {"Location": location}


@shop.get("/orders/<name>")
def show(name: str) -> ResponseReturnValue:
    return seen(durasleep.sync.view(f"order-{name}"))


@shop.get("/orders/<name>/events")
def events(name: str) -> ResponseReturnValue:
    """Server-sent events. Each stream occupies a thread of the server: with few threads, let clients ask again."""
    durasleep.sync.view(f"order-{name}")  # an unknown order is a 404: a stream that has begun cannot say so

    def lines() -> Iterator[str]:
        with closing(durasleep.sync.watch(f"order-{name}", timeout="5m")) as views:
            for view in views:
                yield f"data: {json.dumps(seen(view))}\n\n"

    return Response(lines(), mimetype="text/event-stream")


@shop.post("/payments")
def pay() -> ResponseReturnValue:
    """A webhook: the id of its event is the key, so that an event that comes twice counts once."""
    paid = request.get_json()
    return {"payment": durasleep.sync.send(f"order-{paid['order']}", PAYMENT, paid["cents"], key=paid["event"])}


@shop.delete("/orders/<name>")
def cancel(name: str) -> ResponseReturnValue:
    return {"order": durasleep.sync.get(f"order-{name}").cancel()}, 202


def seen(view: View) -> dict[str, Any]:
    done = view.progress and [view.progress.done, view.progress.total]
    return {"state": view.state, "status": view.status, "progress": done}


@shop.app_errorhandler(DurasleepError)
def answer_error(error: DurasleepError) -> ResponseReturnValue:
    status, detail = answer_to(error)
    return jsonify(detail=detail), status
