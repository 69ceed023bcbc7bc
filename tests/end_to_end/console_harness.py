"""A receiver with a console, failed tickets, and a client with the manners of a browser."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from hashlib import sha1
from typing import Any

import aiohttp
from msgspec.structs import replace
from redis.asyncio.connection import AbstractConnection
from redis.exceptions import ConnectionError as RedisConnectionError

from service.app import add_console, open_receiver
from service.backlog.failures import FailureRecord, compress_raw, encode_failure
from service.cli.preconditions import read_sources
from tests.end_to_end.harness import ServiceHarness
from tests.factories import make_ticket

TOKEN = "a-token-of-the-operators"


@asynccontextmanager
async def open_console(service: ServiceHarness, **changes: object) -> AsyncIterator[str]:
    """Open another receiver, with a console; yields its URL."""
    assert service.runtime is not None
    runtime = replace(service.runtime, settings=replace(service.settings, **changes))
    sources = read_sources(runtime.settings, {})
    async with open_receiver(
        runtime, sources, add_routes=partial(add_console, runtime, sources)
    ) as url:
        yield url


async def add_failed_ticket(
    service: ServiceHarness,
    *,
    version: str = "a90a8a2",
    raw: bytes = b'{"code":"not_found"}',
    detail: str = "",
    offset_ms: int = 0,
) -> str:
    """Store a failed ticket; returns its job."""
    ticket = make_ticket(
        project="default",
        environment="production",
        application="billing-service",
        version=version,
    )
    job = f"find:default/production/billing-service/{version}"
    failure = FailureRecord(reason="not_found", detail=detail, raw=raw, ticket=ticket)
    seconds, _ = await service.redis.time()
    await service.redis.hset(service.keys.failed_data, job, encode_failure(failure))
    await service.redis.hset(service.keys.failed_raw, job, compress_raw(failure.raw))
    await service.redis.zadd(service.keys.failed, {job: seconds * 1000 + offset_ms})
    return job


async def failure_digest(service: ServiceHarness, job: str) -> str:
    """Return the digest of a failed ticket, as the pages have it."""
    failure: Any = await service.redis.hget(service.keys.failed_data, job)
    return sha1(failure, usedforsecurity=False).hexdigest()


async def disconnect_redis(service: ServiceHarness) -> None:
    """Let the service lose Redis; no later command gets a connection.

    The pool refuses, because a connection that is in use now comes back to the pool later, and
    would be opened again at the address that it was made with.
    """
    assert service.runtime is not None
    pool = service.runtime.client.connection_pool
    pool.get_connection = refuse_connection  # type: ignore[method-assign]
    await pool.disconnect()


async def refuse_connection(*_: object, **__: object) -> AbstractConnection:
    """Stand in for the method that takes a connection from a pool; raises RedisConnectionError."""
    raise RedisConnectionError("Error 2 connecting to unix:/nowhere/redis.sock.")


class ConsoleClient:
    """An HTTP client that behaves as a browser: it keeps cookies, and posts with an Origin."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.session = aiohttp.ClientSession(cookie_jar=aiohttp.CookieJar(unsafe=True))

    async def get(self, path: str = "/", **headers: str) -> tuple[int, str]:
        """Return status and text of a page; ``_`` in a header's name stands for ``-``."""
        renamed_headers = {name.replace("_", "-"): value for name, value in headers.items()}
        async with self.session.get(self.url + path, headers=renamed_headers) as response:
            return response.status, await response.text()

    async def post(self, path: str, *, origin: str | None = None, **fields: str) -> int:
        """Post a form; returns the status, without following redirects."""
        headers = {"Origin": self.url if origin is None else origin}
        pending_response = self.session.post(
            self.url + path, data=fields, headers=headers, allow_redirects=False
        )
        async with pending_response as response:
            return response.status

    async def csrf_token(self) -> str:
        """Return the CSRF token of the forms."""
        _, text = await self.get()
        return text.split('name="csrf_token" value="')[1].split('"')[0]
