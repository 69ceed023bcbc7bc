"""Does one process at a time list a scope, and is nothing planned that is known?"""

import asyncio
import itertools
import time
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
import structlog
from redis.asyncio import Redis

from service.accept.filters import DeploymentFilter
from service.enrich.models import DeploymentHead
from service.reconcile.checkpoint import LeaseLost, Run, Runs
from service.reconcile.missed import MissedDeployment, Scope, build_missed
from service.store.connect import open_client
from service.store.group_commit import GroupCommit
from service.store.keys import Keys
from tests.tcp_proxy import ForwardingProxy, connect_to_socket

SCOPE = Scope("default", "production")
NAME = "a0eebc99-9c0b-4ef8-bb6d-000000000001"


@pytest.fixture
def runs(group_commit: GroupCommit, keys: Keys) -> Runs:
    """Give the rounds of one namespace, each lease of which is renewed by hand."""
    tokens = itertools.count()
    return Runs(
        group_commit,
        keys=keys,
        new_token=lambda: f"{next(tokens):08d}",
        ttl_ms=60_000,
        lease_ms=50_000,
    )


def make_missed() -> MissedDeployment:
    """Write one deployment that was missed."""
    outline = DeploymentHead(id=NAME, application_key="shop", application_version="1.0", ended_at=7)
    missed = build_missed(outline, SCOPE, DeploymentFilter())
    assert missed is not None
    return missed


async def test_one_process_at_a_time_lists_a_scope(runs: Runs) -> None:
    """While one is at it, and for a while after it ended, others are told to wait."""
    async with runs.hold("a", interval_ms=30_000) as mine:
        assert isinstance(mine, Run)
        assert mine.checkpoint is None
        async with runs.hold("a", interval_ms=30_000) as theirs:
            assert isinstance(theirs, float)
        async with runs.hold("b", interval_ms=30_000) as other:
            assert isinstance(other, Run)
        await runs.end(mine, 17)
    async with runs.hold("a", interval_ms=30_000) as theirs:
        assert isinstance(theirs, float)
        assert 0 < theirs <= 30
    async with runs.hold("a", interval_ms=0) as theirs:
        assert isinstance(theirs, Run)
        assert theirs.checkpoint == 17


async def test_a_round_that_was_left_begins_again_at_once(runs: Runs) -> None:
    """Who is cut short lets go; the checkpoint is where it was."""
    with pytest.raises(RuntimeError):
        async with runs.hold("a", interval_ms=30_000):
            raise RuntimeError
    async with runs.hold("a", interval_ms=30_000) as held:
        assert isinstance(held, Run)
        assert held.checkpoint is None


async def test_who_lost_the_round_changes_nothing(runs: Runs, redis: Redis, keys: Keys) -> None:
    """One that another took over plans nothing and moves no checkpoint."""
    async with runs.hold("a", interval_ms=0) as mine:
        assert isinstance(mine, Run)
        await redis.hset(keys.reconcile("a"), "until", 1)  # its lease has run out
        async with runs.hold("a", interval_ms=0) as theirs:
            assert isinstance(theirs, Run)
            with pytest.raises(LeaseLost):
                await runs.queue_missed(mine, [make_missed()])
            await runs.end(mine, 17)
            assert await redis.hget(keys.reconcile("a"), "checkpoint") is None
            assert await redis.exists(keys.refreshes) == 0


async def test_only_what_is_unknown_is_planned(runs: Runs, redis: Redis, keys: Keys) -> None:
    """Not what was published, waits by its id or its version, is planned, or has failed."""
    async with runs.hold("a", interval_ms=0) as held:
        assert isinstance(held, Run)
        for place in (
            keys.published(NAME),
            (keys.tickets, f"id:{NAME}"),
            (keys.tickets, "find:default/production/shop/1.0"),
        ):
            key, field = (place, "revision") if isinstance(place, str) else place
            await redis.hset(key, field, "1")
            assert await runs.queue_missed(held, [make_missed()]) == 0
            await redis.delete(key)
        await redis.zadd(keys.failed, {f"id:{NAME}": 1})
        assert await runs.queue_missed(held, [make_missed()]) == 0
        await redis.delete(keys.failed)
        assert await runs.queue_missed(held, [make_missed()], dry_run=True) == 1
        assert await runs.queue_missed(held, [make_missed()]) == 1
        assert await runs.queue_missed(held, [make_missed()]) == 0
        assert await redis.zscore(keys.refreshes, NAME) is not None


async def test_who_stops_while_redis_is_away_does_not_wait_for_it(
    redis_url: str, keys: Keys
) -> None:
    """Its round is let go by the end of its lease, and nothing hangs until then."""
    socket = Path(redis_url.removeprefix("unix://"))
    async with AsyncExitStack() as between:
        wire = await between.enter_async_context(ForwardingProxy(connect_to_socket(socket)))
        client = open_client(f"redis://{wire.address}")
        group = GroupCommit(
            client, durability="fsync", clock=time.monotonic, log=structlog.get_logger()
        )
        mine = Runs(group, keys=keys, new_token=lambda: "mine", ttl_ms=60_000)
        async with asyncio.timeout(30):  # for ever, were Redis waited for
            async with mine.hold("a", interval_ms=0) as held:
                assert isinstance(held, Run)
                await between.aclose()
            await group.aclose()
        await client.aclose()


async def test_a_clock_set_back_does_not_hold_up_a_round(
    runs: Runs, redis: Redis, keys: Keys
) -> None:
    """A round that ran, or is held, in what is now the future binds nobody until then."""
    ahead = (await redis.time())[0] * 1000 + 86_400_000
    await redis.hset(keys.reconcile("a"), mapping={"ran": ahead, "checkpoint": ahead})
    async with runs.hold("a", interval_ms=30_000) as held:
        assert isinstance(held, Run)
        assert held.checkpoint == held.now_ms
    await redis.hset(keys.reconcile("a"), mapping={"holder": "dead", "until": ahead})
    async with runs.hold("a", interval_ms=0) as held:
        assert isinstance(held, Run)


async def test_what_was_only_left_out_is_planned(runs: Runs, redis: Redis, keys: Keys) -> None:
    """A deployment that nobody wanted has a mark without a record: once wanted, it was missed."""
    async with runs.hold("a", interval_ms=0) as held:
        assert isinstance(held, Run)
        await redis.hset(keys.published(NAME), mapping={"revision": 0, "digest": ""})
        await redis.pexpire(keys.published(NAME), 60_000)
        assert await runs.queue_missed(held, [make_missed()]) == 1
