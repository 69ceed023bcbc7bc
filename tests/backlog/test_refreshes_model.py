"""Test that no refresh is lost or doubled, and that a failed refresh is no failure."""

from hypothesis import strategies as st
from hypothesis.stateful import initialize, precondition, rule
from msgspec.structs import replace

from service.backlog.refresh_schedule import RefreshPlan, plan_refresh
from service.backlog.refreshes import RefreshConfig, Refreshes
from service.backlog.ticket import Lease, list_events
from service.enrich.budget import load_budget_prelude
from service.publish.entry import Entry
from service.publish.stream import PublishResult
from tests.backlog.backlog_model import LONG_MS, StoredState, TicketModel
from tests.backlog.test_backlog_model import RetryModel
from tests.state_machine import run_machine, with_examples

SCHEDULE = (1, LONG_MS)


class RefreshModel(RetryModel):
    """The retry model, with refreshes of published deployments."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.planned: dict[str, int] = {}
        self.planned_since: dict[str, int] = {}
        self.added_orders: dict[tuple[str, int], int] = {}

    async def open(self, url: str) -> None:
        """Connect the refreshes too."""
        await super().open(url)
        config = RefreshConfig(schedule=SCHEDULE, dedup_ttl_ms=LONG_MS, rate_limit_share=1.0)
        self.refreshes = Refreshes(
            self.group, keys=self.keys, config=config, budget_lua=load_budget_prelude()
        )

    @initialize()
    def publish_some(self) -> None:
        """Publish two deployments, whose refreshes are then scheduled."""
        for number in range(2):
            self.add(number, True, 8, is_moved=False, twice=False)
            self.claim(1, 0, twice=False)
            self.publish(0, "a", twice=False)

    @precondition(lambda self: self.planned)
    @rule()
    def enqueue_due_refreshes(self) -> None:
        """Queue the due refreshes, which works only while no ticket is due."""
        deployment_ids = sorted(self.planned)
        self.run(self.make_due(deployment_ids))
        wait_s = self.run(self.refreshes.enqueue_due())
        if any(ticket.is_due for ticket in self.tickets.values()):
            assert wait_s
            return
        assert wait_s == 0
        for deployment_id in deployment_ids:
            job = f"id:{deployment_id}"
            if job in self.tickets:
                continue  # the queued ticket fetches the deployment anyway
            added_order = self.planned.pop(deployment_id)
            self.tickets[job] = TicketModel(generation=1, events=[], added_order=added_order)

    @precondition(lambda self: self.planned)
    @rule()
    def claim_refreshes(self) -> None:
        """Claim all tickets, queue the due refreshes and claim those."""
        self.claim(9, 0, twice=False)
        self.enqueue_due_refreshes()
        self.claim(9, 0, twice=False)

    def refresh_positions(self) -> list[int]:
        """Return the indexes of the leases that hold a refresh."""
        return [
            position
            for position, lease in enumerate(self.leases)
            if lease.ticket.refresh is not None
        ]

    @precondition(lambda self: self.refresh_positions())
    @rule(index=st.integers(0, 9), reason=st.sampled_from("xy"), twice=st.booleans())
    def fail_refresh(self, index: int, reason: str, twice: bool) -> None:
        """Fail a refresh."""
        positions = self.refresh_positions()
        self.fail_and_check(positions[index % len(positions)], reason, twice=twice)

    @precondition(lambda self: self.refresh_positions())
    @rule(index=st.integers(0, 9), nth=st.integers(0, 6))
    def add_during_refresh(self, index: int, nth: int) -> None:
        """Add a webhook of a deployment that is being refreshed."""
        positions = self.refresh_positions()
        name = str(self.leases[positions[index % len(positions)]].ticket.deployment_id)
        self.add(int(name[-1]), True, nth, is_moved=False, twice=False)

    async def make_due(self, names: list[str]) -> None:
        """Make every refresh due."""
        if names:
            await self.client.zadd(self.keys.refreshes, dict.fromkeys(names, 1))

    def hold_lease(self, lease: Lease) -> None:
        """Record the lease, and when each of its events was added."""
        super().hold_lease(lease)
        ticket = self.tickets[lease.job]
        self.added_orders.setdefault((lease.job, lease.queued_at), ticket.added_order)
        for event, known in zip(list_events(lease), ticket.events, strict=False):
            self.added_orders.setdefault((lease.job, event.queued_at), known.added_order)

    def publish_and_check(self, entry: Entry, index: int, *, twice: bool) -> PublishResult:
        """Publish, and record which refresh is scheduled."""
        lease = self.leases[index % len(self.leases)]
        name = entry.deployment_id
        plan = plan_refresh(SCHEDULE, lease, name, now_ms=lease.now, unfinished=False)
        settled = super().publish_and_check(replace(entry, plan=plan), index, twice=twice)
        if settled.status not in {"lease_lost", "taken"} and not entry.is_shared:
            self.record_plan(name, plan, lease)
        return settled

    def record_plan(self, deployment_id: str, plan: RefreshPlan, lease: Lease) -> None:
        """Record a plan, unless a later webhook has made one."""
        if plan.since < self.planned_since.get(deployment_id, 0):
            return
        self.planned.pop(deployment_id, None)
        if plan.due is not None:
            self.planned[deployment_id] = self.added_orders[lease.job, lease.queued_at]
            self.planned_since[deployment_id] = plan.since

    def fail_and_check(self, index: int, reason: str, *, twice: bool) -> str:
        """Fail a ticket; a refresh is skipped instead."""
        if self.leases[index % len(self.leases)].ticket.refresh is None:
            return super().fail_and_check(index, reason, twice=twice)
        lease = self.take_lease(index)
        reason = "not_found" if reason == "x" else "undecodable"
        result = self.run(self.refreshes.skip(lease, reason))
        if twice and result == "skipped":
            assert self.run(self.refreshes.skip(lease, reason)) == result
        ticket = self.held_ticket(lease)
        if ticket is None or ticket.generation != lease.generation:
            assert result == ("lease_lost" if ticket is None else "superseded")
            if ticket is not None:
                ticket.fence, ticket.is_leased, ticket.is_due = None, False, True
        else:
            assert result == "skipped"
            del self.tickets[lease.job]
            name = str(lease.ticket.deployment_id)
            schedule = () if reason == "not_found" else SCHEDULE
            plan = plan_refresh(schedule, lease, name, now_ms=lease.now, unfinished=False)
            self.record_plan(name, plan, lease)
        return result

    @precondition(lambda self: self.planned)
    @rule(known=st.booleans())
    def redeliver(self, known: bool) -> None:
        """Add a webhook of a deployment whose refresh is scheduled."""
        number = int(min(self.planned)[-1])
        self.add(number, known, 7, is_moved=False, twice=False)

    def check_stored(self, stored: StoredState) -> None:
        """Check that every planned refresh is scheduled with its ticket, and no other is."""
        super().check_stored(stored)
        assert stored.planned == stored.planned_tickets == set(self.planned)


@with_examples((100, 30), long=(1500, 60))
def test_accepted_events_with_refreshes_end_exactly_once(
    redis_url: str, examples: int, steps: int
) -> None:
    """Every refresh is scheduled, queued or done."""
    run_machine(RefreshModel, redis_url, examples=examples, steps=steps)
