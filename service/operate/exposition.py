"""What does Prometheus read? ``GET /metrics``: what this process did, and how the namespace is.

Where that has a port of its own, ``GET /healthz`` beside it tells whether work still goes on.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager

from aiohttp import web
from msgspec import json
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import Metric

from service.operate.listening import serve_app
from service.operate.survey import NamespaceStats, collect_gauges

ReadStats = Callable[[], Awaitable[NamespaceStats | None]]


class Exposition:
    """Writes a registry, and a survey made for this scrape, as text or as OpenMetrics."""

    def __init__(self, registry: CollectorRegistry, read_stats: ReadStats) -> None:
        self._registry = registry
        self._read_stats = read_stats
        self._end_checks: list[Callable[[], bool]] = []

    def add_end_check(self, has_ended: Callable[[], bool]) -> None:
        """Tell from now on whether this goes on: a process whose worker ended looks well."""
        self._end_checks.append(has_ended)

    def add_metrics_route(self, app: web.Application) -> None:
        """Answer ``/metrics``."""
        app.router.add_get("/metrics", self._handle_metrics)

    def add_health_route(self, app: web.Application) -> None:
        """Answer ``/healthz``. Redis is not asked: its being away is not mended by a restart."""
        app.router.add_get("/healthz", self._handle_healthz)

    async def _handle_metrics(self, request: web.Request) -> web.Response:
        encode, content_type = choose_encoder(request.headers.get("Accept", ""))
        scrape = _Scrape(self._registry, await self._read_stats())
        return web.Response(body=encode(scrape), headers={"Content-Type": content_type})

    async def _handle_healthz(self, _: web.Request) -> web.Response:
        is_stopped = any(has_ended() for has_ended in self._end_checks)
        body = {"status": "ended" if is_stopped else "alive"}
        return web.Response(
            status=503 if is_stopped else 200,
            body=json.encode(body),
            content_type="application/json",
        )


@asynccontextmanager
async def serve_exposition(
    exposition: Exposition, *, host: str, port: int
) -> AsyncIterator[str | None]:
    """Serve ``/metrics`` and ``/healthz`` at a port of their own; gives the first. 0: nowhere."""
    if not port:
        yield None
        return
    app = web.Application()
    exposition.add_metrics_route(app)
    exposition.add_health_route(app)
    async with serve_app(app, host=host, port=port) as url:
        yield f"{url}/metrics"


class _Scrape:
    """What one scrape collects: scrapes at the same time do not see each other's survey."""

    def __init__(self, registry: CollectorRegistry, stats: NamespaceStats | None) -> None:
        self._registry = registry
        self._stats = stats

    def collect(self) -> Iterator[Metric]:
        """Give every metric once."""
        yield from self._registry.collect()
        yield from collect_gauges(self._stats)
