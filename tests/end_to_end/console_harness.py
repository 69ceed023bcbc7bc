"""The harness of the console's tests: a receiver with a console, and failed tickets in it."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from hashlib import sha1
from typing import Any

import aiohttp
from msgspec.structs import replace

from service.app import add_console, open_receiver
from service.backlog.failures import FailureRecord, encode_failure
from service.backlog.ticket import Ticket
from service.cli.preconditions import read_sources
from tests.end_to_end.harness import ServiceHarness

TOKEN = "a-token-of-the-operators"


@asynccontextmanager
async def open_console(story: ServiceHarness, **changes: object) -> AsyncIterator[str]:
    """Open one more receiver, which has a console; gives its address."""
    assert story.runtime is not None
    runtime = replace(story.runtime, settings=replace(story.settings, **changes))
    sources = read_sources(runtime.settings, {})
    async with open_receiver(
        runtime, sources, add_routes=partial(add_console, runtime, sources)
    ) as url:
        yield url


async def add_failed_ticket(
    story: ServiceHarness,
    *,
    version: str = "a90a8a2",
    raw: bytes = b'{"code":"not_found"}',
    detail: str = "",
    offset_ms: int = 0,
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
    failure = FailureRecord(reason="not_found", detail=detail, raw=raw, ticket=ticket)
    seconds, _ = await story.redis.time()
    await story.redis.hset(story.keys.failed_data, job, encode_failure(failure))
    await story.redis.zadd(story.keys.failed, {job: seconds * 1000 + offset_ms})
    return job


async def failure_digest(story: ServiceHarness, job: str) -> str:
    """Name what is kept of a failure, as a page does."""
    failure: Any = await story.redis.hget(story.keys.failed_data, job)
    return sha1(failure, usedforsecurity=False).hexdigest()


class ConsoleClient:
    """Somebody with a browser's manners: cookies, and an Origin when they post."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.session = aiohttp.ClientSession(cookie_jar=aiohttp.CookieJar(unsafe=True))

    async def get(self, path: str = "/", **headers: str) -> tuple[int, str]:
        """Look at a page; gives status and text."""
        renamed_headers = {name.replace("_", "-"): value for name, value in headers.items()}
        async with self.session.get(self.url + path, headers=renamed_headers) as response:
            return response.status, await response.text()

    async def post(self, path: str, *, origin: str | None = None, **fields: str) -> int:
        """Send a form; gives the status, redirects not followed."""
        headers = {"Origin": self.url if origin is None else origin}
        request = self.session.post(
            self.url + path, data=fields, headers=headers, allow_redirects=False
        )
        async with request as response:
            return response.status

    async def csrf_token(self) -> str:
        """Give the mark that our forms carry."""
        _, text = await self.get()
        return text.split('name="mark" value="')[1].split('"')[0]
