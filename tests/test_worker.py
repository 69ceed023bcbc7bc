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

from service.accept.mapping import DeploymentCompleted
from service.backlog.backlog import Backlog, BacklogConfig, Claimed, Wakeup
from service.backlog.failures import FailureRecord
from service.backlog.refreshes import RefreshConfig, Refreshes
from service.backlog.ticket import CorruptTicket, Lease
from service.enrich.budget import load_budget_prelude
from service.enrich.models import Deployment
from service.enrich.verdict import Fail, Found, Retry, Verdict
from service.log import build_log
from service.publish.entry import EntryBuilder
from service.publish.stream import OutputStream, RetentionConfig
from service.store.group_commit import GroupCommit
from service.store.keys import Keys
from service.worker import Worker, WorkerConfig, WorkerDependencies

Enrich = Callable[[Lease], Awaitable[Verdict]]
Eventually = Callable[[Callable[[], Awaitable[bool]]], Awaitable[None]]


def make_event(number: int) -> DeploymentCompleted:
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


async def find_deployment(lease: Lease) -> Verdict:
    """Find every deployment at once."""
    deployment_id = str(lease.ticket.deployment_id)
    return Found(
        deployment=Deployment(id=deployment_id), body=json.dumps({"id": deployment_id}).encode()
    )


class WorkerHarness:
    """A worker's surroundings: all real but for what it is told of each deployment."""

    def __init__(self, backlog: Backlog, group: GroupCommit, redis: Redis, keys: Keys) -> None:
        self.backlog = backlog
        self.redis = redis
        self.keys = keys
        self.log_output = io.StringIO()
        self._refreshes = Refreshes(
            group,
            keys=keys,
            config=RefreshConfig(schedule=(), dedup_ttl_ms=60_000, rate_limit_share=1.0),
            spare_calls_lua=load_budget_prelude(),
        )
        self._stream = OutputStream(
            group, keys=keys, retention=RetentionConfig(dedup_ttl_ms=60_000, max_age_ms=60_000)
        )

    def dependencies(self, enrich: Enrich) -> WorkerDependencies:
        """Give all that a worker is handed."""
        return WorkerDependencies(
            backlog=self.backlog,
            share_lists=lambda _: None,
            enrich=enrich,
            on_internal_error=lambda _, error: Fail(reason="internal_error", detail=repr(error)),
            entry_builder=EntryBuilder(),
            append_and_settle=self._stream.append_and_settle,
            refreshes=self._refreshes,
            wait_for_wakeup=Wakeup(self.redis, self.keys.wakeup).wait,
            clock=time.monotonic,
            log=build_log(stream=self.log_output, pretty=False),
        )

    @asynccontextmanager
    async def running_worker(self, enrich: Enrich, **changes: Any) -> AsyncIterator[Worker]:
        """Have a worker work meanwhile."""
        defaults = WorkerConfig(concurrency=4, lease_s=0.3, shutdown_timeout_s=0.2)
        worker = Worker(self.dependencies(enrich), replace(defaults, **changes))
        running = asyncio.create_task(worker.run())
        yield worker
        worker.stop()
        await running

    def log_event_names(self) -> list[str]:
        """List the names of what was logged."""
        return [json.loads(line)["event"] for line in self.log_output.getvalue().splitlines()]

    async def is_done(self) -> bool:
        """Tell whether nothing waits."""
        return not await self.redis.exists(self.keys.backlog)


@pytest.fixture
def worker_harness(
    backlog: Backlog, group_commit: GroupCommit, redis: Redis, keys: Keys
) -> WorkerHarness:
    """Give a bench of this test's own."""
    return WorkerHarness(backlog, group_commit, redis, keys)


async def test_long_work_keeps_its_lease(
    worker_harness: WorkerHarness, eventually: Eventually
) -> None:
    """Work of several leases' length is done once, though a second worker waits for it."""
    begun: list[str] = []

    async def slowly(lease: Lease) -> Verdict:
        begun.append(lease.job)
        await asyncio.sleep(1.0)
        return await find_deployment(lease)

    await worker_harness.backlog.add(make_event(1))
    async with (
        worker_harness.running_worker(slowly, shutdown_timeout_s=5.0),
        worker_harness.running_worker(slowly, shutdown_timeout_s=5.0),
    ):
        await eventually(worker_harness.is_done)
    assert begun == ["id:deployment-1"]
    assert worker_harness.log_event_names() == ["deployment_published"]


async def test_work_whose_lease_is_lost_is_dropped(
    worker_harness: WorkerHarness, eventually: Eventually
) -> None:
    """Whoever else holds the ticket publishes it; the first neither publishes nor hands back."""
    lost, anothers = asyncio.Event(), 9e15 + 0.5

    async def until_lost(lease: Lease) -> Verdict:
        await worker_harness.redis.zadd(worker_harness.keys.backlog, {lease.job: anothers})
        try:
            await asyncio.sleep(60)
        finally:
            lost.set()
        return await find_deployment(lease)

    await worker_harness.backlog.add(make_event(1))
    async with worker_harness.running_worker(until_lost) as worker:
        await lost.wait()
        worker.stop()
    assert worker_harness.log_event_names() == ["lease_lost"]
    assert (
        await worker_harness.redis.zscore(worker_harness.keys.backlog, "id:deployment-1")
        == anothers
    )
    await worker_harness.redis.zadd(worker_harness.keys.backlog, {"id:deployment-1": 1})
    async with worker_harness.running_worker(find_deployment):
        await eventually(worker_harness.is_done)
    assert await worker_harness.redis.xlen(worker_harness.keys.enriched) == 1


async def test_what_kills_its_workers_ends_among_the_failed(
    worker_harness: WorkerHarness, eventually: Eventually
) -> None:
    """After so many leases that ran out, the ticket is not tried again."""
    await worker_harness.backlog.add(make_event(1))
    for crashes in range(2):
        async with asyncio.timeout(5):
            while not (claimed := await worker_harness.backlog.claim(1)).leases:
                await asyncio.sleep(0.02)
        assert isinstance(claimed.leases[0], Lease)
        assert claimed.leases[0].crashes == crashes
    async with worker_harness.running_worker(find_deployment, max_crashes=2):
        await eventually(worker_harness.is_done)
    assert worker_harness.log_event_names() == ["deployment_failed"]
    assert (
        b"poison"
        in (await worker_harness.redis.hgetall(worker_harness.keys.failed_data))[b"id:deployment-1"]
    )


async def test_an_unreadable_ticket_is_not_renewed_while_it_is_given_up(
    group_commit: GroupCommit,
    redis: Redis,
    keys: Keys,
    backlog_config: BacklogConfig,
    eventually: Eventually,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A renewal under way would change the fence, and the ticket would be given up in vain."""
    patient = Backlog(
        group_commit,
        keys=keys,
        config=replace(backlog_config, lease_ms=60_000),
        budget_lua=load_budget_prelude(),
        new_token=lambda: "0123456789abcdef",
    )
    bench = WorkerHarness(patient, group_commit, redis, keys)
    give_up, renewed = patient.fail, asyncio.Event()
    renew = patient.renew

    async def renew_and_tell(held: Sequence[tuple[str, float]], by_ms: int) -> list[float | None]:
        fences = await renew(held, by_ms)
        renewed.set()
        return fences

    async def give_up_late(
        lease: Lease | CorruptTicket, failure: FailureRecord
    ) -> Literal["failed", "superseded", "lease_lost"]:
        with suppress(TimeoutError):
            await asyncio.wait_for(renewed.wait(), 0.5)
        return await give_up(lease, failure)

    monkeypatch.setattr(patient, "renew", renew_and_tell)
    monkeypatch.setattr(patient, "fail", give_up_late)
    await redis.hset(keys.tickets, "id:a", b"not a ticket")
    await redis.zadd(keys.backlog, {"id:a": 1})
    async with bench.running_worker(find_deployment):
        await eventually(bench.is_done)
    assert bench.log_event_names() == ["ticket_corrupt"]
    assert await redis.zrange(keys.failed, 0, -1) == [b"id:a"]


async def test_our_own_mistake_fails_the_ticket_and_not_the_worker(
    worker_harness: WorkerHarness, eventually: Eventually
) -> None:
    """An exception is written with its traceback, judged, and the next ticket is worked on."""

    async def stumble(lease: Lease) -> Verdict:
        if lease.ticket.deployment_id == "deployment-1":
            raise KeyError("bug")
        return await find_deployment(lease)

    async with worker_harness.running_worker(stumble):
        await worker_harness.backlog.add(make_event(1))
        await worker_harness.backlog.add(make_event(2))
        await eventually(worker_harness.is_done)
    assert sorted(worker_harness.log_event_names()) == [
        "attempt_error",
        "deployment_failed",
        "deployment_published",
    ]
    assert await worker_harness.redis.zrange(worker_harness.keys.failed, 0, -1) == [
        b"id:deployment-1"
    ]


async def test_no_more_is_in_hand_than_was_said(
    worker_harness: WorkerHarness, eventually: Eventually
) -> None:
    """Concurrency is a bound, and every hand that is free is used."""
    now, most = 0, 0

    async def count(lease: Lease) -> Verdict:
        nonlocal now, most
        now += 1
        most = max(most, now)
        await asyncio.sleep(0.02)
        now -= 1
        return await find_deployment(lease)

    await asyncio.gather(*(worker_harness.backlog.add(make_event(number)) for number in range(20)))
    await worker_harness.redis.hset(
        worker_harness.keys.budget, "probe", "100"
    )  # as after many answers
    async with worker_harness.running_worker(count, concurrency=3):
        await eventually(worker_harness.is_done)
    assert most == 3
    assert await worker_harness.redis.xlen(worker_harness.keys.enriched) == 20


async def test_an_idle_worker_is_woken_at_once(
    worker_harness: WorkerHarness, eventually: Eventually
) -> None:
    """It blocks on the bell and does not poll: few commands while nothing is to do."""
    async with worker_harness.running_worker(find_deployment):
        await worker_harness.backlog.add(make_event(1))
        await eventually(worker_harness.is_done)
        before = (await worker_harness.redis.info("stats"))["total_commands_processed"]
        await asyncio.sleep(0.5)
        spent = (await worker_harness.redis.info("stats"))["total_commands_processed"] - before
        await worker_harness.backlog.add(make_event(2))
        await eventually(worker_harness.is_done)
    assert spent < 30  # of which this test's own two, and scripts count their inner commands
    assert worker_harness.log_event_names() == ["deployment_published"] * 2


async def test_a_claim_that_fails_is_said_and_tried_again(
    worker_harness: WorkerHarness, eventually: Eventually, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker never ends in silence."""
    claim = worker_harness.backlog.claim
    failures = iter([ResponseError("NOPERM this user has no permissions")])

    async def claim_at_second_try(limit: int, *, followers: int) -> Claimed:
        for failure in failures:
            raise failure
        return await claim(limit, followers=followers)

    monkeypatch.setattr(worker_harness.backlog, "claim", claim_at_second_try)
    await worker_harness.backlog.add(make_event(1))
    async with worker_harness.running_worker(find_deployment):
        await eventually(worker_harness.is_done)
    assert worker_harness.log_event_names() == ["claim_failed", "deployment_published"]


async def test_a_postponed_ticket_counts_its_attempts(
    worker_harness: WorkerHarness, eventually: Eventually
) -> None:
    """Later counts an attempt only where it says so."""
    told = [
        Retry(reason="HTTP 502", wait_s=0.01),
        Retry(reason="rate_limited", counts_as_attempt=False),
        Retry(reason="HTTP 503", wait_s=0.01),
    ]
    seen: list[int] = []

    async def later(lease: Lease) -> Verdict:
        seen.append(lease.ticket.attempts)
        return told.pop(0) if told else await find_deployment(lease)

    await worker_harness.backlog.add(make_event(1))
    async with worker_harness.running_worker(later):
        await eventually(worker_harness.is_done)
    assert seen == [0, 1, 1, 2]
