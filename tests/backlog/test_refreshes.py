"""Is a published deployment looked at again, with what is left over and without harm?"""

from collections.abc import Awaitable, Callable
from typing import cast

import msgspec
import pytest
from redis.asyncio import Redis

from service.accept.mapping import DeploymentCompleted
from service.backlog.backlog import Backlog
from service.backlog.failures import FailureRecord
from service.backlog.refresh_schedule import plan_refresh
from service.backlog.refreshes import RefreshConfig, Refreshes
from service.backlog.ticket import Lease
from service.enrich.budget import Budget, load_budget_prelude
from service.enrich.rate_limits import RateLimitHeaders
from service.publish.entry import Entry
from service.publish.stream import OutputStream, PublishResult, RetentionConfig
from service.store.group_commit import GroupCommit
from service.store.keys import Keys

Eventually = Callable[[Callable[[], Awaitable[bool]]], Awaitable[None]]

DEPLOYMENT_ID = "a0eebc99-9c0b-4ef8-bb6d-00000000000{}"
SCHEDULE = (1, 50_000)


class RefreshHarness:
    """One backlog with its output and its looks; the first is due at once, the second is not."""

    def __init__(self, redis: Redis, group: GroupCommit, keys: Keys, backlog: Backlog) -> None:
        self.redis = redis
        self.keys = keys
        self.backlog = backlog
        looking = RefreshConfig(schedule=SCHEDULE, dedup_ttl_ms=60_000, rate_limit_share=1.0)
        self.refreshes = Refreshes(
            group, keys=keys, config=looking, spare_calls_lua=load_budget_prelude()
        )
        self.output = OutputStream(group, keys=keys, retention=RetentionConfig(60_000, 60_000))

    async def add_event(self, number: int = 1, *, delivery: str = "d", known: bool = True) -> None:
        """Take in a webhook about one deployment."""
        await self.backlog.add(
            DeploymentCompleted(
                source="native",
                delivery=f"{delivery}{number}",
                project="default",
                environment="production",
                application="shop",
                version=str(number),
                deployment_id=DEPLOYMENT_ID.format(number) if known else None,
                outcome="succeeded",
                event_time=None,
                metadata=msgspec.Raw(b"{}"),
                metadata_dropped=False,
                traceparent=None,
            )
        )

    async def claim(self) -> Lease:
        """Claim the one ticket that is due."""
        (lease,) = (await self.backlog.claim(1)).leases
        assert isinstance(lease, Lease)
        return lease

    async def publish(self, lease: Lease, content: str = "a", *, number: int = 1) -> PublishResult:
        """Publish what was found, and plan what follows."""
        deployment_id = DEPLOYMENT_ID.format(number)
        plan = plan_refresh(SCHEDULE, lease, deployment_id, now_ms=lease.now, unfinished=False)
        entry = Entry(deployment_id, content, (), b"}", complete=True, plan=plan)
        return await self.output.append_and_settle(entry, lease)

    async def refresh(self, eventually: Eventually) -> Lease:
        """Look again as soon as it is due."""

        async def refresh_enqueued() -> bool:
            return await self.refreshes.enqueue_due() == 0

        await eventually(refresh_enqueued)
        return await self.claim()

    async def planned_refreshes(self) -> list[str]:
        """List the deployments that are to be looked at; each has its ticket."""
        deployment_ids = cast("list[bytes]", await self.redis.zrange(self.keys.refreshes, 0, -1))
        with_ticket = cast("list[bytes]", await self.redis.hkeys(self.keys.refresh_tickets))
        assert sorted(with_ticket) == sorted(deployment_ids)
        return [name.decode() for name in deployment_ids]


@pytest.fixture
def refresh_harness(
    redis: Redis, group_commit: GroupCommit, keys: Keys, backlog: Backlog
) -> RefreshHarness:
    """Give the desk of one namespace."""
    return RefreshHarness(redis, group_commit, keys, backlog)


async def test_other_content_is_the_next_revision(
    refresh_harness: RefreshHarness, eventually: Eventually
) -> None:
    """Looks come after the record, publish only what changed, and leave nothing when they end."""
    await refresh_harness.add_event()
    assert await refresh_harness.publish(await refresh_harness.claim()) == PublishResult(
        "published", 1
    )
    first = await refresh_harness.refresh(eventually)
    assert (first.job, first.ticket.delivery) == (f"id:{DEPLOYMENT_ID.format(1)}", "d1")
    assert await refresh_harness.planned_refreshes() == []
    assert await refresh_harness.publish(first, "b") == PublishResult("published", 2)
    assert await refresh_harness.planned_refreshes() == [DEPLOYMENT_ID.format(1)]
    await refresh_harness.redis.zadd(refresh_harness.keys.refreshes, {DEPLOYMENT_ID.format(1): 1})
    last = await refresh_harness.refresh(eventually)
    assert last.ticket.refresh is not None
    entry = Entry(DEPLOYMENT_ID.format(1), "b", (), b"}", complete=True)
    assert await refresh_harness.output.append_and_settle(entry, last) == PublishResult(
        "unchanged", 2
    )
    assert (
        await refresh_harness.redis.exists(
            refresh_harness.keys.refreshes,
            refresh_harness.keys.refresh_tickets,
            refresh_harness.keys.tickets,
        )
        == 0
    )


async def test_looks_wait_while_anything_is_due(
    refresh_harness: RefreshHarness, eventually: Eventually
) -> None:
    """A webhook that waits goes first, however long the look has been due."""
    await refresh_harness.add_event()
    await refresh_harness.publish(await refresh_harness.claim())
    await refresh_harness.add_event(2)
    await eventually(lambda: is_refresh_due(refresh_harness))
    wait_s = await refresh_harness.refreshes.enqueue_due()
    assert wait_s is not None
    assert wait_s > 0
    webhook = await refresh_harness.claim()
    assert webhook.job == f"id:{DEPLOYMENT_ID.format(2)}"
    assert await refresh_harness.refreshes.enqueue_due() == 0
    for lease in (webhook, await refresh_harness.claim()):
        await refresh_harness.backlog.fail(lease, FailureRecord(reason="test"))


async def is_refresh_due(harness: RefreshHarness) -> bool:
    """Tell whether the first look is due."""
    seconds, micros = await harness.redis.time()
    return bool(
        await harness.redis.zcount(harness.keys.refreshes, "-inf", seconds * 1000 + micros // 1000)
    )


async def test_looks_leave_a_reserve_of_the_quota(
    refresh_harness: RefreshHarness, budget: Budget, eventually: Eventually
) -> None:
    """A fifth of the limit stays for webhooks; when the window is wide, looks go on."""
    await refresh_harness.add_event()
    await refresh_harness.publish(await refresh_harness.claim())
    await eventually(lambda: is_refresh_due(refresh_harness))
    seconds, _ = await refresh_harness.redis.time()
    reset = seconds * 1000 + 60_000
    await refresh_harness.redis.hset(
        refresh_harness.keys.budget, "global", f"10 2 {reset} reported 2 0 {seconds}000"
    )
    assert await refresh_harness.refreshes.enqueue_due() != 0
    await refresh_harness.redis.hset(
        refresh_harness.keys.budget, "global", f"10 9 {reset} reported 9 0 {seconds}000"
    )
    assert await refresh_harness.refreshes.enqueue_due() == 0
    await budget.record("nobody", "ok", RateLimitHeaders())
    await refresh_harness.backlog.fail(await refresh_harness.claim(), FailureRecord(reason="test"))


async def test_a_webhook_takes_the_place_of_a_look(
    refresh_harness: RefreshHarness, eventually: Eventually
) -> None:
    """They coalesce; the webhook's own words count, and its looks begin anew."""
    await refresh_harness.add_event()
    await refresh_harness.publish(await refresh_harness.claim())
    look = await refresh_harness.refresh(eventually)
    await refresh_harness.add_event(delivery="later")
    assert await refresh_harness.publish(look) == PublishResult("unchanged", 1)
    webhook = await refresh_harness.claim()
    assert (webhook.ticket.delivery, webhook.ticket.refresh) == ("later1", None)
    await refresh_harness.publish(webhook)
    assert await refresh_harness.planned_refreshes() == [DEPLOYMENT_ID.format(1)]


async def test_an_earlier_look_does_not_replace_what_a_later_webhook_planned(
    refresh_harness: RefreshHarness, eventually: Eventually
) -> None:
    """Two jobs of one deployment plan for it: the later webhook's plan stands."""
    await refresh_harness.add_event()
    await refresh_harness.publish(await refresh_harness.claim())
    look = await refresh_harness.refresh(eventually)
    await refresh_harness.add_event(known=False, delivery="by version")
    await refresh_harness.publish(await refresh_harness.claim())
    planned = await refresh_harness.redis.zscore(
        refresh_harness.keys.refreshes, DEPLOYMENT_ID.format(1)
    )
    await refresh_harness.publish(look)
    assert (
        await refresh_harness.redis.zscore(refresh_harness.keys.refreshes, DEPLOYMENT_ID.format(1))
        == planned
    )


async def test_a_look_that_comes_to_nothing_is_no_failure(
    refresh_harness: RefreshHarness, eventually: Eventually
) -> None:
    """It is left out and the next one follows; what is gone is not looked at any more."""
    await refresh_harness.add_event()
    await refresh_harness.publish(await refresh_harness.claim())
    look = await refresh_harness.refresh(eventually)
    assert await refresh_harness.refreshes.skip(look, "upstream_failing") == "skipped"
    assert (
        await refresh_harness.refreshes.skip(look, "upstream_failing") == "skipped"
    )  # its reply was lost
    assert await refresh_harness.planned_refreshes() == [DEPLOYMENT_ID.format(1)]
    await refresh_harness.redis.zadd(refresh_harness.keys.refreshes, {DEPLOYMENT_ID.format(1): 1})
    assert (
        await refresh_harness.refreshes.skip(await refresh_harness.refresh(eventually), "not_found")
        == "skipped"
    )
    assert await refresh_harness.planned_refreshes() == []
    assert (
        await refresh_harness.redis.exists(
            refresh_harness.keys.failed, refresh_harness.keys.backlog, refresh_harness.keys.tickets
        )
        == 0
    )


async def test_only_who_holds_the_lease_may_end_a_look(
    refresh_harness: RefreshHarness, eventually: Eventually
) -> None:
    """A worker that lost its lease changes nothing, and a webhook meanwhile is due at once."""
    await refresh_harness.add_event()
    await refresh_harness.publish(await refresh_harness.claim())
    look = await refresh_harness.refresh(eventually)
    stale = msgspec.structs.replace(look, fence=look.fence + 1)
    assert await refresh_harness.refreshes.skip(stale, "not_found") == "lease_lost"
    await refresh_harness.add_event(delivery="later")
    assert await refresh_harness.refreshes.skip(look, "not_found") == "superseded"
    await refresh_harness.publish(await refresh_harness.claim())


async def test_what_failed_is_left_to_its_person(
    refresh_harness: RefreshHarness, eventually: Eventually
) -> None:
    """A job that waits for a person gets no look: it is among the failed, and only there."""
    await refresh_harness.add_event()
    await refresh_harness.publish(await refresh_harness.claim())
    await refresh_harness.add_event(delivery="later")
    await refresh_harness.backlog.fail(await refresh_harness.claim(), FailureRecord(reason="test"))
    await eventually(lambda: is_refresh_due(refresh_harness))
    assert await refresh_harness.refreshes.enqueue_due() == 0
    assert (await refresh_harness.backlog.claim(1)).leases == []
    assert await refresh_harness.planned_refreshes() == []


async def test_a_clock_set_back_costs_no_look(refresh_harness: RefreshHarness) -> None:
    """Looks planned from what is now the future are no reason to plan none from a new record."""
    seconds, _ = await refresh_harness.redis.time()
    await refresh_harness.redis.hset(
        refresh_harness.keys.published(DEPLOYMENT_ID.format(1)),
        "since",
        seconds * 1000 + 86_400_000,
    )
    await refresh_harness.add_event()
    await refresh_harness.publish(await refresh_harness.claim())
    assert await refresh_harness.planned_refreshes() == [DEPLOYMENT_ID.format(1)]
