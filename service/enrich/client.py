"""The LaunchDarkly client: one GET at a time, each counted against the budget."""

import asyncio
from collections.abc import Callable, Sequence

import aiohttp
from aiohttp import ClientSession, ClientTimeout, DummyCookieJar, TCPConnector, TraceConfig
from msgspec import Struct
from yarl import URL

from service.enrich.budget import Budget
from service.enrich.pagination import ApiRequest
from service.enrich.rate_limits import RateLimitHeaders, parse_rate_limits
from service.enrich.verdict import ApiResponse, NoResponse, classify_response, has_body

REQUEST_TIMEOUT_S = 30.0
_CONNECT_TIMEOUT_S = 5.0
_CHUNK_BYTES = 1 << 16

RecordCall = Callable[[str, ApiResponse | NoResponse, float], None]


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

    async def get(self, path: str, *, route: str) -> ApiResponse | NoResponse:
        """Return the response for a path with its query. A network error is a ``NoResponse``."""
        loop = asyncio.get_running_loop()
        started = loop.time()
        response = await self._get(path, route)
        if self._record_call is not None:
            self._record_call(route, response, loop.time() - started)
        return response

    async def _get(self, path: str, route: str) -> ApiResponse | NoResponse:
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
    token: str, *, max_connections: int, trace_configs: Sequence[TraceConfig] = ()
) -> ClientSession:
    """Open the HTTP session with LaunchDarkly's headers.

    The API takes the token without "Bearer" in Authorization, and its beta routes need the
    LD-API-Version header (https://launchdarkly.com/docs/api).
    """
    return ClientSession(
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


_MAX_TRIES = 5
_NO_RATE_LIMITS = RateLimitHeaders()


class Upstream(Struct, frozen=True):
    """LaunchDarkly, the budget, and a limiter in front of the budget.

    The limiter bounds how many tickets of one worker poll the budget at the same time.
    """

    launchdarkly: LaunchDarkly
    budget: Budget
    limiter: asyncio.Semaphore


class BudgetedCalls:
    """The calls of one job, each acquired from the budget under ``call_id`` before it is made.

    If ``reserved_by`` names a job, the claim of that job's lease acquired the first call already.
    ``scope`` names what the calls read: see :func:`service.enrich.budget.format_access_scope`.
    """

    __slots__ = ("_call_id", "_reserved_by", "_scope", "_upstream", "count")

    def __init__(
        self, upstream: Upstream, call_id: str, *, scope: str, reserved_by: str | None = None
    ) -> None:
        self._upstream = upstream
        self._call_id = call_id
        self._scope = scope
        self._reserved_by = reserved_by
        self.count = 0

    async def fetch(self, request: ApiRequest) -> ApiResponse | NoResponse:
        """Return the response to one call, recorded in the budget.

        A call that is rate limited is repeated up to four times, because the responses before it
        would be lost with the attempt. A reserved call is not repeated: nothing is lost yet.
        """
        tries_left = _MAX_TRIES
        while True:
            is_reserved = self._reserved_by is not None
            call_id = await self._acquire(request)
            response = await self._upstream.launchdarkly.get(request.path, route=request.route)
            self.count += 1
            recorded = self._record(call_id, response)
            if has_body(response):
                return response
            await recorded  # the budget must be closed before any worker can claim again
            tries_left -= 1
            is_rate_limited = classify_response(response) == "rate_limited"
            if is_reserved or not is_rate_limited or not tries_left:
                return response

    async def _acquire(self, request: ApiRequest) -> str:
        """Return the id of the call that may be made now: the reserved one, else a new one."""
        if self._reserved_by is not None:
            call_id, self._reserved_by = self._reserved_by, None
            return call_id
        async with self._upstream.limiter:
            await self._upstream.budget.acquire(self._call_id, request.route)
        return self._call_id

    def _record(self, call_id: str, response: ApiResponse | NoResponse) -> asyncio.Future[object]:
        rate_limits = response.rate_limits if isinstance(response, ApiResponse) else _NO_RATE_LIMITS
        result = classify_response(response)
        scope = self._scope if has_body(response) or result == "forbidden" else ""
        return self._upstream.budget.record(call_id, result, rate_limits, scope=scope)
