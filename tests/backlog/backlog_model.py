"""What must a backlog answer? Senders, workers, crashes and lost replies, beside a plain model."""

import asyncio
import itertools
import time
from collections import Counter
from typing import cast

import msgspec
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

from service.accept.mapping import DeploymentCompleted, Duplicate, Queued
from service.backlog.backlog import Backlog, BacklogConfig
from service.backlog.failures import FailureRecord
from service.backlog.ticket import Lease
from service.enrich.budget import load_budget_prelude
from service.publish.entry import Entry
from service.publish.stream import OutputStream, PublishResult, RetentionConfig
from service.store.connect import open_client
from service.store.group_commit import GroupCommit
from service.store.keys import Keys

NAMESPACES = itertools.count()
LONG_MS = 100_000
KEYS_WITHOUT_TTL = {"enriched", "failed", "failed:data", "counts", "enriched:milestones"}


class TicketModel(Struct):
    """What the model knows of one ticket: its events by generation, who holds it, if it is due."""

    generation: int
    events: list[tuple[int, str]]
    fence: float | None = None
    is_due: bool = True
    added_order: int = 0


def deployment_id(number: int) -> str:
    """Name one deployment."""
    return f"a0eebc99-9c0b-4ef8-bb6d-{number:012d}"


def make_event(number: int, delivery: str, *, known: bool) -> DeploymentCompleted:
    """Make one event about a deployment, by its id or to be found."""
    return DeploymentCompleted(
        source="native",
        delivery=delivery,
        project="default",
        environment="production",
        application="shop",
        version=str(number),
        deployment_id=deployment_id(number) if known else None,
        outcome="succeeded",
        event_time=None,
        metadata=msgspec.Raw(b"{}"),
        metadata_dropped=False,
        traceparent=None,
    )


class BacklogModel(RuleBasedStateMachine):
    """Several workers on one backlog, beside a model that says what each act must answer.

    Time passes by moving a ticket's score, since Redis's clock cannot be moved. ``twice`` is a
    lost reply: the same act, under the same token, is sent once more.
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
        self.failed: dict[str, list[tuple[int, str]]] = {}
        self.reasons: dict[str, str] = {}
        self.job_by_delivery: dict[str, str] = {}
        self.published: dict[str, tuple[int, str]] = {}
        self.answered: Counter[str] = Counter()
        self.leases: list[Lease] = []

    async def open(self, url: str) -> None:
        """Open the connection, with a budget that allows everything."""
        self.client = open_client(url)
        self.group = GroupCommit(
            self.client, durability="memory", clock=time.monotonic, log=structlog.get_logger()
        )
        terms = BacklogConfig(
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
            config=terms,
            budget_lua=load_budget_prelude(),
            new_token=lambda: self.token,
        )
        retention = RetentionConfig(dedup_ttl_ms=LONG_MS, max_age_ms=LONG_MS)
        self.output = OutputStream(self.group, keys=self.keys, retention=retention)
        await self.client.hset(self.keys.budget, mapping={"probe": 1000})
        await self.client.pexpire(self.keys.budget, LONG_MS)

    def take_lease(self, place: int) -> Lease:
        """Take one lease out of the hands."""
        return self.leases.pop(place % len(self.leases))

    def held_ticket(self, lease: Lease) -> TicketModel | None:
        """Give the ticket of a lease that still stands."""
        ticket = self.tickets.get(lease.job)
        return ticket if ticket is not None and ticket.fence == lease.fence else None

    @rule(
        number=st.sampled_from([0, 0, 0, 1]),
        known=st.booleans(),
        nth=st.integers(0, 9),
        twice=st.booleans(),
    )
    def add(self, number: int, known: bool, nth: int, twice: bool) -> None:
        """An event arrives: new, sent again by its sender, or sent again after it failed."""
        self.token = f"{next(self.tokens):016d}"
        self.add_and_check(make_event(number, f"{number}-{known}-{nth}", known=known), twice=twice)

    def add_and_check(self, event: DeploymentCompleted, *, twice: bool) -> None:
        """See what the receiver answers, under the token that is set."""
        delivery, result = event.delivery, self.run(self.backlog.add(event))
        if twice:
            assert self.run(self.backlog.add(event)) == result
        job = self.job_by_delivery.get(delivery)
        if job is not None and job not in self.failed:
            assert result == Duplicate(job=job)
            return
        assert isinstance(result, Queued)
        jobs = {job or result.job, result.job}
        job = self.job_by_delivery[delivery] = result.job
        reopened = [delivery_id for name in jobs for _, delivery_id in self.failed.pop(name, [])]
        ticket = self.tickets.setdefault(job, TicketModel(generation=0, events=[]))
        ticket.generation += 1
        ticket.added_order = next(self.tokens)
        new_deliveries = [
            delivery_id
            for delivery_id in {*reopened, delivery}
            if delivery_id not in delivery_ids(ticket)
        ]
        ticket.events += [(ticket.generation, delivery_id) for delivery_id in new_deliveries]
        self.answered.subtract(
            delivery_id for delivery_id in new_deliveries if self.answered[delivery_id]
        )
        ticket.is_due = ticket.is_due or ticket.fence is None

    @rule(limit=st.integers(1, 3), company=st.sampled_from([0, 1, 3]), twice=st.booleans())
    def claim(self, limit: int, company: int, twice: bool) -> None:
        """A worker claims: as many as it wants of those due, none that another holds."""
        self.token = f"{next(self.tokens):016d}"
        claimed = self.run(self.backlog.claim(limit, followers=company))
        if twice and claimed.leases:
            repeated = self.run(self.backlog.claim(limit, followers=company)).leases
            assert [without_now(lease) for lease in repeated] == [
                without_now(lease) for lease in claimed.leases
            ]
        due = {job for job, ticket in self.tickets.items() if ticket.is_due}
        assert min(limit, len(due)) <= len(claimed.leases) <= min(limit + company, len(due))
        leaders = {lease.job for lease in claimed.leases if self.is_leader(lease)}
        assert len(leaders) <= limit
        for lease in claimed.leases:
            assert isinstance(lease, Lease)
            assert lease.job in due
            if lease.leader is not None:
                assert lease.leader in leaders
                assert lease.job.startswith("find:default/production/")
            ticket = self.tickets[lease.job]
            assert lease.generation == ticket.generation
            ticket.fence, ticket.is_due = lease.fence, False
            self.leases.append(lease)

    def is_leader(self, lease: object) -> bool:
        """Tell whether a lease came with a call of its own."""
        return isinstance(lease, Lease) and lease.leader is None

    @precondition(lambda self: self.leases)
    @rule(place=st.integers(0, 9), status=st.sampled_from("abu"), twice=st.booleans())
    def publish(self, place: int, status: str, twice: bool) -> None:
        """A worker publishes what it has in hand, or had."""
        self.publish_and_check(
            build_entry(self.leases[place % len(self.leases)], status), place, twice=twice
        )

    def publish_and_check(self, entry: Entry, place: int, *, twice: bool) -> PublishResult:
        """See what publishing one of the hands gives."""
        lease = self.take_lease(place)
        settled = self.run(self.output.append_and_settle(entry, lease))
        if twice:
            assert self.run(self.output.append_and_settle(entry, lease)) == settled
        ticket = self.held_ticket(lease)
        if ticket is None:
            assert settled == PublishResult("lease_lost", 0)
            return settled
        revision, last = self.published.get(entry.deployment_id, (0, ""))
        if entry.filtered_because:
            assert settled == PublishResult("filtered", revision)
        elif last == entry.digest:
            assert settled == PublishResult("unchanged", revision)
        else:
            assert settled == PublishResult("published", revision + 1)
        digest = last if entry.filtered_because else entry.digest
        self.published[entry.deployment_id] = (settled.revision, digest)
        self.settle_ticket(lease, ticket)
        return settled

    def settle_ticket(self, lease: Lease, ticket: TicketModel) -> None:
        """Note which events a record answered; newer ones make their ticket due again."""
        settled_deliveries = [name for number, name in ticket.events if number <= lease.generation]
        self.answered.update(settled_deliveries)
        ticket.events = [pair for pair in ticket.events if pair[0] > lease.generation]
        ticket.fence, ticket.is_due = None, True
        if not ticket.events and lease.generation == ticket.generation:
            del self.tickets[lease.job]

    @precondition(lambda self: self.leases)
    @rule(place=st.integers(0, 9), reason=st.sampled_from("xy"), twice=st.booleans())
    def fail(self, place: int, reason: str, twice: bool) -> None:
        """A worker gives up what it has in hand, or had."""
        self.fail_and_check(place, reason, twice=twice)

    def fail_and_check(self, place: int, reason: str, *, twice: bool) -> str:
        """See what giving up one of the hands gives."""
        lease = self.take_lease(place)
        failure = FailureRecord(reason=reason, ticket=lease.ticket, fence=lease.fence)
        result = self.run(self.backlog.fail(lease, failure))
        if twice and result == "failed":
            assert self.run(self.backlog.fail(lease, failure)) == result
        if (ticket := self.check_ended(lease, result, expected="failed")) is not None:
            self.failed[lease.job], self.reasons[lease.job] = ticket.events, reason
            self.answered.update(delivery_id for _, delivery_id in ticket.events)
        return result

    def check_ended(self, lease: Lease, result: str, *, expected: str) -> TicketModel | None:
        """See that a ticket ended as it had to without a record; gives it, if it is gone."""
        ticket = self.held_ticket(lease)
        if ticket is not None and ticket.generation == lease.generation:
            assert result == expected
            return self.tickets.pop(lease.job)
        assert result == ("lease_lost" if ticket is None else "superseded")
        if ticket is not None:
            ticket.fence, ticket.is_due = None, True
        return None

    @precondition(lambda self: self.leases)
    @rule(place=st.integers(0, 9), for_s=st.sampled_from([0.0, 90.0]), twice=st.booleans())
    def postpone(self, place: int, for_s: float, twice: bool) -> None:
        """A worker puts a ticket back until later, or at once."""
        lease = self.take_lease(place)
        attempted = replace(lease.ticket, attempts=next(self.tokens))
        result = self.run(self.backlog.postpone(lease, attempted, delay_s=for_s))
        ticket = self.held_ticket(lease)
        if ticket is None:
            assert result == "lease_lost"
        else:
            newer = ticket.generation != lease.generation
            assert result == ("superseded" if newer else "postponed")
            if twice and not newer:
                repeated = self.run(self.backlog.postpone(lease, attempted, delay_s=for_s))
                assert repeated == "postponed"
            ticket.fence, ticket.is_due = None, newer or for_s == 0

    @precondition(lambda self: self.leases)
    @rule(place=st.integers(0, 9), twice=st.booleans())
    def renew(self, place: int, twice: bool) -> None:
        """A worker lengthens its lease, or learns that it lost it."""
        lease = self.take_lease(place)
        held = [(lease.job, lease.fence)]
        (fence,) = self.run(self.backlog.renew(held, 1000))
        if twice:
            assert self.run(self.backlog.renew(held, 1000)) == [fence]
        ticket = self.held_ticket(lease)
        if ticket is None:
            assert fence is None
        else:
            assert fence == lease.fence + 1000
            ticket.fence = fence
            self.leases.append(replace(lease, fence=fence))

    @precondition(lambda self: self.leases)
    @rule(place=st.integers(0, 9))
    def crash(self, place: int) -> None:
        """A worker dies: it never speaks again of what it held."""
        self.take_lease(place)

    @precondition(lambda self: self.tickets)
    @rule(index=st.integers(0, 9))
    def pass_time(self, index: int) -> None:
        """A lease runs out, or a wait ends. Who held it may still speak, too late."""
        job = sorted(self.tickets)[index % len(self.tickets)]
        self.run(self.move_to_past(job))
        self.tickets[job].fence, self.tickets[job].is_due = None, True

    async def move_to_past(self, job: str) -> None:
        """Move a ticket's time into the past, whole by whole."""
        await self.client.zincrby(self.keys.backlog, -10 * LONG_MS, job)

    @invariant()
    def tickets_match_the_model(self) -> None:
        """A ticket waits or has failed or is gone, as the model says, and never two of these."""
        waiting, tickets, failed = self.run(self.read_jobs())
        assert waiting == tickets == set(self.tickets)
        assert failed == set(self.failed)
        open_events = {
            delivery_id for ticket in self.tickets.values() for _, delivery_id in ticket.events
        }
        for delivery in self.job_by_delivery:
            assert self.answered[delivery] == (delivery not in open_events), delivery

    @invariant()
    def counts_match_the_model(self) -> None:
        """How many are leased, also to the dead, and how many failed: counted, and looked up."""
        counts, scores = self.run(self.read_counts())
        assert counts.pop("appended", 0) == sum(last for last, _ in self.published.values())
        assert counts.pop("leased", 0) == sum(score % 1 != 0 for score in scores)
        assert counts == Counter(f"failed:{self.reasons[job]}" for job in self.failed)

    async def read_counts(self) -> tuple[dict[str, int], list[float]]:
        """Read what is counted, and every score of the backlog."""
        counts = cast("dict[bytes, bytes]", await self.client.hgetall(self.keys.counts))
        scored = cast(
            "list[tuple[bytes, float]]",
            await self.client.zrange(self.keys.backlog, 0, -1, withscores=True),
        )
        return {k.decode(): int(v) for k, v in counts.items()}, [score for _, score in scored]

    async def read_jobs(self) -> tuple[set[str], set[str], set[str]]:
        """Read which jobs wait, which have a ticket, which have failed."""
        waiting = cast("list[bytes]", await self.client.zrange(self.keys.backlog, 0, -1))
        tickets = cast("list[bytes]", await self.client.hkeys(self.keys.tickets))
        failed = cast("list[bytes]", await self.client.zrange(self.keys.failed, 0, -1))
        names = [{job.decode() for job in jobs} for jobs in (waiting, tickets, failed)]
        return names[0], names[1], names[2]

    def teardown(self) -> None:
        """Let a last worker end everything, then look at what there is."""
        try:
            self.finish()
        finally:
            self.run(self.close())
            self.runner.close()

    def finish(self) -> None:
        """All that waits can be ended, and then every event has ended and nothing is left."""
        self.leases.clear()
        for place in range(len(self.tickets)):
            self.pass_time(place)
        while self.tickets:
            self.claim(3, company=0, twice=False)
            while self.leases:
                self.publish(0, "a", twice=False)
        self.tickets_match_the_model()
        assert set(self.answered.values()) <= {0, 1}
        assert all(self.answered[delivery] == 1 for delivery in self.job_by_delivery)
        ids = self.run(self.read_ids())
        expected = [
            f"{name}:{number}"
            for name, (last, _) in self.published.items()
            for number in range(1, last + 1)
        ]
        assert sorted(ids) == sorted(expected)
        assert self.run(self.keys_without_ttl()) <= KEYS_WITHOUT_TTL

    async def read_ids(self) -> list[str]:
        """Read the id of every entry."""
        entries = cast(
            "list[tuple[bytes, dict[bytes, bytes]]]", await self.client.xrange(self.keys.enriched)
        )
        return [fields[b"id"].decode() for _, fields in entries]

    async def keys_without_ttl(self) -> set[str]:
        """Find the keys that would stay for ever."""
        prefix = f"{{{self.keys.namespace}}}:"
        all_keys = [key async for key in self.client.scan_iter(match=f"{prefix}*", count=1000)]
        return {
            key.decode().removeprefix(prefix) for key in all_keys if await self.client.ttl(key) < 0
        }

    async def close(self) -> None:
        """Leave nothing behind."""
        keys = [key async for key in self.client.scan_iter(match=f"{{{self.keys.namespace}}}:*")]
        if keys:
            await self.client.delete(*keys)
        await self.group.aclose()
        await self.client.aclose()


def build_entry(lease: Lease, status: str) -> Entry:
    """Write the entry of what a lease asks for; of status ``u`` none is wanted."""
    number = int(lease.job[-1])
    data = f',"status":"{status}"}}'.encode()
    filtered_because = "unwanted" if status == "u" else ""
    return Entry(
        deployment_id(number), status, (), data, complete=True, filtered_because=filtered_because
    )


def delivery_ids(ticket: TicketModel) -> set[str]:
    """List the events of a ticket."""
    return {delivery_id for _, delivery_id in ticket.events}


def without_now(lease: object) -> Lease:
    """Give a lease without the moment at which it was told."""
    assert isinstance(lease, Lease)
    return replace(lease, now=0)
