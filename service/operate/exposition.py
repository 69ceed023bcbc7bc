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

from service.operate.listening import listen
from service.operate.survey import Survey, write_gauges

AskSurvey = Callable[[], Awaitable[Survey | None]]


class Exposition:
    """Writes a registry, and a survey made for this scrape, as text or as OpenMetrics."""

    def __init__(self, registry: CollectorRegistry, survey: AskSurvey) -> None:
        self._registry = registry
        self._survey = survey
        self._have_ended: list[Callable[[], bool]] = []

    def watch(self, has_ended: Callable[[], bool]) -> None:
        """Tell from now on whether this goes on: a process whose worker ended looks well."""
        self._have_ended.append(has_ended)

    def add_to(self, app: web.Application) -> None:
        """Answer ``/metrics``."""
        app.router.add_get("/metrics", self._tell)

    def add_pulse_to(self, app: web.Application) -> None:
        """Answer ``/healthz``. Redis is not asked: its being away is not mended by a restart."""
        app.router.add_get("/healthz", self._tell_pulse)

    async def _tell(self, request: web.Request) -> web.Response:
        encode, kind = choose_encoder(request.headers.get("Accept", ""))
        scrape = _Scrape(self._registry, await self._survey())
        return web.Response(body=encode(scrape), headers={"Content-Type": kind})

    async def _tell_pulse(self, _: web.Request) -> web.Response:
        is_over = any(has_ended() for has_ended in self._have_ended)
        said = {"status": "ended" if is_over else "alive"}
        return web.Response(
            status=503 if is_over else 200, body=json.encode(said), content_type="application/json"
        )


@asynccontextmanager
async def open_exposition(
    exposition: Exposition, *, host: str, port: int
) -> AsyncIterator[str | None]:
    """Serve ``/metrics`` and ``/healthz`` at a port of their own; gives the first. 0: nowhere."""
    if not port:
        yield None
        return
    app = web.Application()
    exposition.add_to(app)
    exposition.add_pulse_to(app)
    async with listen(app, host=host, port=port) as url:
        yield f"{url}/metrics"


class _Scrape:
    """What one scrape collects: scrapes at the same time do not see each other's survey."""

    def __init__(self, registry: CollectorRegistry, survey: Survey | None) -> None:
        self._registry = registry
        self._survey = survey

    def collect(self) -> Iterator[Metric]:
        """Give every metric once."""
        yield from self._registry.collect()
        yield from write_gauges(self._survey)
