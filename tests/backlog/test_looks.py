"""Is a published deployment looked at again, with what is left over and without harm?"""

from collections.abc import Awaitable, Callable
from typing import cast

import msgspec
import pytest
from redis.asyncio import Redis

from service.accept.events import DeploymentCompleted
from service.backlog.backlog import Backlog
from service.backlog.failure import record_failure
from service.backlog.looks import Looking, Looks
from service.backlog.schedule import plan_looks
from service.backlog.ticket import Lease
from service.enrich.budget import Budget, load_leftover
from service.enrich.ratelimit import Hints
from service.publish.stream import OutputStream, Retention, Settled
from service.publish.writing import Entry
from service.store.group import GroupCommit
from service.store.keys import Keys

Eventually = Callable[[Callable[[], Awaitable[bool]]], Awaitable[None]]

NAME = "a0eebc99-9c0b-4ef8-bb6d-00000000000{}"
SCHEDULE = (1, 50_000)


class Desk:
    """One backlog with its output and its looks; the first is due at once, the second is not."""

    def __init__(self, redis: Redis, group: GroupCommit, keys: Keys, backlog: Backlog) -> None:
        self.redis = redis
        self.keys = keys
        self.backlog = backlog
        looking = Looking(schedule=SCHEDULE, marks_ms=60_000, share=1.0)
        self.looks = Looks(group, keys=keys, looking=looking, leftover=load_leftover())
        self.output = OutputStream(group, keys=keys, retention=Retention(60_000, 60_000))

    async def hear(self, number: int = 1, *, delivery: str = "d", known: bool = True) -> None:
        """Take in a webhook about one deployment."""
        await self.backlog.add(
            DeploymentCompleted(
                source="native",
                delivery=f"{delivery}{number}",
                project="default",
                environment="production",
                application="shop",
                version=str(number),
                deployment_id=NAME.format(number) if known else None,
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

    async def publish(self, lease: Lease, content: str = "a", *, number: int = 1) -> Settled:
        """Publish what was found, and plan what follows."""
        name = NAME.format(number)
        plan = plan_looks(SCHEDULE, lease, name, now_ms=lease.now, unfinished=False)
        entry = Entry(name, content, (), b"}", complete=True, plan=plan)
        return await self.output.append_and_settle(entry, lease)

    async def look(self, eventually: Eventually) -> Lease:
        """Look again as soon as it is due."""

        async def is_taken() -> bool:
            return await self.looks.look_again() == 0

        await eventually(is_taken)
        return await self.claim()

    async def planned(self) -> list[str]:
        """List the deployments that are to be looked at; each has its ticket."""
        names = cast("list[bytes]", await self.redis.zrange(self.keys.looks, 0, -1))
        held = cast("list[bytes]", await self.redis.hkeys(self.keys.look_tickets))
        assert sorted(held) == sorted(names)
        return [name.decode() for name in names]


@pytest.fixture
def desk(redis: Redis, group: GroupCommit, keys: Keys, backlog: Backlog) -> Desk:
    """Give the desk of one namespace."""
    return Desk(redis, group, keys, backlog)


async def test_other_content_is_the_next_revision(desk: Desk, eventually: Eventually) -> None:
    """Looks come after the record, publish only what changed, and leave nothing when they end."""
    await desk.hear()
    assert await desk.publish(await desk.claim()) == Settled("published", 1)
    first = await desk.look(eventually)
    assert (first.job, first.ticket.delivery) == (f"id:{NAME.format(1)}", "d1")
    assert await desk.planned() == []
    assert await desk.publish(first, "b") == Settled("published", 2)
    assert await desk.planned() == [NAME.format(1)]
    await desk.redis.zadd(desk.keys.looks, {NAME.format(1): 1})
    last = await desk.look(eventually)
    assert last.ticket.look is not None
    entry = Entry(NAME.format(1), "b", (), b"}", complete=True)
    assert await desk.output.append_and_settle(entry, last) == Settled("unchanged", 2)
    assert await desk.redis.exists(desk.keys.looks, desk.keys.look_tickets, desk.keys.tickets) == 0


async def test_looks_wait_while_anything_is_due(desk: Desk, eventually: Eventually) -> None:
    """A webhook that waits goes first, however long the look has been due."""
    await desk.hear()
    await desk.publish(await desk.claim())
    await desk.hear(2)
    await eventually(lambda: is_overdue(desk))
    wait_s = await desk.looks.look_again()
    assert wait_s is not None
    assert wait_s > 0
    webhook = await desk.claim()
    assert webhook.job == f"id:{NAME.format(2)}"
    assert await desk.looks.look_again() == 0
    for lease in (webhook, await desk.claim()):
        await desk.backlog.give_up(lease, record_failure("test"))


async def is_overdue(desk: Desk) -> bool:
    """Tell whether the first look is due."""
    seconds, micros = await desk.redis.time()
    return bool(await desk.redis.zcount(desk.keys.looks, "-inf", seconds * 1000 + micros // 1000))


async def test_looks_leave_a_reserve_of_the_quota(
    desk: Desk, budget: Budget, eventually: Eventually
) -> None:
    """A fifth of the limit stays for webhooks; when the window is wide, looks go on."""
    await desk.hear()
    await desk.publish(await desk.claim())
    await eventually(lambda: is_overdue(desk))
    seconds, _ = await desk.redis.time()
    reset = seconds * 1000 + 60_000
    await desk.redis.hset(desk.keys.budget, "global", f"10 2 {reset} told 2 0 {seconds}000")
    assert await desk.looks.look_again() != 0
    await desk.redis.hset(desk.keys.budget, "global", f"10 9 {reset} told 9 0 {seconds}000")
    assert await desk.looks.look_again() == 0
    await budget.learn("nobody", "fine", Hints())
    await desk.backlog.give_up(await desk.claim(), record_failure("test"))


async def test_a_webhook_takes_the_place_of_a_look(desk: Desk, eventually: Eventually) -> None:
    """They coalesce; the webhook's own words count, and its looks begin anew."""
    await desk.hear()
    await desk.publish(await desk.claim())
    look = await desk.look(eventually)
    await desk.hear(delivery="later")
    assert await desk.publish(look) == Settled("unchanged", 1)
    webhook = await desk.claim()
    assert (webhook.ticket.delivery, webhook.ticket.look) == ("later1", None)
    await desk.publish(webhook)
    assert await desk.planned() == [NAME.format(1)]


async def test_an_earlier_look_does_not_replace_what_a_later_webhook_planned(
    desk: Desk, eventually: Eventually
) -> None:
    """Two jobs of one deployment plan for it: the later webhook's plan stands."""
    await desk.hear()
    await desk.publish(await desk.claim())
    look = await desk.look(eventually)
    await desk.hear(known=False, delivery="by version")
    await desk.publish(await desk.claim())
    planned = await desk.redis.zscore(desk.keys.looks, NAME.format(1))
    await desk.publish(look)
    assert await desk.redis.zscore(desk.keys.looks, NAME.format(1)) == planned


async def test_a_look_that_comes_to_nothing_is_no_failure(
    desk: Desk, eventually: Eventually
) -> None:
    """It is left out and the next one follows; what is gone is not looked at any more."""
    await desk.hear()
    await desk.publish(await desk.claim())
    look = await desk.look(eventually)
    assert await desk.looks.skip(look, "upstream_failing") == "skipped"
    assert await desk.looks.skip(look, "upstream_failing") == "skipped"  # its reply was lost
    assert await desk.planned() == [NAME.format(1)]
    await desk.redis.zadd(desk.keys.looks, {NAME.format(1): 1})
    assert await desk.looks.skip(await desk.look(eventually), "not_found") == "skipped"
    assert await desk.planned() == []
    assert await desk.redis.exists(desk.keys.failed, desk.keys.backlog, desk.keys.tickets) == 0


async def test_only_who_holds_the_lease_may_end_a_look(desk: Desk, eventually: Eventually) -> None:
    """A worker that lost its lease changes nothing, and a webhook meanwhile is due at once."""
    await desk.hear()
    await desk.publish(await desk.claim())
    look = await desk.look(eventually)
    stale = msgspec.structs.replace(look, fence=look.fence + 1)
    assert await desk.looks.skip(stale, "not_found") == "lost"
    await desk.hear(delivery="later")
    assert await desk.looks.skip(look, "not_found") == "again"
    await desk.publish(await desk.claim())


async def test_what_failed_is_left_to_its_person(desk: Desk, eventually: Eventually) -> None:
    """A job that waits for a person gets no look: it is among the failed, and only there."""
    await desk.hear()
    await desk.publish(await desk.claim())
    await desk.hear(delivery="later")
    await desk.backlog.give_up(await desk.claim(), record_failure("test"))
    await eventually(lambda: is_overdue(desk))
    assert await desk.looks.look_again() == 0
    assert (await desk.backlog.claim(1)).leases == []
    assert await desk.planned() == []


async def test_a_clock_set_back_costs_no_look(desk: Desk) -> None:
    """Looks planned from what is now the future are no reason to plan none from a new record."""
    seconds, _ = await desk.redis.time()
    await desk.redis.hset(desk.keys.published(NAME.format(1)), "since", seconds * 1000 + 86_400_000)
    await desk.hear()
    await desk.publish(await desk.claim())
    assert await desk.planned() == [NAME.format(1)]
