"""Where is everything made, joined and closed? Here, and nowhere else."""

import asyncio
import itertools
import random
import secrets
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path

from aiohttp import web
from msgspec import Struct
from prometheus_client import CollectorRegistry
from redis.asyncio import Redis

from service.accept.sources import Source
from service.accept.webhooks import Webhooks
from service.backlog.backlog import Backlog, Terms
from service.backlog.bell import LONGEST_BLOCK_S, Bell
from service.enrich.budget import CALL_LIFE_MS, Budget, load_room
from service.enrich.enricher import Caps, Enricher
from service.enrich.launchdarkly import LaunchDarkly, open_session
from service.enrich.verdict import Patience
from service.log import Log, note_trouble
from service.operate.counting import CountingLog, count_attempts, count_losses, count_webhooks
from service.operate.exposition import Exposition, open_exposition
from service.operate.health import Health, Lookout
from service.operate.listening import listen
from service.operate.metrics import Metrics
from service.operate.survey import Surveyor
from service.publish.stream import OutputStream, Retention
from service.settings import Settings, SettingsError
from service.store import Unavailable
from service.store.connect import REPLY_TIMEOUT_S, open_client
from service.store.embedded import EmbeddedServer
from service.store.group import GroupCommit
from service.store.keys import Keys
from service.tracing.tracing import OFF, Tracing
from service.worker import Collaborators, Manner, Worker


class House(Struct, frozen=True, kw_only=True):
    """What door and workers share: the settings, Redis, and what speaks with it."""

    settings: Settings
    redis_url: str
    client: Redis
    group: GroupCommit
    keys: Keys
    backlog: Backlog
    lookout: Lookout
    metrics: Metrics
    exposition: Exposition
    tracing: Tracing
    log: Log


@asynccontextmanager
async def open_house(
    settings: Settings, log: Log, *, tracing: Tracing = OFF
) -> AsyncIterator[House]:
    """Open Redis (our own server where none is named) and what is built on it.

    Raises Refused when the server cannot keep our promises; one that is away is waited for.
    """
    asyncio.get_running_loop().set_exception_handler(partial(note_trouble, log))
    async with AsyncExitStack() as stack:
        url = settings.redis_url.reveal()
        if not url:
            server = EmbeddedServer(find_data_dir(settings))
            url = (await stack.enter_async_context(server)).url
        client = open_client(
            url,
            namespace=settings.namespace,
            reply_timeout_s=max(REPLY_TIMEOUT_S, LONGEST_BLOCK_S + 2),
        )
        stack.push_async_callback(client.aclose)
        metrics = Metrics(CollectorRegistry())
        group = _make_group(client, settings, metrics, log)
        stack.push_async_callback(group.aclose)
        try:
            await group.connect()
        except Unavailable as error:
            log.warning("redis_not_there_yet", reason=str(error))
        keys = Keys(settings.namespace)
        yield House(
            settings=settings,
            redis_url=url,
            client=client,
            group=group,
            keys=keys,
            backlog=_make_backlog(settings, group, keys),
            lookout=Lookout(group, keys=keys),
            metrics=metrics,
            exposition=_make_exposition(settings, metrics, group, keys),
            tracing=tracing,
            log=log,
        )


def _make_group(client: Redis, settings: Settings, metrics: Metrics, log: Log) -> GroupCommit:
    return GroupCommit(
        client,
        durability=settings.durability,
        clock=time.monotonic,
        log=CountingLog(log, count_losses(metrics)),
        note_trip=metrics.note_round_trip,
    )


def find_data_dir(settings: Settings) -> Path:
    """Say where our own server keeps its data."""
    return Path(settings.data_dir).expanduser()


def _make_backlog(settings: Settings, group: GroupCommit, keys: Keys) -> Backlog:
    terms = Terms(
        lease_ms=_ms(settings.lease),
        mark_ms=_ms(settings.delivery_retention),
        failed_ms=_ms(settings.failed_retention),
        call_ms=CALL_LIFE_MS,
        limit=settings.backlog_limit,
        share=settings.rate_share,
    )
    return Backlog(group, keys=keys, terms=terms, room=load_room(), new_token=count_tokens())


def count_tokens() -> Callable[[], str]:
    """Name acts: of one length, and never as another process names its own."""
    process, numbers = secrets.token_hex(8), itertools.count()
    return lambda: f"{process}{next(numbers):012x}"


def _make_exposition(
    settings: Settings, metrics: Metrics, group: GroupCommit, keys: Keys
) -> Exposition:
    metrics.limit(tickets=settings.backlog_limit, records=settings.stream_hard_cap)
    surveyor = Surveyor(group, keys=keys, share=settings.rate_share)
    return Exposition(metrics.registry, surveyor.survey)


@asynccontextmanager
async def open_door(
    house: House,
    sources: Mapping[str, Source],
    *,
    list_warnings: Callable[[], Sequence[str]] = tuple,
) -> AsyncIterator[str]:
    """Listen for webhooks; gives the address, and on leaving answers what is in hand."""
    settings = house.settings
    app = web.Application(
        client_max_size=settings.max_body_bytes, middlewares=house.tracing.middlewares
    )
    house.metrics.expect_sources(sources)
    webhooks = Webhooks(
        sources,
        remember=house.tracing.carry(house.backlog.add),
        set_aside=house.backlog.set_aside,
        clock=time.time,
        log=CountingLog(house.log, count_webhooks(house.metrics, sources)),
    )
    app.add_routes(webhooks.routes())
    health = Health(
        house.lookout, backlog_limit=settings.backlog_limit, list_warnings=list_warnings
    )
    health.add_to(app)
    house.exposition.add_to(app)
    async with listen(app, host=settings.host, port=settings.port) as url:
        house.log.info("door_opened", url=url, sources=sorted(sources))
        yield url
    house.log.info("door_closed")


@asynccontextmanager
async def open_worker(house: House) -> AsyncIterator[Worker]:
    """Work on the backlog in the background; on leaving, finish what is in hand."""
    settings = house.settings
    token = settings.access_token.reveal()
    if not token:
        raise SettingsError("LAUNCHDARKLY_ACCESS_TOKEN is not set: a worker cannot ask without it")
    async with (
        open_session(
            token, connections=settings.concurrency, traces=house.tracing.calls
        ) as session,
        open_exposition(house.exposition, host=settings.host, port=settings.metrics_port) as url,
    ):
        launchdarkly = LaunchDarkly(
            session,
            origin=settings.launchdarkly_url,
            max_bytes=settings.max_answer_bytes,
            clock=time.time,
            note_call=house.metrics.note_call,
        )
        output = _make_output(house)
        worker = _make_worker(house, launchdarkly, output)
        house.metrics.watch_worker(worker.count_in_hand)
        working = asyncio.create_task(worker.run(), name="worker")
        trimming = asyncio.create_task(output.keep_trimmed(house.log), name="trim")
        house.log.info("worker_started", concurrency=settings.concurrency, metrics=url)
        try:
            yield worker
        finally:
            worker.stop()
            trimming.cancel()
            await asyncio.gather(working, trimming, return_exceptions=True)
            house.log.info("worker_stopped")


def _make_output(house: House) -> OutputStream:
    settings = house.settings
    retention = Retention(
        marks_ms=_ms(settings.published_retention),
        entries_ms=_ms(settings.stream_retention),
        hard_cap=settings.stream_hard_cap,
    )
    return OutputStream(house.group, keys=house.keys, retention=retention)


def _make_worker(house: House, launchdarkly: LaunchDarkly, output: OutputStream) -> Worker:
    settings = house.settings
    enricher = Enricher(
        launchdarkly,
        Budget(house.group, keys=house.keys, share=settings.rate_share, chance=random.random),
        patience=Patience(appear_s=settings.appear_deadline, outage_s=settings.outage_deadline),
        caps=Caps(pages=settings.max_pages, window_ms=_ms(settings.resolve_window)),
        chance=random.random,
        note_drift=house.metrics.note_drift,
    )
    hands = Collaborators(
        backlog=house.backlog,
        expect=enricher.expect,
        enrich=house.tracing.enrich(enricher.enrich),
        judge_accident=enricher.judge_accident,
        append_and_settle=house.tracing.append(output.append_and_settle),
        listen=Bell(house.client, house.keys.bell).listen,
        clock=time.monotonic,
        log=CountingLog(house.log, count_attempts(house.metrics)),
        attempt=house.tracing.attempt,
    )
    manner = Manner(
        concurrency=settings.concurrency, lease_s=settings.lease, grace_s=settings.grace
    )
    return Worker(hands, manner)


def _ms(seconds: float) -> int:
    return round(seconds * 1000)
