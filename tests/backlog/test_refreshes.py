"""Tests of refreshes: published deployments are fetched again, with spare calls only."""

from typing import cast

import pytest
from msgspec.structs import replace
from redis.asyncio import Redis

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
from tests.conftest import Eventually
from tests.factories import deployment_id, make_event

SCHEDULE = (1, 50_000)


class RefreshHarness:
    """A backlog, its output and its refreshes; the first is due at once, the second is not."""

    def __init__(self, redis: Redis, group: GroupCommit, keys: Keys, backlog: Backlog) -> None:
        self.redis = redis
        self.keys = keys
        self.backlog = backlog
        config = RefreshConfig(schedule=SCHEDULE, dedup_ttl_ms=60_000, rate_limit_share=1.0)
        self.refreshes = Refreshes(
            group, keys=keys, config=config, budget_lua=load_budget_prelude()
        )
        self.output = OutputStream(group, keys=keys, retention=RetentionConfig(60_000, 60_000))

    async def add_event(self, number: int = 1, *, delivery: str = "d", known: bool = True) -> None:
        """Add a webhook of one deployment."""
        event = make_event(number, delivery=f"{delivery}{number}")
        await self.backlog.add(event if known else replace(event, deployment_id=None))

    async def claim(self) -> Lease:
        """Claim the one ticket that is due."""
        (lease,) = (await self.backlog.claim(1)).leases
        assert isinstance(lease, Lease)
        return lease

    async def publish(self, lease: Lease, content: str = "a", *, number: int = 1) -> PublishResult:
        """Publish a deployment and schedule its next refresh."""
        plan = plan_refresh(
            SCHEDULE, lease, deployment_id(number), now_ms=lease.now, unfinished=False
        )
        entry = Entry(deployment_id(number), content, (), (b"}",), complete=True, plan=plan)
        return await self.output.append_and_settle(entry, lease)

    async def refresh(self, eventually: Eventually) -> Lease:
        """Queue a refresh as soon as it is due, and claim it."""

        async def refresh_enqueued() -> bool:
            return await self.refreshes.enqueue_due() == 0

        await eventually(refresh_enqueued)
        return await self.claim()

    async def planned_refreshes(self) -> list[str]:
        """Return the scheduled deployments; each must have its ticket."""
        deployment_ids = cast("list[bytes]", await self.redis.zrange(self.keys.refreshes, 0, -1))
        with_ticket = cast("list[bytes]", await self.redis.hkeys(self.keys.refresh_tickets))
        assert sorted(with_ticket) == sorted(deployment_ids)
        return [name.decode() for name in deployment_ids]


@pytest.fixture
def harness(
    redis: Redis, group_commit: GroupCommit, keys: Keys, backlog: Backlog
) -> RefreshHarness:
    """Return the harness of one namespace."""
    return RefreshHarness(redis, group_commit, keys, backlog)


async def test_refresh_with_changed_content_publishes_the_next_revision(
    harness: RefreshHarness, eventually: Eventually
) -> None:
    """Refreshes follow the record, publish only changes, and leave no key when they end."""
    await harness.add_event()
    assert await harness.publish(await harness.claim()) == PublishResult("published", 1)
    first = await harness.refresh(eventually)
    assert (first.job, first.ticket.delivery) == (f"id:{deployment_id(1)}", "d1")
    assert await harness.planned_refreshes() == []
    assert await harness.publish(first, "b") == PublishResult("published", 2)
    assert await harness.planned_refreshes() == [deployment_id(1)]
    await harness.redis.zadd(harness.keys.refreshes, {deployment_id(1): 1})
    last = await harness.refresh(eventually)
    assert last.ticket.refresh is not None
    entry = Entry(deployment_id(1), "b", (), (b"}",), complete=True)
    assert await harness.output.append_and_settle(entry, last) == PublishResult("unchanged", 2)
    assert (
        await harness.redis.exists(
            harness.keys.refreshes,
            harness.keys.refresh_tickets,
            harness.keys.tickets,
        )
        == 0
    )


async def test_enqueue_due_while_a_ticket_is_due_queues_nothing(
    harness: RefreshHarness, eventually: Eventually
) -> None:
    """A webhook goes first, however long the refresh has been due."""
    await harness.add_event()
    await harness.publish(await harness.claim())
    await harness.add_event(2)
    await eventually(lambda: is_refresh_due(harness))
    wait_s = await harness.refreshes.enqueue_due()
    assert wait_s is not None
    assert wait_s > 0
    webhook = await harness.claim()
    assert webhook.job == f"id:{deployment_id(2)}"
    assert await harness.refreshes.enqueue_due() == 0
    for lease in (webhook, await harness.claim()):
        await harness.backlog.fail(lease, FailureRecord(reason="test"))


async def is_refresh_due(harness: RefreshHarness) -> bool:
    """Return whether the first refresh is due."""
    seconds, micros = await harness.redis.time()
    return bool(
        await harness.redis.zcount(harness.keys.refreshes, "-inf", seconds * 1000 + micros // 1000)
    )


async def test_enqueue_due_leaves_a_fifth_of_the_limit(
    harness: RefreshHarness, budget: Budget, eventually: Eventually
) -> None:
    """The reserve is for webhooks; with more calls left, refreshes go on."""
    await harness.add_event()
    await harness.publish(await harness.claim())
    await eventually(lambda: is_refresh_due(harness))
    seconds, _ = await harness.redis.time()
    reset = seconds * 1000 + 60_000
    await harness.redis.hset(
        harness.keys.budget, "global", f"10 2 {reset} reported 2 0 {seconds}000"
    )
    assert await harness.refreshes.enqueue_due() != 0
    await harness.redis.hset(
        harness.keys.budget, "global", f"10 9 {reset} reported 9 0 {seconds}000"
    )
    assert await harness.refreshes.enqueue_due() == 0
    await budget.record("call", "ok", RateLimitHeaders())
    await harness.backlog.fail(await harness.claim(), FailureRecord(reason="test"))


async def test_add_during_a_refresh_replaces_it(
    harness: RefreshHarness, eventually: Eventually
) -> None:
    """They share a ticket; the webhook counts, and its refreshes start over."""
    await harness.add_event()
    await harness.publish(await harness.claim())
    refresh = await harness.refresh(eventually)
    await harness.add_event(delivery="later")
    assert await harness.publish(refresh) == PublishResult("unchanged", 1)
    webhook = await harness.claim()
    assert (webhook.ticket.delivery, webhook.ticket.refresh) == ("later1", None)
    await harness.publish(webhook)
    assert await harness.planned_refreshes() == [deployment_id(1)]


async def test_publish_of_an_earlier_refresh_keeps_the_plan_of_a_later_webhook(
    harness: RefreshHarness, eventually: Eventually
) -> None:
    """Two jobs of one deployment schedule refreshes: the plan of the later webhook stands."""
    await harness.add_event()
    await harness.publish(await harness.claim())
    refresh = await harness.refresh(eventually)
    await harness.add_event(known=False, delivery="found")
    await harness.publish(await harness.claim())
    planned = await harness.redis.zscore(harness.keys.refreshes, deployment_id(1))
    await harness.publish(refresh)
    assert await harness.redis.zscore(harness.keys.refreshes, deployment_id(1)) == planned


async def test_skip_of_a_refresh_schedules_the_next_unless_the_reason_is_final(
    harness: RefreshHarness, eventually: Eventually
) -> None:
    """The next refresh follows; a deployment that is gone is not refreshed again."""
    await harness.add_event()
    await harness.publish(await harness.claim())
    refresh = await harness.refresh(eventually)
    assert await harness.refreshes.skip(refresh, "upstream_failing") == "skipped"
    assert (
        await harness.refreshes.skip(refresh, "upstream_failing") == "skipped"
    )  # as after a lost reply
    assert await harness.planned_refreshes() == [deployment_id(1)]
    await harness.redis.zadd(harness.keys.refreshes, {deployment_id(1): 1})
    assert await harness.refreshes.skip(await harness.refresh(eventually), "not_found") == "skipped"
    assert await harness.planned_refreshes() == []
    assert (
        await harness.redis.exists(harness.keys.failed, harness.keys.backlog, harness.keys.tickets)
        == 0
    )


async def test_skip_without_the_lease_changes_nothing(
    harness: RefreshHarness, eventually: Eventually
) -> None:
    """A webhook that arrives meanwhile is due at once."""
    await harness.add_event()
    await harness.publish(await harness.claim())
    refresh = await harness.refresh(eventually)
    stale = replace(refresh, fence=refresh.fence + 1)
    assert await harness.refreshes.skip(stale, "not_found") == "lease_lost"
    await harness.add_event(delivery="later")
    assert await harness.refreshes.skip(refresh, "not_found") == "superseded"
    await harness.publish(await harness.claim())


async def test_enqueue_due_goes_on_while_a_later_webhook_has_failed(
    harness: RefreshHarness, eventually: Eventually
) -> None:
    """The earlier revision is refreshed, whether a person retries or drops the failed ticket."""
    await harness.add_event()
    await harness.publish(await harness.claim())
    await harness.add_event(delivery="later")
    await harness.backlog.fail(await harness.claim(), FailureRecord(reason="test"))
    refresh = await harness.refresh(eventually)
    assert refresh.ticket.refresh is not None
    assert await harness.publish(refresh) == PublishResult("unchanged", 1)
    assert await harness.planned_refreshes() == [deployment_id(1)]
    assert await harness.redis.zcard(harness.keys.failed) == 1
