"""The fixture of the fault tests: the service in one process, a real Redis and a simulator."""

from collections.abc import AsyncIterator

import pytest
from redis.asyncio import Redis

from service.settings import Secret
from service.store.keys import Keys
from tests.end_to_end.harness import ServiceHarness, open_harness


@pytest.fixture
async def service(redis_url: str, redis: Redis, keys: Keys) -> AsyncIterator[ServiceHarness]:
    """Build the service; each test opens it with its own settings."""
    async with open_harness(
        redis, keys.namespace, redis_url=Secret(redis_url), lease=5.0
    ) as harness:
        yield harness
