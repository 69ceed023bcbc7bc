"""Tests of the worker: it keeps its leases, drops lost ones, and survives errors."""

import asyncio
import io
import json
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any, cast

import msgspec
import pytest
from msgspec.structs import replace
from redis.asyncio import Redis
from redis.exceptions import ResponseError

from service.backlog.backlog import Backlog, BacklogConfig, Claimed, FailStatus
from service.backlog.failures import FailureRecord
from service.backlog.refreshes import RefreshConfig, Refreshes
from service.backlog.ticket import CorruptTicket, Lease, select_event
from service.backlog.wakeup import Wakeup
from service.enrich.budget import load_budget_prelude
from service.enrich.models import Deployment
from service.enrich.step_runner import StepRunner
from service.enrich.steps import Steps
from service.enrich.verdict import Fail, Found, Retry, Verdict
from service.log import build_log
from service.publish.entry import Entry, EntryBuilder
from service.publish.stream import OutputStream, RetentionConfig
from service.store.group_commit import GroupCommit
from service.store.keys import Keys
from service.worker import Worker, WorkerConfig, WorkerDependencies
from tests.conftest import Eventually
from tests.factories import deployment_id, make_event

Enrich = Callable[[Lease], Awaitable[Verdict]]
SETTING_NAMES = frozenset(WorkerConfig.__struct_fields__)


async def find_deployment(lease: Lease) -> Verdict:
    """Find every deployment at once."""
    found_id = str(lease.ticket.deployment_id)
    body = json.dumps({"id": found_id}).encode()
    return Found(deployment=Deployment(id=found_id), chunks=(body,))


class WorkerHarness:
    """A real worker with all its stages; only the enrichment is chosen by the test."""

    def __init__(self, backlog: Backlog, group: GroupCommit, redis: Redis, keys: Keys) -> None:
        self.backlog = backlog
        self.group = group
        self.redis = redis
        self.keys = keys
        self.log_output = io.StringIO()
        self._refreshes = Refreshes(
            group,
            keys=keys,
            config=RefreshConfig(schedule=(), dedup_ttl_ms=60_000, rate_limit_share=1.0),
            budget_lua=load_budget_prelude(),
        )
        self._stream = OutputStream(
            group, keys=keys, retention=RetentionConfig(dedup_ttl_ms=60_000, max_age_ms=60_000)
        )

    def dependencies(self, enrich: Enrich) -> WorkerDependencies:
        """Return the dependencies of a worker."""
        return WorkerDependencies(
            backlog=self.backlog,
            share_lists=lambda _: None,
            enrich=enrich,
            on_internal_error=lambda _, error: Fail(reason="internal_error", detail=repr(error)),
            on_taken=lambda _: Retry(reason="not_found_yet", wait_s=60.0),
            release_memory=lambda _: None,
            entry_builder=EntryBuilder(),
            step_runner=StepRunner(),
            append_and_settle=self._stream.append_and_settle,
            refreshes=self._refreshes,
            wakeup=Wakeup(self.redis, self.group, keys=self.keys, token=secrets.token_hex(8)),
            clock=time.monotonic,
            log=build_log(stream=self.log_output, pretty=False),
        )

    @asynccontextmanager
    async def running_worker(self, enrich: Enrich, **changes: Any) -> AsyncIterator[Worker]:
        """Run a worker during the block; ``changes`` are of its dependencies and settings."""
        defaults = WorkerConfig(concurrency=4, lease_s=0.3, shutdown_timeout_s=0.2)
        settings = {name: changes.pop(name) for name in [*changes] if name in SETTING_NAMES}
        worker = Worker(
            replace(self.dependencies(enrich), **changes), replace(defaults, **settings)
        )
        running = asyncio.create_task(worker.run())
        yield worker
        worker.stop()
        await running

    def log_event_names(self) -> list[str]:
        """Return the names of the logged events."""
        return [json.loads(line)["event"] for line in self.log_output.getvalue().splitlines()]

    async def is_done(self) -> bool:
        """Return whether the backlog is empty."""
        return not await self.redis.exists(self.keys.backlog)


@pytest.fixture
def harness(backlog: Backlog, group_commit: GroupCommit, redis: Redis, keys: Keys) -> WorkerHarness:
    """Return the harness of one namespace."""
    return WorkerHarness(backlog, group_commit, redis, keys)


async def test_attempt_longer_than_its_lease_runs_once(
    harness: WorkerHarness, eventually: Eventually
) -> None:
    """Renewals keep the lease, although a second worker waits for the ticket."""
    started_jobs: list[str] = []

    async def enrich_slowly(lease: Lease) -> Verdict:
        started_jobs.append(lease.job)
        await asyncio.sleep(1.0)
        return await find_deployment(lease)

    await harness.backlog.add(make_event(1))
    async with (
        harness.running_worker(enrich_slowly, shutdown_timeout_s=5.0),
        harness.running_worker(enrich_slowly, shutdown_timeout_s=5.0),
    ):
        await eventually(harness.is_done)
    assert started_jobs == [f"id:{deployment_id(1)}"]
    assert harness.log_event_names() == ["deployment_published"]


async def test_attempt_whose_lease_is_lost_settles_nothing(
    harness: WorkerHarness, eventually: Eventually
) -> None:
    """The new holder publishes; the first worker neither publishes nor releases."""
    lost, other_fence = asyncio.Event(), 9e15 + 0.5

    async def enrich_until_lost(lease: Lease) -> Verdict:
        await harness.redis.zadd(harness.keys.backlog, {lease.job: other_fence})
        try:
            await asyncio.sleep(60)
        finally:
            lost.set()
        return await find_deployment(lease)

    await harness.backlog.add(make_event(1))
    async with harness.running_worker(enrich_until_lost) as worker:
        await lost.wait()
        worker.stop()
    assert harness.log_event_names() == ["lease_lost"]
    assert await harness.redis.zscore(harness.keys.backlog, f"id:{deployment_id(1)}") == other_fence
    await harness.redis.zadd(harness.keys.backlog, {f"id:{deployment_id(1)}": 1})
    async with harness.running_worker(find_deployment):
        await eventually(harness.is_done)
    assert await harness.redis.xlen(harness.keys.enriched) == 1


async def test_ticket_whose_leases_ran_out_too_often_fails_as_poison(
    harness: WorkerHarness, eventually: Eventually
) -> None:
    """After max_crashes leases that ran out, the ticket is not attempted again."""
    await harness.backlog.add(make_event(1))
    for crashes in range(2):
        async with asyncio.timeout(5):
            while not (claimed := await harness.backlog.claim(1)).leases:
                await asyncio.sleep(0.02)
        assert isinstance(claimed.leases[0], Lease)
        assert claimed.leases[0].crashes == crashes
    async with harness.running_worker(find_deployment, max_crashes=2):
        await eventually(harness.is_done)
    assert harness.log_event_names() == ["deployment_failed"]
    assert (
        b"poison"
        in (await harness.redis.hgetall(harness.keys.failed_data))[
            f"id:{deployment_id(1)}".encode()
        ]
    )


async def test_corrupt_ticket_is_not_renewed_while_it_is_failed(
    group_commit: GroupCommit,
    redis: Redis,
    keys: Keys,
    backlog_config: BacklogConfig,
    eventually: Eventually,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A renewal would change the fence, and the ticket could not be failed."""
    long_lease_backlog = Backlog(
        group_commit,
        keys=keys,
        config=replace(backlog_config, lease_ms=60_000),
        budget_lua=load_budget_prelude(),
        new_token=lambda: "0123456789abcdef",
    )
    harness = WorkerHarness(long_lease_backlog, group_commit, redis, keys)
    fail, renewed = long_lease_backlog.fail, asyncio.Event()
    renew = long_lease_backlog.renew

    async def renew_and_record(held: Sequence[tuple[str, float]], by_ms: int) -> list[float | None]:
        fences = await renew(held, by_ms)
        renewed.set()
        return fences

    async def fail_after_renewal(
        lease: Lease | CorruptTicket, failure: FailureRecord
    ) -> FailStatus:
        with suppress(TimeoutError):
            await asyncio.wait_for(renewed.wait(), 0.5)
        return await fail(lease, failure)

    monkeypatch.setattr(long_lease_backlog, "renew", renew_and_record)
    monkeypatch.setattr(long_lease_backlog, "fail", fail_after_renewal)
    await redis.hset(keys.tickets, "id:a", b"not a ticket")
    await redis.zadd(keys.backlog, {"id:a": 1})
    async with harness.running_worker(find_deployment):
        await eventually(harness.is_done)
    assert harness.log_event_names() == ["ticket_corrupt"]
    assert await redis.zrange(keys.failed, 0, -1) == [b"id:a"]


async def test_internal_error_fails_the_ticket_and_not_the_worker(
    harness: WorkerHarness, eventually: Eventually
) -> None:
    """The exception is logged with its traceback, and the next ticket is processed."""

    async def raise_for_the_first(lease: Lease) -> Verdict:
        if lease.ticket.deployment_id == deployment_id(1):
            raise KeyError("bug")
        return await find_deployment(lease)

    async with harness.running_worker(raise_for_the_first):
        await harness.backlog.add(make_event(1))
        await harness.backlog.add(make_event(2))
        await eventually(harness.is_done)
    assert sorted(harness.log_event_names()) == [
        "attempt_error",
        "deployment_failed",
        "deployment_published",
    ]
    assert await harness.redis.zrange(harness.keys.failed, 0, -1) == [
        f"id:{deployment_id(1)}".encode()
    ]


async def test_concurrency_limits_the_attempts_at_once(
    harness: WorkerHarness, eventually: Eventually
) -> None:
    """The limit holds, and all of it is used."""
    running, maximum = 0, 0

    async def count(lease: Lease) -> Verdict:
        nonlocal running, maximum
        running += 1
        maximum = max(maximum, running)
        await asyncio.sleep(0.02)
        running -= 1
        return await find_deployment(lease)

    await asyncio.gather(*(harness.backlog.add(make_event(number)) for number in range(20)))
    await harness.redis.hset(harness.keys.budget, "probe", "100")  # as after many responses
    async with harness.running_worker(count, concurrency=3):
        await eventually(harness.is_done)
    assert maximum == 3
    assert await harness.redis.xlen(harness.keys.enriched) == 20


async def test_idle_worker_waits_for_a_wakeup_without_polling(
    harness: WorkerHarness, eventually: Eventually
) -> None:
    """It blocks on the wakeup list and sends few commands while idle."""
    async with harness.running_worker(find_deployment):
        await harness.backlog.add(make_event(1))
        await eventually(harness.is_done)
        before = (await harness.redis.info("stats"))["total_commands_processed"]
        await asyncio.sleep(0.5)
        spent = (await harness.redis.info("stats"))["total_commands_processed"] - before
        await harness.backlog.add(make_event(2))
        await eventually(harness.is_done)
    assert spent < 40  # with the two of this test; the commands inside scripts count too
    assert harness.log_event_names() == ["deployment_published"] * 2


async def test_idle_worker_is_handed_the_ticket_that_is_added(
    harness: WorkerHarness, eventually: Eventually, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has the lease without a claim."""
    claimed_jobs: list[str] = []
    claim = harness.backlog.claim

    async def record_claim(limit: int, *, followers: int, waits: bool) -> Claimed:
        claimed = await claim(limit, followers=followers, waits=waits)
        claimed_jobs.extend(lease.job for lease in claimed.leases)
        return claimed

    async def is_worker_blocked() -> bool:
        return int((await harness.redis.info("clients"))["blocked_clients"]) > 0

    monkeypatch.setattr(harness.backlog, "claim", record_claim)
    async with harness.running_worker(find_deployment):
        for number in (1, 2):
            await eventually(is_worker_blocked)
            await harness.backlog.add(make_event(number))
            await eventually(harness.is_done)
    assert not claimed_jobs
    assert await harness.redis.xlen(harness.keys.enriched) == 2


async def test_ticket_that_is_handed_over_while_its_worker_stops_is_not_lost(
    harness: WorkerHarness,
) -> None:
    """Whenever the worker stops, no lease is left that nobody knows."""
    for number in range(20):
        async with harness.running_worker(find_deployment, lease_s=60.0) as worker:
            while not await harness.redis.exists(harness.keys.waiting_worker):
                await asyncio.sleep(0)
            adding = asyncio.create_task(harness.backlog.add(make_event(number)))
            for _ in range(number // 2):
                await asyncio.sleep(0)
            worker.stop()
            await adding
    await harness.redis.delete(harness.keys.waiting_worker)
    while (claimed := await harness.backlog.claim(10)).leases:
        for lease in claimed.leases:
            assert isinstance(lease, Lease)
            assert lease.crashes == 0
            await harness.backlog.fail(lease, FailureRecord(reason="test"))
    assert await harness.is_done()


async def test_claim_that_fails_is_logged_and_repeated(
    harness: WorkerHarness, eventually: Eventually, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker never ends silently."""
    claim = harness.backlog.claim
    failures = iter([ResponseError("NOPERM this user has no permissions")])

    async def claim_at_second_try(limit: int, *, followers: int, waits: bool) -> Claimed:
        for failure in failures:
            raise failure
        return await claim(limit, followers=followers, waits=waits)

    monkeypatch.setattr(harness.backlog, "claim", claim_at_second_try)
    await harness.backlog.add(make_event(1))
    async with harness.running_worker(find_deployment):
        await eventually(harness.is_done)
    assert harness.log_event_names() == ["claim_failed", "deployment_published"]


async def test_error_while_lists_are_shared_is_logged_and_each_ticket_is_attempted(
    harness: WorkerHarness, eventually: Eventually
) -> None:
    """A lease without a task would run out, and count as a crash of its worker."""

    def raise_error(_: Sequence[Lease]) -> None:
        raise KeyError("bug")

    await harness.backlog.add(make_event(1))
    async with harness.running_worker(find_deployment, share_lists=raise_error):
        await eventually(harness.is_done)
    assert harness.log_event_names()[0] == "share_lists_failed"
    assert harness.log_event_names()[-1] == "deployment_published"


async def test_internal_error_fails_the_event_whose_record_could_not_be_built(
    harness: WorkerHarness, eventually: Eventually
) -> None:
    """The other deployments of the version are published."""

    class BuilderWithBug(EntryBuilder, frozen=True):
        def build_in_steps(self, found: Found, lease: Lease, *, now_ms: int) -> Steps[Entry | Fail]:
            if lease.ticket.delivery == "run-2":
                raise KeyError("bug")
            return (yield from super().build_in_steps(found, lease, now_ms=now_ms))

    async def find_last(lease: Lease) -> Verdict:
        index = len(lease.events) - 1 if lease.events else None
        body = json.dumps({"id": select_event(lease, index or 0).ticket.delivery}).encode()
        return Found(
            deployment=msgspec.json.decode(body, type=Deployment), chunks=(body,), event_index=index
        )

    for number in range(3):
        time_ms = 1_795_428_000_000 + number * 3_600_000
        await harness.backlog.add(
            make_event(deployment_id=None, delivery=f"run-{number}", event_time=time_ms)
        )
    async with harness.running_worker(find_last, entry_builder=BuilderWithBug()):
        await eventually(harness.is_done)
    lines = map(json.loads, harness.log_output.getvalue().splitlines())
    ended = [(line["event"], line["delivery"]) for line in lines if "delivery" in line]
    assert ended == [
        ("deployment_failed", "run-2"),
        ("deployment_published", "run-1"),
        ("deployment_published", "run-0"),
    ]


async def test_ticket_is_released_after_the_renewal_in_progress(
    harness: WorkerHarness, eventually: Eventually, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its reply has the fence that Redis expects; without that the lease would have to run out."""
    renew, is_renewed, may_reply = harness.backlog.renew, asyncio.Event(), asyncio.Event()

    async def renew_slowly(
        job_fences: Sequence[tuple[str, float]], by_ms: int
    ) -> list[float | None]:
        fences = await renew(job_fences, by_ms)
        is_renewed.set()
        await may_reply.wait()
        return fences

    async def enrich(_: Lease) -> Verdict:
        await asyncio.sleep(60)
        raise AssertionError("unreachable")

    monkeypatch.setattr(harness.backlog, "renew", renew_slowly)
    await harness.backlog.add(make_event(1))
    async with harness.running_worker(enrich, shutdown_timeout_s=0.0) as worker:
        await is_renewed.wait()
        worker.stop()
        asyncio.get_running_loop().call_later(0.1, may_reply.set)
    assert harness.log_event_names() == ["deployment_released"]
    ((_, place),) = cast(
        "list[tuple[bytes, float]]",
        await harness.redis.zrange(harness.keys.backlog, 0, -1, withscores=True),
    )
    assert place % 1 == 0, "it is still leased"
    async with harness.running_worker(find_deployment):
        await eventually(harness.is_done)


async def test_ticket_whose_lease_is_lost_is_not_released(
    harness: WorkerHarness, eventually: Eventually
) -> None:
    """Another worker has it by now, and the log says so."""
    is_lost = asyncio.Event()

    async def enrich(lease: Lease) -> Verdict:
        await harness.redis.zadd(harness.keys.backlog, {lease.job: 4e15 + 0.5})
        is_lost.set()
        await asyncio.sleep(60)
        raise AssertionError("unreachable")

    await harness.backlog.add(make_event(1))
    async with harness.running_worker(enrich, lease_s=30.0, shutdown_timeout_s=0.0):
        await is_lost.wait()
    assert harness.log_event_names() == ["lease_lost"]
    await harness.redis.zadd(harness.keys.backlog, {f"id:{deployment_id(1)}": 1})
    async with harness.running_worker(find_deployment):
        await eventually(harness.is_done)


async def test_retry_counts_an_attempt_only_if_it_says_so(
    harness: WorkerHarness, eventually: Eventually
) -> None:
    """A rate limit costs no attempt."""
    retries = [
        Retry(reason="HTTP 502", wait_s=0.01),
        Retry(reason="rate_limited", counts_as_attempt=False),
        Retry(reason="HTTP 503", wait_s=0.01),
    ]
    seen: list[int] = []

    async def postpone(lease: Lease) -> Verdict:
        seen.append(lease.ticket.attempts)
        return retries.pop(0) if retries else await find_deployment(lease)

    await harness.backlog.add(make_event(1))
    async with harness.running_worker(postpone):
        await eventually(harness.is_done)
    assert seen == [0, 1, 1, 2]
