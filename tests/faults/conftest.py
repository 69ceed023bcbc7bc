"""What do faults fall on within one process? The whole house, real Redis, a simulated API."""

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
            lease=5.0,
            grace=2.0,
        )
        told = Story(settings, simulator, redis)
        yield told
        await told.close()
