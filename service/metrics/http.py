"""The HTTP routes for operators: ``/metrics``, ``/healthz`` and ``/readyz``.

``/metrics`` holds the counters of this process and the gauges of the namespace. A worker serves it
on a port of its own, with a ``/healthz`` that fails once the worker has ended.
"""

import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager

from aiohttp import web
from aiohttp.http_exceptions import ContentEncodingError, HttpProcessingError
from msgspec import json
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import Metric

from service.log import EventLogger
from service.metrics.listeners import find_addresses, open_listeners
from service.metrics.namespace import NamespaceStats, collect_gauges, format_forbidden
from service.store import RedisUnavailable
from service.store.redis_clock import MIN_REPORTED_S

ReadStats = Callable[[], Awaitable[NamespaceStats]]

SHUTDOWN_TIMEOUT_S = 5.0
MAX_HEADER_BYTES = 1 << 14  # of one line; aiohttp's own limit, 8 KiB, is below that of most proxies

_READ_BUFFER_BYTES = 1 << 16  # half of what a connection buffers before its sender has to wait

_MALFORMED = "the request is not HTTP, or its head is too large"
_UNKNOWN_ENCODING = "the receiver does not know the encoding of the body"


class _ErrorHandler(logging.Handler):
    """Logs what aiohttp's server logs, but never quotes a malformed request: it may hold secrets.

    ``request_error`` is a bug of ours, with its exception. ``webhook_rejected`` is a request that
    aiohttp refused before any handler saw it. A body that is not encoded as its headers say is no
    bug: its handler has answered, and aiohttp reads the rest in vain.
    """

    def __init__(self, log: EventLogger) -> None:
        super().__init__(logging.ERROR)
        self._log = log

    def emit(self, record: logging.LogRecord) -> None:
        """Log one event for a record with an exception."""
        error = record.exc_info[1] if record.exc_info else None
        if isinstance(error, HttpProcessingError):
            has_unknown_encoding = isinstance(error, ContentEncodingError)
            reason = _UNKNOWN_ENCODING if has_unknown_encoding else _MALFORMED
            self._log.info("webhook_rejected", status=error.code, source="other", reason=reason)
        elif error is not None and not isinstance(error, web.RequestPayloadError):
            self._log.exception("request_error", exc_info=error)


@asynccontextmanager
async def serve_app(
    app: web.Application,
    *,
    host: str,
    port: int,
    log: EventLogger | None = None,
    shutdown_timeout_s: float = SHUTDOWN_TIMEOUT_S,
) -> AsyncIterator[str]:
    """Serve an application while the context lasts; yields its URL.

    On exit, requests that are in progress have ``shutdown_timeout_s`` to end. ``log`` receives the
    errors of handlers and the requests that are not HTTP.
    """
    logger = logging.Logger("http")  # noqa: LOG001 - outside the tree: no handler inherits it
    logger.addHandler(logging.NullHandler() if log is None else _ErrorHandler(log))
    runner = web.AppRunner(
        app,
        access_log=None,
        logger=logger,
        shutdown_timeout=shutdown_timeout_s,
        max_line_size=MAX_HEADER_BYTES,
        max_field_size=MAX_HEADER_BYTES,
        read_bufsize=_READ_BUFFER_BYTES,
    )
    await runner.setup()
    try:
        for listener in open_listeners(await find_addresses(host, port)):
            await web.SockSite(runner, listener).start()
        yield f"http://{f'[{host}]' if ':' in host else host}:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


class Exposition:
    """Renders the counters of a registry and the gauges of the namespace, as text or OpenMetrics.

    ``read_stats`` may raise RedisUnavailable.
    """

    def __init__(self, registry: CollectorRegistry, read_stats: ReadStats) -> None:
        self._registry = registry
        self._read_stats = read_stats
        self._end_checks: list[Callable[[], bool]] = []

    def add_end_check(self, has_ended: Callable[[], bool]) -> None:
        """Make ``/healthz`` fail once ``has_ended`` is true."""
        self._end_checks.append(has_ended)

    def add_metrics_route(self, app: web.Application) -> None:
        """Add ``GET /metrics``."""
        app.router.add_get("/metrics", self._handle_metrics)

    def add_health_route(self, app: web.Application) -> None:
        """Add ``GET /healthz``. It ignores Redis, which a restart does not bring back."""
        app.router.add_get("/healthz", self._handle_healthz)

    async def _handle_metrics(self, request: web.Request) -> web.Response:
        encode, content_type = choose_encoder(request.headers.get("Accept", ""))
        stats: NamespaceStats | None
        try:
            stats = await self._read_stats()
        except RedisUnavailable:
            stats = None
        body = encode(_Scrape(self._registry, stats))
        return web.Response(body=body, headers={"Content-Type": content_type})

    async def _handle_healthz(self, _: web.Request) -> web.Response:
        if any(has_ended() for has_ended in self._end_checks):
            return _build_json_response(503, {"status": "ended"})
        return _build_json_response(200, {"status": "alive"})


@asynccontextmanager
async def serve_exposition(
    exposition: Exposition, *, host: str, port: int, log: EventLogger | None = None
) -> AsyncIterator[str | None]:
    """Serve ``/metrics`` and ``/healthz`` on a port of their own; yields the URL of ``/metrics``.

    Port 0 serves nothing and yields None.
    """
    if not port:
        yield None
        return
    app = web.Application()
    exposition.add_metrics_route(app)
    exposition.add_health_route(app)
    async with serve_app(app, host=host, port=port, log=log) as url:
        yield f"{url}/metrics"


class _Scrape:
    """The metrics of one scrape: concurrent scrapes do not share the state of the namespace."""

    def __init__(self, registry: CollectorRegistry, stats: NamespaceStats | None) -> None:
        self._registry = registry
        self._stats = stats

    def collect(self) -> Iterator[Metric]:
        """Yield every metric once, as prometheus_client's encoders expect."""
        yield from self._registry.collect()
        yield from collect_gauges(self._stats)


class HealthRoutes:
    """The receiver's liveness and readiness: whether to restart it, and whether to send it traffic.

    ``read_stats`` may raise RedisUnavailable. ``lease_s`` is the lease of workers.
    ``list_warnings`` returns problems that a person should fix while the receiver stays ready.
    """

    def __init__(
        self,
        read_stats: ReadStats,
        *,
        backlog_limit: int,
        lease_s: float,
        list_warnings: Callable[[], Sequence[str]] = tuple,
    ) -> None:
        self._read_stats = read_stats
        self._backlog_limit = backlog_limit
        self._lease_s = lease_s
        self._list_warnings = list_warnings

    def add_routes(self, app: web.Application) -> None:
        """Add ``GET /healthz`` and ``GET /readyz``."""
        app.router.add_get("/healthz", self._handle_healthz)
        app.router.add_get("/readyz", self._handle_readyz)

    async def _handle_healthz(self, _: web.Request) -> web.Response:
        return _build_json_response(200, {"status": "alive"})

    async def _handle_readyz(self, _: web.Request) -> web.Response:
        try:
            stats = await self._read_stats()
        except RedisUnavailable as error:
            return _build_json_response(503, {"status": "unready", "reasons": [f"redis: {error}"]})
        reasons = []
        if stats.backlog >= self._backlog_limit:
            reasons.append(
                f"backlog: {stats.backlog} tickets wait, the limit is {self._backlog_limit}"
            )
        if stats.closed_reason == "token refused":
            reasons.append("token: LaunchDarkly refuses the access token")
        if reasons:
            return _build_json_response(503, {"status": "unready", "reasons": reasons})
        body: dict[str, object] = {"status": "ready", "backlog": stats.backlog}
        if (silent_s := stats.find_stall_s(self._lease_s)) is not None:
            # Not a 503: webhooks are still accepted, and more refusals would help nobody.
            reason = f"workers: none for {silent_s:.0f} s, and {stats.backlog} tickets wait"
            body |= {"status": "stalled", "reasons": [reason]}
        if warnings := self._find_warnings(stats):
            body["warnings"] = warnings
        return _build_json_response(200, body)

    def _find_warnings(self, stats: NamespaceStats) -> list[str]:
        warnings = list(self._list_warnings())
        if forbidden := format_forbidden(stats):
            warnings.append(f"forbidden: the access token may not read {forbidden}")
        if stats.clock_behind_s >= MIN_REPORTED_S:
            warnings.append(f"redis clock: it was set back by {stats.clock_behind_s:.1f} s")
        return warnings


def _build_json_response(status: int, body: dict[str, object]) -> web.Response:
    return web.Response(status=status, body=json.encode(body), content_type="application/json")
