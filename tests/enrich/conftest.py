"""What do the tests of the budget stand on? Terms that outlive a test, and a desk."""

from collections.abc import AsyncIterator

import pytest
from redis.asyncio import Redis

from service.backlog.backlog import Terms
from service.enrich.budget import CALL_LIFE_MS
from service.store.group import GroupCommit
from service.store.keys import Keys
from tests.enrich.desk import Desk


@pytest.fixture
def terms() -> Terms:
    """Give leases and calls that outlive a test, unless it says otherwise."""
    return Terms(
        lease_ms=60_000,
        mark_ms=60_000,
        failed_ms=60_000,
        call_ms=CALL_LIFE_MS,
        limit=1000,
        share=1.0,
    )


@pytest.fixture
async def desk(redis: Redis, group: GroupCommit, keys: Keys, terms: Terms) -> AsyncIterator[Desk]:
    """Give the desk of one namespace, known to be alone before its upstream.

    What still waits at the end is thrown away.
    """
    await redis.hset(keys.budget, "rivals", "0")
    await redis.pexpire(keys.budget, 60_000)
    yield Desk(redis, group, keys, terms)
    await redis.delete(keys.backlog, keys.tickets)
