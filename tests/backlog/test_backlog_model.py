"""Test that every accepted event ends exactly once, with retries and drops by a person."""

from collections.abc import Mapping

import msgspec
from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule

from service.accept.mapping import Unmappable
from service.accept.source_files import read_presets
from service.accept.sources import Source, load_sources, native_source
from service.backlog.failed_tickets import FailedTickets
from service.backlog.failures import parked_job
from tests.backlog.backlog_model import BacklogModel, EventModel, build_event
from tests.state_machine import run_machine, with_examples

FIXED_SOURCES = {"native": native_source(["secret"], presets=read_presets())}
BROKEN_SOURCES = load_sources(
    """
[[source]]
name = "native"
preset = "native"
secrets = ["secret"]
[source.fields]
id = "body.rollout"
application = "body.app"
""",
    presets=read_presets(),
    read_secret=lambda _: "secret",
)


def webhook_body(number: int, delivery: str, *, known: bool) -> bytes:
    """Return the webhook body of the same event."""
    event = build_event(number, delivery, known=known)
    return msgspec.json.encode(
        {
            "projectKey": event.project,
            "environmentKey": event.environment,
            "applicationKey": event.application,
            "version": event.version,
            "deploymentId": event.deployment_id,
            "eventType": "failed" if event.outcome == "failed" else "finished",
            "eventTime": event.event_time,
        }
    )


class RetryModel(BacklogModel):
    """The backlog model, with a person who retries or drops failed tickets."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.parked_at: dict[str, int] = {}

    async def open(self, url: str) -> None:
        """Connect the failed tickets too."""
        await super().open(url)
        self.failed_tickets = FailedTickets(
            self.client, self.group, keys=self.keys, new_token=lambda: self.token
        )

    @rule(
        number=st.sampled_from([0, 0, 0, 1]),
        known=st.booleans(),
        nth=st.integers(0, 9),
        twice=st.booleans(),
    )
    def park(self, number: int, known: bool, nth: int, twice: bool) -> None:
        """Park an event that its source cannot map until the source is fixed."""
        delivery = f"{number}-{known}-{nth}"
        self.token = f"{next(self.tokens):016d}"
        event = Unmappable("test", (), delivery, webhook_body(number, delivery, known=known))
        is_parked = self.run(self.backlog.park("native", event))
        if twice:
            assert self.run(self.backlog.park("native", event)) is is_parked
        assert is_parked is (delivery not in self.job_by_delivery)
        if is_parked:
            job = self.job_by_delivery[delivery] = parked_job("native", delivery)
            outcome = build_event(number, delivery, known=known).outcome
            self.failed[job] = [EventModel(outcome, [delivery], delivery)]
            self.reasons[job] = "unmappable"
            self.parked_at[job] = next(self.tokens)
            self.settled_events.update([delivery])

    @precondition(lambda self: self.failed)
    @rule(
        indexes=st.lists(st.integers(0, 9), min_size=1, max_size=3),
        sources=st.sampled_from([FIXED_SOURCES, FIXED_SOURCES, BROKEN_SOURCES]),
        twice=st.booleans(),
    )
    def retry(self, indexes: list[int], sources: Mapping[str, Source], twice: bool) -> None:
        """Retry some failed tickets, perhaps before their source is fixed."""
        self.token = f"{next(self.tokens):016d}"
        # With the bodies, a call that is repeated is the same: the first one deletes them.
        jobs = dict.fromkeys(self.choose_failed(indexes))
        read = [self.run(self.failed_tickets.read_whole(job)) for job in jobs]
        batch = [failed for failed in read if failed is not None]
        results = self.run(self.failed_tickets.retry(batch, sources))
        if twice:
            assert self.run(self.failed_tickets.retry(batch, sources)) == results
        for result in results:
            if result.job not in self.failed:
                assert result.status == "gone"
                continue
            if sources is BROKEN_SOURCES and result.job in self.parked_at:
                assert result.status == "skipped"
                continue
            self.requeue(result.job, result.detail or result.job, result.status)

    def requeue(self, failed_job: str, job: str, status: str) -> None:
        """Put the events of a failed job into the ticket that a retry queued or found."""
        failed = [*self.failed.pop(failed_job), *self.failed.pop(job, [])]
        deliveries = [name for event in failed for name in event.deliveries]
        self.settled_events.subtract(deliveries)
        if status == "superseded":
            ticket = self.tickets[job]
            assert ticket.added_order > self.parked_at[failed_job]
            ticket.events[-1].deliveries += deliveries
        elif job.startswith("id:"):
            self.put_event(job, deliveries, failed[0].outcome, delivery=failed[0].delivery)
        for event in failed if job.startswith("find:") else ():
            self.put_event(job, event.deliveries, event.outcome, delivery=event.delivery)
        for name in deliveries:
            self.job_by_delivery[name] = job

    @precondition(lambda self: self.failed)
    @rule(indexes=st.lists(st.integers(0, 9), min_size=1, max_size=3), twice=st.booleans())
    def drop(self, indexes: list[int], twice: bool) -> None:
        """Drop some failed tickets, which then have ended."""
        self.token = f"{next(self.tokens):016d}"
        batch = self.run(self.failed_tickets.read(self.choose_failed(indexes)))
        results = self.run(self.failed_tickets.drop(batch))
        if twice:
            assert self.run(self.failed_tickets.drop(batch)) == results
        assert [result.status for result in results] == ["dropped"] * len(batch)
        for failed in batch:
            del self.failed[failed.job]

    def choose_failed(self, indexes: list[int]) -> list[str]:
        """Return some of the failed jobs."""
        jobs = sorted(self.failed)
        return [jobs[index % len(jobs)] for index in indexes]


@with_examples((150, 30), long=(1500, 60))
def test_accepted_events_with_retries_end_exactly_once(
    redis_url: str, examples: int, steps: int
) -> None:
    """Each is published, unchanged or failed: never two of these and never none."""
    run_machine(RetryModel, redis_url, examples=examples, steps=steps)
