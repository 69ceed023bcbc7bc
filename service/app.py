"""The composition root: builds, runs and closes receiver, worker, reconciler and console.

Nothing else in the service makes these objects. Each package takes what it needs as arguments, and
only this module and the command line know the settings.
"""

import asyncio
import itertools
import os
import random
import secrets
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial

from aiohttp import web
from msgspec import Struct
from prometheus_client import CollectorRegistry
from redis.asyncio import Redis

from service.accept.body_reader import BodyLimits, BodyReader
from service.accept.filters import DeploymentFilter
from service.accept.handler import WebhookHandler
from service.accept.sources import Source
from service.backlog.backlog import Backlog, BacklogConfig
from service.backlog.failed_tickets import FailedTickets
from service.backlog.refreshes import RefreshConfig, Refreshes
from service.backlog.reports import Reports
from service.backlog.wakeup import MAX_BLOCK_S, Wakeup
from service.buffer_memory import BufferMemory
from service.console.auth import AuthMiddleware, ConsoleAuth, derive_key, is_loopback_bind
from service.console.live import LiveFeed, OverviewReader
from service.console.pages import ConsolePages
from service.console.routes import Console, ConsoleDependencies
from service.console.search import Searcher
from service.contracts import add_contract_routes
from service.enrich.access_token import AccessToken
from service.enrich.budget import (
    CALL_TTL_MS,
    Budget,
    load_budget_prelude,
)
from service.enrich.client import LaunchDarkly, Upstream, open_session
from service.enrich.enricher import Enricher, EnrichLimits
from service.enrich.flag_event_lists import Enrich, FlagEventLists
from service.enrich.proxy import ProxyError, find_proxy
from service.enrich.verdict import RetryPolicy
from service.log import EventLogger, Log, count_events, count_lost_lines, log_unhandled_error
from service.metrics.counters import Metrics
from service.metrics.from_log import (
    attempt_counters,
    reconcile_counters,
    redis_counters,
    request_counters,
    webhook_counters,
)
from service.metrics.http import Exposition, HealthRoutes, serve_app, serve_exposition
from service.metrics.namespace import NamespaceReader
from service.publish.entry import EntryBuilder
from service.publish.stream import OutputStream, RetentionConfig
from service.reconcile.checkpoint import Runs
from service.reconcile.missed import Scope
from service.reconcile.reconciler import ReconcileConfig, Reconciler, Scanner
from service.reporting import Reporting
from service.settings import (
    Settings,
    SettingsError,
    data_directory,
    parse_schedule,
    parse_scopes,
    to_ms,
)
from service.store import RedisUnavailable
from service.store.connect import REPLY_TIMEOUT_S, open_client
from service.store.embedded import EmbeddedServer
from service.store.group_commit import GroupCommit
from service.store.keys import Keys
from service.store.redis_clock import watch_clock
from service.tracing.tracing import NO_TRACING, Tracing
from service.worker import Worker, WorkerConfig, WorkerDependencies

_MAX_GRACE_S = 120.0
_CANCEL_INTERVAL_S = 0.1
_RESPONSE_TIME_S = 2.0
"""How long a receiver that stops may need to respond to a webhook, beside its wait for Redis."""


class Runtime(Struct, frozen=True, kw_only=True):
    """What receiver, worker and reconciler of one process share."""

    settings: Settings
    redis_url: str
    client: Redis
    group_commit: GroupCommit
    keys: Keys
    backlog: Backlog
    namespace_reader: NamespaceReader
    metrics: Metrics
    exposition: Exposition
    tracing: Tracing
    access_token: AccessToken
    log: Log


@asynccontextmanager
async def open_runtime(
    settings: Settings, log: Log, *, tracing: Tracing = NO_TRACING
) -> AsyncIterator[Runtime]:
    """Connect to Redis, or start the embedded server, and build what all roles share.

    A Redis that is away is waited for. Raises `RedisMisconfigured` if it cannot keep the promises.
    """
    asyncio.get_running_loop().set_exception_handler(partial(log_unhandled_error, log))
    async with AsyncExitStack() as stack:
        url = settings.redis_url.reveal()
        if not url:
            server = EmbeddedServer(data_directory(settings))
            url = (await stack.enter_async_context(server)).url
        client = open_client(
            url,
            namespace=settings.namespace,
            reply_timeout_s=max(REPLY_TIMEOUT_S, MAX_BLOCK_S + 2),
        )
        stack.push_async_callback(client.aclose)
        metrics = Metrics(CollectorRegistry())
        metrics.add_log(partial(count_lost_lines, log))
        lag_task = asyncio.create_task(metrics.loop_lag.watch(), name="loop-lag")
        stack.push_async_callback(_cancel, lag_task)
        group_commit = _build_group_commit(client, settings, metrics, log)
        stack.push_async_callback(group_commit.aclose)
        try:
            await group_commit.connect()
        except RedisUnavailable as error:
            log.warning("redis_unavailable", reason=str(error))
        keys = Keys(settings.namespace)
        clock_task = asyncio.create_task(watch_clock(client, keys.clock, log), name="redis-clock")
        stack.push_async_callback(_cancel, clock_task)
        namespace_reader = NamespaceReader(group_commit, keys=keys, share=settings.rate_limit_share)
        yield Runtime(
            settings=settings,
            redis_url=url,
            client=client,
            group_commit=group_commit,
            keys=keys,
            backlog=_build_backlog(settings, group_commit, keys),
            namespace_reader=namespace_reader,
            metrics=metrics,
            exposition=_build_exposition(settings, metrics, namespace_reader),
            tracing=tracing,
            access_token=AccessToken(settings.access_token.reveal()),
            log=log,
        )


async def _cancel(task: asyncio.Task[None]) -> None:
    """Cancel a task until it ends: redis-py may swallow a cancellation before Python 3.12."""
    while not task.done():
        task.cancel()
        await asyncio.wait((task,), timeout=_CANCEL_INTERVAL_S)
    if not task.cancelled():
        task.exception()  # an exception that nobody retrieves would be logged


def _build_group_commit(
    client: Redis, settings: Settings, metrics: Metrics, log: Log
) -> GroupCommit:
    return GroupCommit(
        client,
        durability=settings.durability,
        clock=time.monotonic,
        log=count_events(log, redis_counters(metrics)),
        record_round_trip=metrics.record_round_trip,
        probe_key=Keys(settings.namespace).write_probe,
    )


def _build_backlog(settings: Settings, group_commit: GroupCommit, keys: Keys) -> Backlog:
    config = BacklogConfig(
        lease_ms=to_ms(settings.lease),
        delivery_ttl_ms=to_ms(settings.delivery_retention),
        failed_ttl_ms=to_ms(settings.failed_retention),
        call_ttl_ms=CALL_TTL_MS,
        max_tickets=settings.backlog_limit,
        rate_limit_share=settings.rate_limit_share,
        enqueue_timeout_s=settings.enqueue_timeout,
    )
    return Backlog(
        group_commit,
        keys=keys,
        config=config,
        budget_lua=load_budget_prelude(),
        new_token=build_token_factory(),
    )


def build_token_factory() -> Callable[[], str]:
    """Return a function that gives unique tokens of one length, for script calls."""
    process_token, counter = secrets.token_hex(8), itertools.count()
    return lambda: f"{process_token}{next(counter):012x}"


def _build_exposition(
    settings: Settings, metrics: Metrics, namespace_reader: NamespaceReader
) -> Exposition:
    metrics.set_limits(tickets=settings.backlog_limit, records=settings.stream_max_records)
    return Exposition(metrics.registry, namespace_reader.read_stats)


@asynccontextmanager
async def open_receiver(
    runtime: Runtime,
    sources: Mapping[str, Source],
    *,
    list_warnings: Callable[[], Sequence[str]] = tuple,
    add_routes: Callable[[web.Application], object] = lambda _: None,
) -> AsyncIterator[str]:
    """Listen for webhooks and yield the URL; on exit, answer the requests that are in progress."""
    settings = runtime.settings
    app = web.Application(middlewares=runtime.tracing.middlewares)
    runtime.metrics.initialize_sources(sources)
    log = count_events(runtime.log, webhook_counters(runtime.metrics, sources))
    handler = WebhookHandler(
        sources,
        enqueue=runtime.tracing.wrap_enqueue(runtime.backlog.add),
        park=runtime.backlog.park,
        apply_filter=build_filter(settings).apply,
        body_reader=BodyReader(
            BodyLimits(max_bytes=settings.max_body_bytes),
            BufferMemory(settings.max_buffered_bytes),
        ),
        clock=time.time,
        log=log,
    )
    app.add_routes(handler.routes())
    health = HealthRoutes(
        runtime.namespace_reader.read_stats,
        backlog_limit=settings.backlog_limit,
        lease_s=settings.lease,
        list_warnings=list_warnings,
    )
    health.add_routes(app)
    runtime.exposition.add_metrics_route(app)
    add_contract_routes(app)
    add_routes(app)
    app.add_routes(handler.other_routes())
    async with serve_app(
        app,
        host=settings.host,
        port=settings.port,
        log=log,
        shutdown_timeout_s=settings.enqueue_timeout + _RESPONSE_TIME_S,
    ) as url:
        runtime.log.info("receiver_started", url=url, sources=sorted(sources))
        yield url
    runtime.log.info("receiver_stopped")


def find_configured_proxy(settings: Settings) -> str | None:
    """Return the URL of the proxy for calls to LaunchDarkly, or None. Raises SettingsError."""
    try:
        return find_proxy(settings.launchdarkly_url, os.environ)
    except ProxyError as error:
        raise SettingsError(str(error)) from None


@asynccontextmanager
async def open_worker(runtime: Runtime) -> AsyncIterator[Worker]:
    """Work on the backlog in the background; on exit, finish the leased tickets."""
    settings = runtime.settings
    token = runtime.access_token.reveal()
    if not token:
        raise SettingsError("LAUNCHDARKLY_ACCESS_TOKEN is not set: a worker needs it")
    async with (
        open_session(
            token,
            max_connections=settings.concurrency,
            proxy=find_configured_proxy(settings),
            trace_configs=runtime.tracing.trace_configs,
        ) as session,
        serve_exposition(
            runtime.exposition,
            host=settings.host,
            port=settings.metrics_port,
            log=count_events(runtime.log, request_counters(runtime.metrics)),
        ) as url,
    ):
        runtime.access_token.authorize(session)
        launchdarkly = LaunchDarkly(
            session,
            origin=settings.launchdarkly_url,
            max_bytes=settings.max_response_bytes,
            clock=time.time,
            record_call=runtime.metrics.record_call,
        )
        output = _build_output(runtime)
        worker = _build_worker(runtime, launchdarkly, output)
        runtime.metrics.add_worker(worker.count_in_progress)
        worker_task = asyncio.create_task(worker.run(), name="worker")
        worker_task.add_done_callback(partial(_log_failure, runtime.log))
        runtime.exposition.add_end_check(worker_task.done)
        trim_task = asyncio.create_task(output.trim_periodically(runtime.log), name="trim")
        expire_task = asyncio.create_task(
            runtime.backlog.expire_failed_periodically(runtime.log), name="expire-failed"
        )
        runtime.log.info("worker_started", concurrency=settings.concurrency, metrics=url)
        try:
            yield worker
        finally:
            worker.stop()
            await _cancel(trim_task)
            await _cancel(expire_task)
            await asyncio.gather(worker_task, return_exceptions=True)
            runtime.log.info("worker_stopped")


def _log_failure(log: EventLogger, worker_task: asyncio.Task[None]) -> None:
    """Log why a worker ended by itself: nothing reads its result before the process stops."""
    if not worker_task.cancelled() and (error := worker_task.exception()) is not None:
        log.error("worker_failed", exc_info=error)


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
        runtime.group_commit,
        keys=runtime.keys,
        config=config,
        budget_lua=load_budget_prelude(),
    )


def build_filter(settings: Settings) -> DeploymentFilter:
    """Return the filter that decides which deployments are published."""
    return DeploymentFilter(
        applications=settings.include_applications.split(),
        environments=settings.include_environments.split(),
        outcomes=settings.include_outcomes.split(),
    )


def _build_entry_builder(settings: Settings) -> EntryBuilder:
    return EntryBuilder(
        refresh_schedule=parse_schedule(settings.refresh_after),
        deployment_filter=build_filter(settings),
        max_bytes=settings.max_record_bytes,
        launchdarkly_origin=settings.launchdarkly_url,
    )


def _add_flag_events(runtime: Runtime, launchdarkly: LaunchDarkly, enrich: Enrich) -> Enrich:
    """Return ``enrich`` with flag events in refreshes, if they are on."""
    settings = runtime.settings
    if settings.flag_events == "off":
        return enrich
    budget = Budget(
        runtime.group_commit, keys=runtime.keys, share=settings.rate_limit_share, rng=random.random
    )
    lists = FlagEventLists(
        Upstream(
            launchdarkly=launchdarkly,
            budget=budget,
            limiter=asyncio.Semaphore(1),
            rng=random.random,
            repeats=RetryPolicy().repeats,
        ),
        name=secrets.token_hex(8),
        with_members=settings.flag_event_members == "on",
        clock=time.monotonic,
        log=runtime.log,
    )
    return lists.wrap(enrich)


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
            max_calls=settings.max_calls_per_deployment,
            lookback_ms=to_ms(settings.lookback),
            max_buffered_bytes=settings.max_buffered_bytes,
        ),
        rng=random.random,
        record_drift=runtime.metrics.record_schema_mismatch,
    )
    log = count_events(runtime.log, attempt_counters(runtime.metrics))
    dependencies = WorkerDependencies(
        backlog=runtime.backlog,
        share_lists=enricher.share_lists,
        enrich=_add_flag_events(runtime, launchdarkly, enricher.enrich),
        on_internal_error=enricher.on_internal_error,
        on_taken=enricher.on_taken,
        release_memory=enricher.release_memory,
        entry_builder=_build_entry_builder(settings),
        step_runner=launchdarkly.step_runner,
        append_and_settle=output.append_and_settle,
        refreshes=_build_refreshes(runtime),
        wakeup=Wakeup(
            runtime.client, runtime.group_commit, keys=runtime.keys, token=secrets.token_hex(8)
        ),
        clock=time.monotonic,
        log=log,
        reporting=Reporting(
            Reports(runtime.group_commit, keys=runtime.keys), enricher.build_reporter(), log
        ),
    )
    config = WorkerConfig(
        concurrency=settings.concurrency,
        lease_s=settings.lease,
        shutdown_timeout_s=settings.shutdown_timeout,
    )
    return Worker(runtime.tracing.wrap_worker(dependencies), config)


@asynccontextmanager
async def open_reconciler(runtime: Runtime) -> AsyncIterator[None]:
    """Reconcile the configured scopes in the background, if there are any."""
    settings = runtime.settings
    scopes = [Scope(*pair) for pair in parse_scopes(settings.reconcile_scopes)]
    if not scopes:
        yield
        return
    interval_s = settings.reconcile_interval
    async with open_scanner(runtime, grace_s=min(_MAX_GRACE_S, interval_s)) as (scanner, runs):
        config = ReconcileConfig(
            interval_ms=round(interval_s * 1000), lookback_ms=round(settings.lookback * 1000)
        )
        log = count_events(runtime.log, reconcile_counters(runtime.metrics))
        reconciler = Reconciler(scopes, scanner, runs, config=config, log=log)
        reconcile_task = asyncio.create_task(reconciler.run(), name="reconcile")
        try:
            yield
        finally:
            await _cancel(reconcile_task)


@asynccontextmanager
async def open_scanner(runtime: Runtime, *, grace_s: float) -> AsyncIterator[tuple[Scanner, Runs]]:
    """Open the scanner that lists deployments with spare calls, and its checkpoints.

    A deployment that ended less than ``grace_s`` ago is left to its webhook.
    """
    settings, keys = runtime.settings, runtime.keys
    async with open_session(
        runtime.access_token.reveal(), max_connections=1, proxy=find_configured_proxy(settings)
    ) as session:
        runtime.access_token.authorize(session)
        launchdarkly = LaunchDarkly(
            session,
            origin=settings.launchdarkly_url,
            max_bytes=settings.max_response_bytes,
            clock=time.time,
        )
        budget = Budget(
            runtime.group_commit,
            keys=keys,
            share=settings.rate_limit_share,
            rng=random.random,
            spare_only=True,
        )
        runs = Runs(
            runtime.group_commit,
            keys=keys,
            new_token=build_token_factory(),
            ttl_ms=round(settings.published_retention * 1000),
        )
        upstream = Upstream(
            launchdarkly=launchdarkly,
            budget=budget,
            limiter=asyncio.Semaphore(1),
            rng=random.random,
        )
        yield (
            Scanner(
                upstream,
                runs,
                deployment_filter=build_filter(settings),
                grace_ms=round(grace_s * 1000),
            ),
            runs,
        )


def is_console_enabled(settings: Settings) -> bool:
    """Return whether the console is on: beyond loopback only with a token."""
    is_protected = bool(settings.console_token) or is_loopback_bind(settings.host)
    return settings.console == "auto" and is_protected


def add_console(
    runtime: Runtime, sources: Mapping[str, Source], app: web.Application
) -> AuthMiddleware | None:
    """Add the console to the receiver, if it is on; return what holds its token."""
    if not is_console_enabled(runtime.settings):
        return None
    console = build_console(runtime, sources)
    console.add_routes(app)
    return console.auth_middleware


def build_console(runtime: Runtime, sources: Mapping[str, Source]) -> Console:
    """Build the console on the shared runtime."""
    settings, group_commit, keys, log = (
        runtime.settings,
        runtime.group_commit,
        runtime.keys,
        runtime.log,
    )
    token = settings.console_token.reveal()
    auth = ConsoleAuth(token=token, signing_key=derive_key(token or secrets.token_hex(32)))
    pages = ConsolePages(namespace=settings.namespace, share=settings.rate_limit_share)
    failed_tickets = FailedTickets(
        runtime.client, group_commit, keys=keys, new_token=build_token_factory()
    )
    overview_reader = OverviewReader(
        group_commit,
        keys=keys,
        read_stats=runtime.namespace_reader.read_stats,
        read_failed=failed_tickets.read,
        count_received=lambda: runtime.metrics.webhooks_received,
    )
    new_session_id = partial(secrets.token_hex, 16)
    return Console(
        ConsoleDependencies(
            auth_middleware=AuthMiddleware(
                auth, pages, clock=time.time, new_session_id=new_session_id, log=log
            ),
            pages=pages,
            live_feed=LiveFeed(
                overview_reader.read, pages.render_fragments, clock=time.monotonic, log=log
            ),
            searcher=Searcher(runtime.client, group_commit, keys=keys, clock=time.monotonic),
            failed_tickets=failed_tickets,
            sources=sources,
            clock=time.time,
            log=log,
        )
    )
