"""Fixtures of the enrich tests: a budget harness, and an enricher before a simulator."""

import random
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import pytest
from redis.asyncio import Redis

from service.backlog.backlog import BacklogConfig
from service.enrich.budget import CALL_TTL_MS, Budget
from service.enrich.client import LaunchDarkly, open_session
from service.enrich.enricher import Enricher, EnrichLimits
from service.enrich.verdict import RepeatPolicy, RetryPolicy
from service.metrics.http import serve_app
from service.simulate.options import Options
from service.simulate.server import Simulator
from service.store.group_commit import GroupCommit
from service.store.keys import Keys
from tests.enrich.budget_harness import BudgetHarness
from tests.enrich.enricher_harness import EnricherHarness


@pytest.fixture
def backlog_config() -> BacklogConfig:
    """Return the configuration of leases and calls that outlive a test."""
    return BacklogConfig(
        lease_ms=60_000,
        delivery_ttl_ms=60_000,
        failed_ttl_ms=60_000,
        call_ttl_ms=CALL_TTL_MS,
        max_tickets=1000,
        rate_limit_share=1.0,
    )


@pytest.fixture
async def budget_harness(
    redis: Redis, group_commit: GroupCommit, keys: Keys, backlog_config: BacklogConfig
) -> AsyncIterator[BudgetHarness]:
    """Yield the budget harness of one namespace without other clients.

    Tickets that still wait at the end are deleted.
    """
    await redis.hset(keys.budget, "other_clients_per_s", "0")
    await redis.pexpire(keys.budget, 60_000)
    yield BudgetHarness(redis, group_commit, keys, backlog_config)
    await redis.delete(keys.backlog, keys.tickets)


@pytest.fixture
def enrich_limits() -> EnrichLimits:
    """Return the default limits of a ticket; a test module may override this fixture."""
    return EnrichLimits()


@pytest.fixture
async def enricher_harness(
    budget: Budget, redis: Redis, keys: Keys, enrich_limits: EnrichLimits
) -> AsyncIterator[EnricherHarness]:
    """Yield an enricher before a simulator; its responses may have a million bytes."""
    simulator = Simulator(Options(auto_create=False), clock=time.time, rng=random.Random(1))
    async with AsyncExitStack() as stack:
        origin = await stack.enter_async_context(
            serve_app(simulator.app(), host="127.0.0.1", port=0)
        )
        session = await stack.enter_async_context(open_session("api-simulator", max_connections=8))
        enricher = Enricher(
            LaunchDarkly(session, origin=origin, max_bytes=1_000_000, clock=time.time),
            budget,
            retry_policy=RetryPolicy(repeats=RepeatPolicy(min_wait_s=0.0, max_wait_s=0.01)),
            limits=enrich_limits,
            rng=lambda: 0.5,
        )
        yield EnricherHarness(simulator, origin, enricher)
    await redis.delete(keys.budget_calls, keys.budget_waiting)
