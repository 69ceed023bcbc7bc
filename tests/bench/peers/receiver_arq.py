"""A receiver with FastAPI and arq: verify, SET NX, enqueue."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from arq import create_pool
from arq.connections import RedisSettings
from fastapi import FastAPI, Request, Response
from standardwebhooks import Webhook, WebhookVerificationError

from tests.bench.peer_task import DEDUP_TTL_S, REDIS_URL, SECRET

state: dict[str, Any] = {}


@asynccontextmanager
async def open_pool(_: FastAPI) -> AsyncIterator[None]:
    """Open the pool and the verifier."""
    state["pool"] = await create_pool(RedisSettings.from_dsn(REDIS_URL))
    state["webhook"] = Webhook(SECRET)
    yield
    await state["pool"].aclose()


app = FastAPI(lifespan=open_pool)


async def receive(request: Request) -> Response:
    """Accept one webhook."""
    body = await request.body()
    headers = dict(request.headers)
    try:
        event = state["webhook"].verify(body, headers)
    except WebhookVerificationError:
        return Response(status_code=401)
    pool = state["pool"]
    if await pool.set(f"delivery:{headers['webhook-id']}", 1, nx=True, ex=DEDUP_TTL_S):
        await pool.enqueue_job("enrich", event)
    return Response(status_code=202)


app.add_api_route("/webhooks/{source}", receive, methods=["POST"])
