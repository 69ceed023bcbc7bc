"""Scenarios of every script that writes: a state of a namespace, and the call made in it."""

import asyncio
import itertools
import json
import math
import random
from collections.abc import Awaitable, Callable, Sequence
from typing import Literal

from msgspec import Struct
from msgspec.structs import replace
from redis.asyncio import Redis

from service.accept.mapping import Unmappable
from service.backlog.backlog import Backlog, BacklogConfig
from service.backlog.failed_tickets import FailedTickets
from service.backlog.failures import FailedTicket, FailureRecord
from service.backlog.refresh_schedule import RefreshPlan
from service.backlog.refreshes import RefreshConfig, Refreshes
from service.backlog.reports import Reports
from service.backlog.ticket import (
    Lease,
    RefreshState,
    ReportState,
    Ticket,
    new_ticket_bytes,
    with_ticket,
)
from service.backlog.wakeup import Wakeup
from service.enrich.budget import Budget, load_budget_prelude
from service.enrich.models import Deployment, parse_deployment
from service.enrich.rate_limits import RateLimitHeaders, RateLimitWindow
from service.enrich.verdict import Found
from service.metrics.namespace import NamespaceReader
from service.publish.entry import Entry, EntryBuilder
from service.publish.stream import OutputStream, RetentionConfig
from service.reconcile.checkpoint import Run, Runs
from service.reconcile.missed import MissedDeployment
from service.store.encoded_command import join_chunks
from service.store.group_commit import GroupCommit, ScriptArgument, ScriptReply
from service.store.keys import Keys
from service.store.script import Script
from tests.factories import deployment_id, make_event

MINUTE_MS = 60_000


class ScriptCall(Struct, frozen=True):
    """A script call as it is sent."""

    script: Script
    keys: tuple[str, ...]
    args: tuple[str | bytes | int | float, ...]


class HeldBack(Exception):
    """The call was kept and not sent."""


class CallCatcher(GroupCommit):
    """A GroupCommit that sends every call but one: the next call of the script ``name``."""

    name = ""
    caught: ScriptCall | None = None

    def submit(
        self,
        script: Script,
        *,
        keys: Sequence[str],
        args: Sequence[ScriptArgument],
        durable: bool = False,
        patient: bool = True,
        timeout_s: float = math.inf,
    ) -> asyncio.Future[ScriptReply]:
        """Send a call, or keep it and raise HeldBack."""
        if script.name == self.name:
            self.caught = ScriptCall(script, tuple(keys), tuple(map(join_chunks, args)))
            raise HeldBack
        return super().submit(
            script, keys=keys, args=args, durable=durable, patient=patient, timeout_s=timeout_s
        )


class Stage:
    """The parts of the service that run scripts, on one namespace."""

    def __init__(self, redis: Redis, group: GroupCommit, keys: Keys) -> None:
        tokens = itertools.count()
        config = BacklogConfig(
            lease_ms=MINUTE_MS,
            delivery_ttl_ms=MINUTE_MS,
            failed_ttl_ms=MINUTE_MS,
            call_ttl_ms=MINUTE_MS,
            max_tickets=1000,
            rate_limit_share=1.0,
        )
        retention = RetentionConfig(
            dedup_ttl_ms=MINUTE_MS, max_age_ms=MINUTE_MS, max_records=2, idle_group_ms=MINUTE_MS
        )

        def new_token() -> str:
            return f"{next(tokens):016d}"

        self.redis, self.keys = redis, keys
        self.backlog = Backlog(
            group, keys=keys, config=config, budget_lua=load_budget_prelude(), new_token=new_token
        )
        self.wakeup = Wakeup(redis, group, keys=keys, token="token")
        self.failed_tickets = FailedTickets(redis, group, keys=keys, new_token=new_token)
        self.refreshes = Refreshes(
            group,
            keys=keys,
            config=RefreshConfig(
                schedule=(MINUTE_MS,), dedup_ttl_ms=MINUTE_MS, rate_limit_share=1.0
            ),
            budget_lua=load_budget_prelude(),
        )
        self.reports = Reports(group, keys=keys)
        self.output = OutputStream(group, keys=keys, retention=retention)
        self.budget = Budget(group, keys=keys, share=1.0, rng=random.Random(1).random)
        self.runs = Runs(group, keys=keys, new_token=new_token, ttl_ms=MINUTE_MS)
        self.reader = NamespaceReader(group, keys=keys, share=1.0)

    async def claim(self) -> Lease:
        """Lease the one ticket that is due."""
        (lease,) = (await self.backlog.claim(1)).leases
        assert isinstance(lease, Lease)
        return lease

    async def add_and_claim(self, number: int = 1) -> Lease:
        """Add one event and lease its ticket."""
        await self.backlog.add(make_event(number))
        return await self.claim()

    async def add_refresh(self, number: int, *, due: int = 1) -> None:
        """Schedule the refresh of one deployment."""
        job_id = deployment_id(number)
        ticket = Ticket(source="native", delivery="d", outcome="", refresh=RefreshState(0, 1))
        stored = new_ticket_bytes(ticket, job=f"id:{job_id}", queued_at=0)
        await self.redis.zadd(self.keys.refreshes, {job_id: due})
        await self.redis.hset(self.keys.refresh_tickets, job_id, stored)
        await self.redis.pexpire(self.keys.refreshes, MINUTE_MS)
        await self.redis.pexpire(self.keys.refresh_tickets, MINUTE_MS)

    async def fail_three(self) -> list[FailedTicket]:
        """Add three events and fail their tickets."""
        for number in (1, 2, 3):
            lease = await self.add_and_claim(number)
            failure = FailureRecord(reason="not_found", ticket=lease.ticket)
            await self.backlog.fail(lease, failure)
        return [failed async for failed in self.failed_tickets.list_newest((-math.inf, math.inf))]

    async def end_lease(self, job: str) -> None:
        """Make a lease look like that of a worker that died."""
        await self.redis.zadd(self.keys.backlog, {job: 1000.5})


def build_entry(lease: Lease, *, refresh: bool = True, ended_at: int = 1000) -> Entry:
    """Return the entry of the deployment of a lease."""
    deployment_id = lease.ticket.deployment_id
    body = json.dumps({"id": deployment_id, "applicationKey": "shop", "endedAt": ended_at}).encode()
    deployment = parse_deployment(body)
    assert isinstance(deployment, Deployment)
    entry = EntryBuilder().build(
        Found(deployment=deployment, chunks=(body,)), lease, now_ms=lease.now
    )
    assert isinstance(entry, Entry)
    plan = RefreshPlan(since=lease.now, due=lease.now + MINUTE_MS, ticket=b"ticket")
    return replace(entry, plan=plan) if refresh else entry


Act = Callable[[], Awaitable[object]]
Scenario = Callable[[Stage], Awaitable[Act]]
"""Makes a state and returns the act whose script call is tested."""


async def add_new(stage: Stage) -> Act:
    """Prepare a first delivery."""
    await stage.backlog.add(make_event(2))
    return lambda: stage.backlog.add(make_event(1))


async def add_to_a_waiting_worker(stage: Stage) -> Act:
    """Prepare a first delivery on an idle system, which is handed over."""
    await stage.backlog.claim(1, waits=True)
    return lambda: stage.backlog.add(make_event(1))


async def add_to_a_leased_ticket(stage: Stage) -> Act:
    """Prepare a newer event of a deployment that a worker holds."""
    await stage.add_and_claim()
    return lambda: stage.backlog.add(make_event(1, delivery="newer"))


async def add_failed(stage: Stage) -> Act:
    """Prepare a redelivery of an event whose ticket failed."""
    await stage.backlog.fail(await stage.add_and_claim(), FailureRecord(reason="not_found"))
    return lambda: stage.backlog.add(make_event(1))


async def park(stage: Stage) -> Act:
    """Prepare a genuine event that cannot be mapped."""
    await stage.backlog.park("github", Unmappable("no version", (), "other", b"{}"))
    return lambda: stage.backlog.park("github", Unmappable("no version", (), "new", b"{}"))


async def claim_new_and_dead(stage: Stage) -> Act:
    """Prepare a claim of new tickets, of one whose worker died, and of a job without a ticket."""
    lease = await stage.add_and_claim(1)
    for number in (2, 3, 4):
        await stage.backlog.add(make_event(number, deployment_id=None))
    await stage.backlog.add(make_event(5))
    await stage.end_lease(lease.job)
    await stage.redis.zadd(stage.keys.backlog, {"id:forgotten": 1})
    return lambda: stage.backlog.claim(2, followers=10)


async def claim_what_nobody_took(stage: Stage) -> Act:
    """Prepare a claim of a ticket that was handed over, and that no worker has taken."""
    act = await add_to_a_waiting_worker(stage)
    await act()
    return lambda: stage.backlog.claim(1, waits=True)


async def end_wait(stage: Stage) -> Act:
    """Prepare a worker that stops."""
    return stage.wakeup.end


async def renew(stage: Stage) -> Act:
    """Prepare a renewal of two leases."""
    leases = [await stage.add_and_claim(number) for number in (1, 2)]
    return lambda: stage.backlog.renew([(lease.job, lease.fence) for lease in leases], 1000)


async def postpone(stage: Stage) -> Act:
    """Prepare a ticket that is tried again later."""
    lease = await stage.add_and_claim()
    return lambda: stage.backlog.postpone(lease, replace(lease.ticket, attempts=1), delay_s=60)


async def postpone_superseded(stage: Stage) -> Act:
    """Prepare a ticket that is tried again, with a newer event."""
    lease = await stage.add_and_claim()
    await stage.backlog.add(make_event(1, delivery="newer"))
    return lambda: stage.backlog.postpone(lease, lease.ticket, delay_s=60)


async def fail(stage: Stage) -> Act:
    """Prepare a ticket that is given up beside another that failed before."""
    await stage.backlog.fail(await stage.add_and_claim(2), FailureRecord(reason="not_found"))
    lease = await stage.add_and_claim()
    return lambda: stage.backlog.fail(lease, FailureRecord(reason="not_found"))


async def fail_superseded(stage: Stage) -> Act:
    """Prepare a ticket that is given up, with a newer event."""
    lease = await stage.add_and_claim()
    await stage.backlog.add(make_event(1, delivery="newer"))
    return lambda: stage.backlog.fail(lease, FailureRecord(reason="not_found"))


async def _claim_report(stage: Stage, outcome: Literal["succeeded", "started"]) -> Lease:
    """Lease the ticket of a source with ``report = true``, with what is to be written to it."""
    fields = {"deployment_id": None, "report": True, "outcome": outcome}
    await stage.backlog.add(make_event(1, **fields))
    lease = await stage.claim()
    return with_ticket(lease, replace(lease.ticket, report=ReportState(reported_at=7)))


async def begin_report(stage: Stage) -> Act:
    """Prepare the report of an end."""
    lease = await _claim_report(stage, "succeeded")
    return lambda: stage.reports.begin(lease)


async def begin_start(stage: Stage) -> Act:
    """Prepare the report of a start."""
    lease = await _claim_report(stage, "started")
    return lambda: stage.reports.begin(lease)


async def finish_start(stage: Stage) -> Act:
    """Prepare the answer to the report of a start."""
    lease = await _claim_report(stage, "started")
    await stage.reports.begin(lease)
    stored = replace(lease.ticket, report=ReportState(reported_at=7, is_stored=True))
    return lambda: stage.reports.finish(with_ticket(lease, stored))


async def end_start(stage: Stage) -> Act:
    """Prepare a start of which LaunchDarkly knows."""
    lease = await _claim_report(stage, "started")
    return lambda: stage.reports.end_start(lease)


async def skip_refresh(stage: Stage) -> Act:
    """Prepare a refresh that failed; the next one follows."""
    await stage.add_refresh(1)
    await stage.refreshes.enqueue_due()
    lease = await stage.claim()
    refresh = RefreshState(0, lease.now)
    lease = replace(lease, ticket=replace(lease.ticket, refresh=refresh))
    return lambda: stage.refreshes.skip(lease, "not_found")


async def refresh_due(stage: Stage) -> Act:
    """Prepare two refreshes that are due, one of them with a ticket in the backlog."""
    for number in (1, 2):
        await stage.add_refresh(number)
    await stage.add_and_claim(1)
    return stage.refreshes.enqueue_due


async def retry_failed(stage: Stage) -> Act:
    """Prepare a person retries two of three failed tickets."""
    batch = await stage.fail_three()
    return lambda: stage.failed_tickets.retry(batch[:2], {})


async def drop_failed(stage: Stage) -> Act:
    """Prepare a person drops two of three failed tickets."""
    batch = await stage.fail_three()
    return lambda: stage.failed_tickets.drop(batch[:2])


async def expire_failed(stage: Stage) -> Act:
    """Prepare failed tickets, of which two are no longer kept."""
    for failed in (await stage.fail_three())[:2]:
        await stage.redis.zadd(stage.keys.failed, {failed.job: 1})
    return stage.backlog.expire_failed


async def append(stage: Stage) -> Act:
    """Prepare the first record of a deployment; its refresh follows."""
    lease = await stage.add_and_claim()
    return lambda: stage.output.append_and_settle(build_entry(lease), lease)


async def append_a_milestone(stage: Stage) -> Act:
    """Prepare the 64th record, without a refresh."""
    await stage.redis.hset(stage.keys.counts, "appended", 63)
    lease = await stage.add_and_claim()
    return lambda: stage.output.append_and_settle(build_entry(lease, refresh=False), lease)


async def append_superseded(stage: Stage) -> Act:
    """Prepare a record while a newer event waits."""
    lease = await stage.add_and_claim()
    await stage.backlog.add(make_event(1, delivery="newer"))
    return lambda: stage.output.append_and_settle(build_entry(lease), lease)


async def append_unchanged(stage: Stage) -> Act:
    """Prepare content that was published before."""
    lease = await stage.add_and_claim()
    await stage.output.append_and_settle(build_entry(lease), lease)
    await stage.backlog.add(make_event(1, delivery="again"))
    again = await stage.claim()
    return lambda: stage.output.append_and_settle(build_entry(again), again)


async def _append_ended(stage: Stage, number: int, ended_at: int) -> None:
    lease = await stage.add_and_claim(number)
    await stage.output.append_and_settle(build_entry(lease, ended_at=ended_at), lease)


async def append_after_another(stage: Stage) -> Act:
    """Prepare a record of the newest deployment of an application."""
    await _append_ended(stage, 2, 500)
    lease = await stage.add_and_claim()
    return lambda: stage.output.append_and_settle(build_entry(lease), lease)


async def append_late(stage: Stage) -> Act:
    """Prepare a record of a deployment that ended before another one."""
    await _append_ended(stage, 2, 500)
    await _append_ended(stage, 3, 1500)
    lease = await stage.add_and_claim()
    return lambda: stage.output.append_and_settle(build_entry(lease), lease)


async def trim(stage: Stage) -> Act:
    """Prepare a stream with old records, too many records, and a group."""
    for entry_id in ("1-1", "1-2", "*", "*", "*"):
        await stage.redis.xadd(stage.keys.enriched, {"n": "1"}, id=entry_id)
    await stage.redis.hset(stage.keys.counts, "appended", 5)
    await stage.redis.zadd(stage.keys.milestones, {"1-1": 1})
    await stage.redis.xgroup_create(stage.keys.enriched, "group", id="$")
    return stage.output.trim


async def acquire(stage: Stage) -> Act:
    """Prepare a further call of a deployment that is started and waited for it."""
    await stage.redis.zadd(stage.keys.budget_waiting, {"id:1": 1e15})
    await stage.redis.pexpire(stage.keys.budget_waiting, MINUTE_MS)
    return lambda: stage.budget.acquire("id:1", "get")


async def record_response(stage: Stage) -> Act:
    """Prepare the response to a call, which opens a window."""
    await stage.budget.acquire("id:1", "get")
    window = RateLimitWindow("global", 100, 99, 2_000_000_000_000)

    async def record() -> object:
        return await stage.budget.record("id:1", "ok", RateLimitHeaders(windows=(window,)))

    return record


async def begin_run(stage: Stage) -> Act:
    """Prepare a scope that was listed once before."""
    async with stage.runs.hold("scope", interval_ms=0) as run:
        assert isinstance(run, Run)
        await stage.runs.end(run, 5)

    async def begin() -> object:
        async with stage.runs.hold("scope", interval_ms=0) as run:
            return run

    return begin


async def _hold_run(stage: Stage) -> Run:
    run = Run("scope", "holder", 0, None)
    await stage.redis.hset(stage.keys.reconcile("scope"), "holder", "holder")
    await stage.redis.pexpire(stage.keys.reconcile("scope"), MINUTE_MS)
    return run


async def queue_missed(stage: Stage) -> Act:
    """Prepare two missed deployments, one of them published."""
    run = await _hold_run(stage)
    lease = await stage.add_and_claim()
    await stage.output.append_and_settle(build_entry(lease), lease)
    missed = [
        MissedDeployment(deployment_id(number), f"find:{number}", b"ticket") for number in (1, 2)
    ]
    return lambda: stage.runs.queue_missed(run, missed)


async def end_run(stage: Stage) -> Act:
    """Prepare a run that ends."""
    run = await _hold_run(stage)
    return lambda: stage.runs.end(run, 7)


async def namespace(stage: Stage) -> Act:
    """Prepare the measurement of a namespace with work in it."""
    await stage.add_and_claim()
    return stage.reader.read_stats


SCENARIOS: dict[str, tuple[str, Scenario]] = {
    "add": ("add", add_new),
    "add to a waiting worker": ("add", add_to_a_waiting_worker),
    "add to a leased ticket": ("add", add_to_a_leased_ticket),
    "add a failed delivery": ("add", add_failed),
    "park": ("park", park),
    "claim": ("claim", claim_new_and_dead),
    "claim what nobody took": ("claim", claim_what_nobody_took),
    "end_wait": ("end_wait", end_wait),
    "renew": ("renew", renew),
    "postpone": ("postpone", postpone),
    "postpone superseded": ("postpone", postpone_superseded),
    "fail": ("fail", fail),
    "fail superseded": ("fail", fail_superseded),
    "report of an end": ("write_report", begin_report),
    "report of a start": ("write_report", begin_start),
    "answer to a report": ("write_report", finish_start),
    "end_start": ("end_start", end_start),
    "skip_refresh": ("skip_refresh", skip_refresh),
    "refresh_due": ("refresh_due", refresh_due),
    "retry": ("retry", retry_failed),
    "drop": ("drop", drop_failed),
    "expire_failed": ("expire_failed", expire_failed),
    "append": ("append_and_settle", append),
    "append a milestone": ("append_and_settle", append_a_milestone),
    "append superseded": ("append_and_settle", append_superseded),
    "append unchanged": ("append_and_settle", append_unchanged),
    "append after another": ("append_and_settle", append_after_another),
    "append late": ("append_and_settle", append_late),
    "trim": ("trim", trim),
    "acquire": ("acquire", acquire),
    "record_response": ("record_response", record_response),
    "begin_run": ("begin_run", begin_run),
    "queue_missed": ("queue_missed", queue_missed),
    "end_run": ("end_run", end_run),
    "namespace": ("namespace", namespace),
}
"""The script of each scenario, and the scenario."""
