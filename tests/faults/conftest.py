"""What do faults fall on within one process? The whole house, real Redis, a simulated API."""

from collections.abc import AsyncIterator

import pytest
from redis.asyncio import Redis

from service.settings import Secret
from service.store.keys import Keys
from tests.end_to_end.harness import ServiceHarness, open_harness


@pytest.fixture
async def story(redis_url: str, redis: Redis, keys: Keys) -> AsyncIterator[ServiceHarness]:
    """Set the stage; a test opens it as it likes."""
    async with open_harness(
        redis, keys.namespace, redis_url=Secret(redis_url), lease=5.0
    ) as opened:
        yield opened
