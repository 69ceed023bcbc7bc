"""How is LaunchDarkly asked? One GET at a time: bare token, beta header, no redirects, a cap."""

import asyncio
from collections.abc import Callable, Sequence

import aiohttp
from aiohttp import ClientSession, ClientTimeout, DummyCookieJar, TCPConnector, TraceConfig
from msgspec import Struct
from yarl import URL

from service.enrich.budget import Budget
from service.enrich.pagination import ApiRequest
from service.enrich.rate_limits import RateLimitHeaders, parse_rate_limits
from service.enrich.verdict import ApiResponse, Fail, NoResponse, Retry, classify_response

REQUEST_TIMEOUT_S = 30.0
_CONNECT_TIMEOUT_S = 5.0
_CHUNK_BYTES = 1 << 16

RecordCall = Callable[[str, ApiResponse | NoResponse, float], None]


class LaunchDarkly:
    """The Engineering Insights API. ``origin`` is ``https://host``, ``clock`` epoch seconds.

    ``note_call`` hears of each call its route, what it came to, and how long that took (s).
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
        """Ask for a path with its query; every failure of the network is a :class:`Silence`."""
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
        """Read the decoded body, at most the cap: a size told in advance may be a lie."""
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
    """Open the HTTP session: the token goes bare, and the beta header exactly once (API docs)."""
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


ResponseCheck = Callable[[ApiResponse | NoResponse], bytes | Retry | Fail]

_MAX_TRIES = 5
_NO_RATE_LIMITS = RateLimitHeaders()


class Upstream(Struct, frozen=True):
    """LaunchDarkly, the budget, and the turnstile before the budget.

    However many tickets of one worker want a call at once, only those in the turnstile ask for it.
    """

    launchdarkly: LaunchDarkly
    budget: Budget
    limiter: asyncio.Semaphore


class BudgetedCalls:
    """The calls made for one job, each under a name in the budget.

    The first came with the lease of ``prepaid``, if there is one; the others are taken as ``name``.
    """

    __slots__ = ("_call_id", "_reserved_by", "_upstream", "count")

    def __init__(self, upstream: Upstream, call_id: str, *, reserved_by: str | None = None) -> None:
        self._upstream = upstream
        self._call_id = call_id
        self._reserved_by = reserved_by
        self.count = 0

    async def fetch(self, request: ApiRequest, check: ResponseCheck) -> bytes | Retry | Fail:
        """Make one call and judge its answer.

        What was fetched before is not thrown away for a rate limit: the call is made again.
        """
        tries_left = _MAX_TRIES
        while True:
            is_reserved = self._reserved_by is not None
            call_id = await self._acquire(request)
            response = await self._upstream.launchdarkly.get(request.path, route=request.route)
            self.count += 1
            recorded = self._record(call_id, response)
            verdict = check(response)
            if isinstance(verdict, bytes):
                return verdict
            await recorded  # the budget must be closed before anybody can claim again
            if is_reserved or isinstance(verdict, Fail) or not verdict.retry_in_place:
                return verdict
            tries_left -= 1
            if not tries_left:
                return verdict

    async def _acquire(self, request: ApiRequest) -> str:
        if self._reserved_by is not None:
            call_id, self._reserved_by = self._reserved_by, None
            return call_id
        async with self._upstream.limiter:
            await self._upstream.budget.acquire(self._call_id, request.route)
        return self._call_id

    def _record(self, call_id: str, response: ApiResponse | NoResponse) -> asyncio.Future[object]:
        rate_limits = response.rate_limits if isinstance(response, ApiResponse) else _NO_RATE_LIMITS
        return self._upstream.budget.record(call_id, classify_response(response), rate_limits)
