"""The fixtures of the end-to-end tests: the service in one process, Redis and a simulator."""

import asyncio
import sys
from collections.abc import AsyncIterator, Callable, Iterator

import pytest
from playwright.async_api import Browser
from redis.asyncio import Redis

from service.cli.event_loop import new_event_loop
from service.settings import Secret
from service.store.keys import Keys
from tests.end_to_end.axe import AXE, PageChecker
from tests.end_to_end.browser import connect_browser, start_chromium
from tests.end_to_end.harness import ServiceHarness, open_harness, remaining_tasks


def pytest_asyncio_loop_factories(
    item: pytest.Item,
) -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Run these tests on the loop of the service; all other tests run on asyncio's.

    Tests that ask for it run with eager tasks too. Python 3.11 has none, and skips them.
    """
    factories: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {"service": new_event_loop}
    marker = item.get_closest_marker("asyncio")
    if (
        sys.version_info >= (3, 12)
        and marker
        and "eager" in marker.kwargs.get("loop_factories", ())
    ):

        def new_eager_loop() -> asyncio.AbstractEventLoop:
            loop = asyncio.new_event_loop()  # uvloop does not call this factory correctly
            loop.set_task_factory(asyncio.eager_task_factory)
            return loop

        factories["eager"] = new_eager_loop
    return factories


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
async def checker(browser: Browser) -> AsyncIterator[PageChecker]:
    """Return a checker; fails on any fault that it found."""
    page = await browser.new_page()
    await page.add_init_script(path=AXE)
    checker = PageChecker(page)
    yield checker
    await page.close()
    assert not checker.faults, "\n".join(map(str, checker.faults))


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
