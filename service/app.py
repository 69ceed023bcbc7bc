"""Where are doors and workers made, joined and closed? Here, in a house, and nowhere else."""

import asyncio
import random
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager

from aiohttp import web

from service.accept.choice import DeploymentFilter
from service.accept.sources import Source
from service.accept.webhooks import WebhookHandler
from service.backlog.bell import Wakeup
from service.backlog.looks import RefreshConfig, Refreshes
from service.enrich.budget import Budget, load_spare_prelude
from service.enrich.enricher import Enricher, EnrichLimits
from service.enrich.launchdarkly import LaunchDarkly, open_session
from service.enrich.verdict import RetryPolicy
from service.house import Runtime
from service.operate.contracts import add_contract_routes
from service.operate.counting import MetricsLog, attempt_counters, webhook_counters
from service.operate.exposition import serve_exposition
from service.operate.health import HealthRoutes
from service.operate.listening import serve_app
from service.publish.stream import OutputStream, RetentionConfig
from service.publish.writing import EntryBuilder
from service.settings import Settings, SettingsError, parse_schedule, to_ms
from service.worker import Worker, WorkerConfig, WorkerDependencies


@asynccontextmanager
async def open_receiver(
    runtime: Runtime,
    sources: Mapping[str, Source],
    *,
    list_warnings: Callable[[], Sequence[str]] = tuple,
    add_routes: Callable[[web.Application], None] = lambda _: None,
) -> AsyncIterator[str]:
    """Listen for webhooks; gives the address, and on leaving answers what is in hand."""
    settings = runtime.settings
    app = web.Application(
        client_max_size=settings.max_body_bytes, middlewares=runtime.tracing.middlewares
    )
    runtime.metrics.initialize_sources(sources)
    handler = WebhookHandler(
        sources,
        enqueue=runtime.tracing.wrap_enqueue(runtime.backlog.add),
        park=runtime.backlog.park,
        apply_filter=build_filter(settings).apply,
        clock=time.time,
        log=MetricsLog(runtime.log, webhook_counters(runtime.metrics, sources)),
    )
    app.add_routes(handler.routes())
    health = HealthRoutes(
        runtime.readiness, backlog_limit=settings.backlog_limit, list_warnings=list_warnings
    )
    health.add_routes(app)
    runtime.exposition.add_metrics_route(app)
    add_contract_routes(app)
    add_routes(app)
    async with serve_app(app, host=settings.host, port=settings.port) as url:
        runtime.log.info("door_opened", url=url, sources=sorted(sources))
        yield url
    runtime.log.info("door_closed")


@asynccontextmanager
async def open_worker(runtime: Runtime) -> AsyncIterator[Worker]:
    """Work on the backlog in the background; on leaving, finish what is in hand."""
    settings = runtime.settings
    token = settings.access_token.reveal()
    if not token:
        raise SettingsError("LAUNCHDARKLY_ACCESS_TOKEN is not set: a worker cannot ask without it")
    async with (
        open_session(
            token, max_connections=settings.concurrency, trace_configs=runtime.tracing.trace_configs
        ) as session,
        serve_exposition(runtime.exposition, host=settings.host, port=settings.metrics_port) as url,
    ):
        launchdarkly = LaunchDarkly(
            session,
            origin=settings.launchdarkly_url,
            max_bytes=settings.max_answer_bytes,
            clock=time.time,
            record_call=runtime.metrics.record_call,
        )
        output = _build_output(runtime)
        worker = _build_worker(runtime, launchdarkly, output)
        runtime.metrics.add_worker(worker.count_in_progress)
        worker_task = asyncio.create_task(worker.run(), name="worker")
        runtime.exposition.add_end_check(worker_task.done)
        trim_task = asyncio.create_task(output.trim_periodically(runtime.log), name="trim")
        runtime.log.info("worker_started", concurrency=settings.concurrency, metrics=url)
        try:
            yield worker
        finally:
            worker.stop()
            trim_task.cancel()
            await asyncio.gather(worker_task, trim_task, return_exceptions=True)
            runtime.log.info("worker_stopped")


def _build_output(runtime: Runtime) -> OutputStream:
    settings = runtime.settings
    retention = RetentionConfig(
        dedup_ttl_ms=to_ms(settings.published_retention),
        max_age_ms=to_ms(settings.stream_retention),
        max_records=settings.stream_max_records,
        idle_group_ms=to_ms(settings.idle_group_timeout),
    )
    return OutputStream(runtime.group_commit, keys=runtime.keys, retention=retention)


def _build_refreshes(runtime: Runtime) -> Refreshes:
    config = RefreshConfig(
        schedule=parse_schedule(runtime.settings.refresh_after),
        dedup_ttl_ms=to_ms(runtime.settings.published_retention),
        rate_limit_share=runtime.settings.rate_limit_share,
    )
    return Refreshes(
        runtime.group_commit, keys=runtime.keys, config=config, spare_calls_lua=load_spare_prelude()
    )


def build_filter(settings: Settings) -> DeploymentFilter:
    """Say which deployments are wanted."""
    return DeploymentFilter(
        applications=settings.include_applications.split(),
        environments=settings.include_environments.split(),
        outcomes=settings.include_outcomes.split(),
    )


def _build_entry_builder(settings: Settings) -> EntryBuilder:
    return EntryBuilder(
        refresh_schedule=parse_schedule(settings.refresh_after),
        deployment_filter=build_filter(settings),
        payload_format=settings.payload,
        max_bytes=settings.max_record_bytes,
    )


def _build_worker(runtime: Runtime, launchdarkly: LaunchDarkly, output: OutputStream) -> Worker:
    settings = runtime.settings
    enricher = Enricher(
        launchdarkly,
        Budget(
            runtime.group_commit,
            keys=runtime.keys,
            share=settings.rate_limit_share,
            rng=random.random,
        ),
        retry_policy=RetryPolicy(
            not_found_timeout_s=settings.not_found_timeout, outage_timeout_s=settings.outage_timeout
        ),
        limits=EnrichLimits(
            max_calls=settings.max_calls_per_deployment, lookback_ms=to_ms(settings.lookback)
        ),
        rng=random.random,
        record_drift=runtime.metrics.record_schema_mismatch,
    )
    dependencies = WorkerDependencies(
        backlog=runtime.backlog,
        share_lists=enricher.share_lists,
        enrich=enricher.enrich,
        on_internal_error=enricher.on_internal_error,
        entry_builder=_build_entry_builder(settings),
        append_and_settle=output.append_and_settle,
        refreshes=_build_refreshes(runtime),
        wait_for_wakeup=Wakeup(runtime.client, runtime.keys.wakeup).wait,
        clock=time.monotonic,
        log=MetricsLog(runtime.log, attempt_counters(runtime.metrics)),
    )
    config = WorkerConfig(
        concurrency=settings.concurrency,
        lease_s=settings.lease,
        shutdown_timeout_s=settings.shutdown_timeout,
    )
    return Worker(runtime.tracing.wrap_worker(dependencies), config)
