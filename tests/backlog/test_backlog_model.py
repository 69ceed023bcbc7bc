"""Does every accepted event end exactly once, whatever workers, crashes and persons do?"""

from collections.abc import Mapping

import msgspec
from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule

from service.accept.events import Unmappable
from service.accept.sources import Source, load_sources, native_source
from service.backlog.failed import FailedOnes
from service.backlog.failure import name_aside
from service.configured import read_presets
from tests.backlog.model import BacklogModel, Waiting, make_event
from tests.machine import play, run_machine

MENDED = {"native": native_source(["secret"], presets=read_presets())}
BROKEN = load_sources(
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


def write_body(number: int, *, known: bool) -> bytes:
    """Write the webhook of the same event."""
    event = make_event(number, "", known=known)
    return msgspec.json.encode(
        {
            "projectKey": event.project,
            "environmentKey": event.environment,
            "applicationKey": event.application,
            "version": event.version,
            "deploymentId": event.deployment_id,
            "eventType": "finished",
        }
    )


class RepairedModel(BacklogModel):
    """The same backlog, of which a person takes up again, or drops, what has failed."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.set_aside_at: dict[str, int] = {}

    async def open(self, url: str) -> None:
        """Open the hands of the person too."""
        await super().open(url)
        self.person = FailedOnes(
            self.client, self.group, keys=self.keys, new_token=lambda: self.token
        )

    @rule(
        number=st.sampled_from([0, 0, 0, 1]),
        known=st.booleans(),
        nth=st.integers(0, 9),
        twice=st.booleans(),
    )
    def set_aside(self, number: int, known: bool, nth: int, twice: bool) -> None:
        """An event arrives that its source cannot map, but will once it is mended."""
        delivery = f"{number}-{known}-{nth}"
        self.token = f"{next(self.tokens):016d}"
        event = Unmappable("test", (), delivery, write_body(number, known=known))
        kept = self.run(self.backlog.set_aside("native", event))
        if twice:
            assert self.run(self.backlog.set_aside("native", event)) is kept
        assert kept is (delivery not in self.marks)
        if kept:
            job = self.marks[delivery] = name_aside("native", delivery)
            self.failed[job], self.reasons[job] = [(0, delivery)], "unmappable"
            self.set_aside_at[job] = next(self.tokens)
            self.ended.update([delivery])

    @precondition(lambda self: self.failed)
    @rule(
        places=st.lists(st.integers(0, 9), min_size=1, max_size=3),
        sources=st.sampled_from([MENDED, MENDED, BROKEN]),
        twice=st.booleans(),
    )
    def retry(self, places: list[int], sources: Mapping[str, Source], twice: bool) -> None:
        """A person takes some of the failed up again, perhaps before their source is mended."""
        self.token = f"{next(self.tokens):016d}"
        batch = self.run(self.person.read(self.choose(places)))
        fates = self.run(self.person.retry(batch, sources))
        if twice:
            assert self.run(self.person.retry(batch, sources)) == fates
        for fate in fates:
            if fate.job not in self.failed:
                assert fate.fate == "gone"
                continue
            if sources is BROKEN and fate.job in self.set_aside_at:
                assert fate.fate == "left"
                continue
            job = fate.detail or fate.job
            told = [name for _, name in self.failed.pop(fate.job)]
            told += [name for _, name in self.failed.pop(job, [])]
            ticket = self.waiting.setdefault(job, Waiting(generation=0, events=[]))
            if fate.fate == "waits":
                assert ticket.born > self.set_aside_at[fate.job]
            else:
                assert fate.fate == "queued"
                ticket.generation, ticket.born = ticket.generation + 1, next(self.tokens)
                ticket.due = ticket.due or ticket.fence is None
            ticket.events += [(ticket.generation, name) for name in told]
            self.ended.subtract(told)
            for name in told:
                self.marks[name] = job

    @precondition(lambda self: self.failed)
    @rule(places=st.lists(st.integers(0, 9), min_size=1, max_size=3), twice=st.booleans())
    def drop(self, places: list[int], twice: bool) -> None:
        """A person drops some of the failed: they have ended."""
        self.token = f"{next(self.tokens):016d}"
        batch = self.run(self.person.read(self.choose(places)))
        fates = self.run(self.person.drop(batch))
        if twice:
            assert self.run(self.person.drop(batch)) == fates
        assert [fate.fate for fate in fates] == ["dropped"] * len(batch)
        for failed in batch:
            del self.failed[failed.job]

    def choose(self, places: list[int]) -> list[str]:
        """Choose some of the failed."""
        jobs = sorted(self.failed)
        return [jobs[place % len(jobs)] for place in places]


@play((150, 30), long=(1500, 60))
def test_every_accepted_event_ends_exactly_once(redis_url: str, examples: int, steps: int) -> None:
    """In a record, unchanged, or failed: never two of these and never none."""
    run_machine(RepairedModel, redis_url, examples=examples, steps=steps)
