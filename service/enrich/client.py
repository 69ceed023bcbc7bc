"""The LaunchDarkly client: one call at a time, each counted against the budget."""

import asyncio
import sys
from collections.abc import Callable, Sequence
from io import BytesIO
from typing import Generic, TypeVar, cast

import aiohttp
from aiohttp import ClientSession, ClientTimeout, DummyCookieJar, TCPConnector, TraceConfig
from msgspec import Struct
from msgspec.structs import replace
from yarl import URL

from service.buffer_memory import BufferMemory, MemoryHold, Reading
from service.enrich.budget import Budget
from service.enrich.models import Drift, Malformed
from service.enrich.pagination import ApiRequest
from service.enrich.rate_limits import RateLimitHeaders, parse_rate_limits
from service.enrich.step_runner import StepRunner
from service.enrich.steps import LARGE_BYTES, Steps
from service.enrich.verdict import (
    CANCELLED,
    WAITED_FOR_MEMORY,
    ApiResponse,
    CallFailure,
    NoResponse,
    RepeatPolicy,
    classify_response,
    has_body,
    repeat_wait,
)
from service.json_repair import repair_json
from service.store.group_commit import ScriptReply

LIST_CALL_PREFIX = "list for "
"""What the id of a further call of a list begins with; the job that needs the list follows."""

REQUEST_TIMEOUT_S = 30.0
_MIN_RESERVED_BYTES = 1 << 16
_CONNECT_TIMEOUT_S = 5.0
_NOT_CONNECTED = (aiohttp.ClientConnectorError, aiohttp.ClientHttpProxyError)

T = TypeVar("T")
RecordCall = Callable[[str, ApiResponse | NoResponse, float], None]
Parse = Callable[[bytes], Steps[T | Drift | Malformed]]
"""Parses a body in steps: the value, JSON of another shape, or no JSON at all."""


class Parsed(Struct, Generic[T], frozen=True):
    """A good response: the body, and the value that was parsed from it."""

    value: T | Drift
    body: bytes
    rate_limits: RateLimitHeaders


class LaunchDarkly:
    """The Engineering Insights API at ``origin`` (``https://host``).

    ``clock`` returns epoch seconds. ``record_call`` receives the route, the response and the
    duration (s) of each call. A body over ``max_bytes`` is dropped. ``step_runner`` parses bodies.
    """

    def __init__(
        self,
        session: ClientSession,
        *,
        origin: str,
        max_bytes: int,
        clock: Callable[[], float],
        record_call: RecordCall | None = None,
        step_runner: StepRunner | None = None,
    ) -> None:
        self.origin = origin.rstrip("/")
        self.step_runner = step_runner or StepRunner()
        self._session = session
        self.max_bytes = max_bytes
        self._clock = clock
        self._record_call = record_call
        self._expected_bytes: dict[str, int] = {}

    async def reserve(self, route: str, hold: MemoryHold) -> Reading:
        """Wait until the next response of a route fits into memory, by the size of the last ones.

        So no connection waits for memory, unless a response is larger than expected.
        """
        reading = Reading(hold)
        await reading.reserve(self._expected_bytes.get(route, _MIN_RESERVED_BYTES))
        reading.has_waited = False
        return reading

    async def get_parsed(
        self, path: str, *, route: str, parse: Parse[T], reading: Reading
    ) -> Parsed[T] | ApiResponse | NoResponse:
        """Return the response for a path, with the value of its body.

        A body that is not JSON is an ``ApiResponse`` that says so in ``malformed``. The memory of a
        large one counts twice: its bytes, and what is parsed from them.
        """
        loop = asyncio.get_running_loop()
        started = loop.time()
        response = await self.get(path, route=route, reading=reading)
        took_s = loop.time() - started
        parsed: Parsed[T] | None = None
        size = 0
        if has_body(response):
            size = count_memory(len(response.body))
            await reading.reserve(size)
            response, value = await self._parse_body(response, parse)
            if isinstance(value, Malformed):
                response, size = replace(response, body=b"", malformed=value.reason), 0
            else:
                parsed = Parsed(value, response.body, response.rate_limits)
        reading.settle(size)
        if self._record_call is not None:
            self._record_call(route, response, took_s)
        return response if parsed is None else parsed

    async def _parse_body(
        self, response: ApiResponse, parse: Parse[T]
    ) -> tuple[ApiResponse, T | Drift | Malformed]:
        """Return the value of a body, and the response with the body that was parsed."""
        value = await self.step_runner.run(parse(response.body))
        if isinstance(value, Malformed) and (repaired := repair_json(response.body)) is not None:
            return replace(response, body=repaired), await self.step_runner.run(parse(repaired))
        return response, value

    async def get(
        self, path: str, *, route: str, reading: Reading | None = None
    ) -> ApiResponse | NoResponse:
        """Return the response for a path with its query. A network error is a ``NoResponse``."""
        reading = reading or Reading(BufferMemory(sys.maxsize).open_hold())
        return await self._send("GET", path, None, route=route, reading=reading)

    async def post(self, path: str, body: bytes, *, route: str) -> ApiResponse | NoResponse:
        """Post JSON once and return the response. aiohttp repeats no POST either."""
        loop = asyncio.get_running_loop()
        started = loop.time()
        reading = Reading(BufferMemory(sys.maxsize).open_hold())
        response = await self._send("POST", path, body, route=route, reading=reading)
        if self._record_call is not None:
            self._record_call(route, response, loop.time() - started)
        return response

    async def _send(
        self, method: str, path: str, data: bytes | None, *, route: str, reading: Reading
    ) -> ApiResponse | NoResponse:
        headers = None if data is None else {"Content-Type": "application/json"}
        try:
            url = URL(self.origin + path, encoded=True)
            async with self._session.request(
                method, url, data=data, headers=headers, allow_redirects=False
            ) as response:
                body = await self._read_body(response, reading)
                rate_limits = parse_rate_limits(
                    response.headers.items(),
                    route=route,
                    now_ms=int(self._clock() * 1000),
                )
        except _NOT_CONNECTED as error:
            return NoResponse(reason=type(error).__name__, is_unsent=True)
        except aiohttp.ConnectionTimeoutError:
            return NoResponse(reason="timed out", is_unsent=True)
        except TimeoutError:
            return WAITED_FOR_MEMORY if reading.has_waited else NoResponse(reason="timed out")
        except (aiohttp.ClientError, ValueError, OSError) as error:
            return NoResponse(reason=type(error).__name__)
        finally:
            self._expect(route, count_memory(reading.reserved))
        if body is None:
            return ApiResponse(
                status=response.status, body=b"", rate_limits=rate_limits, oversized=True
            )
        return ApiResponse(status=response.status, body=body, rate_limits=rate_limits)

    def _expect(self, route: str, reserved: int) -> None:
        """Expect the size of the last response, or that of larger ones shortly before."""
        previous = self._expected_bytes.get(route, 0)
        self._expected_bytes[route] = max(_MIN_RESERVED_BYTES, reserved, previous * 3 // 4)

    async def _read_body(self, response: aiohttp.ClientResponse, reading: Reading) -> bytes | None:
        """Return the decoded body, or None when it is over the cap.

        The body is measured while it arrives: Content-Length is the compressed size and may be
        wrong. Reading waits while the memory is used up.
        """
        declared = response.content_length or 0
        if declared > self.max_bytes:
            return None
        if "Content-Encoding" not in response.headers:
            await reading.reserve(declared, timeout_s=REQUEST_TIMEOUT_S)
        content = response.content
        chunk = await content.readany()
        if content.at_eof() and len(chunk) <= min(self.max_bytes, reading.reserved):
            reading.settle(len(chunk))
            return chunk
        buffer = BytesIO()  # unlike a list of chunks, it gives the body without a copy
        size = 0
        while chunk:
            size += len(chunk)
            if size > self.max_bytes:
                response.close()
                return None
            if size > reading.reserved:
                reserved = min(2 * size, self.max_bytes)
                await reading.reserve(reserved, timeout_s=REQUEST_TIMEOUT_S)
            buffer.write(chunk)
            chunk = await content.readany()
        reading.settle(size)
        return buffer.getvalue()


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


def count_memory(size: int) -> int:
    """Return the memory of a response and of what is parsed from it."""
    return size if size < LARGE_BYTES else 2 * size


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
    ``count`` is how many calls were made, ``answered`` is how many of them returned JSON. ``hold``
    counts the bytes of the responses; without it they are not limited.
    """

    __slots__ = (
        "_call_id",
        "_has_progress",
        "_hold",
        "_reserved_by",
        "_scope",
        "_upstream",
        "answered",
        "count",
    )

    def __init__(
        self,
        upstream: Upstream,
        call_id: str,
        *,
        scope: str,
        reserved_by: str | None = None,
        hold: MemoryHold | None = None,
    ) -> None:
        self._hold = hold or BufferMemory(sys.maxsize).open_hold()
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
        """Make one call, and return it to the budget; that of a list also if it is cancelled.

        After a failure, wait until the budget knows of it: it is closed before any worker can claim
        again.
        """
        launchdarkly = self._upstream.launchdarkly
        reading = await launchdarkly.reserve(request.route, self._hold)
        call_id = await self._acquire(request)
        try:
            response = await launchdarkly.get_parsed(
                request.path, route=request.route, parse=parse, reading=reading
            )
        except asyncio.CancelledError:
            if call_id.startswith(LIST_CALL_PREFIX):  # a settled ticket returns the call of its job
                self._record(call_id, CANCELLED)
            raise
        self.count += 1
        recorded = self._record(call_id, response)
        if isinstance(response, Parsed):
            return response
        return CallFailure(response, closed_s=cast("int", await recorded) / 1000)

    def _record(
        self, call_id: str, response: Parsed[T] | ApiResponse | NoResponse
    ) -> asyncio.Future[ScriptReply]:
        """Record a response in the budget."""
        record = self._upstream.budget.record
        if isinstance(response, Parsed):
            return record(call_id, "ok", response.rate_limits, scope=self._scope)
        rate_limits = response.rate_limits if isinstance(response, ApiResponse) else _NO_RATE_LIMITS
        result = classify_response(response)
        scope = self._scope if result == "forbidden" else ""
        return record(call_id, result, rate_limits, scope=scope)

    async def _acquire(self, request: ApiRequest) -> str:
        """Return the id of the call that may be made now: the reserved one, else a new one."""
        if self._reserved_by is not None:
            call_id, self._reserved_by = self._reserved_by, None
            return call_id
        async with self._upstream.limiter:
            await self._upstream.budget.acquire(self._call_id, request.route)
        return self._call_id
