"""Does a worker keep what it holds, let go what it lost, and outlive its own mistakes?"""

import asyncio
import io
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any, Literal

import pytest
from msgspec.structs import replace
from redis.asyncio import Redis
from redis.exceptions import ResponseError

from service.accept.events import DeploymentCompleted
from service.backlog.backlog import Backlog, Claimed, Terms
from service.backlog.bell import Bell
from service.backlog.failure import Failure
from service.backlog.looks import Looking, Looks
from service.backlog.ticket import Lease, Unreadable
from service.enrich.budget import load_leftover, load_room
from service.enrich.deployment import Deployment
from service.enrich.verdict import Found, Later, Never, Verdict
from service.log import open_log
from service.publish.stream import OutputStream, Retention
from service.publish.writing import Writer
from service.store.group import GroupCommit
from service.store.keys import Keys
from service.worker import Collaborators, Manner, Worker

Enrich = Callable[[Lease], Awaitable[Verdict]]
Eventually = Callable[[Callable[[], Awaitable[bool]]], Awaitable[None]]


def complete(number: int) -> DeploymentCompleted:
    """Make the event of one deployment."""
    return DeploymentCompleted(
        source="native",
        delivery=f"delivery-{number}",
        project=None,
        environment=None,
        application=None,
        version=None,
        deployment_id=f"deployment-{number}",
        outcome="succeeded",
        event_time=None,
        metadata=None,
        metadata_dropped=False,
        traceparent=None,
    )


async def find(lease: Lease) -> Verdict:
    """Find every deployment at once."""
    name = str(lease.ticket.deployment_id)
    return Found(deployment=Deployment(id=name), body=json.dumps({"id": name}).encode())


class Bench:
    """A worker's surroundings: all real but for what it is told of each deployment."""

    def __init__(self, backlog: Backlog, group: GroupCommit, redis: Redis, keys: Keys) -> None:
        self.backlog = backlog
        self.redis = redis
        self.keys = keys
        self.written = io.StringIO()
        self._looks = Looks(
            group,
            keys=keys,
            looking=Looking(schedule=(), marks_ms=60_000, share=1.0),
            leftover=load_leftover(),
        )
        self._stream = OutputStream(
            group, keys=keys, retention=Retention(marks_ms=60_000, entries_ms=60_000)
        )

    def hands(self, enrich: Enrich) -> Collaborators:
        """Give all that a worker is handed."""
        return Collaborators(
            backlog=self.backlog,
            expect=lambda _: None,
            enrich=enrich,
            judge_accident=lambda _, error: Never(reason="internal_error", detail=repr(error)),
            writer=Writer(),
            append_and_settle=self._stream.append_and_settle,
            looks=self._looks,
            listen=Bell(self.redis, self.keys.bell).listen,
            clock=time.monotonic,
            log=open_log(stream=self.written, pretty=False),
        )

    @asynccontextmanager
    async def working(self, enrich: Enrich, **manner: Any) -> AsyncIterator[Worker]:
        """Have a worker work meanwhile."""
        usual = Manner(concurrency=4, lease_s=0.3, grace_s=0.2)
        worker = Worker(self.hands(enrich), replace(usual, **manner))
        running = asyncio.create_task(worker.run())
        yield worker
        worker.stop()
        await running

    def facts(self) -> list[str]:
        """List the names of what was logged."""
        return [json.loads(line)["event"] for line in self.written.getvalue().splitlines()]

    async def is_done(self) -> bool:
        """Tell whether nothing waits."""
        return not await self.redis.exists(self.keys.backlog)


@pytest.fixture
def bench(backlog: Backlog, group: GroupCommit, redis: Redis, keys: Keys) -> Bench:
    """Give a bench of this test's own."""
    return Bench(backlog, group, redis, keys)


async def test_long_work_keeps_its_lease(bench: Bench, eventually: Eventually) -> None:
    """Work of several leases' length is done once, though a second worker waits for it."""
    begun: list[str] = []

    async def slowly(lease: Lease) -> Verdict:
        begun.append(lease.job)
        await asyncio.sleep(1.0)
        return await find(lease)

    await bench.backlog.add(complete(1))
    async with bench.working(slowly, grace_s=5.0), bench.working(slowly, grace_s=5.0):
        await eventually(bench.is_done)
    assert begun == ["id:deployment-1"]
    assert bench.facts() == ["deployment_published"]


async def test_work_whose_lease_is_lost_is_dropped(bench: Bench, eventually: Eventually) -> None:
    """Whoever else holds the ticket publishes it; the first neither publishes nor hands back."""
    lost, anothers = asyncio.Event(), 9e15 + 0.5

    async def until_lost(lease: Lease) -> Verdict:
        await bench.redis.zadd(bench.keys.backlog, {lease.job: anothers})
        try:
            await asyncio.sleep(60)
        finally:
            lost.set()
        return await find(lease)

    await bench.backlog.add(complete(1))
    async with bench.working(until_lost) as worker:
        await lost.wait()
        worker.stop()
    assert bench.facts() == ["lease_lost"]
    assert await bench.redis.zscore(bench.keys.backlog, "id:deployment-1") == anothers
    await bench.redis.zadd(bench.keys.backlog, {"id:deployment-1": 1})
    async with bench.working(find):
        await eventually(bench.is_done)
    assert await bench.redis.xlen(bench.keys.enriched) == 1


async def test_what_kills_its_workers_ends_among_the_failed(
    bench: Bench, eventually: Eventually
) -> None:
    """After so many leases that ran out, the ticket is not tried again."""
    await bench.backlog.add(complete(1))
    for crashes in range(2):
        async with asyncio.timeout(5):
            while not (claimed := await bench.backlog.claim(1)).leases:
                await asyncio.sleep(0.02)
        assert isinstance(claimed.leases[0], Lease)
        assert claimed.leases[0].crashes == crashes
    async with bench.working(find, crashes=2):
        await eventually(bench.is_done)
    assert bench.facts() == ["deployment_given_up"]
    assert b"poison" in (await bench.redis.hgetall(bench.keys.failures))[b"id:deployment-1"]


async def test_an_unreadable_ticket_is_not_renewed_while_it_is_given_up(
    group: GroupCommit,
    redis: Redis,
    keys: Keys,
    terms: Terms,
    eventually: Eventually,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A renewal under way would change the fence, and the ticket would be given up in vain."""
    patient = Backlog(
        group,
        keys=keys,
        terms=replace(terms, lease_ms=60_000),
        room=load_room(),
        new_token=lambda: "0123456789abcdef",
    )
    bench = Bench(patient, group, redis, keys)
    give_up, renewed = patient.give_up, asyncio.Event()
    renew = patient.renew

    async def renew_and_tell(held: Sequence[tuple[str, float]], by_ms: int) -> list[float | None]:
        fences = await renew(held, by_ms)
        renewed.set()
        return fences

    async def give_up_late(
        lease: Lease | Unreadable, failure: Failure
    ) -> Literal["given up", "again", "lost"]:
        with suppress(TimeoutError):
            await asyncio.wait_for(renewed.wait(), 0.5)
        return await give_up(lease, failure)

    monkeypatch.setattr(patient, "renew", renew_and_tell)
    monkeypatch.setattr(patient, "give_up", give_up_late)
    await redis.hset(keys.tickets, "id:a", b"not a ticket")
    await redis.zadd(keys.backlog, {"id:a": 1})
    async with bench.working(find):
        await eventually(bench.is_done)
    assert bench.facts() == ["ticket_unreadable"]
    assert await redis.zrange(keys.failed, 0, -1) == [b"id:a"]


async def test_our_own_mistake_fails_the_ticket_and_not_the_worker(
    bench: Bench, eventually: Eventually
) -> None:
    """An exception is written with its traceback, judged, and the next ticket is worked on."""

    async def stumble(lease: Lease) -> Verdict:
        if lease.ticket.deployment_id == "deployment-1":
            raise KeyError("bug")
        return await find(lease)

    async with bench.working(stumble):
        await bench.backlog.add(complete(1))
        await bench.backlog.add(complete(2))
        await eventually(bench.is_done)
    assert sorted(bench.facts()) == [
        "attempt_crashed",
        "deployment_given_up",
        "deployment_published",
    ]
    assert await bench.redis.zrange(bench.keys.failed, 0, -1) == [b"id:deployment-1"]


async def test_no_more_is_in_hand_than_was_said(bench: Bench, eventually: Eventually) -> None:
    """Concurrency is a bound, and every hand that is free is used."""
    now, most = 0, 0

    async def count(lease: Lease) -> Verdict:
        nonlocal now, most
        now += 1
        most = max(most, now)
        await asyncio.sleep(0.02)
        now -= 1
        return await find(lease)

    await asyncio.gather(*(bench.backlog.add(complete(number)) for number in range(20)))
    await bench.redis.hset(bench.keys.budget, "probe", "100")  # as after many answers
    async with bench.working(count, concurrency=3):
        await eventually(bench.is_done)
    assert most == 3
    assert await bench.redis.xlen(bench.keys.enriched) == 20


async def test_an_idle_worker_is_woken_at_once(bench: Bench, eventually: Eventually) -> None:
    """It blocks on the bell and does not poll: few commands while nothing is to do."""
    async with bench.working(find):
        await bench.backlog.add(complete(1))
        await eventually(bench.is_done)
        before = (await bench.redis.info("stats"))["total_commands_processed"]
        await asyncio.sleep(0.5)
        spent = (await bench.redis.info("stats"))["total_commands_processed"] - before
        await bench.backlog.add(complete(2))
        await eventually(bench.is_done)
    assert spent < 30  # of which this test's own two, and scripts count their inner commands
    assert bench.facts() == ["deployment_published"] * 2


async def test_a_claim_that_fails_is_said_and_tried_again(
    bench: Bench, eventually: Eventually, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker never ends in silence."""
    claim = bench.backlog.claim
    failures = iter([ResponseError("NOPERM this user has no permissions")])

    async def claim_at_second_try(limit: int, *, company: int) -> Claimed:
        for failure in failures:
            raise failure
        return await claim(limit, company=company)

    monkeypatch.setattr(bench.backlog, "claim", claim_at_second_try)
    await bench.backlog.add(complete(1))
    async with bench.working(find):
        await eventually(bench.is_done)
    assert bench.facts() == ["claiming_failed", "deployment_published"]


async def test_a_postponed_ticket_counts_its_attempts(bench: Bench, eventually: Eventually) -> None:
    """Later counts an attempt only where it says so."""
    told = [
        Later(reason="HTTP 502", wait_s=0.01),
        Later(reason="rate_limited", counts=False),
        Later(reason="HTTP 503", wait_s=0.01),
    ]
    seen: list[int] = []

    async def later(lease: Lease) -> Verdict:
        seen.append(lease.ticket.attempts)
        return told.pop(0) if told else await find(lease)

    await bench.backlog.add(complete(1))
    async with bench.working(later):
        await eventually(bench.is_done)
    assert seen == [0, 1, 1, 2]
