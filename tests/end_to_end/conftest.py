"""The fixtures of the end-to-end tests: the service in one process, Redis and a simulator."""

from collections.abc import AsyncIterator, Iterator

import pytest
from playwright.async_api import Browser
from redis.asyncio import Redis

from service.settings import Secret
from service.store.keys import Keys
from tests.end_to_end.browser import connect_browser, start_chromium
from tests.end_to_end.harness import ServiceHarness, open_harness, remaining_tasks


@pytest.fixture
async def service(redis_url: str, redis: Redis, keys: Keys) -> AsyncIterator[ServiceHarness]:
    """Build the service; each test opens it with its own settings."""
    async with open_harness(redis, keys.namespace, redis_url=Secret(redis_url)) as harness:
        yield harness
    unfinished_tasks = await remaining_tasks()
    assert not unfinished_tasks, f"tasks were left: {unfinished_tasks}"


@pytest.fixture(scope="session")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Start Chromium once for all tests; yield the address of its DevTools."""
    with start_chromium(tmp_path_factory.mktemp("chromium")) as address:
        yield address


@pytest.fixture
async def browser(chromium: str) -> AsyncIterator[Browser]:
    """Connect to Chromium; the pages of a test share no cookies with those of another."""
    async with connect_browser(chromium) as browser:
        yield browser


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
