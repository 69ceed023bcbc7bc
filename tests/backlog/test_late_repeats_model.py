"""Is an act that is sent again much later still one act, whatever others did in between?"""

from collections.abc import Callable
from functools import partial

from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule
from msgspec.structs import replace

from service.accept.events import DeploymentCompleted, Queued
from service.backlog.failure import record_failure
from service.backlog.ticket import Lease
from service.publish.stream import Settled
from service.publish.writing import Entry
from tests.backlog.model import BacklogModel, make_event, replace_now, write_entry
from tests.machine import play, run_machine

PLACES = st.integers(0, 9)


class LateRepeats(BacklogModel):
    """The backlog's model, where the reply of any act may be lost with its connection.

    Whoever sent it sends the same act again, under the same token and fence, and meanwhile leases
    run out, others claim and settle, and senders send once more. It must change nothing then, and
    tell what happened, or that the lease is another's.
    """

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.unheard: list[Callable[[], None]] = []
        self.owners: dict[str, str] = {}
        self.publishers: dict[str, float] = {}
        self.quitters: dict[str, float] = {}

    @precondition(lambda self: self.unheard)
    @rule(place=PLACES)
    def hear_at_last(self, place: int) -> None:
        """The connection is back: one of those acts is sent again, and answered."""
        self.unheard.pop(place % len(self.unheard))()

    @rule(number=st.sampled_from([0, 1]), known=st.booleans(), nth=PLACES)
    def add_unheard(self, number: int, known: bool, nth: int) -> None:
        """A door does not hear whether its event is kept."""
        event = make_event(number, f"{number}-{known}-{nth}", known=known)
        self.token = f"{next(self.tokens):016d}"
        self.send(event, twice=False)
        self.unheard.append(partial(self.repeat_add, event, self.token))

    def send(self, event: DeploymentCompleted, *, twice: bool) -> None:
        """Note also whose token the mark of a delivery bears."""
        job = self.marks.get(event.delivery)
        if job is None or job in self.failed:
            self.owners[event.delivery] = self.token
        super().send(event, twice=twice)

    def repeat_add(self, event: DeploymentCompleted, token: str) -> None:
        """Its own mark is known again; that of another is a duplicate, or was given up since."""
        self.token = token
        if self.owners[event.delivery] != token:
            self.send(event, twice=False)
        else:
            queued = Queued(job=self.marks[event.delivery])
            assert self.run(self.backlog.add(event)) == queued

    @rule(limit=st.integers(1, 3), company=st.sampled_from([0, 3]))
    def claim_unheard(self, limit: int, company: int) -> None:
        """A worker does not hear what it was leased."""
        before = len(self.hands)
        self.claim(limit, company, twice=False)
        leases, self.hands = self.hands[before:], self.hands[:before]
        if leases:
            self.unheard.append(partial(self.repeat_claim, leases, self.token))

    def repeat_claim(self, leases: list[Lease], token: str) -> None:
        """What it was leased and still stands is told again, as it is by now; nothing else."""
        self.token = token
        again = [replace_now(lease) for lease in self.run(self.backlog.claim(1)).leases]
        standing = {lease.job: lease.fence for lease in leases if self.holds(lease)}
        assert {lease.job: lease.fence for lease in again} == standing
        for lease in again:
            assert lease.generation == self.waiting[lease.job].generation
        self.hands += again

    @precondition(lambda self: self.hands)
    @rule(place=PLACES, status=st.sampled_from("ab"))
    def publish_unheard(self, place: int, status: str) -> None:
        """A worker does not hear whether its record was appended."""
        lease = self.hands[place % len(self.hands)]
        entry = write_entry(lease, status)
        settled = self.settle(entry, place, twice=False)
        self.unheard.append(partial(self.repeat_publish, entry, lease, settled))

    def settle(self, entry: Entry, place: int, *, twice: bool) -> Settled:
        """Note also who published a job last."""
        lease = self.hands[place % len(self.hands)]
        settled = super().settle(entry, place, twice=twice)
        if settled.fate != "lost":
            self.publishers[lease.job] = lease.fence
        return settled

    def repeat_publish(self, entry: Entry, lease: Lease, settled: Settled) -> None:
        """The same answer, unless another has published the job since."""
        again = self.run(self.output.append_and_settle(entry, lease))
        forgotten = self.publishers.get(lease.job) != lease.fence
        assert again == settled or (forgotten and again.fate == "lost")

    @precondition(lambda self: self.hands)
    @rule(place=PLACES)
    def give_up_unheard(self, place: int) -> None:
        """A worker does not hear whether its ticket was given up."""
        lease = self.hands[place % len(self.hands)]
        fate = self.fail(place, "x", twice=False)
        self.unheard.append(partial(self.repeat_give_up, lease, fate))

    def fail(self, place: int, reason: str, *, twice: bool) -> str:
        """Note also who gave a job up last."""
        lease = self.hands[place % len(self.hands)]
        fate = super().fail(place, reason, twice=twice)
        if fate == "given up":
            self.quitters[lease.job] = lease.fence
        return fate

    def repeat_give_up(self, lease: Lease, fate: str) -> None:
        """The same answer as long as it stands among the failed."""
        failure = record_failure("x", ticket=lease.ticket, fence=lease.fence)
        again = self.run(self.backlog.give_up(lease, failure))
        stands = lease.job in self.failed and self.quitters[lease.job] == lease.fence
        assert again == ("given up" if stands else "lost"), (fate, again)

    @precondition(lambda self: self.hands)
    @rule(place=PLACES, for_s=st.sampled_from([0.0, 90.0]))
    def wait_unheard(self, place: int, for_s: float) -> None:
        """A worker does not hear whether its ticket was put back."""
        lease = self.pick(place)
        tried = replace(lease.ticket, attempts=next(self.tokens))
        kept = self.run(self.backlog.wait(lease, tried, for_s=for_s))
        ticket = self.holds(lease)
        assert kept is (ticket is not None)
        if ticket is not None:
            newer = ticket.generation != lease.generation
            ticket.fence, ticket.due = None, newer or for_s == 0

        def repeat() -> None:
            again = self.run(self.backlog.wait(lease, tried, for_s=for_s))
            assert kept or not again

        self.unheard.append(repeat)

    @precondition(lambda self: self.hands)
    @rule(place=PLACES)
    def renew_unheard(self, place: int) -> None:
        """A worker does not hear its new fence, and says nothing of the ticket until it does."""
        lease = self.hands[place % len(self.hands)]
        before = len(self.hands)
        self.renew(place, twice=False)
        renewed = self.hands.pop() if len(self.hands) == before else None

        def repeat() -> None:
            (fence,) = self.run(self.backlog.renew([(lease.job, lease.fence)], 1000))
            if renewed is None or not self.holds(renewed):
                assert fence is None
            else:
                assert fence == renewed.fence
                self.hands.append(renewed)

        self.unheard.append(repeat)

    def finish(self) -> None:
        """The last of those acts come back first, then all ends as ever."""
        while self.unheard:
            self.unheard.pop()()
            self.nothing_is_lost_or_left()
        super().finish()


@play((100, 40), long=(2000, 80))
def test_an_act_sent_again_late_changes_nothing(redis_url: str, examples: int, steps: int) -> None:
    """No event ends twice or never, and each late answer is true."""
    run_machine(LateRepeats, redis_url, examples=examples, steps=steps)
