"""Tests of ``/healthz`` and ``/readyz``."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest
import structlog
from aiohttp import web
from redis.asyncio import Redis

from service.metrics.http import HealthRoutes, serve_app
from service.metrics.namespace import NamespaceReader, NamespaceStats
from service.store.connect import open_client
from service.store.group_commit import GroupCommit
from service.store.keys import Keys
from tests.metrics.sample_stats import make_namespace_stats

BACKLOG_LIMIT = 3


@pytest.fixture
async def health_url(group_commit: GroupCommit, keys: Keys) -> AsyncIterator[str]:
    """Serve the health routes and return their URL."""
    app = web.Application()
    namespace_reader = NamespaceReader(group_commit, keys=keys, share=0.5)
    HealthRoutes(namespace_reader.read_stats, backlog_limit=BACKLOG_LIMIT, lease_s=30.0).add_routes(
        app
    )
    async with serve_app(app, host="127.0.0.1", port=0) as url:
        yield url


async def get_json(url: str) -> tuple[int, dict[str, object]]:
    """Return status and body of a response."""
    async with aiohttp.ClientSession() as session, session.get(url) as response:
        return response.status, await response.json()


async def test_error_of_any_page_is_logged_with_its_exception() -> None:
    """Otherwise a page that fails leaves only a 500."""

    async def fail(_: web.Request) -> web.Response:
        raise RuntimeError("a bug")

    app = web.Application()
    app.router.add_get("/page", fail)
    with structlog.testing.capture_logs() as logged:
        log = structlog.get_logger()
        async with (
            serve_app(app, host="127.0.0.1", port=0, log=log) as url,
            aiohttp.ClientSession() as session,
            session.get(f"{url}/page") as response,
        ):
            assert response.status == 500
    ((event, error),) = ((line["event"], line["exc_info"]) for line in logged)
    assert (event, str(error)) == ("request_error", "a bug")


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"claimed_s": 31.0}, "workers: none for 31 s, and 2 tickets wait"),
        ({"claimed_s": None, "overdue_s": 40.0}, "workers: none for 40 s, and 2 tickets wait"),
        ({"claimed_s": 29.0, "overdue_s": 500.0}, None),
        ({"claimed_s": None, "overdue_s": 9.0}, None),
        ({"claimed_s": 500.0, "running_leases": 1}, None),
        ({"claimed_s": 500.0, "backlog": 0}, None),
        ({"claimed_s": 500.0, "closed_s": 60.0}, "workers: none for 500 s, and 2 tickets wait"),
    ],
)
async def test_work_without_a_live_worker_is_a_status_of_its_own_and_no_refusal(
    fields: dict[str, Any], reason: str | None
) -> None:
    """Webhooks are still accepted, so the status is 200. The lease is 30 s."""

    async def read_stats() -> NamespaceStats:
        return make_namespace_stats(**{"backlog": 2, **fields})

    app = web.Application()
    HealthRoutes(read_stats, backlog_limit=BACKLOG_LIMIT, lease_s=30.0).add_routes(app)
    async with serve_app(app, host="127.0.0.1", port=0) as url:
        status, body = await get_json(f"{url}/readyz")
    expected = {"status": "ready"} if reason is None else {"status": "stalled", "reasons": [reason]}
    assert (status, body) == (200, {"backlog": fields.get("backlog", 2), **expected})


async def test_receiver_with_an_empty_backlog_is_alive_and_ready(health_url: str) -> None:
    """Both routes answer 200."""
    assert await get_json(f"{health_url}/healthz") == (200, {"status": "alive"})
    assert await get_json(f"{health_url}/readyz") == (200, {"status": "ready", "backlog": 0})


async def test_readyz_with_a_full_backlog_is_unready(
    health_url: str, redis: Redis, keys: Keys
) -> None:
    """Traffic goes elsewhere, and the process is not restarted."""
    await redis.zadd(keys.backlog, {str(number): number for number in range(BACKLOG_LIMIT)})
    status, body = await get_json(f"{health_url}/readyz")
    assert status == 503
    assert body["reasons"] == ["backlog: 3 tickets wait, the limit is 3"]
    assert (await get_json(f"{health_url}/healthz"))[0] == 200
    await redis.delete(keys.backlog)


async def test_readyz_with_a_refused_token_is_unready(
    health_url: str, redis: Redis, keys: Keys
) -> None:
    """The reason names the token, which a person can replace."""
    await redis.hset(keys.budget, "closed_reason", "token refused")
    status, body = await get_json(f"{health_url}/readyz")
    assert (status, body["status"]) == (503, "unready")
    assert body["reasons"] == ["token: LaunchDarkly refuses the access token"]
    await redis.delete(keys.budget)


async def test_readyz_with_a_forbidden_project_is_ready_and_names_it(
    health_url: str, redis: Redis, keys: Keys
) -> None:
    """The receiver keeps its traffic; an expired name is left out, the eleventh is counted."""
    seconds, _ = await redis.time()
    later = (seconds + 60) * 1000
    names = {f"p{number:02}/production": later + number for number in range(11)}
    await redis.zadd(keys.forbidden, {"expired/production": later - 120_000, **names})
    status, body = await get_json(f"{health_url}/readyz")
    assert (status, body["status"]) == (200, "ready")
    named = ", ".join(f"p{number:02}/production" for number in range(10, 0, -1))
    assert body["warnings"] == [f"forbidden: the access token may not read {named} and 1 more"]
    await redis.delete(keys.forbidden)


async def test_health_without_redis_is_alive_and_unready(keys: Keys) -> None:
    """A restart does not bring Redis back, so ``/healthz`` does not ask for one."""
    client = open_client("unix:///nowhere/redis.sock")
    loop = asyncio.get_running_loop()
    group_commit = GroupCommit(
        client, durability="fsync", clock=loop.time, log=structlog.get_logger()
    )
    app = web.Application()
    namespace_reader = NamespaceReader(group_commit, keys=keys, share=1.0)
    HealthRoutes(namespace_reader.read_stats, backlog_limit=BACKLOG_LIMIT, lease_s=30.0).add_routes(
        app
    )
    async with serve_app(app, host="127.0.0.1", port=0) as url:
        assert await get_json(f"{url}/healthz") == (200, {"status": "alive"})
        status, body = await get_json(f"{url}/readyz")
    assert status == 503
    assert "redis: " in str(body["reasons"])
    await group_commit.aclose()
    await client.aclose()
