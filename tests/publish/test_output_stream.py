"""Does a record get out exactly once, and stay as long as somebody has to read it?"""

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import cast

import msgspec
import pytest
from msgspec.structs import replace
from redis.asyncio import Redis

from service.accept.mapping import DeploymentCompleted
from service.backlog.backlog import Backlog
from service.backlog.failures import FailureRecord
from service.backlog.ticket import Lease
from service.client.entry import Record, parse_entry
from service.enrich.models import Deployment, parse_deployment
from service.enrich.verdict import Found
from service.publish.entry import Entry, EntryBuilder, PayloadFormat
from service.publish.stream import OutputStream, PublishResult, RetentionConfig
from service.store.group_commit import GroupCommit
from service.store.keys import Keys

Eventually = Callable[[Callable[[], Awaitable[bool]]], Awaitable[None]]

Entries = list[tuple[bytes, dict[bytes, bytes]]]

DEPLOYMENT = "a0eebc99-9c0b-4ef8-bb6d-000000000001"
TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


class OutputHarness:
    """One namespace with its backlog and its output."""

    def __init__(self, redis: Redis, group: GroupCommit, keys: Keys, backlog: Backlog) -> None:
        self.redis = redis
        self.group = group
        self.keys = keys
        self.backlog = backlog
        self.output = self.open_output(entries_ms=60_000)

    def open_output(
        self, *, entries_ms: int, hard_cap: int = 0, dead_ms: int = 60_000
    ) -> OutputStream:
        """Give an output that keeps its entries for so long."""
        retention = RetentionConfig(
            dedup_ttl_ms=60_000, max_age_ms=entries_ms, max_records=hard_cap, idle_group_ms=dead_ms
        )
        return OutputStream(self.group, keys=self.keys, retention=retention)

    async def add_event(self, delivery: str, *, known: bool = True) -> None:
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

    async def claim_lease(self) -> Lease:
        """Claim the one ticket that is due."""
        (lease,) = (await self.backlog.claim(1)).leases
        assert isinstance(lease, Lease)
        return lease

    async def read_entries(self) -> list[dict[str, str]]:
        """Read every entry of the output."""
        return [
            {name.decode(): value.decode() for name, value in fields.items()}
            for _, fields in cast("Entries", await self.redis.xrange(self.keys.enriched))
        ]


def build_entry(
    lease: Lease, *, status: str = "succeeded", payload: PayloadFormat = "json"
) -> Entry:
    """Write the entry of the deployment as LaunchDarkly tells it."""
    body = json.dumps({"id": DEPLOYMENT, "applicationKey": "shop", "status": status}).encode()
    deployment = parse_deployment(body)
    assert isinstance(deployment, Deployment)
    entry = EntryBuilder(payload_format=payload).build(
        Found(deployment=deployment, body=body), lease, now_ms=lease.now
    )
    assert isinstance(entry, Entry)
    return entry


@pytest.fixture
async def output_harness(
    redis: Redis, group_commit: GroupCommit, keys: Keys, backlog: Backlog
) -> AsyncIterator[OutputHarness]:
    """Give the outlet of one namespace."""
    yield OutputHarness(redis, group_commit, keys, backlog)
    await redis.delete(keys.backlog, keys.tickets)


async def test_a_record_is_appended_and_its_ticket_forgotten(output_harness: OutputHarness) -> None:
    """One entry, the first revision; nothing waits, is in flight or is held any more."""
    await output_harness.add_event("first")
    lease = await output_harness.claim_lease()
    settled = await output_harness.output.append_and_settle(build_entry(lease), lease)
    assert settled == PublishResult(status="published", revision=1)
    assert len(await output_harness.read_entries()) == 1
    keys = output_harness.keys
    assert await output_harness.redis.exists(keys.backlog, keys.tickets, keys.budget_calls) == 0
    assert await output_harness.redis.pttl(keys.published(DEPLOYMENT)) > 0


async def test_the_fields_follow_cloudevents(output_harness: OutputHarness) -> None:
    """Attributes by their CloudEvents names, routing fields beside them, JSON in data."""
    await output_harness.add_event("first")
    lease = await output_harness.claim_lease()
    await output_harness.output.append_and_settle(build_entry(lease), lease)
    (entry,) = await output_harness.read_entries()
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


async def test_an_act_whose_reply_was_lost_gives_the_same_answer(
    output_harness: OutputHarness,
) -> None:
    """Sent twice it is one entry, even if a later event or another job came between."""
    await output_harness.add_event("first")
    await output_harness.add_event("to be found", known=False)
    known = await output_harness.claim_lease()
    found = await output_harness.claim_lease()
    published = await output_harness.output.append_and_settle(build_entry(known), known)
    assert await output_harness.output.append_and_settle(build_entry(known), known) == published
    await output_harness.output.append_and_settle(build_entry(found, status="failed"), found)
    assert await output_harness.output.append_and_settle(build_entry(known), known) == published
    assert [entry["revision"] for entry in await output_harness.read_entries()] == ["1", "2"]


async def test_a_repeated_act_writes_so_that_its_barrier_covers_the_first(
    output_harness: OutputHarness,
) -> None:
    """WAITAOF and WAIT cover a connection's own writes: a repeat must have one."""
    await output_harness.add_event("first")
    lease = await output_harness.claim_lease()
    await output_harness.output.append_and_settle(build_entry(lease), lease)
    before = (await output_harness.redis.info("replication"))["master_repl_offset"]
    await output_harness.output.append_and_settle(build_entry(lease), lease)
    after = (await output_harness.redis.info("replication"))["master_repl_offset"]
    assert after > before


async def test_who_lost_the_lease_writes_nothing(
    output_harness: OutputHarness, eventually: Eventually
) -> None:
    """A worker that comes back from the dead cannot publish what another has in hand."""
    await output_harness.add_event("first")
    lost = await output_harness.claim_lease()
    claimed: list[Lease] = []

    async def taken_over() -> bool:
        claimed.extend(
            lease
            for lease in (await output_harness.backlog.claim(1)).leases
            if isinstance(lease, Lease)
        )
        return bool(claimed)

    await eventually(taken_over)
    settled = await output_harness.output.append_and_settle(build_entry(lost), lost)
    assert settled == PublishResult(status="lease_lost", revision=0)
    assert await output_harness.read_entries() == []
    assert (
        await output_harness.redis.zscore(output_harness.keys.backlog, lost.job) == claimed[0].fence
    )
    settled = await output_harness.output.append_and_settle(build_entry(claimed[0]), claimed[0])
    assert settled.status == "published"


async def test_a_ticket_given_up_is_not_published_too(output_harness: OutputHarness) -> None:
    """Failed or published: whichever came first stands."""
    await output_harness.add_event("first")
    lease = await output_harness.claim_lease()
    assert await output_harness.backlog.fail(lease, FailureRecord(reason="test")) == "failed"
    assert (
        await output_harness.output.append_and_settle(build_entry(lease), lease)
    ).status == "lease_lost"
    assert await output_harness.read_entries() == []


async def test_what_is_left_out_is_settled_without_a_record(output_harness: OutputHarness) -> None:
    """Its ticket ends and it is known; once it is wanted, the same content is news."""
    await output_harness.add_event("first")
    lease = await output_harness.claim_lease()
    unwanted = replace(build_entry(lease), filtered_because="the application is not wanted")
    for _ in range(2):  # the reply may be lost
        settled = await output_harness.output.append_and_settle(unwanted, lease)
        assert settled == PublishResult(status="filtered", revision=0)
    assert await output_harness.read_entries() == []
    keys = output_harness.keys
    assert await output_harness.redis.exists(keys.backlog, keys.tickets, keys.budget_calls) == 0
    assert await output_harness.redis.pttl(keys.published(DEPLOYMENT)) > 0
    await output_harness.add_event("second")
    lease = await output_harness.claim_lease()
    settled = await output_harness.output.append_and_settle(build_entry(lease), lease)
    assert settled == PublishResult(status="published", revision=1)


async def test_the_revision_is_written_into_msgpack_too(output_harness: OutputHarness) -> None:
    """Data in msgpack has the revision that its id has, however large."""
    for revision, told in ((1, None), (70_000, "69999")):
        if told is not None:
            await output_harness.redis.hset(
                output_harness.keys.published(DEPLOYMENT), "revision", told
            )
        await output_harness.add_event(f"d{revision}")
        lease = await output_harness.claim_lease()
        entry = build_entry(lease, status=f"s{revision}", payload="msgpack")
        settled = await output_harness.output.append_and_settle(entry, lease)
        assert settled == PublishResult(status="published", revision=revision)
        [(position, fields)] = cast(
            "Entries", await output_harness.redis.xrevrange(output_harness.keys.enriched, count=1)
        )
        record = parse_entry(position, [part for pair in fields.items() for part in pair])
        assert isinstance(record, Record)
        assert (record.is_msgpack, record.data.revision) == (True, revision)
        assert record.raw["deployment"] == {
            "id": DEPLOYMENT,
            "applicationKey": "shop",
            "status": f"s{revision}",
        }
        assert record.deployment.application_key == "shop"
        assert record.raw["event"]["metadata"] == {"build": 7}


async def test_unchanged_content_is_no_new_entry(output_harness: OutputHarness) -> None:
    """A second event about the same thing settles without a record."""
    for fate in ("published", "unchanged"):
        await output_harness.add_event(fate)
        lease = await output_harness.claim_lease()
        settled = await output_harness.output.append_and_settle(build_entry(lease), lease)
        assert settled == PublishResult(status=fate, revision=1)
    assert len(await output_harness.read_entries()) == 1
    assert await output_harness.redis.zcard(output_harness.keys.backlog) == 0


async def test_changed_content_is_the_next_revision(output_harness: OutputHarness) -> None:
    """Its number is in the id, in its own field and in the data, and the rest of it is whole."""
    for status in ("succeeded", "failed"):
        await output_harness.add_event(status)
        lease = await output_harness.claim_lease()
        await output_harness.output.append_and_settle(build_entry(lease, status=status), lease)
    entries = await output_harness.read_entries()
    assert [entry["id"] for entry in entries] == [f"{DEPLOYMENT}:1", f"{DEPLOYMENT}:2"]
    assert [entry["revision"] for entry in entries] == ["1", "2"]
    data = [json.loads(entry["data"]) for entry in entries]
    assert [each["revision"] for each in data] == [1, 2]
    assert [each["deployment"]["status"] for each in data] == ["succeeded", "failed"]


async def test_an_event_that_came_meanwhile_makes_it_due_again(
    output_harness: OutputHarness,
) -> None:
    """Publishing what an older event asked for does not forget the newer one."""
    await output_harness.add_event("older")
    lease = await output_harness.claim_lease()
    await output_harness.add_event("newer")
    assert (
        await output_harness.output.append_and_settle(build_entry(lease), lease)
    ).status == "published"
    again = await output_harness.claim_lease()
    assert (again.ticket.delivery, again.generation) == ("newer", lease.generation + 1)
    assert (
        await output_harness.output.append_and_settle(build_entry(again), again)
    ).status == "unchanged"
    assert await output_harness.redis.zcard(output_harness.keys.backlog) == 0


async def test_two_jobs_for_one_deployment_are_one_record(output_harness: OutputHarness) -> None:
    """One event named the deployment, another had it looked up: the content is published once."""
    await output_harness.add_event("known")
    await output_harness.add_event("sought", known=False)
    leases = [await output_harness.claim_lease(), await output_harness.claim_lease()]
    assert len({lease.job for lease in leases}) == 2
    fates = [
        (await output_harness.output.append_and_settle(build_entry(each), each)).status
        for each in leases
    ]
    assert fates == ["published", "unchanged"]
    assert len(await output_harness.read_entries()) == 1


async def test_old_entries_are_trimmed(output_harness: OutputHarness) -> None:
    """What is older than the retention goes, the rest stays; no stream is nothing to do."""
    assert (await output_harness.output.trim()).expired == 0
    for entry_id in ("1-1", "1-2", "2-1", "*"):
        await output_harness.redis.xadd(output_harness.keys.enriched, {"n": "1"}, id=entry_id)
    assert (await output_harness.output.trim()).expired == 3
    assert await output_harness.redis.xlen(output_harness.keys.enriched) == 1
    assert (await output_harness.output.trim()).expired == 0


@pytest.mark.parametrize(
    ("delivered", "acknowledged", "left"), [(0, 0, 5), (3, 3, 2), (3, 1, 4), (5, 2, 3), (5, 5, 0)]
)
async def test_nothing_is_trimmed_that_the_slowest_group_has_to_read(
    output_harness: OutputHarness, delivered: int, acknowledged: int, left: int
) -> None:
    """Neither what a group was not given nor what it was given and has not acknowledged."""
    redis, key = output_harness.redis, output_harness.keys.enriched
    for number in range(1, 6):
        await redis.xadd(key, {"n": number}, id=f"1-{number}")
    for name in ("quick", "slow"):
        await redis.xgroup_create(key, name, id="0")
    await redis.xreadgroup("quick", "reader", {key: ">"}, noack=True)
    if delivered:
        await redis.xreadgroup("slow", "reader", {key: ">"}, count=delivered)
    for number in range(1, acknowledged + 1):
        await redis.xack(key, "slow", f"1-{number}")
    await output_harness.output.trim()
    assert await redis.xlen(key) == left


async def test_a_dead_group_is_reported_and_not_waited_for(
    output_harness: OutputHarness, eventually: Eventually
) -> None:
    """Whoever reads again lives again; a group that nobody read for yet has its time first."""
    redis, key = output_harness.redis, output_harness.keys.enriched
    await redis.xadd(key, {"n": 1}, id="1-1")
    for name in ("gone", "new"):
        await redis.xgroup_create(key, name, id="0")
    await redis.xgroup_createconsumer(key, "gone", "reader")
    patient = output_harness.open_output(entries_ms=60_000)
    assert (await patient.trim()).idle_groups == {}
    hasty = output_harness.open_output(entries_ms=60_000, dead_ms=100)

    async def are_dead() -> bool:
        return {*(await hasty.trim()).idle_groups} == {"gone", "new"}

    await redis.xadd(key, {"n": 2}, id="1-2")
    await eventually(are_dead)
    assert await redis.xlen(key) == 0
    assert await redis.pttl(output_harness.keys.reader_groups) > 0
    await redis.xreadgroup("gone", "reader", {key: ">"})
    assert {
        *(await output_harness.open_output(entries_ms=60_000, dead_ms=5_000).trim()).idle_groups
    } == set()
    await redis.xgroup_destroy(key, "new")
    await patient.trim()
    assert await redis.hkeys(output_harness.keys.reader_groups) == [b"gone"]


async def test_a_hard_cap_trims_past_every_group(output_harness: OutputHarness) -> None:
    """An operator may put the server's memory above a reader that never comes."""
    for _ in range(9):
        await output_harness.redis.xadd(output_harness.keys.enriched, {"n": "1"})
    await output_harness.redis.xgroup_create(output_harness.keys.enriched, "slow", id="0")
    assert (await output_harness.open_output(entries_ms=60_000, hard_cap=4).trim()).over_limit == 5
    assert await output_harness.redis.xlen(output_harness.keys.enriched) == 4
