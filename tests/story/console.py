"""What does the console's test hold in its hands? A door with a console, and what failed there."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from hashlib import sha1
from typing import Any

import aiohttp
from msgspec.structs import replace

from service.app import open_door
from service.backlog.failure import encode_failure, record_failure
from service.backlog.ticket import Ticket
from service.configured import read_sources
from service.outlook import add_console
from tests.story.stage import Story

TOKEN = "a-token-of-the-operators"


@asynccontextmanager
async def open_console(story: Story, **changes: object) -> AsyncIterator[str]:
    """Open one more door, which has a console; gives its address."""
    assert story.house is not None
    house = replace(story.house, settings=replace(story.settings, **changes))
    sources = read_sources(house.settings, {})
    async with open_door(house, sources, add_pages=partial(add_console, house, sources)) as url:
        yield url


async def let_fail(
    story: Story,
    *,
    version: str = "a90a8a2",
    raw: bytes = b'{"code":"not_found"}',
    detail: str = "",
    later_ms: int = 0,
) -> str:
    """Let a deployment have failed; gives its job."""
    ticket = Ticket(
        source="native",
        delivery="d-1",
        outcome="succeeded",
        project="default",
        environment="production",
        application="billing-service",
        version=version,
    )
    job = f"find:default/production/billing-service/{version}"
    failure = record_failure("not_found", detail=detail, raw=raw, ticket=ticket)
    seconds, _ = await story.redis.time()
    await story.redis.hset(story.keys.failures, job, encode_failure(failure))
    await story.redis.zadd(story.keys.failed, {job: seconds * 1000 + later_ms})
    return job


async def digest_of(story: Story, job: str) -> str:
    """Name what is kept of a failure, as a page does."""
    kept: Any = await story.redis.hget(story.keys.failures, job)
    return sha1(kept, usedforsecurity=False).hexdigest()


class Visitor:
    """Somebody with a browser's manners: cookies, and an Origin when they post."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.session = aiohttp.ClientSession(cookie_jar=aiohttp.CookieJar(unsafe=True))

    async def get(self, path: str = "/", **headers: str) -> tuple[int, str]:
        """Look at a page; gives status and text."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        async with self.session.get(self.url + path, headers=named) as response:
            return response.status, await response.text()

    async def post(self, path: str, *, origin: str | None = None, **fields: str) -> int:
        """Send a form; gives the status, redirects not followed."""
        headers = {"Origin": self.url if origin is None else origin}
        sent = self.session.post(
            self.url + path, data=fields, headers=headers, allow_redirects=False
        )
        async with sent as response:
            return response.status

    async def find_mark(self) -> str:
        """Give the mark that our forms carry."""
        _, text = await self.get()
        return text.split('name="mark" value="')[1].split('"')[0]
