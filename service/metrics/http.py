"""What does Prometheus read? ``GET /metrics``: what this process did, and how the namespace is.

Where that has a port of its own, ``GET /healthz`` beside it tells whether work still goes on.
"""

import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from typing import cast

from aiohttp import web
from msgspec import Struct, json
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import Metric

from service.enrich.budget import load_budget_prelude
from service.metrics.namespace import NamespaceStats, collect_gauges
from service.store import RedisUnavailable
from service.store.group_commit import GroupCommit
from service.store.keys import Keys
from service.store.script import Script, load_script

_SHUTDOWN_TIMEOUT_S = 5.0


@asynccontextmanager
async def serve_app(app: web.Application, *, host: str, port: int) -> AsyncIterator[str]:
    """Serve an application; gives its address."""
    # aiohttp's own logger quotes malformed requests, and with them parts of secrets.
    silent_logger = logging.Logger("silent")  # noqa: LOG001 - no part of the tree, so that nobody hears it
    silent_logger.addHandler(logging.NullHandler())
    runner = web.AppRunner(
        app, access_log=None, logger=silent_logger, shutdown_timeout=_SHUTDOWN_TIMEOUT_S
    )
    await runner.setup()
    try:
        site = web.TCPSite(runner, host, port)
        await site.start()
        yield f"http://{f'[{host}]' if ':' in host else host}:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


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


_PROBE_TIMEOUT_S = 2.0


class HealthStats(Struct, frozen=True, kw_only=True):
    """How things stand at one moment.

    ``closed_s`` is 0 unless LaunchDarkly told us to keep off, and ``why`` says what for. ``room``
    is how many calls may be made now; while the quota is met it is 0, and ``opens_s`` more than 0.
    """

    backlog: int
    failed: int
    records: int
    closed_s: float
    closed_reason: str
    in_flight: int
    calls_left: int
    next_call_in_s: float


class HealthReader:
    """Looks at one namespace; looking also proves that Redis takes writes.

    ``share`` is the part of each LaunchDarkly limit that is ours.
    """

    def __init__(self, group_commit: GroupCommit, *, keys: Keys, share: float = 1.0) -> None:
        self._group_commit = group_commit
        self._keys = (
            *(
                keys.backlog,
                keys.failed,
                keys.enriched,
                keys.budget,
                keys.budget_calls,
                keys.budget_waiting,
            ),
            keys.write_probe,
        )
        self._share = share
        self._script: Script = load_script(__package__, "readiness", prelude=load_budget_prelude())

    async def read_stats(self) -> HealthStats:
        """See how things stand; raises Unavailable when Redis cannot be written in time."""
        reply = await self._group_commit.submit(
            self._script, keys=self._keys, args=(self._share,), timeout_s=_PROBE_TIMEOUT_S
        )
        (
            backlog,
            failed,
            records,
            closed_ms,
            closed_reason,
            in_flight,
            calls_left,
            next_call_in_ms,
        ) = cast("tuple[int, int, int, int, bytes, int, int, int]", reply)
        return HealthStats(
            backlog=backlog,
            failed=failed,
            records=records,
            closed_s=closed_ms / 1000,
            closed_reason=closed_reason.decode(),
            in_flight=in_flight,
            calls_left=calls_left,
            next_call_in_s=next_call_in_ms / 1000,
        )


class HealthRoutes:
    """The two questions of whoever runs us: restart it? send it traffic?

    ``list_warnings`` gives what a person should mend although traffic is welcome.
    """

    def __init__(
        self,
        stats_reader: HealthReader,
        *,
        backlog_limit: int,
        list_warnings: Callable[[], Sequence[str]] = tuple,
    ) -> None:
        self._stats_reader = stats_reader
        self._backlog_limit = backlog_limit
        self._list_warnings = list_warnings

    def add_routes(self, app: web.Application) -> None:
        """Answer ``/healthz`` and ``/readyz``."""
        app.router.add_get("/healthz", self._handle_healthz)
        app.router.add_get("/readyz", self._handle_readyz)

    async def _handle_healthz(self, _: web.Request) -> web.Response:
        return _build_json_response(200, {"status": "alive"})

    async def _handle_readyz(self, _: web.Request) -> web.Response:
        try:
            stats = await self._stats_reader.read_stats()
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
        if warnings := self._list_warnings():
            body["warnings"] = warnings
        return _build_json_response(200, body)


def _build_json_response(status: int, body: dict[str, object]) -> web.Response:
    return web.Response(status=status, body=json.encode(body), content_type="application/json")
