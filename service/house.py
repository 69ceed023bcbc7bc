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

from service.backlog.backlog import Backlog, Terms
from service.backlog.bell import LONGEST_BLOCK_S
from service.enrich.budget import CALL_LIFE_MS, load_room
from service.log import Log, note_trouble
from service.operate.counting import CountingLog, count_losses
from service.operate.exposition import Exposition
from service.operate.health import Lookout
from service.operate.metrics import Metrics
from service.operate.survey import Surveyor
from service.settings import Settings, find_data_dir, to_ms
from service.store import Unavailable
from service.store.connect import REPLY_TIMEOUT_S, open_client
from service.store.embedded import EmbeddedServer
from service.store.group import GroupCommit
from service.store.keys import Keys
from service.tracing.tracing import OFF, Tracing


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


def _make_backlog(settings: Settings, group: GroupCommit, keys: Keys) -> Backlog:
    terms = Terms(
        lease_ms=to_ms(settings.lease),
        mark_ms=to_ms(settings.delivery_retention),
        failed_ms=to_ms(settings.failed_retention),
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
