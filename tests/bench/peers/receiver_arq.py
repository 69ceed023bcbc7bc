"""How does one take webhooks with FastAPI and arq? Verify, SET NX, enqueue."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from arq import create_pool
from arq.connections import RedisSettings
from fastapi import FastAPI, Request, Response
from standardwebhooks import Webhook, WebhookVerificationError

from tests.bench.peer_task import DEDUP_TTL_S, REDIS_URL, SECRET

kept: dict[str, Any] = {}


@asynccontextmanager
async def open_pool(_: FastAPI) -> AsyncIterator[None]:
    """Open what the receiver needs."""
    kept["pool"] = await create_pool(RedisSettings.from_dsn(REDIS_URL))
    kept["webhook"] = Webhook(SECRET)
    yield
    await kept["pool"].aclose()


app = FastAPI(lifespan=open_pool)


async def receive(request: Request) -> Response:
    """Take one webhook."""
    body = await request.body()
    headers = dict(request.headers)
    try:
        event = kept["webhook"].verify(body, headers)
    except WebhookVerificationError:
        return Response(status_code=401)
    pool = kept["pool"]
    if await pool.set(f"delivery:{headers['webhook-id']}", 1, nx=True, ex=DEDUP_TTL_S):
        await pool.enqueue_job("enrich", event)
    return Response(status_code=202)


app.add_api_route("/webhooks/{source}", receive, methods=["POST"])
