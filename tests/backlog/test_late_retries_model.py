"""Test that a call repeated much later is still one act, whatever others did in between."""

from collections.abc import Callable
from functools import partial

from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule
from msgspec.structs import replace

from service.accept.mapping import DeploymentEvent, Queued
from service.backlog.failures import FailureRecord
from service.backlog.ticket import Lease
from service.publish.entry import Entry
from service.publish.stream import PublishResult
from tests.backlog.backlog_model import BacklogModel, build_entry, build_event, without_now
from tests.state_machine import run_machine, with_examples

INDEXES = st.integers(0, 9)


class LostReplyModel(BacklogModel):
    """The backlog model, where the reply of any call may be lost with its connection.

    The caller repeats the call later, under the same token and fence. Meanwhile leases run out,
    other workers claim and settle, and senders send again. The repeat must change nothing and
    return what happened, or that the lease is lost.
    """

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.pending_repeats: list[Callable[[], None]] = []
        self.mark_tokens: dict[str, str] = {}
        self.published_by: dict[str, float] = {}
        self.failed_by: dict[str, float] = {}

    @precondition(lambda self: self.pending_repeats)
    @rule(index=INDEXES)
    def repeat_one(self, index: int) -> None:
        """Repeat one of the calls whose reply was lost, and check the reply."""
        self.pending_repeats.pop(index % len(self.pending_repeats))()

    @rule(number=st.sampled_from([0, 1]), known=st.booleans(), nth=INDEXES)
    def add_without_reply(self, number: int, known: bool, nth: int) -> None:
        """Add an event; the receiver does not get the reply."""
        event = build_event(number, f"{number}-{known}-{nth}", known=known)
        self.token = f"{next(self.tokens):016d}"
        self.add_and_check(event, twice=False)
        self.pending_repeats.append(partial(self.repeat_add, event, self.token))

    def add_and_check(self, event: DeploymentEvent, *, twice: bool) -> None:
        """Add an event, and record whose token the delivery mark holds."""
        job = self.job_by_delivery.get(event.delivery)
        if job is None or job in self.failed:
            self.mark_tokens[event.delivery] = self.token
        super().add_and_check(event, twice=twice)

    def repeat_add(self, event: DeploymentEvent, token: str) -> None:
        """Repeat an add: its own mark is recognised, the mark of another is a duplicate."""
        self.token = token
        if self.mark_tokens[event.delivery] != token:
            self.add_and_check(event, twice=False)
        else:
            queued = Queued(job=self.job_by_delivery[event.delivery])
            assert self.run(self.backlog.add(event)) == queued

    @rule(limit=st.integers(1, 3), followers=st.sampled_from([0, 3]))
    def claim_without_reply(self, limit: int, followers: int) -> None:
        """Claim; the worker does not get its leases."""
        before = len(self.leases)
        self.claim(limit, followers, twice=False)
        leases, self.leases = self.leases[before:], self.leases[:before]
        if leases:
            self.pending_repeats.append(partial(self.repeat_claim, leases, self.token))

    def repeat_claim(self, leases: list[Lease], token: str) -> None:
        """Repeat a claim: it returns the leases that are still valid, and no others."""
        self.token = token
        repeated = [without_now(lease) for lease in self.run(self.backlog.claim(1)).leases]
        still_held = {lease.job: lease.fence for lease in leases if self.held_ticket(lease)}
        assert {lease.job: lease.fence for lease in repeated} == still_held
        for lease in repeated:
            assert lease.generation == self.tickets[lease.job].generation
        self.leases += repeated

    @precondition(lambda self: self.leases)
    @rule(index=INDEXES, status=st.sampled_from("ab"))
    def publish_without_reply(self, index: int, status: str) -> None:
        """Publish; the worker does not learn whether its record was appended."""
        lease = self.leases[index % len(self.leases)]
        entry = build_entry(lease, status)
        settled = self.publish_and_check(entry, index, twice=False)
        if settled.status == "taken":
            return
        self.pending_repeats.append(partial(self.repeat_publish, entry, lease, settled))

    def publish_and_check(self, entry: Entry, index: int, *, twice: bool) -> PublishResult:
        """Publish, and record which fence published a job last."""
        lease = self.leases[index % len(self.leases)]
        settled = super().publish_and_check(entry, index, twice=twice)
        if settled.status not in {"lease_lost", "taken"}:
            self.published_by[lease.job] = lease.fence
        return settled

    def repeat_publish(self, entry: Entry, lease: Lease, settled: PublishResult) -> None:
        """Repeat a publish: the same reply, unless another worker has published the job since."""
        repeated = self.run(self.output.append_and_settle(entry, lease))
        published_by_another = self.published_by.get(lease.job) != lease.fence
        assert repeated == settled or (published_by_another and repeated.status == "lease_lost")

    @precondition(lambda self: self.leases)
    @rule(index=INDEXES)
    def fail_without_reply(self, index: int) -> None:
        """Fail a ticket; the worker does not get the reply."""
        lease = self.leases[index % len(self.leases)]
        result = self.fail_and_check(index, "x", twice=False)
        self.pending_repeats.append(partial(self.repeat_fail, lease, result))

    def fail_and_check(self, index: int, reason: str, *, twice: bool) -> str:
        """Fail a ticket, and record which fence failed a job last."""
        lease = self.leases[index % len(self.leases)]
        result = super().fail_and_check(index, reason, twice=twice)
        if result == "failed":
            self.failed_by[lease.job] = lease.fence
        return result

    def repeat_fail(self, lease: Lease, result: str) -> None:
        """Repeat a fail: the same reply while the ticket is still failed."""
        failure = FailureRecord(reason="x", ticket=lease.ticket, fence=lease.fence)
        repeated = self.run(self.backlog.fail(lease, failure))
        stands = lease.job in self.failed and self.failed_by[lease.job] == lease.fence
        assert repeated == ("failed" if stands else "lease_lost"), (result, repeated)

    @precondition(lambda self: self.leases)
    @rule(index=INDEXES, delay_s=st.sampled_from([0.0, 90.0]))
    def postpone_without_reply(self, index: int, delay_s: float) -> None:
        """Postpone a ticket; the worker does not get the reply."""
        lease = self.take_lease(index)
        attempted = replace(lease.ticket, attempts=next(self.tokens))
        result = self.run(self.backlog.postpone(lease, attempted, delay_s=delay_s))
        self.check_postponed(lease, result, delay_s=delay_s)

        def repeat() -> None:
            repeated = self.run(self.backlog.postpone(lease, attempted, delay_s=delay_s))
            assert result != "lease_lost" or repeated == "lease_lost"

        self.pending_repeats.append(repeat)

    @precondition(lambda self: self.leases)
    @rule(index=INDEXES)
    def renew_without_reply(self, index: int) -> None:
        """Renew a lease; the worker does not get its fence and cannot settle until it repeats."""
        lease = self.leases[index % len(self.leases)]
        before = len(self.leases)
        self.renew(index, twice=False)
        renewed = self.leases.pop() if len(self.leases) == before else None

        def repeat() -> None:
            (fence,) = self.run(self.backlog.renew([(lease.job, lease.fence)], 1000))
            if renewed is None or not self.held_ticket(renewed):
                assert fence is None
            else:
                assert fence == renewed.fence
                self.leases.append(renewed)

        self.pending_repeats.append(repeat)

    def finish(self) -> None:
        """Repeat the remaining calls, then settle every ticket."""
        while self.pending_repeats:
            self.pending_repeats.pop()()
            self.redis_matches_the_model()
        super().finish()


@with_examples((100, 40), long=(2000, 80))
def test_calls_repeated_late_change_nothing(redis_url: str, examples: int, steps: int) -> None:
    """No event ends twice or never, and each late reply is correct."""
    run_machine(LostReplyModel, redis_url, examples=examples, steps=steps)
