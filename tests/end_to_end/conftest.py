"""What does a story play on? The whole house in one process, real Redis, a simulated API."""

from collections.abc import AsyncIterator

import pytest
from redis.asyncio import Redis

from service.settings import Secret
from service.store.keys import Keys
from tests.end_to_end.harness import ServiceHarness, open_harness, remaining_tasks


@pytest.fixture
async def story(redis_url: str, redis: Redis, keys: Keys) -> AsyncIterator[ServiceHarness]:
    """Set the stage; a test opens it as it likes."""
    async with open_harness(redis, keys.namespace, redis_url=Secret(redis_url)) as running_story:
        yield running_story
    unfinished_tasks = await remaining_tasks()
    assert not unfinished_tasks, f"tasks were left: {unfinished_tasks}"


@pytest.fixture
def event() -> dict[str, object]:
    """Give the body that a pipeline also posts to LaunchDarkly."""
    return {
        "projectKey": "default",
        "environmentKey": "production",
        "applicationKey": "billing-service",
        "version": "0123456789abcdef0123456789abcdef01234567",
        "eventType": "finished",
    }
