"""The shops of examples/web, each with its own web servers, with workers that die, and with a Redis that restarts.

Pieces of them are shown in docs/how-to: django.md, flask.md and litestar.md.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from durasleep.devserver import DevServer
from harness.servers import MakeServer, free_port
from tests.docs.pages import Block, parts
from tests.examples.web_servers import ROOT, Program, Shop, Web, until

DJANGO = ROOT / "examples" / "web" / "django_shop"
UVICORN = ("-m", "uvicorn", "--log-level", "warning", "--port", "{port}")


@pytest.fixture
def redis(make_server: MakeServer) -> DevServer:
    return make_server(persist=True)


def place(web: Web, name: str) -> None:
    body = {"customer": "ada", "parcels": 2}
    placed = web.post("/orders", body, idempotency_key=name)
    assert (placed.status_code, placed.headers["location"]) == (202, f"/orders/{name}"), placed.text
    assert placed.json() == {"order": name, "found": "created"}
    again = web.post("/orders", body, idempotency_key=name)
    assert (again.status_code, again.json()["found"]) == (202, "attached")


def goes_on(redis: DevServer, one: Web, other: Web, worker: Program, name: str, again: Callable[[], object]) -> None:
    """An order is paid, while everything that can die dies: one web server takes the payment, the other one watches."""

    def has_status(status: str) -> bool:
        return other.get(f"/orders/{name}").json()["status"] == status

    until(lambda: has_status("waiting for payment"), "the worker")
    stream = other.events(f"/orders/{name}/events")
    worker.kill()
    redis.restart()
    paid = {"event": "evt-1", "order": name, "cents": 900}
    assert one.post("/payments", paid).json()["payment"] in ("stored", "delivered")
    assert other.post("/payments", paid).json() == {"payment": "duplicate"}
    again()
    seen = stream.all()
    assert seen[0]["state"] == "pending"
    assert (seen[-1]["state"], seen[-1]["progress"]) == ("resolved", [2, 2])
    assert one.post("/payments", {**paid, "event": "evt-2"}).status_code == 409
    assert one.delete(f"/orders/{name}").json() == {"order": "already"}
    assert one.get("/orders/999/events").status_code == 404


def test_fastapi_with_two_processes_of_uvicorn(tmp_path: Path, redis: DevServer) -> None:
    command = ("-m", "durasleep", "worker", "examples.web.durable")
    with Shop(tmp_path, REDIS_URL=redis.url, SHOP_REVIEW_AFTER_S="0.2") as shop:
        worker = shop.start(*command)
        web = shop.serve(*UVICORN, "--workers", "2", "examples.web.fastapi.main:api", path="/orders/none").ready()
        place(web, "tea-1")
        goes_on(redis, web, web, worker, "tea-1", lambda: shop.start(*command))
        resolved = {"state": "resolved", "result": "2 parcels for 900 cents", "error": None}
        assert web.get("/orders/tea-1/result").json() == resolved
        place(web, "tea-2")
        assert web.get("/orders/tea-2/result?wait_s=0.1").status_code == 202
        assert web.delete("/orders/tea-2").json() == {"order": "canceling"}
        canceled = web.get("/orders/tea-2/result?wait_s=25")
        assert (canceled.status_code, canceled.json()["state"]) == (200, "canceled")
        assert web.get("/orders/none/result").status_code == 404
        assert web.post("/orders", {"customer": "ada"}, idempotency_key="TEA/3").status_code == 422


def test_litestar_in_two_servers_one_of_which_runs_a_worker(tmp_path: Path, redis: DevServer) -> None:
    command = (*UVICORN, "examples.web.litestar.main:api")
    with Shop(tmp_path, REDIS_URL=redis.url, SHOP_REVIEW_AFTER_S="0.2") as shop:
        worker = shop.start("-m", "durasleep", "worker", "examples.web.durable")
        web = shop.serve(*command, path="/orders/none").ready()
        place(web, "tea-1")

        def again() -> None:
            shop.serve(*command, path="/orders/none", SHOP_WORKER="embedded")

        goes_on(redis, web, web, worker, "tea-1", again)


def test_flask_with_two_processes_that_gunicorn_forks(tmp_path: Path, redis: DevServer) -> None:
    command = ("-m", "durasleep", "worker", "examples.web.flask.worker")
    gunicorn = ("-m", "gunicorn", "--bind", "127.0.0.1:{port}", "--workers", "2", "--threads", "4", "--preload")
    with Shop(tmp_path, FLASK_DURASLEEP_URL=redis.url, FLASK_REVIEW_AFTER_S="0.2") as shop:
        worker = shop.start(*command)
        web = shop.serve(*gunicorn, "examples.web.flask.shop:create_app()", path="/orders/none").ready()
        place(web, "tea-1")
        goes_on(redis, web, web, worker, "tea-1", lambda: shop.start(*command))
        assert web.post("/orders", {"customer": "ada"}).status_code == 400


def test_django_with_runserver_and_with_an_asgi_server(tmp_path: Path, redis: DevServer) -> None:
    command = ("manage.py", "durasleep", "worker")
    shop = Shop(
        tmp_path,
        cwd=DJANGO,
        DEBUG="1",
        SHOP_DATABASE=str(tmp_path / "shop.sqlite3"),
        SHOP_REDIS_URL=redis.url,
        SHOP_REVIEW_AFTER_S="0.2",
    )
    with shop:
        by_asgi = shop.serve(*UVICORN, "shop.asgi:application", path="/orders/999/events")
        by_wsgi = shop.serve("manage.py", "runserver", "--noreload", "{port}", path="/orders/999")
        shop.run("manage.py", "migrate", "--verbosity", "0")
        worker = shop.start(*command)
        placed = by_wsgi.ready().post("/orders", {"customer": "ada", "parcels": 2})
        assert (placed.status_code, placed.headers["location"]) == (202, "/orders/1")
        goes_on(redis, by_wsgi, by_asgi.ready(), worker, "1", lambda: shop.start(*command))
        assert by_wsgi.get("/orders/1").json() == {"order": 1, "customer": "ada", "status": "done"}


def test_an_order_is_placed_in_django_while_redis_cannot_be_reached(tmp_path: Path) -> None:
    """The row is there, and a schedule starts its execution later; see "After the commit" in the page."""
    places = """
import django
django.setup()
from django.test import Client
print(Client().post("/orders", {"customer": "ada"}, content_type="application/json").status_code)
from orders.models import Order
print(Order.objects.get().status)
"""
    url = f"redis://127.0.0.1:{free_port()}"
    settings = {"DJANGO_SETTINGS_MODULE": "shop.settings", "SHOP_DATABASE": str(tmp_path / "shop.sqlite3")}
    with Shop(tmp_path, cwd=DJANGO, **settings, SHOP_REDIS_URL=url) as shop:
        shop.run("manage.py", "migrate", "--verbosity", "0")
        assert shop.run("-c", places) == "202\nnew\n"


@pytest.mark.parametrize("page", ["django", "flask", "litestar"])
def test_a_page_shows_pieces_of_the_shop(page: str) -> None:
    folder = DJANGO if page == "django" else ROOT / "examples" / "web" / page
    shop = "\n".join(path.read_text() for path in folder.rglob("*.py"))
    here = "tests/examples/test_web.py"
    blocks = [part for part in parts((ROOT / "docs" / "how-to" / f"{page}.md").read_text()) if isinstance(part, Block)]
    shown = [block for block in blocks if block.said("tested by") == here]
    assert [block.source for block in shown if block.source.strip() not in shop] == []
