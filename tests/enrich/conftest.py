"""What do the tests of the budget stand on? Terms that outlive a test, and a desk."""

from collections.abc import AsyncIterator

import pytest
from redis.asyncio import Redis

from service.backlog.backlog import BacklogConfig
from service.enrich.budget import CALL_TTL_MS
from service.store.group_commit import GroupCommit
from service.store.keys import Keys
from tests.enrich.budget_harness import BudgetHarness


@pytest.fixture
def backlog_config() -> BacklogConfig:
    """Give leases and calls that outlive a test, unless it says otherwise."""
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
    """Give the desk of one namespace, known to be alone before its upstream.

    What still waits at the end is thrown away.
    """
    await redis.hset(keys.budget, "other_clients_per_s", "0")
    await redis.pexpire(keys.budget, 60_000)
    yield BudgetHarness(redis, group_commit, keys, backlog_config)
    await redis.delete(keys.backlog, keys.tickets)
