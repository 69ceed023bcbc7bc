"""A test of the sizes in docs/operating.md: what Redis needs for a ticket, a mark and so on."""

import asyncio
import hashlib
import re
import time
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest
import structlog
from msgspec.structs import replace
from redis.asyncio import Redis

from service.backlog.ticket import Lease, ReportState, with_ticket
from service.enrich.models import Deployment, parse_deployment
from service.enrich.verdict import Found
from service.publish.entry import Entry, EntryBuilder
from service.store.connect import open_client
from service.store.embedded import EmbeddedServer
from service.store.group_commit import GroupCommit
from service.store.keys import Keys
from tests.deploy.compose_stack import ROOT
from tests.factories import make_event
from tests.store.script_scenarios import Stage

KEYS = Keys("deployments")
PAGE = ROOT / "docs" / "operating.md"
NUMBER = 960
TOGETHER = 48
TOLERANCE = 0.25  # of what the page says
SCHEDULE_MS = (60_000,)


@pytest.fixture
async def stage(server: EmbeddedServer) -> AsyncIterator[Stage]:
    """Return a namespace in a Redis of its own."""
    redis = open_client(server.url)
    group = GroupCommit(redis, durability="fsync", clock=time.monotonic, log=structlog.get_logger())
    yield Stage(redis, group, KEYS)
    await group.aclose()
    await redis.aclose()


async def measure_keys(redis: Redis, *names: str) -> float:
    """Return the memory that keys need, in KB."""
    sizes = [await redis.memory_usage(name, samples=0) or 0 for name in names]
    return sum(sizes) / 1000


async def measure_and_delete(redis: Redis, pattern: str) -> float:
    """Delete all keys with names of a pattern; return the memory that each one needed, in KB."""
    names = [name async for name in redis.scan_iter(pattern, count=1000)]
    before: Any = await redis.info("memory")
    await redis.delete(*names)
    after: Any = await redis.info("memory")
    return float(before["used_memory"] - after["used_memory"]) / len(names) / 1000


async def add_all(stage: Stage) -> None:
    """Queue webhooks as a sender without delivery ids makes them."""
    events = [
        make_event(number, delivery=hashlib.sha256(b"%d" % number).hexdigest())
        for number in range(NUMBER)
    ]
    for first in range(0, NUMBER, TOGETHER):
        batch = events[first : first + TOGETHER]
        await asyncio.gather(*(stage.backlog.add(event) for event in batch))


async def publish_all(stage: Stage, builder: EntryBuilder) -> None:
    """Publish a small record for each ticket, as for a source with ``report = true``."""
    published = 0
    while published < NUMBER:
        leases = (await stage.backlog.claim(TOGETHER)).leases
        for lease in leases:
            assert isinstance(lease, Lease)
            reported = with_ticket(lease, replace(lease.ticket, report=ReportState()))
            assert await stage.reports.begin(reported) == "written"
            await stage.output.append_and_settle(build_entry(builder, lease), lease)
        published += len(leases)


def build_entry(builder: EntryBuilder, lease: Lease) -> Entry:
    """Return the entry of a deployment that ended when its webhook came."""
    ticket = lease.ticket
    body = msgspec.json.encode(
        {
            "id": ticket.deployment_id,
            "applicationKey": ticket.application,
            "environmentKey": ticket.environment,
            "applicationVersion": ticket.version,
            "endedAt": lease.queued_at,
            "status": "finished",
        }
    )
    deployment = parse_deployment(body)
    assert isinstance(deployment, Deployment)
    entry = builder.build(Found(deployment=deployment, chunks=(body,)), lease, now_ms=lease.now)
    assert isinstance(entry, Entry)
    return entry


def read_sizes() -> list[float]:
    """Return the numbers of KB in the table of the page."""
    section = PAGE.read_text().partition("## Size")[2].partition("## ")[0]
    return [float(size) for size in re.findall(r"^\|.*\| ([0-9.]+) KB", section, re.MULTILINE)]


async def test_sizes_of_the_page_are_measured(stage: Stage) -> None:
    """Each row of the table differs by a quarter at most from what a Redis here needs."""
    redis, measured = stage.redis, []
    await add_all(stage)
    measured.append(await measure_keys(redis, KEYS.backlog, KEYS.tickets) / NUMBER)
    await publish_all(stage, EntryBuilder(refresh_schedule=SCHEDULE_MS))
    measured.append(await measure_and_delete(redis, "*:delivery:*"))
    measured.append(await measure_and_delete(redis, "*:published:*"))
    refreshes = await measure_keys(redis, KEYS.refreshes, KEYS.refresh_tickets)
    measured.append(refreshes / NUMBER)
    measured.append(await measure_keys(redis, KEYS.history("default", "production", "shop")))
    measured.append(await measure_and_delete(redis, "*:reported:*"))
    assert read_sizes() == pytest.approx(measured, rel=TOLERANCE)
