"""Tests of the output stream: each revision is appended once and kept until it is read."""

import json
from collections.abc import AsyncIterator, Iterable
from typing import cast

import msgspec
import pytest
from msgspec.structs import replace
from redis.asyncio import Redis

from service.backlog.backlog import Backlog
from service.backlog.failures import FailureRecord
from service.backlog.ticket import Lease
from service.client.entry import Record, parse_entry
from service.enrich.models import Deployment, parse_deployment
from service.enrich.verdict import Found
from service.publish.entry import Entry, EntryBuilder
from service.publish.stream import OutputStream, PublishResult, RetentionConfig, TrimResult
from service.store.group_commit import GroupCommit
from service.store.keys import Keys
from tests.conftest import Eventually
from tests.factories import make_event

Entries = list[tuple[bytes, dict[bytes, bytes]]]

MAX_SLICE = 500
DEPLOYMENT = "a0eebc99-9c0b-4ef8-bb6d-000000000001"
TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


class OutputHarness:
    """One namespace with its backlog and its output stream."""

    def __init__(self, redis: Redis, group: GroupCommit, keys: Keys, backlog: Backlog) -> None:
        self.redis = redis
        self.group = group
        self.keys = keys
        self.backlog = backlog
        self.output = self.open_output(entries_ms=60_000)

    def open_output(
        self, *, entries_ms: int, hard_cap: int = 0, dead_ms: int = 60_000
    ) -> OutputStream:
        """Return an output stream that keeps its entries for ``entries_ms``."""
        retention = RetentionConfig(
            dedup_ttl_ms=60_000, max_age_ms=entries_ms, max_records=hard_cap, idle_group_ms=dead_ms
        )
        return OutputStream(self.group, keys=self.keys, retention=retention)

    async def add_event(
        self, delivery: str, *, known: bool = True, outcome: str = "succeeded"
    ) -> None:
        """Add one event about the deployment to the backlog; ``known`` by its id."""
        await self.backlog.add(
            make_event(
                delivery=delivery,
                deployment_id=DEPLOYMENT if known else None,
                outcome=outcome,
                event_time=1_795_428_000_000,
                metadata=msgspec.Raw(b'{"build":7}'),
                traceparent=TRACE,
            )
        )

    async def claim_lease(self) -> Lease:
        """Claim the one ticket that is due."""
        (lease,) = (await self.backlog.claim(1)).leases
        assert isinstance(lease, Lease)
        return lease

    async def read_entries(self) -> list[dict[str, str]]:
        """Return all entries of the output stream as text."""
        return [
            {name.decode(): value.decode() for name, value in fields.items()}
            for _, fields in cast("Entries", await self.redis.xrange(self.keys.enriched))
        ]


def build_entry(lease: Lease, *, status: str = "succeeded") -> Entry:
    """Return the entry of the deployment with this status."""
    body = json.dumps({"id": DEPLOYMENT, "applicationKey": "shop", "status": status}).encode()
    deployment = parse_deployment(body)
    assert isinstance(deployment, Deployment)
    entry = EntryBuilder().build(
        Found(deployment=deployment, chunks=(body,)), lease, now_ms=lease.now
    )
    assert isinstance(entry, Entry)
    return entry


@pytest.fixture
async def output_harness(
    redis: Redis, group_commit: GroupCommit, keys: Keys, backlog: Backlog
) -> AsyncIterator[OutputHarness]:
    """Yield the output stream of one namespace."""
    yield OutputHarness(redis, group_commit, keys, backlog)
    await redis.delete(keys.backlog, keys.tickets)


async def test_append_makes_revision_1_and_deletes_the_ticket(
    output_harness: OutputHarness,
) -> None:
    """After one entry no ticket, lease or call in flight remains."""
    await output_harness.add_event("first")
    lease = await output_harness.claim_lease()
    settled = await output_harness.output.append_and_settle(build_entry(lease), lease)
    assert settled == PublishResult(status="published", revision=1)
    assert len(await output_harness.read_entries()) == 1
    keys = output_harness.keys
    assert await output_harness.redis.exists(keys.backlog, keys.tickets, keys.budget_calls) == 0
    assert await output_harness.redis.pttl(keys.published(DEPLOYMENT)) > 0


async def test_appended_entry_has_cloudevents_fields_and_json_data(
    output_harness: OutputHarness,
) -> None:
    """Attributes have their CloudEvents names, routing fields follow, data is JSON."""
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
        "dataschema": "urn:deployment-enricher:enriched-deployment.v1",
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


async def test_repeated_append_returns_the_first_result(
    output_harness: OutputHarness,
) -> None:
    """A repeat appends nothing, even after a later event or another job."""
    await output_harness.add_event("first")
    await output_harness.add_event("to be found", known=False)
    known = await output_harness.claim_lease()
    found = await output_harness.claim_lease()
    published = await output_harness.output.append_and_settle(build_entry(known), known)
    assert await output_harness.output.append_and_settle(build_entry(known), known) == published
    await output_harness.output.append_and_settle(build_entry(found, status="failed"), found)
    assert await output_harness.output.append_and_settle(build_entry(known), known) == published
    assert [entry["revision"] for entry in await output_harness.read_entries()] == ["1", "2"]


async def test_repeated_append_writes_so_that_its_barrier_covers_the_first(
    output_harness: OutputHarness,
) -> None:
    """WAITAOF and WAIT cover a connection's own writes, so a repeat needs one."""
    await output_harness.add_event("first")
    lease = await output_harness.claim_lease()
    await output_harness.output.append_and_settle(build_entry(lease), lease)
    before = (await output_harness.redis.info("replication"))["master_repl_offset"]
    await output_harness.output.append_and_settle(build_entry(lease), lease)
    after = (await output_harness.redis.info("replication"))["master_repl_offset"]
    assert after > before


async def test_append_with_a_lost_lease_writes_nothing(
    output_harness: OutputHarness, eventually: Eventually
) -> None:
    """A worker whose lease another worker took over cannot publish."""
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


async def test_append_of_a_failed_ticket_writes_nothing(output_harness: OutputHarness) -> None:
    """A ticket ends once: failing first prevents publishing."""
    await output_harness.add_event("first")
    lease = await output_harness.claim_lease()
    assert await output_harness.backlog.fail(lease, FailureRecord(reason="test")) == "failed"
    assert (
        await output_harness.output.append_and_settle(build_entry(lease), lease)
    ).status == "lease_lost"
    assert await output_harness.read_entries() == []


async def test_filtered_entry_ends_its_ticket_without_a_record(
    output_harness: OutputHarness,
) -> None:
    """Once the filter lets it through, the same content is a new revision."""
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


async def test_data_has_the_revision_of_its_id(output_harness: OutputHarness) -> None:
    """The script inserts the revision into the data; large numbers too."""
    for revision, last_revision in ((1, None), (70_000, "69999")):
        if last_revision is not None:
            await output_harness.redis.hset(
                output_harness.keys.published(DEPLOYMENT), "revision", last_revision
            )
        await output_harness.add_event(f"d{revision}")
        lease = await output_harness.claim_lease()
        entry = build_entry(lease, status=f"s{revision}")
        settled = await output_harness.output.append_and_settle(entry, lease)
        assert settled == PublishResult(status="published", revision=revision)
        [(position, fields)] = cast(
            "Entries", await output_harness.redis.xrevrange(output_harness.keys.enriched, count=1)
        )
        record = parse_entry(position, [part for pair in fields.items() for part in pair])
        assert isinstance(record, Record)
        assert record.data.revision == revision
        assert record.raw["deployment"] == {
            "id": DEPLOYMENT,
            "applicationKey": "shop",
            "status": f"s{revision}",
        }
        assert record.deployment.application_key == "shop"
        assert record.raw["event"]["metadata"] == {"build": 7}


async def test_unchanged_content_appends_nothing(output_harness: OutputHarness) -> None:
    """A second event about the same content ends its ticket without an entry."""
    for status in ("published", "unchanged"):
        await output_harness.add_event(status)
        lease = await output_harness.claim_lease()
        settled = await output_harness.output.append_and_settle(build_entry(lease), lease)
        assert settled == PublishResult(status=status, revision=1)
    assert len(await output_harness.read_entries()) == 1
    assert await output_harness.redis.zcard(output_harness.keys.backlog) == 0


async def test_changed_content_appends_the_next_revision(output_harness: OutputHarness) -> None:
    """The id, the field and the data carry the same number, and the data is complete."""
    for status in ("succeeded", "failed"):
        await output_harness.add_event(status)
        lease = await output_harness.claim_lease()
        await output_harness.output.append_and_settle(build_entry(lease, status=status), lease)
    entries = await output_harness.read_entries()
    assert [entry["id"] for entry in entries] == [f"{DEPLOYMENT}:1", f"{DEPLOYMENT}:2"]
    assert [entry["revision"] for entry in entries] == ["1", "2"]
    data = [json.loads(entry["data"]) for entry in entries]
    assert [record["revision"] for record in data] == [1, 2]
    assert [record["deployment"]["status"] for record in data] == ["succeeded", "failed"]


async def test_append_keeps_the_ticket_of_a_newer_event(
    output_harness: OutputHarness,
) -> None:
    """Publishing for an older event leaves the newer ticket due."""
    await output_harness.add_event("older")
    lease = await output_harness.claim_lease()
    await output_harness.add_event("newer", outcome="failed")
    assert (
        await output_harness.output.append_and_settle(build_entry(lease), lease)
    ).status == "published"
    again = await output_harness.claim_lease()
    assert (again.ticket.delivery, again.generation) == ("newer", lease.generation + 1)
    assert (
        await output_harness.output.append_and_settle(build_entry(again), again)
    ).status == "unchanged"
    assert await output_harness.redis.zcard(output_harness.keys.backlog) == 0


async def test_append_after_a_repetition_during_the_lease_fetches_once_more(
    output_harness: OutputHarness,
) -> None:
    """What was fetched may be older than the repeated webhook."""
    await output_harness.add_event("first")
    lease = await output_harness.claim_lease()
    for number in range(2):
        await output_harness.add_event(f"repetition-{number}")
    settled = await output_harness.output.append_and_settle(build_entry(lease), lease)
    assert settled.status == "published"
    again = await output_harness.claim_lease()
    assert (again.ticket, again.queued_at, again.events) == (lease.ticket, lease.queued_at, ())
    settled = await output_harness.output.append_and_settle(build_entry(again), again)
    assert settled.status == "unchanged"
    assert await output_harness.redis.zcard(output_harness.keys.backlog) == 0


async def test_two_jobs_for_one_deployment_append_one_record(output_harness: OutputHarness) -> None:
    """One event named the deployment and another searched for it; the content is equal."""
    await output_harness.add_event("known")
    await output_harness.add_event("sought", known=False)
    leases = [await output_harness.claim_lease(), await output_harness.claim_lease()]
    assert len({lease.job for lease in leases}) == 2
    statuses = [
        (await output_harness.output.append_and_settle(build_entry(lease), lease)).status
        for lease in leases
    ]
    assert statuses == ["published", "unchanged"]
    assert len(await output_harness.read_entries()) == 1


async def test_trim_removes_expired_entries(output_harness: OutputHarness) -> None:
    """Younger entries stay; trimming a missing stream removes nothing."""
    assert (await output_harness.output.trim()).expired == 0
    for entry_id in ("1-1", "1-2", "2-1", "*"):
        await output_harness.redis.xadd(output_harness.keys.enriched, {"n": "1"}, id=entry_id)
    assert (await output_harness.output.trim()).expired == 3
    assert await output_harness.redis.xlen(output_harness.keys.enriched) == 1
    assert (await output_harness.output.trim()).expired == 0


@pytest.mark.parametrize(
    ("delivered", "acknowledged", "left"), [(0, 0, 5), (3, 3, 2), (3, 1, 4), (5, 2, 3), (5, 5, 0)]
)
async def test_trim_keeps_what_the_slowest_group_has_not_read(
    output_harness: OutputHarness, delivered: int, acknowledged: int, left: int
) -> None:
    """Entries that a group did not receive or did not acknowledge stay."""
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


async def test_trim_reports_idle_groups_and_does_not_wait_for_them(
    output_harness: OutputHarness, eventually: Eventually
) -> None:
    """A group that reads again is active; a group that never read has its time first."""
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


async def test_trim_with_max_records_ignores_every_group(output_harness: OutputHarness) -> None:
    """An operator may limit memory even when a reader is behind."""
    for _ in range(9):
        await output_harness.redis.xadd(output_harness.keys.enriched, {"n": "1"})
    await output_harness.redis.xgroup_create(output_harness.keys.enriched, "slow", id="0")
    assert (await output_harness.open_output(entries_ms=60_000, hard_cap=4).trim()).over_limit == 5
    assert await output_harness.redis.xlen(output_harness.keys.enriched) == 4


async def fill_stream(redis: Redis, keys: Keys, entry_ids: Iterable[str]) -> None:
    """Append entries as the service does: counted, with a milestone for every 64th."""
    async with redis.pipeline(transaction=False) as pipeline:
        appended = 0
        for appended, entry_id in enumerate(entry_ids, start=1):
            pipeline.xadd(keys.enriched, {"n": appended}, id=entry_id)
            if appended % 64 == 0:
                pipeline.zadd(keys.milestones, {entry_id: appended})
        pipeline.hset(keys.counts, "appended", appended)
        await pipeline.execute()


@pytest.mark.parametrize(
    ("read", "hard_cap", "expired", "over_limit"),
    [
        pytest.param(3_700, 0, 3_700, 0, id="as one group has read"),
        pytest.param(2_999, 0, 2_999, 0, id="as one group has read, at the end of a slice"),
        pytest.param(0, 1_350, 0, 2_650, id="above the maximum"),
        pytest.param(2_050, 1_350, 2_050, 600, id="read, then above the maximum"),
        pytest.param(4_000, 10, 4_000, 0, id="all have expired"),
    ],
)
async def test_trim_in_slices_removes_what_one_trim_would(
    output_harness: OutputHarness, read: int, hard_cap: int, expired: int, over_limit: int
) -> None:
    """One call removes at most a slice; repeated calls remove neither less nor more."""
    redis, keys = output_harness.redis, output_harness.keys
    await fill_stream(redis, keys, (f"1-{number}" for number in range(1, 4_001)))
    await redis.xgroup_create(keys.enriched, "slow", id=f"1-{read}")
    output = output_harness.open_output(entries_ms=60_000, hard_cap=hard_cap)
    slices = [await output.trim()]
    while slices[-1].has_more:
        slices.append(await output.trim())
    assert max(trimmed.expired + trimmed.over_limit for trimmed in slices) <= MAX_SLICE
    assert len(slices) <= 2 * (expired + over_limit) // MAX_SLICE + 1
    assert sum(trimmed.expired for trimmed in slices) == expired
    assert sum(trimmed.over_limit for trimmed in slices) == over_limit
    removed = expired + over_limit
    entries = cast("Entries", await redis.xrange(keys.enriched))
    assert [entry_id for entry_id, _ in entries] == [
        f"1-{number}".encode() for number in range(removed + 1, 4_001)
    ]
    milestones = await redis.zrange(keys.milestones, 0, -1)
    assert milestones == [
        f"1-{number}".encode() for number in range(64, 4_001, 64) if number > removed
    ]
    assert await output.trim() == TrimResult(0)  # a repeat finds nothing


async def test_trim_all_takes_slices_until_none_is_left(output_harness: OutputHarness) -> None:
    """A large stream that expired is gone after one call, which reports the sum."""
    redis, keys = output_harness.redis, output_harness.keys
    await fill_stream(redis, keys, (f"1-{number}" for number in range(1, 3_501)))
    assert await output_harness.output.trim_all() == TrimResult(3_500)
    assert await redis.xlen(keys.enriched) == 0


@pytest.mark.parametrize("reading", [None, 0, 399])
async def test_trim_reads_the_consumers_of_many_groups_in_several_calls(
    output_harness: OutputHarness, reading: int | None
) -> None:
    """A group keeps its records until its consumers were read, and then if one of them reads."""
    redis, keys = output_harness.redis, output_harness.keys
    await fill_stream(redis, keys, (f"1-{number}" for number in range(1, 201)))
    groups = [f"group-{number:03}" for number in range(400)]
    async with redis.pipeline(transaction=False) as pipeline:
        for group in groups:  # they have not read for a long time
            pipeline.xgroup_create(keys.enriched, group, id="0")
            pipeline.hset(keys.reader_groups, group, "1 1 0-0")
        await pipeline.execute()
    if reading is not None:  # its pending records: its position stays
        await redis.xreadgroup(groups[reading], "consumer", {keys.enriched: "0"})
    calls = [await output_harness.output.trim()]
    while calls[-1].has_more:
        calls.append(await output_harness.output.trim())
    assert (calls[0].expired, calls[0].has_more) == (0, True)
    idle_groups = {*groups} - {groups[reading] if reading is not None else ""}
    assert {*calls[-1].idle_groups} == idle_groups
    assert await redis.xlen(keys.enriched) == (0 if reading is None else 200)


async def test_trim_knows_that_a_group_reads_again_by_its_position(
    output_harness: OutputHarness,
) -> None:
    """An idle group that received a record is active at once."""
    redis, keys = output_harness.redis, output_harness.keys
    await fill_stream(redis, keys, ("1-1", "1-2"))
    await redis.xgroup_create(keys.enriched, "group", id="0")
    await redis.hset(keys.reader_groups, "group", "1 1 0-0")
    await redis.xreadgroup("group", "consumer", {keys.enriched: ">"}, count=1)
    assert await output_harness.output.trim() == TrimResult(0)
    assert await redis.xlen(keys.enriched) == 2
