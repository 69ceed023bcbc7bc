"""A receiver with FastAPI and taskiq: verify, SET NX, enqueue."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI, Request, Response
from redis.asyncio import Redis
from standardwebhooks import Webhook, WebhookVerificationError
from taskiq_redis import RedisStreamBroker

from tests.bench.peer_task import DEDUP_TTL_S, REDIS_URL, SECRET

broker = RedisStreamBroker(REDIS_URL, max_connection_pool_size=32)
redis = Redis.from_url(REDIS_URL)
webhook = Webhook(SECRET)


async def _enrich(event: dict[str, Any]) -> None:
    """Stand in for the task of the worker."""


enrich = broker.register_task(_enrich, "enrich")


@asynccontextmanager
async def open_broker(_: FastAPI) -> AsyncIterator[None]:
    """Open the broker."""
    await broker.startup()
    yield
    await broker.shutdown()
    await redis.aclose()


app = FastAPI(lifespan=open_broker)


async def receive(request: Request) -> Response:
    """Accept one webhook."""
    body = await request.body()
    headers = dict(request.headers)
    try:
        event = webhook.verify(body, headers)
    except WebhookVerificationError:
        return Response(status_code=401)
    if await redis.set(f"delivery:{headers['webhook-id']}", 1, nx=True, ex=DEDUP_TTL_S):
        await enrich.kiq(event)
    return Response(status_code=202)


app.add_api_route("/webhooks/{source}", receive, methods=["POST"])
