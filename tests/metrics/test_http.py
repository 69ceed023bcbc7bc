"""Do the two answers of health tell the truth, and does looking show how things stand?"""

import asyncio
from collections.abc import AsyncIterator

import aiohttp
import pytest
import structlog
from aiohttp import web
from redis.asyncio import Redis

from service.metrics.http import HealthReader, HealthRoutes, serve_app
from service.store.connect import open_client
from service.store.group_commit import GroupCommit
from service.store.keys import Keys

LIMIT = 3
SOON_MS = 5_000


@pytest.fixture
def namespace_stats(group_commit: GroupCommit, keys: Keys) -> HealthReader:
    """Give a lookout of which half of each limit is ours."""
    return HealthReader(group_commit, keys=keys, share=0.5)


@pytest.fixture
async def health_url(namespace_stats: HealthReader) -> AsyncIterator[str]:
    """Serve the two questions."""
    app = web.Application()
    HealthRoutes(namespace_stats, backlog_limit=LIMIT).add_routes(app)
    async with serve_app(app, host="127.0.0.1", port=0) as url:
        yield url


async def get_json(url: str) -> tuple[int, dict[str, object]]:
    """Give status and answer."""
    async with aiohttp.ClientSession() as session, session.get(url) as response:
        return response.status, await response.json()


async def redis_now_ms(redis: Redis) -> int:
    """Give the server's clock, the only one that counts."""
    seconds, micros = await redis.time()
    return int(seconds) * 1000 + int(micros) // 1000


async def test_an_empty_namespace_is_well(
    namespace_stats: HealthReader, redis: Redis, keys: Keys
) -> None:
    """Nothing waits, calls may be made; the probe that was written goes by itself."""
    standing = await namespace_stats.read_stats()
    assert (standing.backlog, standing.failed, standing.records) == (0, 0, 0)
    assert (standing.closed_s, standing.next_call_in_s, standing.closed_reason) == (0, 0, "")
    assert standing.calls_left > 0
    assert 0 < await redis.pttl(keys.write_probe) <= 1000


async def test_looking_counts_what_is_there(
    namespace_stats: HealthReader, redis: Redis, keys: Keys
) -> None:
    """Tickets, failures, records and calls in flight."""
    soon = await redis_now_ms(redis) + SOON_MS
    await redis.zadd(keys.backlog, {"a": 1, "b": 2})
    await redis.zadd(keys.failed, {"c": 1})
    await redis.xadd(keys.enriched, {"id": "1"})
    await redis.zadd(keys.budget_calls, {"flying": soon, "landed": 1})
    standing = await namespace_stats.read_stats()
    assert (standing.backlog, standing.failed, standing.records) == (2, 1, 1)
    assert standing.in_flight == 1
    await redis.delete(keys.backlog, keys.budget_calls)


async def test_room_is_our_share_of_what_is_left(
    namespace_stats: HealthReader, redis: Redis, keys: Keys
) -> None:
    """The limit less what others get, less what is in flight; then the quota is met."""
    soon = await redis_now_ms(redis) + SOON_MS
    await redis.hset(keys.budget, "global", f"20 14 {soon} reported")
    await redis.zadd(keys.budget_calls, {"flying": soon})
    standing = await namespace_stats.read_stats()
    assert (standing.calls_left, standing.next_call_in_s) == (3, 0)

    await redis.hset(keys.budget, "global", f"20 10 {soon} reported")
    standing = await namespace_stats.read_stats()
    assert standing.calls_left == 0
    assert 0 < standing.next_call_in_s <= SOON_MS / 1000 + 0.1
    assert standing.closed_s == 0
    await redis.delete(keys.budget, keys.budget_calls)


async def test_a_closed_budget_says_until_when_and_why(
    namespace_stats: HealthReader, redis: Redis, keys: Keys
) -> None:
    """After a 429, say."""
    soon = await redis_now_ms(redis) + SOON_MS
    await redis.hset(keys.budget, mapping={"closed_until": soon, "closed_reason": "rate limited"})
    standing = await namespace_stats.read_stats()
    assert 0 < standing.closed_s <= SOON_MS / 1000
    assert (standing.closed_reason, standing.calls_left) == ("rate limited", 0)
    assert standing.next_call_in_s > 0
    await redis.delete(keys.budget)


async def test_alive_and_ready(health_url: str) -> None:
    """All is well."""
    assert await get_json(f"{health_url}/healthz") == (200, {"status": "alive"})
    assert await get_json(f"{health_url}/readyz") == (200, {"status": "ready", "backlog": 0})


async def test_a_full_backlog_is_not_ready(health_url: str, redis: Redis, keys: Keys) -> None:
    """Traffic goes elsewhere, and the process lives on."""
    await redis.zadd(keys.backlog, {str(number): number for number in range(LIMIT)})
    status, said = await get_json(f"{health_url}/readyz")
    assert status == 503
    assert said["reasons"] == ["backlog: 3 tickets wait, the limit is 3"]
    assert (await get_json(f"{health_url}/healthz"))[0] == 200
    await redis.delete(keys.backlog)


async def test_a_refused_token_is_not_ready(health_url: str, redis: Redis, keys: Keys) -> None:
    """The reason is one that a person can act on."""
    await redis.hset(keys.budget, "closed_reason", "token refused")
    status, said = await get_json(f"{health_url}/readyz")
    assert (status, said["status"]) == (503, "unready")
    assert said["reasons"] == ["token: LaunchDarkly refuses the access token"]
    await redis.delete(keys.budget)


async def test_without_redis_it_is_alive_and_not_ready(keys: Keys) -> None:
    """A restart would not help, so /healthz does not ask for one."""
    client = open_client("unix:///nowhere/redis.sock")
    loop = asyncio.get_running_loop()
    group = GroupCommit(client, durability="fsync", clock=loop.time, log=structlog.get_logger())
    app = web.Application()
    HealthRoutes(HealthReader(group, keys=keys), backlog_limit=LIMIT).add_routes(app)
    async with serve_app(app, host="127.0.0.1", port=0) as url:
        assert await get_json(f"{url}/healthz") == (200, {"status": "alive"})
        status, said = await get_json(f"{url}/readyz")
    assert status == 503
    assert "redis: " in str(said["reasons"])
    await group.aclose()
    await client.aclose()
