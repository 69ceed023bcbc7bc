"""A model of the backlog: senders, workers, crashes and lost replies, checked against Redis."""

import asyncio
import itertools
import math
import time
from collections import Counter
from typing import cast

import structlog
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
)
from msgspec import Struct
from msgspec.structs import replace

from service.accept.mapping import DeploymentEvent, Duplicate, Queued
from service.backlog.backlog import Backlog, BacklogConfig, PostponeStatus
from service.backlog.failures import FailureRecord
from service.backlog.reports import Reports
from service.backlog.ticket import (
    Lease,
    ReportState,
    decode_handed_over,
    decode_lease,
    job_key,
    list_events,
    select_event,
    with_ticket,
)
from service.enrich.budget import load_budget_prelude
from service.publish.entry import Entry
from service.publish.stream import OutputStream, PublishResult, RetentionConfig
from service.store.connect import open_client
from service.store.group_commit import GroupCommit
from service.store.keys import Keys
from tests.factories import deployment_id, make_event

NAMESPACES = itertools.count()
LONG_MS = 100_000
RETRY_EVERY = 10  # as claim.lua has it
RETRY_LINES = -(2**51)  # as lib_lines.lua has it
LINE_LENGTH = 2**31  # as it has LINES.get
REPEATED = 1 << 20  # as in lib_tickets.lua
KEYS_WITHOUT_TTL = {
    *("enriched", "failed", "failed:data", "failed:raw", "counts", "enriched:milestones", "clock")
}


class EventModel(Struct):
    """An event of the model, the deliveries that said it, and the one that Redis holds."""

    outcome: str
    deliveries: list[str]
    delivery: str
    added_order: int = 0


class TicketModel(Struct):
    """A ticket of the model: its events, its lease, and whether it is due. A refresh has no event.

    ``is_leased`` stays true when the lease has run out, until another worker claims the ticket.
    """

    generation: int
    events: list[EventModel]
    fence: float | None = None
    is_leased: bool = False
    is_due: bool = True
    added_order: int = 0


class StoredState(Struct):
    """What Redis holds: the backlog with its scores, tickets, failed jobs, counts, refreshes."""

    scores: dict[str, float]
    tickets: set[str]
    failed: set[str]
    counts: dict[str, int]
    planned: set[str]
    planned_tickets: set[str]


class TurnModel(Struct):
    """Who had the last turns: calls for first attempts since the last retry, environments."""

    first_calls: int = 0
    last_environment: dict[bool, str] = {}


def environment_of(job: str) -> str:
    """Return the environment of a job.

    Each number has its own, which is also that of the deployment that the other outcome finds.
    """
    return f"environment-{int(job[-1]) % 2}"


def build_event(number: int, delivery: str, *, known: bool) -> DeploymentEvent:
    """Return the event of one deployment, with its id or to be found by its version.

    Its delivery says whether the deployment failed.
    """
    event = make_event(
        number,
        delivery=delivery,
        environment=environment_of(str(number)),
        outcome="failed" if delivery[-1] in "258" else "succeeded",
        event_time=1_795_428_000_000,
    )
    return event if known else replace(event, deployment_id=None)


class BacklogModel(RuleBasedStateMachine):
    """Runs several workers on one backlog, and checks each reply against a model.

    The Redis clock cannot be moved, so time passes by moving the score of a ticket. ``twice`` is a
    lost reply: the same call is sent once more under the same token.
    """

    def __init__(self, url: str) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.keys = Keys(f"backlog-model{next(NAMESPACES)}")
        self.tokens = itertools.count()
        self.token = ""
        self.run = self.runner.run
        self.run(self.open(url))
        self.tickets: dict[str, TicketModel] = {}
        self.turns = TurnModel()
        self.failed: dict[str, list[EventModel]] = {}
        self.reasons: dict[str, str] = {}
        self.job_by_delivery: dict[str, str] = {}
        self.published: dict[str, tuple[int, str]] = {}
        self.reported: dict[str, str] = {}
        self.settled_events: Counter[str] = Counter()
        self.reopened: list[str] = []
        self.leases: list[Lease] = []
        self.handed_over: Lease | None = None

    async def open(self, url: str) -> None:
        """Connect, with a budget that allows every call."""
        self.client = open_client(url)
        self.group = GroupCommit(
            self.client, durability="memory", clock=time.monotonic, log=structlog.get_logger()
        )
        config = BacklogConfig(
            lease_ms=LONG_MS,
            delivery_ttl_ms=LONG_MS,
            failed_ttl_ms=LONG_MS,
            call_ttl_ms=1,
            max_tickets=99,
            rate_limit_share=1.0,
        )
        self.backlog = Backlog(
            self.group,
            keys=self.keys,
            config=config,
            budget_lua=load_budget_prelude(),
            new_token=lambda: self.token,
        )
        retention = RetentionConfig(dedup_ttl_ms=LONG_MS, max_age_ms=LONG_MS)
        self.output = OutputStream(self.group, keys=self.keys, retention=retention)
        self.reports = Reports(self.group, keys=self.keys)
        await self.client.hset(self.keys.budget, mapping={"probe": 1000})
        await self.client.pexpire(self.keys.budget, LONG_MS)
        await self.client.set(self.keys.waiting_worker, "1", px=LONG_MS)

    def take_lease(self, index: int) -> Lease:
        """Remove one of the held leases and return it."""
        return self.leases.pop(index % len(self.leases))

    def held_ticket(self, lease: Lease) -> TicketModel | None:
        """Return the ticket of a lease that is still valid, else None."""
        ticket = self.tickets.get(lease.job)
        return ticket if ticket is not None and ticket.fence == lease.fence else None

    @rule(
        number=st.sampled_from([0, 0, 0, 1]),
        known=st.booleans(),
        nth=st.integers(0, 9),
        is_moved=st.booleans(),
        twice=st.booleans(),
    )
    def add(self, number: int, known: bool, nth: int, is_moved: bool, twice: bool) -> None:
        """Add an event: new, sent again, or sent again after it failed.

        It may be mapped to another application since it failed (``is_moved``).
        """
        self.token = f"{next(self.tokens):016d}"
        delivery = f"{number}-{known}-{nth}"
        event = build_event(number, delivery, known=known)
        if not self.is_delivery_failed(delivery):
            is_moved = "/moved/" in self.job_by_delivery.get(
                delivery, "/moved/" if is_moved else ""
            )
        if is_moved:
            event = replace(event, application="moved")
        self.add_and_check(event, twice=twice)

    def add_and_check(self, event: DeploymentEvent, *, twice: bool) -> None:
        """Add an event under the current token and check the reply."""
        is_idle = self.is_idle_without(job_key(event))
        delivery, result = event.delivery, self.run(self.backlog.add(event))
        if twice:
            assert self.run(self.backlog.add(event)) == result
        job = self.job_by_delivery.get(delivery)
        if job is not None and job not in self.failed:
            assert result == Duplicate(job=job)
            return
        assert isinstance(result, Queued)
        failed_before = {job} if job in self.failed else set()
        job = self.job_by_delivery[delivery] = result.job
        if self.is_event_failed(job, event.outcome):
            failed_before.add(job)
        for failed_job in sorted(failed_before, key=lambda name: name != job):
            if failed_job == job or failed_job.startswith("unmappable:"):
                self.requeue_failed(failed_job, job)
            else:
                self.move_failed(failed_job, delivery)
        self.put_event(job, [delivery], event.outcome)
        self.check_hand_over(job, is_expected=is_idle and not failed_before)

    def is_idle_without(self, job: str) -> bool:
        """Return whether a worker waits for a ticket of this job, and for no other."""
        self.run(self.read_wakeup())
        is_busy = self.run(self.count_calls()) > 0
        is_any_due = any(ticket.is_due for ticket in self.tickets.values())
        return not (self.handed_over or is_busy or is_any_due or job in self.tickets)

    async def count_calls(self) -> int:
        """Return the number of calls in flight."""
        return int(await self.client.zcard(self.keys.budget_calls))

    def check_hand_over(self, job: str, *, is_expected: bool) -> None:
        """Check whether a ticket was handed over; a worker takes an element that only wakes it."""
        element = self.run(self.read_wakeup())
        lease = decode_handed_over(element) if self.handed_over is None else None
        assert (lease is not None) == is_expected
        if lease is not None:
            assert isinstance(lease, Lease)
            self.hold_lease(lease)
            self.handed_over = lease
            self.turns.first_calls = 0
            self.turns.last_environment[True] = environment_of(job)

    async def read_wakeup(self) -> bytes:
        """Return the element of the wakeup list; take it if it only wakes a worker."""
        elements = cast("list[bytes]", await self.client.lrange(self.keys.wakeup, 0, -1))
        if elements == [b"1"]:
            await self.client.delete(self.keys.wakeup)
        return elements[0] if elements else b""

    async def take_element(self) -> bytes | None:
        """Take the element of the wakeup list."""
        return cast("bytes | None", await self.client.lpop(self.keys.wakeup))

    def hold_lease(self, lease: Lease) -> None:
        """Record that the ticket of a lease is leased."""
        ticket = self.tickets[lease.job]
        assert lease.generation == ticket.generation
        ticket.fence, ticket.is_leased, ticket.is_due = lease.fence, True, False

    @precondition(lambda self: self.handed_over)
    @rule(dies=st.booleans())
    def take_handed_over(self, dies: bool) -> None:
        """Take the lease that was handed over, as a worker that may die at once."""
        assert self.handed_over is not None
        assert self.run(self.take_element())
        if not dies:
            self.leases.append(self.handed_over)
        self.handed_over = None

    def take_back(self) -> None:
        """Put a ticket that no worker has taken back into its line, as a claim does."""
        if self.handed_over is not None:
            ticket = self.held_ticket(self.handed_over)
            if ticket is not None:
                ticket.fence, ticket.is_leased, ticket.is_due = None, False, True
            self.handed_over = None

    def is_delivery_failed(self, delivery: str) -> bool:
        """Return whether the event of a delivery failed, and none that says the same waits."""
        failed = self.failed.get(self.job_by_delivery.get(delivery, ""), ())
        return any(delivery in event.deliveries for event in failed)

    def is_event_failed(self, job: str, outcome: str) -> bool:
        """Return whether an event of a job says what a failed one said."""
        is_id = job.startswith("id:")
        return any(is_id or failed.outcome == outcome for failed in self.failed.get(job, ()))

    def requeue_failed(self, failed_job: str, job: str) -> None:
        """Put the events of a failed job back into the backlog; a parked one is just added."""
        for failed in self.failed.pop(failed_job):
            self.settled_events.subtract(failed.deliveries)
            if failed_job == job and job.startswith("find:"):
                self.put_event(job, failed.deliveries, failed.outcome, delivery=failed.delivery)
            else:
                self.reopened += failed.deliveries

    def move_failed(self, failed_job: str, delivery: str) -> None:
        """Take a delivery from a failed job, with its event if that is the one that Redis holds."""
        for event in [*self.failed[failed_job]]:
            if event.delivery == delivery:
                self.settled_events.subtract(event.deliveries)
                self.reopened += event.deliveries
                self.failed[failed_job].remove(event)
            elif delivery in event.deliveries:
                self.settled_events.subtract([delivery])
                event.deliveries.remove(delivery)
        if not self.failed[failed_job]:
            del self.failed[failed_job]

    def put_event(
        self, job: str, deliveries: list[str], outcome: str, *, delivery: str = ""
    ) -> None:
        """Put an event into a ticket: it repeats one, or is another one of the job."""
        delivery = delivery or deliveries[0]
        deliveries, self.reopened = [*self.reopened, *deliveries], []
        ticket = self.tickets.setdefault(
            job, TicketModel(generation=0, events=[], added_order=next(self.tokens))
        )
        others = ticket.events[-1:] if job.startswith("id:") else ticket.events
        equal = [event for event in others if event.outcome == outcome]
        if not equal:
            is_new = all(event.outcome != outcome for event in ticket.events)
            if not ticket.events:
                ticket.added_order = next(self.tokens)
            equal = [EventModel(outcome, [], delivery, next(self.tokens))]
            ticket.events += equal
            ticket.generation += 1
            ticket.is_due = ticket.is_due or (is_new and ticket.fence is None)
        elif ticket.is_leased:
            ticket.generation += REPEATED
        joined = (equal or ticket.events[-1:])[0]
        known = {name for event in ticket.events for name in event.deliveries}
        new = [name for name in dict.fromkeys(deliveries) if name not in known]
        self.settled_events.subtract(name for name in new if self.settled_events[name])
        joined.deliveries += new

    @rule(limit=st.integers(1, 3), followers=st.sampled_from([0, 1, 3]), twice=st.booleans())
    def claim(self, limit: int, followers: int, twice: bool) -> None:
        """Claim as a worker: as many due tickets as it wants, none that another holds."""
        self.token = f"{next(self.tokens):016d}"
        self.take_back()
        self.run(self.level_places())
        first_attempts = self.run(self.read_first_attempts())
        claimed = self.run(self.backlog.claim(limit, followers=followers))
        if twice and claimed.leases:
            repeated = self.run(self.backlog.claim(limit, followers=followers)).leases
            assert [without_now(lease) for lease in repeated] == [
                without_now(lease) for lease in claimed.leases
            ]
        due = {job for job, ticket in self.tickets.items() if ticket.is_due}
        assert min(limit, len(due)) <= len(claimed.leases) <= min(limit + followers, len(due))
        leaders = {lease.job for lease in claimed.leases if self.is_leader(lease)}
        assert len(leaders) <= limit
        has_retries = not due <= first_attempts
        for lease in claimed.leases:
            assert isinstance(lease, Lease)
            assert lease.job in due
            if lease.leader is None:
                self.check_turn(lease.job, first_attempts, has_retries=has_retries)
            else:
                assert lease.leader in leaders
                assert lease.job.startswith(f"find:default/{environment_of(lease.leader)}/")
            self.hold_lease(lease)
            self.leases.append(lease)
        self.run(self.read_wakeup())

    async def level_places(self) -> None:
        """Let all due tickets have waited equally long.

        A place in a line is a second. Else it would depend on the clock which ticket is claimed,
        and the same steps would not have the same result.
        """
        seconds, microseconds = await self.client.time()
        now_ms = int(seconds) * 1000 + int(microseconds) // 1000
        scores = cast(
            "list[tuple[bytes, float]]",
            await self.client.zrangebyscore(self.keys.backlog, "-inf", now_ms, withscores=True),
        )
        levelled = {
            job: score - math.floor(score % LINE_LENGTH) if score < 0 else 1.0
            for job, score in scores
            if score < 0 or score % 1 == 0
        }
        if levelled:
            await self.client.zadd(self.keys.backlog, levelled)

    async def read_first_attempts(self) -> set[str]:
        """Return the due jobs that were not tried yet, or whose worker died."""
        first_attempts: set[str] = set()
        if not self.tickets:
            return first_attempts
        async with self.client.pipeline(transaction=False) as reads:
            reads.zmscore(self.keys.backlog, [*self.tickets])
            reads.hmget(self.keys.tickets, [*self.tickets])
            scores, all_stored = await reads.execute()
        for (job, ticket), score, stored in zip(
            self.tickets.items(), scores, all_stored, strict=True
        ):
            lease = decode_lease(job.encode(), fence=b"1", stored=stored, now=0)
            assert isinstance(lease, Lease)
            first = lease.events[0].ticket if lease.events else lease.ticket
            is_new = first.attempts == 0 and first.refresh is None
            in_first_lines = score < RETRY_LINES if score < 0 else is_new
            if ticket.is_due and (score % 1 != 0 or in_first_lines):
                first_attempts.add(job)
        return first_attempts

    def check_turn(self, job: str, first_attempts: set[str], *, has_retries: bool) -> None:
        """Check that it is the turn of a job: of its kind, then of its environment."""
        turns, is_first = self.turns, job in first_attempts
        others = [name for name, ticket in self.tickets.items() if ticket.is_due and name != job]
        same_kind = [name for name in others if (name in first_attempts) == is_first]
        if len(same_kind) < len(others):
            assert is_first == (turns.first_calls + 1 < RETRY_EVERY)
        turns.first_calls = turns.first_calls + 1 if is_first and has_retries else 0
        if turns.last_environment.get(is_first) == environment_of(job):
            assert {environment_of(name) for name in same_kind} <= {environment_of(job)}
        turns.last_environment[is_first] = environment_of(job)

    def is_leader(self, lease: object) -> bool:
        """Return whether a lease has a call of its own."""
        return isinstance(lease, Lease) and lease.leader is None

    @precondition(lambda self: self.leases)
    @rule(
        index=st.integers(0, 9),
        status=st.sampled_from("abuos"),
        nth=st.integers(0, 3),
        twice=st.booleans(),
    )
    def publish(self, index: int, status: str, twice: bool, nth: int = 0) -> None:
        """Publish an event of a ticket that a worker holds, or held."""
        lease = self.choose_event(index, nth)
        self.publish_and_check(build_entry(lease, status), index, twice=twice)

    def choose_event(self, index: int, nth: int) -> Lease:
        """Let a worker work on one of the events of its ticket, if they end one by one."""
        position = index % len(self.leases)
        lease = self.leases[position]
        if lease.events and lease.job.startswith("find:"):
            lease = select_event(lease, nth % len(lease.events))
        self.leases[position] = lease
        return lease

    def publish_and_check(self, entry: Entry, index: int, *, twice: bool) -> PublishResult:
        """Publish a ticket and check the reply."""
        lease = self.take_lease(index)
        settled = self.run(self.output.append_and_settle(entry, lease))
        if twice:
            assert self.run(self.output.append_and_settle(entry, lease)) == settled
        ticket = self.held_ticket(lease)
        if ticket is None:
            assert settled == PublishResult("lease_lost", 0)
            return settled
        revision, last = self.published.get(entry.deployment_id, (0, ""))
        if self.is_taken(entry, lease):
            assert settled == PublishResult("taken", revision)
            self.leases.append(lease)
            return settled
        if entry.filtered_because:
            assert settled == PublishResult("filtered", revision)
        elif last == entry.digest or entry.is_shared:
            assert settled == PublishResult("unchanged", revision)
        else:
            assert settled == PublishResult("published", revision + 1)
        digest = last if entry.filtered_because or entry.is_shared else entry.digest
        self.published[entry.deployment_id] = (settled.revision, digest)
        if lease.ticket.refresh is None:
            self.reported[entry.deployment_id] = lease.ticket.outcome
        self.settle_ticket(lease, ticket)
        return settled

    def is_taken(self, entry: Entry, lease: Lease) -> bool:
        """Return whether the sender reported the found deployment with another outcome."""
        reported = self.reported.get(entry.deployment_id, lease.ticket.outcome)
        is_exempt = entry.filtered_because or entry.is_shared or lease.job.startswith("id:")
        return not is_exempt and reported != lease.ticket.outcome

    def settle_ticket(
        self, lease: Lease, ticket: TicketModel, *, has_failed: bool = False
    ) -> list[EventModel]:
        """End the events of a lease and return them; the others make the ticket due again."""
        first, last = lease.settled_events
        is_repeated = ticket.generation != lease.generation and not is_newer(ticket, lease)
        ended = ticket.events[first - 1 : last] if first and (has_failed or not is_repeated) else []
        for event in ended:
            ticket.events.remove(event)
            self.settled_events.update(event.deliveries)
        ticket.fence, ticket.is_leased, ticket.is_due = None, False, True
        if not ticket.events:
            del self.tickets[lease.job]
        return ended

    @precondition(lambda self: self.leases)
    @rule(
        index=st.integers(0, 9),
        reason=st.sampled_from("xy"),
        nth=st.integers(0, 3),
        twice=st.booleans(),
    )
    def fail(self, index: int, reason: str, nth: int, twice: bool) -> None:
        """Fail an event of a ticket that a worker holds, or held."""
        self.choose_event(index, nth)
        self.fail_and_check(index, reason, twice=twice)

    def fail_and_check(self, index: int, reason: str, *, twice: bool) -> str:
        """Fail a ticket and check the reply."""
        lease = self.take_lease(index)
        failure = FailureRecord(reason=reason, ticket=lease.ticket, fence=lease.fence)
        result = self.run(self.backlog.fail(lease, failure))
        if twice and result == "failed":
            assert self.run(self.backlog.fail(lease, failure)) == result
        ticket = self.held_ticket(lease)
        if ticket is None:
            assert result == "lease_lost"
        elif lease.job.startswith("id:") and is_newer(ticket, lease):
            assert result == "superseded"
            self.supersede(lease, ticket)
        else:
            assert result == "failed"
            ended = self.settle_ticket(lease, ticket, has_failed=True)
            self.failed[lease.job] = [*ended[-1:], *self.failed.get(lease.job, ())]
            for event in ended[:-1]:  # of one deployment, of which the last event counts
                ended[-1].deliveries += event.deliveries
            self.reasons[lease.job] = reason
        return result

    def supersede(self, lease: Lease, ticket: TicketModel) -> None:
        """Let the newer events of a deployment stand for those of the lease."""
        _, last = lease.settled_events
        for event in ticket.events[:last]:
            ticket.events[last].deliveries += event.deliveries
        ticket.events = ticket.events[last:]
        ticket.fence, ticket.is_leased, ticket.is_due = None, False, True

    @precondition(lambda self: self.leases)
    @rule(index=st.integers(0, 9), delay_s=st.sampled_from([0.0, 90.0]), twice=st.booleans())
    def postpone(self, index: int, delay_s: float, twice: bool) -> None:
        """Put a ticket back until later, or make it due at once."""
        lease = self.take_lease(index)
        attempted = replace(lease.ticket, attempts=next(self.tokens))
        result = self.run(self.backlog.postpone(lease, attempted, delay_s=delay_s))
        self.check_postponed(lease, result, delay_s=delay_s)
        if twice and result == "postponed":
            repeated = self.run(self.backlog.postpone(lease, attempted, delay_s=delay_s))
            assert repeated == "postponed"

    def check_postponed(self, lease: Lease, result: PostponeStatus, *, delay_s: float) -> None:
        """Check the result of a postponement and postpone the ticket of the model."""
        ticket = self.held_ticket(lease)
        if ticket is None:
            assert result == "lease_lost"
        else:
            newer = is_newer(ticket, lease)
            assert result == ("superseded" if newer else "postponed")
            ticket.fence, ticket.is_leased = None, False
            ticket.is_due = newer or delay_s == 0

    @precondition(lambda self: self.leases)
    @rule(index=st.integers(0, 9), nth=st.integers(0, 3), ends=st.booleans(), twice=st.booleans())
    def report(self, index: int, nth: int, ends: bool, twice: bool) -> None:
        """Write to one event of a ticket that LaunchDarkly is reported, or was reported.

        Events that arrived meanwhile stay as they are.
        """
        lease = self.choose_event(index, nth)
        if not lease.job.startswith("find:"):
            return
        report = ReportState(reported_at=next(self.tokens) + 1, is_stored=ends)
        reported = with_ticket(lease, replace(lease.ticket, report=report))
        write = self.reports.finish if ends else self.reports.begin
        result = self.run(write(reported))
        if twice:
            assert self.run(write(reported)) == result
        if self.held_ticket(lease) is None:
            assert result == "lease_lost"
            return
        assert result == "written"
        stored = [event.ticket for event in list_events(self.run(self.read_ticket(lease)))]
        known = [event.ticket for event in list_events(reported)]
        assert stored[: len(known)] == known
        self.leases[index % len(self.leases)] = reported

    async def read_ticket(self, lease: Lease) -> Lease:
        """Return a lease with its ticket as Redis holds it now."""
        stored = cast("bytes", await self.client.hget(self.keys.tickets, lease.job))
        decoded = decode_lease(lease.job.encode(), fence=b"1.5", stored=stored, now=0)
        assert isinstance(decoded, Lease)
        return decoded

    @precondition(lambda self: self.leases)
    @rule(index=st.integers(0, 9), twice=st.booleans())
    def renew(self, index: int, twice: bool) -> None:
        """Renew a lease, or learn that it is lost."""
        lease = self.take_lease(index)
        job_fences = [(lease.job, lease.fence)]
        (fence,) = self.run(self.backlog.renew(job_fences, 1000))
        if twice:
            assert self.run(self.backlog.renew(job_fences, 1000)) == [fence]
        ticket = self.held_ticket(lease)
        if ticket is None:
            assert fence is None
        else:
            assert fence == lease.fence + 1000
            ticket.fence = fence
            self.leases.append(replace(lease, fence=fence))

    @precondition(lambda self: self.leases)
    @rule(index=st.integers(0, 9))
    def crash(self, index: int) -> None:
        """End a worker, which never settles what it held."""
        self.take_lease(index)

    @precondition(lambda self: self.tickets)
    @rule(index=st.integers(0, 9))
    def pass_time(self, index: int) -> None:
        """Let a lease run out or a wait end; the former holder may still settle, too late."""
        job = sorted(self.tickets)[index % len(self.tickets)]
        self.run(self.move_to_past(job))
        self.tickets[job].fence, self.tickets[job].is_due = None, True

    async def move_to_past(self, job: str) -> None:
        """Move the time of a ticket into the past; its fraction stays, and so does a place."""
        score = await self.client.zscore(self.keys.backlog, job)
        if cast("float", score) > 0:
            await self.client.zincrby(self.keys.backlog, -10 * LONG_MS, job)

    @invariant()
    def redis_matches_the_model(self) -> None:
        """Check what Redis holds against the model: read at once, for it is done at every step."""
        self.check_stored(self.run(self.read_stored()))

    def check_stored(self, stored: StoredState) -> None:
        """Check that every ticket waits, has failed or is gone, as in the model; check the counts.

        Leases of dead workers count too.
        """
        assert stored.scores.keys() == stored.tickets == set(self.tickets)
        assert stored.failed == set(self.failed)
        open_events = {
            delivery_id
            for ticket in self.tickets.values()
            for event in ticket.events
            for delivery_id in event.deliveries
        }
        for delivery in self.job_by_delivery:
            assert self.settled_events[delivery] == (delivery not in open_events), delivery
        counts = dict(stored.counts)
        assert counts.pop("appended", 0) == sum(last for last, _ in self.published.values())
        assert counts.pop("leased", 0) == sum(score % 1 != 0 for score in stored.scores.values())
        assert counts == Counter(f"failed:{self.reasons[job]}" for job in self.failed)

    async def read_stored(self) -> StoredState:
        """Read jobs, counts and refreshes in one round trip."""
        async with self.client.pipeline(transaction=False) as reads:
            reads.zrange(self.keys.backlog, 0, -1, withscores=True)
            reads.hkeys(self.keys.tickets)
            reads.zrange(self.keys.failed, 0, -1)
            reads.hgetall(self.keys.counts)
            reads.zrange(self.keys.refreshes, 0, -1)
            reads.hkeys(self.keys.refresh_tickets)
            scored, tickets, failed, counts, planned, planned_tickets = await reads.execute()
        return StoredState(
            scores={job.decode(): score for job, score in scored},
            tickets={job.decode() for job in tickets},
            failed={job.decode() for job in failed},
            counts={name.decode(): int(count) for name, count in counts.items()},
            planned={name.decode() for name in planned},
            planned_tickets={name.decode() for name in planned_tickets},
        )

    def teardown(self) -> None:
        """Settle every ticket, then check what is left."""
        try:
            self.finish()
        finally:
            self.run(self.close())
            self.runner.close()

    def finish(self) -> None:
        """Settle every ticket; check that each event ended once and every other key expires."""
        self.leases.clear()
        for index in range(len(self.tickets)):
            self.pass_time(index)
        while self.tickets:
            self.claim(3, followers=0, twice=False)
            while self.leases:
                lease = self.leases[0]
                entry = build_entry(lease, "a")
                self.publish(0, "s" if self.is_taken(entry, lease) else "a", twice=False)
        self.redis_matches_the_model()
        assert set(self.settled_events.values()) <= {0, 1}
        assert all(self.settled_events[delivery] == 1 for delivery in self.job_by_delivery)
        ids = self.run(self.read_ids())
        expected = [
            f"{name}:{number}"
            for name, (last, _) in self.published.items()
            for number in range(1, last + 1)
        ]
        assert sorted(ids) == sorted(expected)
        assert self.run(self.keys_without_ttl()) <= KEYS_WITHOUT_TTL

    async def read_ids(self) -> list[str]:
        """Return the id of every record."""
        entries = cast(
            "list[tuple[bytes, dict[bytes, bytes]]]", await self.client.xrange(self.keys.enriched)
        )
        return [fields[b"id"].decode() for _, fields in entries]

    async def keys_without_ttl(self) -> set[str]:
        """Return the keys that never expire."""
        prefix = f"{{{self.keys.namespace}}}:"
        all_keys = [key async for key in self.client.scan_iter(match=f"{prefix}*", count=1000)]
        return {
            key.decode().removeprefix(prefix) for key in all_keys if await self.client.ttl(key) < 0
        }

    async def close(self) -> None:
        """Delete the keys and close the connection."""
        keys = [key async for key in self.client.scan_iter(match=f"{{{self.keys.namespace}}}:*")]
        if keys:
            await self.client.delete(*keys)
        await self.group.aclose()
        await self.client.aclose()


def build_entry(lease: Lease, status: str) -> Entry:
    """Return the entry of a lease.

    The filters exclude it if its status is ``u``. With ``s`` another event has the record. With
    ``o`` it is the deployment that a lease of the other outcome finds.
    """
    number = int(lease.job[-1])
    if lease.job.startswith("find:") and (lease.ticket.outcome == "failed") != (status == "o"):
        number += 2
    data = f',"status":"{status}"}}'.encode()
    filtered_because = "unwanted" if status == "u" else ""
    return Entry(
        deployment_id(number),
        status,
        (),
        (data,),
        complete=True,
        filtered_because=filtered_because,
        is_shared=status == "s",
    )


def is_newer(ticket: TicketModel, lease: Lease) -> bool:
    """Return whether another event than those of the lease arrived."""
    return (ticket.generation - lease.generation) % REPEATED != 0


def without_now(lease: object) -> Lease:
    """Return a lease without the time of its claim."""
    assert isinstance(lease, Lease)
    return replace(lease, now=0)
