"""The fixtures of the end-to-end tests: the service in one process, Redis and a simulator."""

from collections.abc import AsyncIterator

import pytest
from redis.asyncio import Redis

from service.settings import Secret
from service.store.keys import Keys
from tests.end_to_end.harness import ServiceHarness, open_harness, remaining_tasks


@pytest.fixture
async def service(redis_url: str, redis: Redis, keys: Keys) -> AsyncIterator[ServiceHarness]:
    """Build the service; each test opens it with its own settings."""
    async with open_harness(redis, keys.namespace, redis_url=Secret(redis_url)) as harness:
        yield harness
    unfinished_tasks = await remaining_tasks()
    assert not unfinished_tasks, f"tasks were left: {unfinished_tasks}"


@pytest.fixture
def event() -> dict[str, object]:
    """Return the event that a pipeline also posts to LaunchDarkly."""
    return {
        "projectKey": "default",
        "environmentKey": "production",
        "applicationKey": "billing-service",
        "version": "0123456789abcdef0123456789abcdef01234567",
        "eventType": "finished",
    }
