"""The LaunchDarkly client: one GET at a time, each counted against the budget."""

import asyncio
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar, cast

import aiohttp
from aiohttp import ClientSession, ClientTimeout, DummyCookieJar, TCPConnector, TraceConfig
from msgspec import Struct
from msgspec.structs import replace
from yarl import URL

from service.enrich.budget import Budget
from service.enrich.models import Drift, Malformed
from service.enrich.pagination import ApiRequest
from service.enrich.rate_limits import RateLimitHeaders, parse_rate_limits
from service.enrich.verdict import (
    ApiResponse,
    CallFailure,
    NoResponse,
    RepeatPolicy,
    classify_response,
    has_body,
    repeat_wait,
)

REQUEST_TIMEOUT_S = 30.0
_CONNECT_TIMEOUT_S = 5.0
_CHUNK_BYTES = 1 << 16

T = TypeVar("T")
RecordCall = Callable[[str, ApiResponse | NoResponse, float], None]
Parse = Callable[[bytes], T | Drift | Malformed]
"""Parses a body: the value, JSON of another shape, or no JSON at all."""


class Parsed(Struct, Generic[T], frozen=True):
    """A good response: the body, and the value that was parsed from it."""

    value: T | Drift
    body: bytes
    rate_limits: RateLimitHeaders


class LaunchDarkly:
    """The Engineering Insights API at ``origin`` (``https://host``).

    ``clock`` returns epoch seconds. ``record_call`` receives the route, the response and the
    duration (s) of each call. A body over ``max_bytes`` is dropped.
    """

    def __init__(
        self,
        session: ClientSession,
        *,
        origin: str,
        max_bytes: int,
        clock: Callable[[], float],
        record_call: RecordCall | None = None,
    ) -> None:
        self.origin = origin.rstrip("/")
        self._session = session
        self.max_bytes = max_bytes
        self._clock = clock
        self._record_call = record_call

    async def get_parsed(
        self, path: str, *, route: str, parse: Parse[T]
    ) -> Parsed[T] | ApiResponse | NoResponse:
        """Return the response for a path, with the value of its body.

        A body that is not JSON is an ``ApiResponse`` that says so in ``malformed``.
        """
        loop = asyncio.get_running_loop()
        started = loop.time()
        response = await self.get(path, route=route)
        took_s = loop.time() - started
        parsed: Parsed[T] | None = None
        if has_body(response):
            value = parse(response.body)
            if isinstance(value, Malformed):
                response = replace(response, malformed=value.reason)
            else:
                parsed = Parsed(value, response.body, response.rate_limits)
        if self._record_call is not None:
            self._record_call(route, response, took_s)
        return response if parsed is None else parsed

    async def get(self, path: str, *, route: str) -> ApiResponse | NoResponse:
        """Return the response for a path with its query. A network error is a ``NoResponse``."""
        try:
            url = URL(self.origin + path, encoded=True)
            async with self._session.get(url, allow_redirects=False) as response:
                body = await self._read_body(response)
                rate_limits = parse_rate_limits(
                    lambda name: response.headers.getall(name, ()),
                    route=route,
                    now_ms=int(self._clock() * 1000),
                )
        except TimeoutError:
            return NoResponse(reason="timed out")
        except (aiohttp.ClientError, ValueError, OSError) as error:
            return NoResponse(reason=type(error).__name__)
        if body is None:
            return ApiResponse(
                status=response.status, body=b"", rate_limits=rate_limits, oversized=True
            )
        return ApiResponse(status=response.status, body=body, rate_limits=rate_limits)

    async def _read_body(self, response: aiohttp.ClientResponse) -> bytes | None:
        """Return the decoded body, or None when it is over the cap.

        The body is measured while it arrives: Content-Length is the compressed size and may be
        wrong.
        """
        if (response.content_length or 0) > self.max_bytes:
            return None
        chunks, size = [], 0
        async for chunk in response.content.iter_chunked(_CHUNK_BYTES):
            size += len(chunk)
            if size > self.max_bytes:
                response.close()
                return None
            chunks.append(chunk)
        return b"".join(chunks)


def open_session(
    token: str,
    *,
    max_connections: int,
    proxy: str | None = None,
    trace_configs: Sequence[TraceConfig] = (),
) -> ClientSession:
    """Open the HTTP session with LaunchDarkly's headers, through ``proxy`` (a URL) if it is set.

    The API takes the token without "Bearer" in Authorization, and its beta routes need the
    LD-API-Version header (https://launchdarkly.com/docs/api).
    """
    return ClientSession(
        proxy=proxy,
        connector=TCPConnector(limit=max_connections, ttl_dns_cache=60),
        timeout=ClientTimeout(total=REQUEST_TIMEOUT_S, sock_connect=_CONNECT_TIMEOUT_S),
        cookie_jar=DummyCookieJar(),
        headers={
            "Authorization": token,
            "LD-API-Version": "beta",
            "Accept": "application/json",
            "User-Agent": "deployment-enricher",
        },
        raise_for_status=False,
        trace_configs=list(trace_configs),
    )


_NO_RATE_LIMITS = RateLimitHeaders()


class Upstream(Struct, frozen=True, kw_only=True):
    """LaunchDarkly, the budget, a limiter in front of the budget, and how calls are repeated.

    The limiter bounds how many tickets of one worker poll the budget at the same time. ``rng``
    returns numbers in [0, 1).
    """

    launchdarkly: LaunchDarkly
    budget: Budget
    limiter: asyncio.Semaphore
    rng: Callable[[], float]
    repeats: RepeatPolicy = RepeatPolicy()


class BudgetedCalls:
    """The calls of one job, each acquired from the budget under ``call_id`` before it is made.

    If ``reserved_by`` names a job, the claim of that job's lease acquired the first call already.
    ``scope`` names what the calls read: see :func:`service.enrich.budget.format_access_scope`.
    ``count`` is how many calls were made, ``answered`` is how many of them returned JSON.
    """

    __slots__ = (
        "_call_id",
        "_has_progress",
        "_reserved_by",
        "_scope",
        "_upstream",
        "answered",
        "count",
    )

    def __init__(
        self, upstream: Upstream, call_id: str, *, scope: str, reserved_by: str | None = None
    ) -> None:
        self._upstream = upstream
        self._call_id = call_id
        self._scope = scope
        self._reserved_by = reserved_by
        self._has_progress = reserved_by is None
        self.count = 0
        self.answered = 0

    async def fetch(self, request: ApiRequest, parse: Parse[T]) -> Parsed[T] | CallFailure:
        """Return the parsed response to one call, recorded in the budget.

        A call that fails for a passing reason is repeated as ``repeat_wait`` says, because the
        responses before it would be lost with the attempt. Each try is acquired from the budget.
        """
        tries = 0
        while True:
            result = await self._try(request, parse)
            tries += 1
            if isinstance(result, Parsed):
                self.answered += 1
                self._has_progress = True
                return result
            wait_s = repeat_wait(
                result,
                tries=tries,
                has_progress=self._has_progress,
                jitter=self._upstream.rng(),
                policy=self._upstream.repeats,
            )
            if wait_s is None:
                return result
            await asyncio.sleep(wait_s)

    async def _try(self, request: ApiRequest, parse: Parse[T]) -> Parsed[T] | CallFailure:
        """Make one call; after a failure, wait until the budget knows of it.

        So the budget is closed before any worker can claim again.
        """
        call_id = await self._acquire(request)
        response = await self._upstream.launchdarkly.get_parsed(
            request.path, route=request.route, parse=parse
        )
        self.count += 1
        record = self._upstream.budget.record
        if isinstance(response, Parsed):
            record(call_id, "ok", response.rate_limits, scope=self._scope)
            return response
        rate_limits = response.rate_limits if isinstance(response, ApiResponse) else _NO_RATE_LIMITS
        result = classify_response(response)
        scope = self._scope if result == "forbidden" else ""
        closed_ms = await record(call_id, result, rate_limits, scope=scope)
        return CallFailure(response, closed_s=cast("int", closed_ms) / 1000)

    async def _acquire(self, request: ApiRequest) -> str:
        """Return the id of the call that may be made now: the reserved one, else a new one."""
        if self._reserved_by is not None:
            call_id, self._reserved_by = self._reserved_by, None
            return call_id
        async with self._upstream.limiter:
            await self._upstream.budget.acquire(self._call_id, request.route)
        return self._call_id
