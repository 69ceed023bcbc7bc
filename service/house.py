"""What do doors and workers share? Redis, and what is built on it: opened and closed here."""

import asyncio
import itertools
import secrets
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial

from msgspec import Struct
from prometheus_client import CollectorRegistry
from redis.asyncio import Redis

from service.backlog.backlog import Backlog, BacklogConfig
from service.backlog.bell import MAX_BLOCK_S
from service.enrich.budget import CALL_TTL_MS, load_budget_prelude
from service.log import Log, log_unhandled_error
from service.operate.counting import MetricsLog, redis_counters
from service.operate.exposition import Exposition
from service.operate.health import HealthReader
from service.operate.metrics import Metrics
from service.operate.survey import NamespaceReader
from service.settings import Settings, data_directory, to_ms
from service.store import RedisUnavailable
from service.store.connect import REPLY_TIMEOUT_S, open_client
from service.store.embedded import EmbeddedServer
from service.store.group import GroupCommit
from service.store.keys import Keys
from service.tracing.tracing import NO_TRACING, Tracing


class Runtime(Struct, frozen=True, kw_only=True):
    """What door and workers share: the settings, Redis, and what speaks with it."""

    settings: Settings
    redis_url: str
    client: Redis
    group_commit: GroupCommit
    keys: Keys
    backlog: Backlog
    readiness: HealthReader
    metrics: Metrics
    exposition: Exposition
    tracing: Tracing
    log: Log


@asynccontextmanager
async def open_runtime(
    settings: Settings, log: Log, *, tracing: Tracing = NO_TRACING
) -> AsyncIterator[Runtime]:
    """Open Redis (our own server where none is named) and what is built on it.

    Raises Refused when the server cannot keep our promises; one that is away is waited for.
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
        group_commit = _build_group_commit(client, settings, metrics, log)
        stack.push_async_callback(group_commit.aclose)
        try:
            await group_commit.connect()
        except RedisUnavailable as error:
            log.warning("redis_not_there_yet", reason=str(error))
        keys = Keys(settings.namespace)
        yield Runtime(
            settings=settings,
            redis_url=url,
            client=client,
            group_commit=group_commit,
            keys=keys,
            backlog=_build_backlog(settings, group_commit, keys),
            readiness=HealthReader(group_commit, keys=keys),
            metrics=metrics,
            exposition=_build_exposition(settings, metrics, group_commit, keys),
            tracing=tracing,
            log=log,
        )


def _build_group_commit(
    client: Redis, settings: Settings, metrics: Metrics, log: Log
) -> GroupCommit:
    return GroupCommit(
        client,
        durability=settings.durability,
        clock=time.monotonic,
        log=MetricsLog(log, redis_counters(metrics)),
        record_round_trip=metrics.record_round_trip,
    )


def _build_backlog(settings: Settings, group_commit: GroupCommit, keys: Keys) -> Backlog:
    config = BacklogConfig(
        lease_ms=to_ms(settings.lease),
        delivery_ttl_ms=to_ms(settings.delivery_retention),
        failed_ttl_ms=to_ms(settings.failed_retention),
        call_ttl_ms=CALL_TTL_MS,
        max_tickets=settings.backlog_limit,
        rate_limit_share=settings.rate_limit_share,
    )
    return Backlog(
        group_commit,
        keys=keys,
        config=config,
        budget_lua=load_budget_prelude(),
        new_token=build_token_factory(),
    )


def build_token_factory() -> Callable[[], str]:
    """Name acts: of one length, and never as another process names its own."""
    process_token, counter = secrets.token_hex(8), itertools.count()
    return lambda: f"{process_token}{next(counter):012x}"


def _build_exposition(
    settings: Settings, metrics: Metrics, group_commit: GroupCommit, keys: Keys
) -> Exposition:
    metrics.set_limits(tickets=settings.backlog_limit, records=settings.stream_max_records)
    stats_reader = NamespaceReader(group_commit, keys=keys, share=settings.rate_limit_share)
    return Exposition(metrics.registry, stats_reader.read_stats)
