"""Where are doors and workers made, joined and closed? Here, in a house, and nowhere else."""

import asyncio
import random
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager

from aiohttp import web

from service.accept.choice import Only
from service.accept.sources import Source
from service.accept.webhooks import Webhooks
from service.backlog.bell import Bell
from service.backlog.looks import Looking, Looks
from service.enrich.budget import Budget, load_leftover
from service.enrich.enricher import Caps, Enricher
from service.enrich.launchdarkly import LaunchDarkly, open_session
from service.enrich.verdict import Patience
from service.house import House
from service.operate.contracts import add_contracts
from service.operate.counting import CountingLog, count_attempts, count_webhooks
from service.operate.exposition import open_exposition
from service.operate.health import Health
from service.operate.listening import listen
from service.publish.stream import OutputStream, Retention
from service.publish.writing import Writer
from service.settings import Settings, SettingsError, read_schedule, to_ms
from service.worker import Collaborators, Manner, Worker


@asynccontextmanager
async def open_door(
    house: House,
    sources: Mapping[str, Source],
    *,
    list_warnings: Callable[[], Sequence[str]] = tuple,
    add_pages: Callable[[web.Application], None] = lambda _: None,
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
        sift=make_only(settings).sift,
        clock=time.time,
        log=CountingLog(house.log, count_webhooks(house.metrics, sources)),
    )
    app.add_routes(webhooks.routes())
    health = Health(
        house.lookout, backlog_limit=settings.backlog_limit, list_warnings=list_warnings
    )
    health.add_to(app)
    house.exposition.add_to(app)
    add_contracts(app)
    add_pages(app)
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
        house.exposition.watch(working.done)
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
        marks_ms=to_ms(settings.published_retention),
        entries_ms=to_ms(settings.stream_retention),
        hard_cap=settings.stream_hard_cap,
        dead_ms=to_ms(settings.dead_group_after),
    )
    return OutputStream(house.group, keys=house.keys, retention=retention)


def _make_looks(house: House) -> Looks:
    looking = Looking(
        schedule=read_schedule(house.settings.revisions),
        marks_ms=to_ms(house.settings.published_retention),
        share=house.settings.rate_share,
    )
    return Looks(house.group, keys=house.keys, looking=looking, leftover=load_leftover())


def make_only(settings: Settings) -> Only:
    """Say which deployments are wanted."""
    return Only(
        applications=settings.only_applications.split(),
        environments=settings.only_environments.split(),
        outcomes=settings.only_outcomes.split(),
    )


def _make_writer(settings: Settings) -> Writer:
    return Writer(
        schedule=read_schedule(settings.revisions),
        only=make_only(settings),
        payload=settings.payload,
        most_bytes=settings.max_record_bytes,
    )


def _make_worker(house: House, launchdarkly: LaunchDarkly, output: OutputStream) -> Worker:
    settings = house.settings
    enricher = Enricher(
        launchdarkly,
        Budget(house.group, keys=house.keys, share=settings.rate_share, chance=random.random),
        patience=Patience(appear_s=settings.appear_deadline, outage_s=settings.outage_deadline),
        caps=Caps(pages=settings.max_pages, window_ms=to_ms(settings.resolve_window)),
        chance=random.random,
        note_drift=house.metrics.note_drift,
    )
    hands = Collaborators(
        backlog=house.backlog,
        expect=enricher.expect,
        enrich=enricher.enrich,
        judge_accident=enricher.judge_accident,
        writer=_make_writer(settings),
        append_and_settle=output.append_and_settle,
        looks=_make_looks(house),
        listen=Bell(house.client, house.keys.bell).listen,
        clock=time.monotonic,
        log=CountingLog(house.log, count_attempts(house.metrics)),
    )
    manner = Manner(
        concurrency=settings.concurrency,
        lease_s=settings.lease,
        grace_s=settings.grace,
    )
    return Worker(house.tracing.join(hands), manner)
