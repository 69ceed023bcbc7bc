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

from service.accept.events import DeploymentCompleted, Duplicate, Queued
from service.backlog.backlog import Backlog, Terms
from service.backlog.failure import record_failure
from service.backlog.ticket import Lease
from service.enrich.budget import load_room
from service.publish.stream import OutputStream, Retention, Settled
from service.publish.writing import Entry
from service.store.connect import open_client
from service.store.group import GroupCommit
from service.store.keys import Keys

NAMESPACES = itertools.count()
LONG_MS = 100_000
LASTING = {"enriched", "failed", "failed:data", "counts", "enriched:milestones"}


class Waiting(Struct):
    """What the model knows of one ticket: its events by generation, who holds it, if it is due."""

    generation: int
    events: list[tuple[int, str]]
    fence: float | None = None
    due: bool = True
    born: int = 0


def name_deployment(number: int) -> str:
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
        deployment_id=name_deployment(number) if known else None,
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
        self.waiting: dict[str, Waiting] = {}
        self.failed: dict[str, list[tuple[int, str]]] = {}
        self.reasons: dict[str, str] = {}
        self.marks: dict[str, str] = {}
        self.published: dict[str, tuple[int, str]] = {}
        self.ended: Counter[str] = Counter()
        self.hands: list[Lease] = []

    async def open(self, url: str) -> None:
        """Open the connection, with a budget that allows everything."""
        self.client = open_client(url)
        self.group = GroupCommit(
            self.client, durability="memory", clock=time.monotonic, log=structlog.get_logger()
        )
        terms = Terms(
            lease_ms=LONG_MS, mark_ms=LONG_MS, failed_ms=LONG_MS, call_ms=1, limit=99, share=1.0
        )
        self.backlog = Backlog(
            self.group, keys=self.keys, terms=terms, room=load_room(), new_token=lambda: self.token
        )
        retention = Retention(marks_ms=LONG_MS, entries_ms=LONG_MS)
        self.output = OutputStream(self.group, keys=self.keys, retention=retention)
        await self.client.hset(self.keys.budget, mapping={"probe": 1000})
        await self.client.pexpire(self.keys.budget, LONG_MS)

    def pick(self, place: int) -> Lease:
        """Take one lease out of the hands."""
        return self.hands.pop(place % len(self.hands))

    def holds(self, lease: Lease) -> Waiting | None:
        """Give the ticket of a lease that still stands."""
        ticket = self.waiting.get(lease.job)
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
        self.send(make_event(number, f"{number}-{known}-{nth}", known=known), twice=twice)

    def send(self, event: DeploymentCompleted, *, twice: bool) -> None:
        """See what the door answers, under the token that is set."""
        delivery, answer = event.delivery, self.run(self.backlog.add(event))
        if twice:
            assert self.run(self.backlog.add(event)) == answer
        job = self.marks.get(delivery)
        if job is not None and job not in self.failed:
            assert answer == Duplicate(job=job)
            return
        assert isinstance(answer, Queued)
        names = {job or answer.job, answer.job}
        job = self.marks[delivery] = answer.job
        reopened = [told for name in names for _, told in self.failed.pop(name, [])]
        ticket = self.waiting.setdefault(job, Waiting(generation=0, events=[]))
        ticket.generation += 1
        ticket.born = next(self.tokens)
        new = [told for told in {*reopened, delivery} if told not in dict_of(ticket)]
        ticket.events += [(ticket.generation, told) for told in new]
        self.ended.subtract(told for told in new if self.ended[told])
        ticket.due = ticket.due or ticket.fence is None

    @rule(limit=st.integers(1, 3), company=st.sampled_from([0, 1, 3]), twice=st.booleans())
    def claim(self, limit: int, company: int, twice: bool) -> None:
        """A worker claims: as many as it wants of those due, none that another holds."""
        self.token = f"{next(self.tokens):016d}"
        claimed = self.run(self.backlog.claim(limit, company=company))
        if twice and claimed.leases:
            again = self.run(self.backlog.claim(limit, company=company)).leases
            assert [replace_now(lease) for lease in again] == [
                replace_now(lease) for lease in claimed.leases
            ]
        due = {job for job, ticket in self.waiting.items() if ticket.due}
        assert min(limit, len(due)) <= len(claimed.leases) <= min(limit + company, len(due))
        leads = {lease.job for lease in claimed.leases if self.has_call(lease)}
        assert len(leads) <= limit
        for lease in claimed.leases:
            assert isinstance(lease, Lease)
            assert lease.job in due
            if lease.lead is not None:
                assert lease.lead in leads
                assert lease.job.startswith("find:default/production/")
            ticket = self.waiting[lease.job]
            assert lease.generation == ticket.generation
            ticket.fence, ticket.due = lease.fence, False
            self.hands.append(lease)

    def has_call(self, lease: object) -> bool:
        """Tell whether a lease came with a call of its own."""
        return isinstance(lease, Lease) and lease.lead is None

    @precondition(lambda self: self.hands)
    @rule(place=st.integers(0, 9), status=st.sampled_from("abu"), twice=st.booleans())
    def publish(self, place: int, status: str, twice: bool) -> None:
        """A worker publishes what it has in hand, or had."""
        self.settle(write_entry(self.hands[place % len(self.hands)], status), place, twice=twice)

    def settle(self, entry: Entry, place: int, *, twice: bool) -> Settled:
        """See what publishing one of the hands gives."""
        lease = self.pick(place)
        settled = self.run(self.output.append_and_settle(entry, lease))
        if twice:
            assert self.run(self.output.append_and_settle(entry, lease)) == settled
        ticket = self.holds(lease)
        if ticket is None:
            assert settled == Settled("lost", 0)
            return settled
        revision, last = self.published.get(entry.deployment_id, (0, ""))
        if entry.left_out:
            assert settled == Settled("left_out", revision)
        elif last == entry.digest:
            assert settled == Settled("unchanged", revision)
        else:
            assert settled == Settled("published", revision + 1)
        digest = last if entry.left_out else entry.digest
        self.published[entry.deployment_id] = (settled.revision, digest)
        self.end(lease, ticket)
        return settled

    def end(self, lease: Lease, ticket: Waiting) -> None:
        """Note which events a record answered; newer ones make their ticket due again."""
        told = [name for number, name in ticket.events if number <= lease.generation]
        self.ended.update(told)
        ticket.events = [pair for pair in ticket.events if pair[0] > lease.generation]
        ticket.fence, ticket.due = None, True
        if not ticket.events and lease.generation == ticket.generation:
            del self.waiting[lease.job]

    @precondition(lambda self: self.hands)
    @rule(place=st.integers(0, 9), reason=st.sampled_from("xy"), twice=st.booleans())
    def give_up(self, place: int, reason: str, twice: bool) -> None:
        """A worker gives up what it has in hand, or had."""
        self.fail(place, reason, twice=twice)

    def fail(self, place: int, reason: str, *, twice: bool) -> str:
        """See what giving up one of the hands gives."""
        lease = self.pick(place)
        failure = record_failure(reason, ticket=lease.ticket, fence=lease.fence)
        fate = self.run(self.backlog.give_up(lease, failure))
        if twice and fate == "given up":
            assert self.run(self.backlog.give_up(lease, failure)) == fate
        if (ticket := self.see_gone(lease, fate, gone="given up")) is not None:
            self.failed[lease.job], self.reasons[lease.job] = ticket.events, reason
            self.ended.update(told for _, told in ticket.events)
        return fate

    def see_gone(self, lease: Lease, fate: str, *, gone: str) -> Waiting | None:
        """See that a ticket ended as it had to without a record; gives it, if it is gone."""
        ticket = self.holds(lease)
        if ticket is not None and ticket.generation == lease.generation:
            assert fate == gone
            return self.waiting.pop(lease.job)
        assert fate == ("lost" if ticket is None else "again")
        if ticket is not None:
            ticket.fence, ticket.due = None, True
        return None

    @precondition(lambda self: self.hands)
    @rule(place=st.integers(0, 9), for_s=st.sampled_from([0.0, 90.0]), twice=st.booleans())
    def wait(self, place: int, for_s: float, twice: bool) -> None:
        """A worker puts a ticket back until later, or at once."""
        lease = self.pick(place)
        tried = replace(lease.ticket, attempts=next(self.tokens))
        kept = self.run(self.backlog.wait(lease, tried, for_s=for_s))
        ticket = self.holds(lease)
        assert kept is (ticket is not None)
        if ticket is not None:
            newer = ticket.generation != lease.generation
            if twice and not newer:
                assert self.run(self.backlog.wait(lease, tried, for_s=for_s))
            ticket.fence, ticket.due = None, newer or for_s == 0

    @precondition(lambda self: self.hands)
    @rule(place=st.integers(0, 9), twice=st.booleans())
    def renew(self, place: int, twice: bool) -> None:
        """A worker lengthens its lease, or learns that it lost it."""
        lease = self.pick(place)
        held = [(lease.job, lease.fence)]
        (fence,) = self.run(self.backlog.renew(held, 1000))
        if twice:
            assert self.run(self.backlog.renew(held, 1000)) == [fence]
        ticket = self.holds(lease)
        if ticket is None:
            assert fence is None
        else:
            assert fence == lease.fence + 1000
            ticket.fence = fence
            self.hands.append(replace(lease, fence=fence))

    @precondition(lambda self: self.hands)
    @rule(place=st.integers(0, 9))
    def crash(self, place: int) -> None:
        """A worker dies: it never speaks again of what it held."""
        self.pick(place)

    @precondition(lambda self: self.waiting)
    @rule(place=st.integers(0, 9))
    def pass_time(self, place: int) -> None:
        """A lease runs out, or a wait ends. Who held it may still speak, too late."""
        job = sorted(self.waiting)[place % len(self.waiting)]
        self.run(self.move_back(job))
        self.waiting[job].fence, self.waiting[job].due = None, True

    async def move_back(self, job: str) -> None:
        """Move a ticket's time into the past, whole by whole."""
        await self.client.zincrby(self.keys.backlog, -10 * LONG_MS, job)

    @invariant()
    def nothing_is_lost_or_left(self) -> None:
        """A ticket waits or has failed or is gone, as the model says, and never two of these."""
        waiting, tickets, failed = self.run(self.look())
        assert waiting == tickets == set(self.waiting)
        assert failed == set(self.failed)
        open_events = {told for ticket in self.waiting.values() for _, told in ticket.events}
        for delivery in self.marks:
            assert self.ended[delivery] == (delivery not in open_events), delivery

    @invariant()
    def what_is_counted_is_what_there_is(self) -> None:
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

    async def look(self) -> tuple[set[str], set[str], set[str]]:
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
        self.hands.clear()
        for place in range(len(self.waiting)):
            self.pass_time(place)
        while self.waiting:
            self.claim(3, company=0, twice=False)
            while self.hands:
                self.publish(0, "a", twice=False)
        self.nothing_is_lost_or_left()
        assert set(self.ended.values()) <= {0, 1}
        assert all(self.ended[delivery] == 1 for delivery in self.marks)
        ids = self.run(self.read_ids())
        expected = [
            f"{name}:{number}"
            for name, (last, _) in self.published.items()
            for number in range(1, last + 1)
        ]
        assert sorted(ids) == sorted(expected)
        assert self.run(self.find_lasting()) <= LASTING

    async def read_ids(self) -> list[str]:
        """Read the id of every entry."""
        entries = cast(
            "list[tuple[bytes, dict[bytes, bytes]]]", await self.client.xrange(self.keys.enriched)
        )
        return [fields[b"id"].decode() for _, fields in entries]

    async def find_lasting(self) -> set[str]:
        """Find the keys that would stay for ever."""
        prefix = f"{{{self.keys.namespace}}}:"
        found = [key async for key in self.client.scan_iter(match=f"{prefix}*", count=1000)]
        return {
            key.decode().removeprefix(prefix) for key in found if await self.client.ttl(key) < 0
        }

    async def close(self) -> None:
        """Leave nothing behind."""
        found = [key async for key in self.client.scan_iter(match=f"{{{self.keys.namespace}}}:*")]
        if found:
            await self.client.delete(*found)
        await self.group.aclose()
        await self.client.aclose()


def write_entry(lease: Lease, status: str) -> Entry:
    """Write the entry of what a lease asks for; of status ``u`` none is wanted."""
    number = int(lease.job[-1])
    data = f',"status":"{status}"}}'.encode()
    left_out = "unwanted" if status == "u" else ""
    return Entry(name_deployment(number), status, (), data, complete=True, left_out=left_out)


def dict_of(ticket: Waiting) -> set[str]:
    """List the events of a ticket."""
    return {told for _, told in ticket.events}


def replace_now(lease: object) -> Lease:
    """Give a lease without the moment at which it was told."""
    assert isinstance(lease, Lease)
    return replace(lease, now=0)
