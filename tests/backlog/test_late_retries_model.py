"""Is an act that is sent again much later still one act, whatever others did in between?"""

from collections.abc import Callable
from functools import partial

from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule
from msgspec.structs import replace

from service.accept.mapping import DeploymentCompleted, Queued
from service.backlog.failures import FailureRecord
from service.backlog.ticket import Lease
from service.publish.entry import Entry
from service.publish.stream import PublishResult
from tests.backlog.backlog_model import BacklogModel, build_entry, make_event, without_now
from tests.state_machine import run_machine, with_examples

PLACES = st.integers(0, 9)


class LostReplyModel(BacklogModel):
    """The backlog's model, where the reply of any act may be lost with its connection.

    Whoever sent it sends the same act again, under the same token and fence, and meanwhile leases
    run out, others claim and settle, and senders send once more. It must change nothing then, and
    tell what happened, or that the lease is another's.
    """

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.pending_repeats: list[Callable[[], None]] = []
        self.mark_tokens: dict[str, str] = {}
        self.published_by: dict[str, float] = {}
        self.failed_by: dict[str, float] = {}

    @precondition(lambda self: self.pending_repeats)
    @rule(place=PLACES)
    def repeat_one(self, place: int) -> None:
        """The connection is back: one of those acts is sent again, and answered."""
        self.pending_repeats.pop(place % len(self.pending_repeats))()

    @rule(number=st.sampled_from([0, 1]), known=st.booleans(), nth=PLACES)
    def add_without_reply(self, number: int, known: bool, nth: int) -> None:
        """A receiver does not hear whether its event is kept."""
        event = make_event(number, f"{number}-{known}-{nth}", known=known)
        self.token = f"{next(self.tokens):016d}"
        self.add_and_check(event, twice=False)
        self.pending_repeats.append(partial(self.repeat_add, event, self.token))

    def add_and_check(self, event: DeploymentCompleted, *, twice: bool) -> None:
        """Note also whose token the mark of a delivery bears."""
        job = self.job_by_delivery.get(event.delivery)
        if job is None or job in self.failed:
            self.mark_tokens[event.delivery] = self.token
        super().add_and_check(event, twice=twice)

    def repeat_add(self, event: DeploymentCompleted, token: str) -> None:
        """Its own mark is known again; that of another is a duplicate, or was given up since."""
        self.token = token
        if self.mark_tokens[event.delivery] != token:
            self.add_and_check(event, twice=False)
        else:
            queued = Queued(job=self.job_by_delivery[event.delivery])
            assert self.run(self.backlog.add(event)) == queued

    @rule(limit=st.integers(1, 3), company=st.sampled_from([0, 3]))
    def claim_without_reply(self, limit: int, company: int) -> None:
        """A worker does not hear what it was leased."""
        before = len(self.leases)
        self.claim(limit, company, twice=False)
        leases, self.leases = self.leases[before:], self.leases[:before]
        if leases:
            self.pending_repeats.append(partial(self.repeat_claim, leases, self.token))

    def repeat_claim(self, leases: list[Lease], token: str) -> None:
        """What it was leased and still stands is told again, as it is by now; nothing else."""
        self.token = token
        repeated = [without_now(lease) for lease in self.run(self.backlog.claim(1)).leases]
        still_held = {lease.job: lease.fence for lease in leases if self.held_ticket(lease)}
        assert {lease.job: lease.fence for lease in repeated} == still_held
        for lease in repeated:
            assert lease.generation == self.tickets[lease.job].generation
        self.leases += repeated

    @precondition(lambda self: self.leases)
    @rule(place=PLACES, status=st.sampled_from("ab"))
    def publish_without_reply(self, place: int, status: str) -> None:
        """A worker does not hear whether its record was appended."""
        lease = self.leases[place % len(self.leases)]
        entry = build_entry(lease, status)
        settled = self.publish_and_check(entry, place, twice=False)
        self.pending_repeats.append(partial(self.repeat_publish, entry, lease, settled))

    def publish_and_check(self, entry: Entry, place: int, *, twice: bool) -> PublishResult:
        """Note also who published a job last."""
        lease = self.leases[place % len(self.leases)]
        settled = super().publish_and_check(entry, place, twice=twice)
        if settled.status != "lease_lost":
            self.published_by[lease.job] = lease.fence
        return settled

    def repeat_publish(self, entry: Entry, lease: Lease, settled: PublishResult) -> None:
        """The same answer, unless another has published the job since."""
        repeated = self.run(self.output.append_and_settle(entry, lease))
        published_by_another = self.published_by.get(lease.job) != lease.fence
        assert repeated == settled or (published_by_another and repeated.status == "lease_lost")

    @precondition(lambda self: self.leases)
    @rule(place=PLACES)
    def fail_without_reply(self, place: int) -> None:
        """A worker does not hear whether its ticket was given up."""
        lease = self.leases[place % len(self.leases)]
        result = self.fail_and_check(place, "x", twice=False)
        self.pending_repeats.append(partial(self.repeat_fail, lease, result))

    def fail_and_check(self, place: int, reason: str, *, twice: bool) -> str:
        """Note also who gave a job up last."""
        lease = self.leases[place % len(self.leases)]
        result = super().fail_and_check(place, reason, twice=twice)
        if result == "failed":
            self.failed_by[lease.job] = lease.fence
        return result

    def repeat_fail(self, lease: Lease, result: str) -> None:
        """The same answer as long as it stands among the failed."""
        failure = FailureRecord(reason="x", ticket=lease.ticket, fence=lease.fence)
        repeated = self.run(self.backlog.fail(lease, failure))
        stands = lease.job in self.failed and self.failed_by[lease.job] == lease.fence
        assert repeated == ("failed" if stands else "lease_lost"), (result, repeated)

    @precondition(lambda self: self.leases)
    @rule(place=PLACES, for_s=st.sampled_from([0.0, 90.0]))
    def postpone_without_reply(self, place: int, for_s: float) -> None:
        """A worker does not hear whether its ticket was put back."""
        lease = self.take_lease(place)
        attempted = replace(lease.ticket, attempts=next(self.tokens))
        result = self.run(self.backlog.postpone(lease, attempted, delay_s=for_s))
        ticket = self.held_ticket(lease)
        if ticket is None:
            assert result == "lease_lost"
        else:
            newer = ticket.generation != lease.generation
            assert result == ("superseded" if newer else "postponed")
            ticket.fence, ticket.is_due = None, newer or for_s == 0

        def repeat() -> None:
            repeated = self.run(self.backlog.postpone(lease, attempted, delay_s=for_s))
            assert result != "lease_lost" or repeated == "lease_lost"

        self.pending_repeats.append(repeat)

    @precondition(lambda self: self.leases)
    @rule(place=PLACES)
    def renew_without_reply(self, place: int) -> None:
        """A worker does not hear its new fence, and says nothing of the ticket until it does."""
        lease = self.leases[place % len(self.leases)]
        before = len(self.leases)
        self.renew(place, twice=False)
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
        """The last of those acts come back first, then all ends as ever."""
        while self.pending_repeats:
            self.pending_repeats.pop()()
            self.tickets_match_the_model()
        super().finish()


@with_examples((100, 40), long=(2000, 80))
def test_an_act_sent_again_late_changes_nothing(redis_url: str, examples: int, steps: int) -> None:
    """No event ends twice or never, and each late answer is true."""
    run_machine(LostReplyModel, redis_url, examples=examples, steps=steps)
