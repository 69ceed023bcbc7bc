"""What does a story play on? The whole house in one process, real Redis, a simulated API."""

from collections.abc import AsyncIterator

import pytest
from redis.asyncio import Redis

from service.settings import Secret
from service.store.keys import Keys
from tests.story.stage import Story, find_tasks_left, set_stage


@pytest.fixture
async def story(redis_url: str, redis: Redis, keys: Keys) -> AsyncIterator[Story]:
    """Set the stage; a test opens it as it likes."""
    async with set_stage(redis, keys.namespace, redis_url=Secret(redis_url)) as told:
        yield told
    left = await find_tasks_left()
    assert not left, f"tasks were left: {left}"


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
