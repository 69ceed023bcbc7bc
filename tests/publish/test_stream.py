"""Does a record get out exactly once, and stay as long as somebody has to read it?"""

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import cast

import msgspec
import pytest
from msgspec.structs import replace
from redis.asyncio import Redis

from service.accept.events import DeploymentCompleted
from service.backlog.backlog import Backlog
from service.backlog.failure import record_failure
from service.backlog.ticket import Lease
from service.enrich.deployment import Deployment, read_deployment
from service.enrich.verdict import Found
from service.publish.reading import Record, read_entry
from service.publish.stream import OutputStream, Retention, Settled
from service.publish.writing import Entry, Payload, Writer
from service.store.group import GroupCommit
from service.store.keys import Keys

Eventually = Callable[[Callable[[], Awaitable[bool]]], Awaitable[None]]

Entries = list[tuple[bytes, dict[bytes, bytes]]]

DEPLOYMENT = "a0eebc99-9c0b-4ef8-bb6d-000000000001"
TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


class Outlet:
    """One namespace with its backlog and its output."""

    def __init__(self, redis: Redis, group: GroupCommit, keys: Keys, backlog: Backlog) -> None:
        self.redis = redis
        self.group = group
        self.keys = keys
        self.backlog = backlog
        self.output = self.keep(entries_ms=60_000)

    def keep(self, *, entries_ms: int, hard_cap: int = 0, dead_ms: int = 60_000) -> OutputStream:
        """Give an output that keeps its entries for so long."""
        retention = Retention(
            marks_ms=60_000, entries_ms=entries_ms, hard_cap=hard_cap, dead_ms=dead_ms
        )
        return OutputStream(self.group, keys=self.keys, retention=retention)

    async def hear(self, delivery: str, *, known: bool = True) -> None:
        """Take in one event about the deployment, by its id or to be found."""
        await self.backlog.add(
            DeploymentCompleted(
                source="native",
                delivery=delivery,
                project="default",
                environment="production",
                application="shop",
                version="1.0",
                deployment_id=DEPLOYMENT if known else None,
                outcome="succeeded",
                event_time=1_795_428_000_000,
                metadata=msgspec.Raw(b'{"build":7}'),
                metadata_dropped=False,
                traceparent=TRACE,
            )
        )

    async def claim(self) -> Lease:
        """Claim the one ticket that is due."""
        (lease,) = (await self.backlog.claim(1)).leases
        assert isinstance(lease, Lease)
        return lease

    async def read(self) -> list[dict[str, str]]:
        """Read every entry of the output."""
        return [
            {name.decode(): value.decode() for name, value in fields.items()}
            for _, fields in cast("Entries", await self.redis.xrange(self.keys.enriched))
        ]


def write(lease: Lease, *, status: str = "succeeded", payload: Payload = "json") -> Entry:
    """Write the entry of the deployment as LaunchDarkly tells it."""
    body = json.dumps({"id": DEPLOYMENT, "applicationKey": "shop", "status": status}).encode()
    deployment = read_deployment(body)
    assert isinstance(deployment, Deployment)
    entry = Writer(payload=payload).write(
        Found(deployment=deployment, body=body), lease, now_ms=lease.now
    )
    assert isinstance(entry, Entry)
    return entry


@pytest.fixture
async def outlet(
    redis: Redis, group: GroupCommit, keys: Keys, backlog: Backlog
) -> AsyncIterator[Outlet]:
    """Give the outlet of one namespace."""
    yield Outlet(redis, group, keys, backlog)
    await redis.delete(keys.backlog, keys.tickets)


async def test_a_record_is_appended_and_its_ticket_forgotten(outlet: Outlet) -> None:
    """One entry, the first revision; nothing waits, is in flight or is held any more."""
    await outlet.hear("first")
    lease = await outlet.claim()
    settled = await outlet.output.append_and_settle(write(lease), lease)
    assert settled == Settled(fate="published", revision=1)
    assert len(await outlet.read()) == 1
    keys = outlet.keys
    assert await outlet.redis.exists(keys.backlog, keys.tickets, keys.calls) == 0
    assert await outlet.redis.pttl(keys.published(DEPLOYMENT)) > 0


async def test_the_fields_follow_cloudevents(outlet: Outlet) -> None:
    """Attributes by their CloudEvents names, routing fields beside them, JSON in data."""
    await outlet.hear("first")
    lease = await outlet.claim()
    await outlet.output.append_and_settle(write(lease), lease)
    (entry,) = await outlet.read()
    data = json.loads(entry.pop("data"))
    assert entry == {
        "id": f"{DEPLOYMENT}:1",
        "specversion": "1.0",
        "source": "/deployment-enricher/native",
        "type": "deployment.enriched.v1",
        "subject": DEPLOYMENT,
        "time": "2026-11-23T10:00:00.000Z",
        "datacontenttype": "application/json",
        "dataschema": "/schemas/enriched-deployment.v1.json",
        "projectkey": "default",
        "environmentkey": "production",
        "applicationkey": "shop",
        "complete": "true",
        "revision": "1",
        "traceparent": TRACE,
    }
    assert (data["schemaVersion"], data["revision"]) == (1, 1)
    assert data["deployment"]["id"] == DEPLOYMENT
    assert data["event"]["metadata"] == {"build": 7}


async def test_an_act_whose_reply_was_lost_gives_the_same_answer(outlet: Outlet) -> None:
    """Sent twice it is one entry, even if a later event or another job came between."""
    await outlet.hear("first")
    await outlet.hear("to be found", known=False)
    known = await outlet.claim()
    found = await outlet.claim()
    published = await outlet.output.append_and_settle(write(known), known)
    assert await outlet.output.append_and_settle(write(known), known) == published
    await outlet.output.append_and_settle(write(found, status="failed"), found)
    assert await outlet.output.append_and_settle(write(known), known) == published
    assert [entry["revision"] for entry in await outlet.read()] == ["1", "2"]


async def test_a_repeated_act_writes_so_that_its_barrier_covers_the_first(outlet: Outlet) -> None:
    """WAITAOF and WAIT cover a connection's own writes: a repeat must have one."""
    await outlet.hear("first")
    lease = await outlet.claim()
    await outlet.output.append_and_settle(write(lease), lease)
    before = (await outlet.redis.info("replication"))["master_repl_offset"]
    await outlet.output.append_and_settle(write(lease), lease)
    after = (await outlet.redis.info("replication"))["master_repl_offset"]
    assert after > before


async def test_who_lost_the_lease_writes_nothing(outlet: Outlet, eventually: Eventually) -> None:
    """A worker that comes back from the dead cannot publish what another has in hand."""
    await outlet.hear("first")
    lost = await outlet.claim()
    claimed: list[Lease] = []

    async def taken_over() -> bool:
        claimed.extend(
            lease for lease in (await outlet.backlog.claim(1)).leases if isinstance(lease, Lease)
        )
        return bool(claimed)

    await eventually(taken_over)
    settled = await outlet.output.append_and_settle(write(lost), lost)
    assert settled == Settled(fate="lost", revision=0)
    assert await outlet.read() == []
    assert await outlet.redis.zscore(outlet.keys.backlog, lost.job) == claimed[0].fence
    settled = await outlet.output.append_and_settle(write(claimed[0]), claimed[0])
    assert settled.fate == "published"


async def test_a_ticket_given_up_is_not_published_too(outlet: Outlet) -> None:
    """Failed or published: whichever came first stands."""
    await outlet.hear("first")
    lease = await outlet.claim()
    assert await outlet.backlog.give_up(lease, record_failure("test")) == "given up"
    assert (await outlet.output.append_and_settle(write(lease), lease)).fate == "lost"
    assert await outlet.read() == []


async def test_what_is_left_out_is_settled_without_a_record(outlet: Outlet) -> None:
    """Its ticket ends and it is known; once it is wanted, the same content is news."""
    await outlet.hear("first")
    lease = await outlet.claim()
    unwanted = replace(write(lease), left_out="the application is not wanted")
    for _ in range(2):  # the reply may be lost
        settled = await outlet.output.append_and_settle(unwanted, lease)
        assert settled == Settled(fate="left_out", revision=0)
    assert await outlet.read() == []
    keys = outlet.keys
    assert await outlet.redis.exists(keys.backlog, keys.tickets, keys.calls) == 0
    assert await outlet.redis.pttl(keys.published(DEPLOYMENT)) > 0
    await outlet.hear("second")
    lease = await outlet.claim()
    settled = await outlet.output.append_and_settle(write(lease), lease)
    assert settled == Settled(fate="published", revision=1)


async def test_the_revision_is_written_into_msgpack_too(outlet: Outlet) -> None:
    """Data in msgpack has the revision that its id has, however large."""
    for revision, told in ((1, None), (70_000, "69999")):
        if told is not None:
            await outlet.redis.hset(outlet.keys.published(DEPLOYMENT), "revision", told)
        await outlet.hear(f"d{revision}")
        lease = await outlet.claim()
        entry = write(lease, status=f"s{revision}", payload="msgpack")
        settled = await outlet.output.append_and_settle(entry, lease)
        assert settled == Settled(fate="published", revision=revision)
        [(position, fields)] = cast(
            "Entries", await outlet.redis.xrevrange(outlet.keys.enriched, count=1)
        )
        record = read_entry(position, [part for pair in fields.items() for part in pair])
        assert isinstance(record, Record)
        assert (record.is_msgpack, record.data.revision) == (True, revision)
        assert record.raw["deployment"] == {
            "id": DEPLOYMENT,
            "applicationKey": "shop",
            "status": f"s{revision}",
        }
        assert record.deployment.application_key == "shop"
        assert record.raw["event"]["metadata"] == {"build": 7}


async def test_unchanged_content_is_no_new_entry(outlet: Outlet) -> None:
    """A second event about the same thing settles without a record."""
    for fate in ("published", "unchanged"):
        await outlet.hear(fate)
        lease = await outlet.claim()
        settled = await outlet.output.append_and_settle(write(lease), lease)
        assert settled == Settled(fate=fate, revision=1)
    assert len(await outlet.read()) == 1
    assert await outlet.redis.zcard(outlet.keys.backlog) == 0


async def test_changed_content_is_the_next_revision(outlet: Outlet) -> None:
    """Its number is in the id, in its own field and in the data, and the rest of it is whole."""
    for status in ("succeeded", "failed"):
        await outlet.hear(status)
        lease = await outlet.claim()
        await outlet.output.append_and_settle(write(lease, status=status), lease)
    entries = await outlet.read()
    assert [entry["id"] for entry in entries] == [f"{DEPLOYMENT}:1", f"{DEPLOYMENT}:2"]
    assert [entry["revision"] for entry in entries] == ["1", "2"]
    data = [json.loads(entry["data"]) for entry in entries]
    assert [each["revision"] for each in data] == [1, 2]
    assert [each["deployment"]["status"] for each in data] == ["succeeded", "failed"]


async def test_an_event_that_came_meanwhile_makes_it_due_again(outlet: Outlet) -> None:
    """Publishing what an older event asked for does not forget the newer one."""
    await outlet.hear("older")
    lease = await outlet.claim()
    await outlet.hear("newer")
    assert (await outlet.output.append_and_settle(write(lease), lease)).fate == "published"
    again = await outlet.claim()
    assert (again.ticket.delivery, again.generation) == ("newer", lease.generation + 1)
    assert (await outlet.output.append_and_settle(write(again), again)).fate == "unchanged"
    assert await outlet.redis.zcard(outlet.keys.backlog) == 0


async def test_two_jobs_for_one_deployment_are_one_record(outlet: Outlet) -> None:
    """One event named the deployment, another had it looked up: the content is published once."""
    await outlet.hear("known")
    await outlet.hear("sought", known=False)
    leases = [await outlet.claim(), await outlet.claim()]
    assert len({lease.job for lease in leases}) == 2
    fates = [(await outlet.output.append_and_settle(write(each), each)).fate for each in leases]
    assert fates == ["published", "unchanged"]
    assert len(await outlet.read()) == 1


async def test_old_entries_are_trimmed(outlet: Outlet) -> None:
    """What is older than the retention goes, the rest stays; no stream is nothing to do."""
    assert (await outlet.output.trim()).dropped == 0
    for entry_id in ("1-1", "1-2", "2-1", "*"):
        await outlet.redis.xadd(outlet.keys.enriched, {"n": "1"}, id=entry_id)
    assert (await outlet.output.trim()).dropped == 3
    assert await outlet.redis.xlen(outlet.keys.enriched) == 1
    assert (await outlet.output.trim()).dropped == 0


@pytest.mark.parametrize(
    ("delivered", "acknowledged", "left"), [(0, 0, 5), (3, 3, 2), (3, 1, 4), (5, 2, 3), (5, 5, 0)]
)
async def test_nothing_is_trimmed_that_the_slowest_group_has_to_read(
    outlet: Outlet, delivered: int, acknowledged: int, left: int
) -> None:
    """Neither what a group was not given nor what it was given and has not acknowledged."""
    redis, key = outlet.redis, outlet.keys.enriched
    for number in range(1, 6):
        await redis.xadd(key, {"n": number}, id=f"1-{number}")
    for name in ("quick", "slow"):
        await redis.xgroup_create(key, name, id="0")
    await redis.xreadgroup("quick", "reader", {key: ">"}, noack=True)
    if delivered:
        await redis.xreadgroup("slow", "reader", {key: ">"}, count=delivered)
    for number in range(1, acknowledged + 1):
        await redis.xack(key, "slow", f"1-{number}")
    await outlet.output.trim()
    assert await redis.xlen(key) == left


async def test_a_dead_group_is_reported_and_not_waited_for(
    outlet: Outlet, eventually: Eventually
) -> None:
    """Whoever reads again lives again; a group that nobody read for yet has its time first."""
    redis, key = outlet.redis, outlet.keys.enriched
    await redis.xadd(key, {"n": 1}, id="1-1")
    for name in ("gone", "new"):
        await redis.xgroup_create(key, name, id="0")
    await redis.xgroup_createconsumer(key, "gone", "reader")
    patient = outlet.keep(entries_ms=60_000)
    assert (await patient.trim()).dead == {}
    hasty = outlet.keep(entries_ms=60_000, dead_ms=100)

    async def are_dead() -> bool:
        return {*(await hasty.trim()).dead} == {"gone", "new"}

    await redis.xadd(key, {"n": 2}, id="1-2")
    await eventually(are_dead)
    assert await redis.xlen(key) == 0
    assert await redis.pttl(outlet.keys.readers) > 0
    await redis.xreadgroup("gone", "reader", {key: ">"})
    assert {*(await outlet.keep(entries_ms=60_000, dead_ms=5_000).trim()).dead} == set()
    await redis.xgroup_destroy(key, "new")
    await patient.trim()
    assert await redis.hkeys(outlet.keys.readers) == [b"gone"]


async def test_a_hard_cap_trims_past_every_group(outlet: Outlet) -> None:
    """An operator may put the server's memory above a reader that never comes."""
    for _ in range(9):
        await outlet.redis.xadd(outlet.keys.enriched, {"n": "1"})
    await outlet.redis.xgroup_create(outlet.keys.enriched, "slow", id="0")
    assert (await outlet.keep(entries_ms=60_000, hard_cap=4).trim()).cut == 5
    assert await outlet.redis.xlen(outlet.keys.enriched) == 4
