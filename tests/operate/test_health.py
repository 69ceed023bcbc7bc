"""Do the two answers of health tell the truth, and does looking show how things stand?"""

import asyncio
from collections.abc import AsyncIterator

import aiohttp
import pytest
import structlog
from aiohttp import web
from redis.asyncio import Redis

from service.operate.health import Health, Lookout
from service.operate.listening import listen
from service.store.connect import open_client
from service.store.group import GroupCommit
from service.store.keys import Keys

LIMIT = 3
SOON_MS = 5_000


@pytest.fixture
def lookout(group: GroupCommit, keys: Keys) -> Lookout:
    """Give a lookout of which half of each limit is ours."""
    return Lookout(group, keys=keys, share=0.5)


@pytest.fixture
async def door(lookout: Lookout) -> AsyncIterator[str]:
    """Serve the two questions."""
    app = web.Application()
    Health(lookout, backlog_limit=LIMIT).add_to(app)
    async with listen(app, host="127.0.0.1", port=0) as url:
        yield url


async def ask(url: str) -> tuple[int, dict[str, object]]:
    """Give status and answer."""
    async with aiohttp.ClientSession() as session, session.get(url) as response:
        return response.status, await response.json()


async def now_ms(redis: Redis) -> int:
    """Give the server's clock, the only one that counts."""
    seconds, micros = await redis.time()
    return int(seconds) * 1000 + int(micros) // 1000


async def test_an_empty_namespace_is_well(lookout: Lookout, redis: Redis, keys: Keys) -> None:
    """Nothing waits, calls may be made; the probe that was written goes by itself."""
    standing = await lookout.look()
    assert (standing.waiting, standing.failed, standing.entries) == (0, 0, 0)
    assert (standing.closed_s, standing.opens_s, standing.why) == (0, 0, "")
    assert standing.room > 0
    assert 0 < await redis.pttl(keys.probe) <= 1000


async def test_looking_counts_what_is_there(lookout: Lookout, redis: Redis, keys: Keys) -> None:
    """Tickets, failures, records and calls in flight."""
    soon = await now_ms(redis) + SOON_MS
    await redis.zadd(keys.backlog, {"a": 1, "b": 2})
    await redis.zadd(keys.failed, {"c": 1})
    await redis.xadd(keys.enriched, {"id": "1"})
    await redis.zadd(keys.calls, {"flying": soon, "landed": 1})
    standing = await lookout.look()
    assert (standing.waiting, standing.failed, standing.entries) == (2, 1, 1)
    assert standing.in_flight == 1
    await redis.delete(keys.backlog, keys.calls)


async def test_room_is_our_share_of_what_is_left(
    lookout: Lookout, redis: Redis, keys: Keys
) -> None:
    """The limit less what others get, less what is in flight; then the quota is met."""
    soon = await now_ms(redis) + SOON_MS
    await redis.hset(keys.budget, "global", f"20 14 {soon} told")
    await redis.zadd(keys.calls, {"flying": soon})
    standing = await lookout.look()
    assert (standing.room, standing.opens_s) == (3, 0)

    await redis.hset(keys.budget, "global", f"20 10 {soon} told")
    standing = await lookout.look()
    assert standing.room == 0
    assert 0 < standing.opens_s <= SOON_MS / 1000 + 0.1
    assert standing.closed_s == 0
    await redis.delete(keys.budget, keys.calls)


async def test_a_closed_budget_says_until_when_and_why(
    lookout: Lookout, redis: Redis, keys: Keys
) -> None:
    """After a 429, say."""
    soon = await now_ms(redis) + SOON_MS
    await redis.hset(keys.budget, mapping={"closed": soon, "why": "rate limited"})
    standing = await lookout.look()
    assert 0 < standing.closed_s <= SOON_MS / 1000
    assert (standing.why, standing.room) == ("rate limited", 0)
    assert standing.opens_s > 0
    await redis.delete(keys.budget)


async def test_alive_and_ready(door: str) -> None:
    """All is well."""
    assert await ask(f"{door}/healthz") == (200, {"status": "alive"})
    assert await ask(f"{door}/readyz") == (200, {"status": "ready", "waiting": 0})


async def test_a_full_backlog_is_not_ready(door: str, redis: Redis, keys: Keys) -> None:
    """Traffic goes elsewhere, and the process lives on."""
    await redis.zadd(keys.backlog, {str(number): number for number in range(LIMIT)})
    status, said = await ask(f"{door}/readyz")
    assert status == 503
    assert said["reasons"] == ["backlog: 3 tickets wait, the limit is 3"]
    assert (await ask(f"{door}/healthz"))[0] == 200
    await redis.delete(keys.backlog)


async def test_a_refused_token_is_not_ready(door: str, redis: Redis, keys: Keys) -> None:
    """The reason is one that a person can act on."""
    await redis.hset(keys.budget, "why", "token refused")
    status, said = await ask(f"{door}/readyz")
    assert (status, said["status"]) == (503, "not ready")
    assert said["reasons"] == ["token: LaunchDarkly refuses the access token"]
    await redis.delete(keys.budget)


async def test_without_redis_it_is_alive_and_not_ready(keys: Keys) -> None:
    """A restart would not help, so /healthz does not ask for one."""
    client = open_client("unix:///nowhere/redis.sock")
    loop = asyncio.get_running_loop()
    group = GroupCommit(client, durability="fsync", clock=loop.time, log=structlog.get_logger())
    app = web.Application()
    Health(Lookout(group, keys=keys), backlog_limit=LIMIT).add_to(app)
    async with listen(app, host="127.0.0.1", port=0) as url:
        assert await ask(f"{url}/healthz") == (200, {"status": "alive"})
        status, said = await ask(f"{url}/readyz")
    assert status == 503
    assert "redis: " in str(said["reasons"])
    await group.aclose()
    await client.aclose()
