"""The approval of examples/approval.py in a web application: start it, look at it, decide.

As a worker:   durasleep worker examples.approval:app
As a server:   uvicorn examples.approval_web:web             needs fastapi and uvicorn
As a client:   curl -X POST localhost:8000/expenses/expense-7 -H 'content-type: application/json' -d '{"euros": 250}'
               curl localhost:8000/expenses/expense-7
               curl -X POST localhost:8000/expenses/expense-7/decision \
                    -H 'content-type: application/json' -d '{"by": "Ada", "approved": true}'
"""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from fastapi import FastAPI, HTTPException

from durasleep import Ended, NotFound
from examples.approval import DECISION, Decision, app, approve_expense


@asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncGenerator[None]:
    async with app:
        yield


web = FastAPI(lifespan=lifespan)


@dataclass
class Expense:
    euros: int


@web.post("/expenses/{id}")
async def ask(id: str, expense: Expense) -> dict[str, str]:
    handle = await app.rpc(id, approve_expense, expense.euros)
    return {"id": handle.id, "found": str(handle.disposition)}


@web.get("/expenses/{id}")
async def show(id: str) -> dict[str, Any]:
    try:
        view = await app.view(id)
    except NotFound as error:
        raise HTTPException(404, str(error)) from None
    return {"state": view.state, "status": view.status}


@web.post("/expenses/{id}/decision")
async def decide(id: str, decision: Decision) -> dict[str, str]:
    """The same person may click twice: the first decision counts."""
    try:
        sent = await app.send(id, DECISION, decision, key=f"decision-{decision.by}")
    except NotFound as error:
        raise HTTPException(404, str(error)) from None
    except Ended as error:
        raise HTTPException(409, str(error)) from None
    return {"decision": sent}
