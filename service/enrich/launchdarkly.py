"""How is LaunchDarkly asked? One GET at a time: bare token, beta header, no redirects, a cap."""

import asyncio
from collections.abc import Callable, Sequence

import aiohttp
from aiohttp import ClientSession, ClientTimeout, DummyCookieJar, TCPConnector, TraceConfig
from yarl import URL

from service.enrich.ratelimit import parse_rate_limits
from service.enrich.verdict import ApiResponse, NoResponse

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
