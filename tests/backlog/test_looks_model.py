"""Is no look lost, doubled or taken for a failure, whatever webhooks, crashes and persons do?"""

from typing import cast

from hypothesis import strategies as st
from hypothesis.stateful import initialize, invariant, precondition, rule
from msgspec.structs import replace

from service.backlog.looks import Looking, Looks
from service.backlog.schedule import Plan, plan_looks
from service.backlog.ticket import Lease
from service.enrich.budget import load_leftover
from service.publish.stream import Settled
from service.publish.writing import Entry
from tests.backlog.model import LONG_MS, Waiting
from tests.backlog.test_backlog_model import RepairedModel
from tests.machine import play, run_machine

SCHEDULE = (1, LONG_MS)


class LookedModel(RepairedModel):
    """The same backlog, to which published deployments come back to be looked at again."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.planned: dict[str, int] = {}
        self.since: dict[str, int] = {}
        self.births: dict[tuple[str, int], int] = {}

    async def open(self, url: str) -> None:
        """Open the looks too."""
        await super().open(url)
        looking = Looking(schedule=SCHEDULE, marks_ms=LONG_MS, share=1.0)
        self.looks = Looks(self.group, keys=self.keys, looking=looking, leftover=load_leftover())

    @initialize()
    def publish_some(self) -> None:
        """Two deployments are out, and are to be looked at again."""
        for number in range(2):
            self.add(number, True, 8, twice=False)
            self.claim(1, 0, twice=False)
            self.publish(0, "a", twice=False)

    @precondition(lambda self: self.planned)
    @rule()
    def look_again(self) -> None:
        """An idle worker takes up what is due, which is all: but only while nothing else is due."""
        names = sorted(self.planned)
        self.run(self.make_due(names))
        wait_s = self.run(self.looks.look_again())
        if any(ticket.due for ticket in self.waiting.values()):
            assert wait_s
            return
        assert wait_s == 0
        for name in names:
            job = f"id:{name}"
            if job in self.waiting:
                continue  # somebody is about to look anyway
            born = self.planned.pop(name)
            if job not in self.failed:
                self.waiting[job] = Waiting(generation=1, events=[], born=born)

    @precondition(lambda self: self.planned)
    @rule()
    def take_looks_in_hand(self) -> None:
        """A worker has nothing else to do, and claims what it took up."""
        self.claim(9, 0, twice=False)
        self.look_again()
        self.claim(9, 0, twice=False)

    def list_looking(self) -> list[int]:
        """List the hands, and those of the past, that hold a look."""
        return [nth for nth, hand in enumerate(self.hands) if hand.ticket.look is not None]

    @precondition(lambda self: self.list_looking())
    @rule(place=st.integers(0, 9), reason=st.sampled_from("xy"), twice=st.booleans())
    def find_nothing(self, place: int, reason: str, twice: bool) -> None:
        """A look comes to nothing."""
        looking = self.list_looking()
        self.fail(looking[place % len(looking)], reason, twice=twice)

    @precondition(lambda self: self.list_looking())
    @rule(place=st.integers(0, 9), nth=st.integers(0, 6))
    def hear_meanwhile(self, place: int, nth: int) -> None:
        """A webhook arrives of what is being looked at."""
        looking = self.list_looking()
        name = str(self.hands[looking[place % len(looking)]].ticket.deployment_id)
        self.add(int(name[-1]), True, nth, twice=False)

    async def make_due(self, names: list[str]) -> None:
        """Have the moment come of every look."""
        if names:
            await self.client.zadd(self.keys.looks, dict.fromkeys(names, 1))

    @rule(limit=st.integers(1, 3), company=st.sampled_from([0, 1, 3]), twice=st.booleans())
    def claim(self, limit: int, company: int, twice: bool) -> None:
        """Note also when what was claimed was heard of."""
        super().claim(limit, company, twice)
        for lease in self.hands:
            if self.holds(lease):
                self.births.setdefault((lease.job, lease.queued_at), self.waiting[lease.job].born)

    def settle(self, entry: Entry, place: int, *, twice: bool) -> Settled:
        """Note also what is planned."""
        lease = self.hands[place % len(self.hands)]
        name = entry.deployment_id
        plan = plan_looks(SCHEDULE, lease, name, now_ms=lease.now, unfinished=False)
        settled = super().settle(replace(entry, plan=plan), place, twice=twice)
        if settled.fate != "lost":
            self.note_plan(name, plan, lease)
        return settled

    def note_plan(self, name: str, plan: Plan, lease: Lease) -> None:
        """A plan stands unless a later webhook made one."""
        if plan.since < self.since.get(name, 0):
            return
        self.planned.pop(name, None)
        if plan.due is not None:
            self.planned[name] = self.births[lease.job, lease.queued_at]
            self.since[name] = plan.since

    def fail(self, place: int, reason: str, *, twice: bool) -> str:
        """A look that comes to nothing is left out, and is no failure."""
        if self.hands[place % len(self.hands)].ticket.look is None:
            return super().fail(place, reason, twice=twice)
        lease = self.pick(place)
        reason = "not_found" if reason == "x" else "undecodable"
        fate = self.run(self.looks.skip(lease, reason))
        if twice and fate == "skipped":
            assert self.run(self.looks.skip(lease, reason)) == fate
        if self.see_gone(lease, fate, gone="skipped") is not None:
            name = str(lease.ticket.deployment_id)
            schedule = () if reason == "not_found" else SCHEDULE
            plan = plan_looks(schedule, lease, name, now_ms=lease.now, unfinished=False)
            self.note_plan(name, plan, lease)
        return fate

    @precondition(lambda self: self.planned)
    @rule(known=st.booleans())
    def redeliver(self, known: bool) -> None:
        """A webhook arrives of what is about to be looked at."""
        number = int(min(self.planned)[-1])
        self.add(number, known, 7, twice=False)

    @invariant()
    def looks_are_as_planned(self) -> None:
        """A look is planned with its ticket, or waits as one, or there is none."""
        names, tickets = self.run(self.list_planned())
        assert names == tickets == set(self.planned)

    async def list_planned(self) -> tuple[set[str], set[str]]:
        """Read what is planned, and what has a ticket to look with."""
        names = cast("list[bytes]", await self.client.zrange(self.keys.looks, 0, -1))
        tickets = cast("list[bytes]", await self.client.hkeys(self.keys.look_tickets))
        return {name.decode() for name in names}, {name.decode() for name in tickets}


@play((100, 30), long=(1500, 60))
def test_looks_disturb_no_promise(redis_url: str, examples: int, steps: int) -> None:
    """Every event still ends exactly once, and every look is planned, or waits, or is over."""
    run_machine(LookedModel, redis_url, examples=examples, steps=steps)
