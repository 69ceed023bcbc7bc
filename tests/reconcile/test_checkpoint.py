"""Tests of runs: one process at a time lists a scope, and only unknown deployments are queued."""

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
from tests.factories import deployment_id
from tests.tcp_proxy import ForwardingProxy, connect_to_socket

SCOPE = Scope("default", "production")
DEPLOYMENT_ID = deployment_id()


@pytest.fixture
def runs(group_commit: GroupCommit, keys: Keys) -> Runs:
    """Return the runs of one namespace, with leases that last longer than a test."""
    tokens = itertools.count()
    return Runs(
        group_commit,
        keys=keys,
        new_token=lambda: f"{next(tokens):08d}",
        ttl_ms=60_000,
        lease_ms=50_000,
    )


def make_missed() -> MissedDeployment:
    """Return a missed deployment."""
    head = DeploymentHead(
        id=DEPLOYMENT_ID, application_key="shop", application_version="1.0", ended_at=7
    )
    missed = build_missed(head, SCOPE, DeploymentFilter())
    assert missed is not None
    return missed


async def test_hold_while_another_process_lists_the_scope_waits(runs: Runs) -> None:
    """It also waits for the interval after the last run ended; another scope is free."""
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


async def test_hold_after_an_error_begins_at_once(runs: Runs) -> None:
    """A run that is cut short releases its lease and leaves the checkpoint."""
    with pytest.raises(RuntimeError):
        async with runs.hold("a", interval_ms=30_000):
            raise RuntimeError
    async with runs.hold("a", interval_ms=30_000) as run:
        assert isinstance(run, Run)
        assert run.checkpoint is None


async def test_run_whose_lease_is_lost_changes_nothing(
    runs: Runs, redis: Redis, keys: Keys
) -> None:
    """It schedules nothing and moves no checkpoint."""
    async with runs.hold("a", interval_ms=0) as mine:
        assert isinstance(mine, Run)
        await redis.hset(keys.reconcile("a"), "until", 1)  # the lease has run out
        async with runs.hold("a", interval_ms=0) as theirs:
            assert isinstance(theirs, Run)
            with pytest.raises(LeaseLost):
                await runs.queue_missed(mine, [make_missed()])
            await runs.end(mine, 17)
            assert await redis.hget(keys.reconcile("a"), "checkpoint") is None
            assert await redis.exists(keys.refreshes) == 0


async def test_queue_missed_of_a_known_deployment_schedules_nothing(
    runs: Runs, redis: Redis, keys: Keys
) -> None:
    """Known means published, queued by its id, scheduled, or failed."""
    async with runs.hold("a", interval_ms=0) as run:
        assert isinstance(run, Run)
        for place in (
            keys.published(DEPLOYMENT_ID),
            (keys.tickets, f"id:{DEPLOYMENT_ID}"),
        ):
            key, field = (place, "revision") if isinstance(place, str) else place
            await redis.hset(key, field, "1")
            assert (await runs.queue_missed(run, [make_missed()])).queued == 0
            await redis.delete(key)
        await redis.zadd(keys.failed, {f"id:{DEPLOYMENT_ID}": 1})
        assert (await runs.queue_missed(run, [make_missed()])).queued == 0
        await redis.delete(keys.failed)
        assert (await runs.queue_missed(run, [make_missed()], dry_run=True)).queued == 1
        assert (await runs.queue_missed(run, [make_missed()])).queued == 1
        assert (await runs.queue_missed(run, [make_missed()])).queued == 0
        assert await redis.zscore(keys.refreshes, DEPLOYMENT_ID) is not None


async def test_queue_missed_leaves_a_deployment_while_a_ticket_of_its_version_waits(
    runs: Runs, redis: Redis, keys: Keys
) -> None:
    """The version may be deployed twice: once the ticket has ended, only the id decides."""
    async with runs.hold("a", interval_ms=0) as run:
        assert isinstance(run, Run)
        await redis.hset(keys.tickets, "find:default/production/shop/1.0", "1")
        left = await runs.queue_missed(run, [make_missed()])
        assert (left.queued, left.deferred) == (0, frozenset({DEPLOYMENT_ID}))
        backfilled = await runs.queue_missed(run, [make_missed()], dry_run=True, defers=False)
        assert backfilled.queued == 1
        await redis.delete(keys.tickets)
        assert (await runs.queue_missed(run, [make_missed()])).queued == 1


async def test_end_of_a_run_without_redis_does_not_wait(redis_url: str, keys: Keys) -> None:
    """The lease runs out instead."""
    socket = Path(redis_url.removeprefix("unix://"))
    async with AsyncExitStack() as stack:
        proxy = await stack.enter_async_context(ForwardingProxy(connect_to_socket(socket)))
        client = open_client(f"redis://{proxy.address}")
        group = GroupCommit(
            client, durability="fsync", clock=time.monotonic, log=structlog.get_logger()
        )
        mine = Runs(group, keys=keys, new_token=lambda: "mine", ttl_ms=60_000)
        async with asyncio.timeout(30):  # it would not end if it waited for Redis
            async with mine.hold("a", interval_ms=0) as run:
                assert isinstance(run, Run)
                await stack.aclose()
            await group.aclose()
        await client.aclose()


async def test_hold_after_the_clock_was_set_back_lists_again_from_there(
    runs: Runs, redis: Redis, keys: Keys
) -> None:
    """The interval goes by the time of the scripts, the checkpoint by Redis's own clock."""
    ahead = (await redis.time())[0] * 1000 + 86_400_000
    await redis.set(keys.clock, f"{ahead} 0")
    await redis.hset(keys.reconcile("a"), mapping={"ran": ahead - 30_000, "checkpoint": ahead})
    async with runs.hold("a", interval_ms=30_000) as run:
        assert isinstance(run, Run)
        assert run.checkpoint == run.now_ms < ahead - 80_000_000
    await redis.hset(keys.reconcile("a"), mapping={"holder": "dead", "until": ahead + 50})
    async with runs.hold("a", interval_ms=0) as wait_s:
        assert isinstance(wait_s, float)
        assert wait_s < 1


async def test_queue_missed_of_a_filtered_deployment_schedules_it(
    runs: Runs, redis: Redis, keys: Keys
) -> None:
    """It has a published hash without a record, and the filters may include it now."""
    async with runs.hold("a", interval_ms=0) as run:
        assert isinstance(run, Run)
        await redis.hset(keys.published(DEPLOYMENT_ID), mapping={"revision": 0, "digest": ""})
        await redis.pexpire(keys.published(DEPLOYMENT_ID), 60_000)
        assert (await runs.queue_missed(run, [make_missed()])).queued == 1
