"""What does a story play on? The whole house in one process, real Redis, a simulated API."""

import asyncio
import random
import time
from collections.abc import AsyncIterator

import pytest
from redis.asyncio import Redis

from service.operate.listening import listen
from service.settings import Secret, Settings
from service.simulate.options import Options
from service.simulate.server import Simulator
from service.store.keys import Keys
from tests.story.stage import SECRET, Story


@pytest.fixture
async def story(redis_url: str, redis: Redis, keys: Keys) -> AsyncIterator[Story]:
    """Set the stage; a test opens it as it likes."""
    simulator = Simulator(Options(), clock=time.time, chance=random.Random(1))
    async with listen(simulator.app(), host="127.0.0.1", port=0) as upstream:
        settings = Settings(
            access_token=Secret(Options().token),
            launchdarkly_url=upstream,
            redis_url=Secret(redis_url),
            namespace=keys.namespace,
            webhook_secret=Secret(SECRET),
            port=0,
            rate_share=1.0,
            lease=2.0,
            grace=2.0,
        )
        told = Story(settings, simulator, redis)
        yield told
        await told.close()
    others = asyncio.all_tasks() - {asyncio.current_task()}
    left = (await asyncio.wait(others, timeout=5))[1] if others else ()
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
