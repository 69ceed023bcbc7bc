"""Tests of the client: every record is delivered, over failures of consumers and of Redis."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from typing import Any

import pytest
from redis.asyncio import Redis
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ResponseError

from service.client.entry import InvalidEntry, Record, StreamEntry
from service.client.group import ReaderOptions
from service.client.stream import EnrichedStream, InvalidEntryError
from service.store.connect import open_client
from service.store.embedded import EmbeddedServer
from service.store.keys import Keys
from tests.conftest import Eventually
from tests.publish.sample_records import append_records

OpenStream = Callable[..., EnrichedStream]

READER_GROUP = "readers"
CONSUMER_PROCESS = {"consumer": "mortal"}


@pytest.fixture
async def open_stream(redis_url: str, keys: Keys) -> AsyncIterator[OpenStream]:
    """Yield a function that opens readers of this test's namespace; close them at the end."""
    streams: list[EnrichedStream] = []

    def open_reader(**options: Any) -> EnrichedStream:
        all_options = {"group": READER_GROUP, "namespace": keys.namespace} | options
        streams.append(EnrichedStream(redis_url, **all_options))
        return streams[-1]

    yield open_reader
    for stream in streams:
        await stream.aclose()


async def take_records(stream: EnrichedStream, count: int) -> list[Record]:
    """Return the next ``count`` records, or raise TimeoutError."""
    async with asyncio.timeout(20):
        return [await anext(stream) for _ in range(count)]


async def take_ids(stream: EnrichedStream, count: int) -> list[str]:
    """Return the ids of the next ``count`` records, or raise TimeoutError."""
    return [record.id for record in await take_records(stream, count)]


async def wait_for_blocked_reader(redis: Redis) -> None:
    """Wait until a reader blocks for new entries."""
    async with asyncio.timeout(10):
        while not [
            client for client in await redis.client_list() if client["cmd"].startswith("xread")
        ]:
            await asyncio.sleep(0.01)


async def list_pending(redis: Redis, keys: Keys, **filters: Any) -> list[Any]:
    """Return what the group delivered and did not acknowledge."""
    pending: Any = await redis.xpending_range(
        keys.enriched, READER_GROUP, "-", "+", 1000, **filters
    )
    return list(pending)


async def test_group_reads_from_the_start_in_order(
    redis: Redis, keys: Keys, open_stream: OpenStream
) -> None:
    """Older records come first, in several batches, then new ones."""
    existing = await append_records(redis, keys.enriched, *range(250))
    stream = open_stream()
    assert await take_ids(stream, 250) == existing
    waiting = asyncio.create_task(take_ids(stream, 1))
    assert await append_records(redis, keys.enriched, 250) == await waiting


async def test_reader_may_start_before_the_first_record(
    redis: Redis, keys: Keys, open_stream: OpenStream, eventually: Eventually
) -> None:
    """It creates the group and the stream and waits."""
    waiting = asyncio.create_task(take_ids(open_stream(), 1))

    async def is_joined() -> bool:
        return bool(await redis.exists(keys.enriched))

    await eventually(is_joined)
    assert await append_records(redis, keys.enriched, 1) == await waiting


async def test_record_is_acknowledged_when_the_next_is_requested(
    redis: Redis, keys: Keys, open_stream: OpenStream, eventually: Eventually
) -> None:
    """During the loop body the record is pending."""
    await append_records(redis, keys.enriched, 1)
    stream = open_stream()
    await take_records(stream, 1)
    assert len(await list_pending(redis, keys)) == 1
    waiting = asyncio.create_task(take_ids(stream, 1))

    async def is_acknowledged() -> bool:
        return not await list_pending(redis, keys)

    await eventually(is_acknowledged)
    await append_records(redis, keys.enriched, 2)
    await waiting


async def test_record_whose_loop_body_raised_is_delivered_again(
    redis: Redis, keys: Keys, open_stream: OpenStream
) -> None:
    """So are the records prefetched after it, also after a restart of the consumer."""
    ids = await append_records(redis, keys.enriched, *range(5))
    stream = open_stream(consumer="one")
    seen = []

    async def read_and_raise() -> None:
        async for record in stream:
            seen.append(record.id)
            assert len(seen) < 3 or 1 / 0

    with pytest.raises(ZeroDivisionError):
        await read_and_raise()
    assert await take_ids(aiter(stream), 1) == [ids[2]]
    await stream.aclose()
    assert await take_ids(open_stream(consumer="one"), 3) == ids[2:]


async def test_acknowledge_before_leaving_the_loop(
    redis: Redis, keys: Keys, open_stream: OpenStream
) -> None:
    """A job that reads some records and ends can acknowledge the last one."""
    ids = await append_records(redis, keys.enriched, 1, 2)
    async with open_stream() as stream:
        assert await take_ids(stream, 1) == ids[:1]
        await stream.acknowledge()
    assert await take_ids(open_stream(), 1) == ids[1:]


async def test_duplicate_id_is_acknowledged_and_skipped(
    redis: Redis, keys: Keys, open_stream: OpenStream
) -> None:
    """An entry with the id of an earlier entry is not delivered."""
    [first] = await append_records(redis, keys.enriched, 1)
    await append_records(redis, keys.enriched, 1)
    [second] = await append_records(redis, keys.enriched, 1, revision=2)
    for options in ({}, {"group": None}):
        stream = open_stream(**options)
        assert await take_ids(stream, 2) == [first, second]
        await stream.acknowledge()
    assert await list_pending(redis, keys) == []


async def test_reader_prefetches_at_most_the_option(
    redis: Redis, keys: Keys, open_stream: OpenStream
) -> None:
    """A slow reader leaves the rest to other consumers."""
    await append_records(redis, keys.enriched, *range(20))
    await take_records(open_stream(options=ReaderOptions(prefetch=5)), 1)
    assert len(await list_pending(redis, keys)) == 5


@pytest.mark.parametrize(
    "options", [{"options": ReaderOptions(claim_after_s=0.2)}, CONSUMER_PROCESS], ids=repr
)
async def test_records_of_a_killed_consumer_are_delivered_again(
    redis: Redis, redis_url: str, keys: Keys, open_stream: OpenStream, options: dict[str, Any]
) -> None:
    """After ``kill -9`` another consumer claims them; one of the same name gets them at once."""
    ids = await append_records(redis, keys.enriched, *range(10))
    command = ("-m", "tests.client.killable_consumer", redis_url, keys.namespace, READER_GROUP, "3")
    reader = await asyncio.create_subprocess_exec(
        sys.executable, *command, stdout=asyncio.subprocess.PIPE
    )
    assert reader.stdout is not None
    async with asyncio.timeout(30):
        printed = [(await reader.stdout.readline()).decode().strip() for _ in range(3)]
    reader.kill()
    await reader.wait()
    assert printed == ids[:3]
    taken = await take_ids(open_stream(**options), 10)  # its acknowledgements went with it
    assert sorted(taken) == ids


async def test_closed_reader_releases_its_records_at_once(
    redis: Redis, keys: Keys, open_stream: OpenStream
) -> None:
    """Another consumer does not wait until they are idle."""
    ids = await append_records(redis, keys.enriched, *range(4))
    async with open_stream() as stream:
        await take_records(stream, 2)
    assert await take_ids(open_stream(), 3) == ids[1:]


async def test_close_ends_a_waiting_loop(
    redis: Redis, keys: Keys, open_stream: OpenStream, eventually: Eventually
) -> None:
    """The generated consumer is deleted, and closing twice is allowed."""
    stream = open_stream()
    seen: list[str] = []

    async def loop() -> None:
        seen.extend([record.id async for record in stream])

    await append_records(redis, keys.enriched, 1)
    looping = asyncio.create_task(loop())

    async def is_idle() -> bool:
        group: Any = (await redis.xinfo_groups(keys.enriched) or [{}])[0]
        return group.get("entries-read") == 1 and not group["pending"]

    await eventually(is_idle)
    async with asyncio.timeout(10):
        await stream.aclose()
        await looping
    await stream.aclose()
    assert len(seen) == 1
    assert not await redis.xinfo_consumers(keys.enriched, READER_GROUP)


async def test_read_whose_fetch_swallows_the_cancellation_ends_and_loses_no_record(
    redis: Redis, keys: Keys, open_stream: OpenStream, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What such a fetch took from the group is delivered by the next read."""
    stream = open_stream()
    fetch = stream._fetcher.fetch
    started = asyncio.Event()

    async def fetch_after_cancellation() -> list[StreamEntry]:
        started.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            return await fetch() or await fetch()  # its own pending entries, then new ones
        raise AssertionError

    ids = await append_records(redis, keys.enriched, 1, 2)
    with monkeypatch.context() as patch:
        patch.setattr(stream._fetcher, "fetch", fetch_after_cancellation)
        read = asyncio.create_task(take_ids(stream, 1))
        await started.wait()
        read.cancel()
        with pytest.raises(asyncio.CancelledError):
            await read
    assert await take_ids(stream, 2) == ids


async def test_renewal_keeps_prefetched_records_during_a_slow_body(
    redis: Redis, keys: Keys, open_stream: OpenStream
) -> None:
    """Renewal resets the idle time; a record that another consumer claimed is left to it."""
    ids = await append_records(redis, keys.enriched, *range(4))
    stream = open_stream(consumer="slow")
    await take_records(stream, 1)
    held = [entry["message_id"] for entry in await list_pending(redis, keys)]
    await redis.xclaim(keys.enriched, READER_GROUP, "slow", 0, held, idle=50_000)
    await redis.xclaim(keys.enriched, READER_GROUP, "other", 0, [held[2]])
    await stream.acknowledge()
    idle = [entry["time_since_delivered"] for entry in await list_pending(redis, keys)]
    assert max(idle) < 50_000
    assert await take_ids(stream, 2) == [ids[1], ids[3]]


@pytest.mark.parametrize("group", [READER_GROUP, None])
async def test_restart_of_redis_loses_no_record(server: EmbeddedServer, group: str | None) -> None:
    """Redis is killed under a waiting reader; the reader resumes without duplicates."""
    stream = Keys("deployments").enriched
    async with EnrichedStream(server.url, group=group) as records:
        async with open_client(server.url) as redis:
            ids = await append_records(redis, stream, 1, 2)
            assert await take_ids(records, 2) == ids
            waiting = asyncio.create_task(take_ids(records, 2))
            await wait_for_blocked_reader(redis)
        assert server.pid is not None
        os.kill(server.pid, signal.SIGKILL)
        server.stop()
        server.start()
        async with open_client(server.url) as redis:
            assert await append_records(redis, stream, 3, 4) == await waiting


async def test_outage_of_redis_calls_on_unavailable_once(server: EmbeddedServer) -> None:
    """The reader tries several times meanwhile, and then goes on."""
    errors: list[Exception] = []
    options = ReaderOptions(on_unavailable=errors.append)
    server.stop()
    async with EnrichedStream(server.url, group=READER_GROUP, options=options) as records:
        waiting = asyncio.create_task(take_ids(records, 1))
        await asyncio.sleep(0.5)
        assert len(errors) == 1
        server.start()
        async with open_client(server.url) as redis:
            assert await append_records(redis, Keys("deployments").enriched, 1) == await waiting
    assert len(errors) == 1


@pytest.mark.parametrize("loss", ["the group", "the stream"])
async def test_deleted_group_is_created_again(
    redis: Redis, keys: Keys, open_stream: OpenStream, loss: str
) -> None:
    """Records that were read are not delivered again, and new ones are."""
    await append_records(redis, keys.enriched, 1)
    stream = open_stream()
    await take_records(stream, 1)
    if loss == "the group":
        await redis.xgroup_destroy(keys.enriched, READER_GROUP)
    else:
        await redis.delete(keys.enriched)
    assert await append_records(redis, keys.enriched, 2) == await take_ids(stream, 1)


async def test_reader_without_a_group_begins_at_since(
    redis: Redis, keys: Keys, open_stream: OpenStream
) -> None:
    """``since`` is the start, a position or a time; no group is created."""
    ids = await append_records(redis, keys.enriched, 1, 2, 3)
    assert await take_ids(open_stream(group=None), 3) == ids
    [second] = (await take_records(open_stream(group=None), 2))[1:]
    assert await take_ids(open_stream(group=None, since=second.position), 1) == ids[2:]
    begun = datetime.fromtimestamp(int(second.position.partition("-")[0]) / 1000, tz=UTC)
    assert (await take_ids(open_stream(group=None, since=begun), 1))[0] in ids
    assert not await redis.xinfo_groups(keys.enriched)


async def test_since_end_delivers_only_new_records(
    redis: Redis, keys: Keys, open_stream: OpenStream
) -> None:
    """With a new group and without a group."""
    await append_records(redis, keys.enriched, 1)
    for number, options in ((2, {}), (3, {"group": None})):
        stream = open_stream(since="$", **options)
        waiting = asyncio.create_task(take_ids(stream, 1))
        await wait_for_blocked_reader(redis)
        assert await append_records(redis, keys.enriched, number) == await waiting
        await stream.aclose()


async def test_invalid_entry_raises_unless_a_callback_takes_it(
    redis: Redis, keys: Keys, open_stream: OpenStream
) -> None:
    """Without ``on_invalid_entry`` each read raises again."""
    await redis.xadd(keys.enriched, {"n": "1"})
    await redis.xadd(keys.enriched, {"id": "a:1", "data": '{"schemaVersion":2}'})
    [last] = await append_records(redis, keys.enriched, 1)
    stream = open_stream()
    for _ in range(2):
        with pytest.raises(InvalidEntryError, match="no field"):
            await take_records(aiter(stream), 1)
    await stream.aclose()
    invalid_entries: list[InvalidEntry] = []
    stream = open_stream(options=ReaderOptions(on_invalid_entry=invalid_entries.append))
    assert await take_ids(stream, 1) == [last]
    assert invalid_entries[0].fields == {b"n": b"1"}
    assert (
        "Invalid enum value 2" in invalid_entries[1].reason
        or "schemaVersion" in invalid_entries[1].reason
    )


async def test_trimmed_records_are_counted(
    redis: Redis, keys: Keys, open_stream: OpenStream
) -> None:
    """A limit of entries may remove pending ones; the reader counts them and goes on."""
    await append_records(redis, keys.enriched, 1, 2)
    stream = open_stream(consumer="one")
    await take_records(stream, 1)
    await redis.xtrim(keys.enriched, maxlen=0)
    aiter(stream)  # begins a new loop
    [new] = await append_records(redis, keys.enriched, 3)
    assert await take_ids(stream, 1) == [new]
    assert stream.trimmed == 2


async def test_trimmed_records_of_a_dead_consumer_are_counted(
    redis: Redis, keys: Keys, open_stream: OpenStream
) -> None:
    """The consumer that takes over counts them, and returns the rest when it is closed."""
    ids = await append_records(redis, keys.enriched, 1, 2, 3, 4, 5)
    await redis.xgroup_create(keys.enriched, READER_GROUP, "0")
    await redis.xreadgroup(READER_GROUP, "dead", {keys.enriched: ">"})
    entries: Any = await redis.xrange(keys.enriched)
    positions = [position for position, _ in entries]
    await redis.xclaim(keys.enriched, READER_GROUP, "dead", 0, positions, idle=100_000)
    await redis.xtrim(keys.enriched, maxlen=3, approximate=False)
    stream = open_stream(options=ReaderOptions(claim_after_s=60))
    assert await take_ids(stream, 1) == [ids[2]]
    assert stream.trimmed == 2
    await stream.aclose()
    pending = await list_pending(redis, keys)
    assert [entry["message_id"] for entry in pending] == positions[2:]
    assert all(entry["time_since_delivered"] >= 60_000 for entry in pending)


async def test_record_has_typed_data_and_unknown_fields(
    redis: Redis, keys: Keys, open_stream: OpenStream
) -> None:
    """The deployment is decoded on access, and every field is available by name."""
    await append_records(redis, keys.enriched, 1, novelty={"a": 1}, leadTime=7, linesAdded="12")
    [record] = await take_records(open_stream(), 1)
    assert (record.project, record.environment, record.application) == ("default", "", "shop")
    assert record.time == "2026-11-23T10:00:00.001Z"
    assert (record.data.revision, record.data.summary.lead_time_ms) == (1, 7)
    assert (record.data.event.source, record.data.event.delivery) == ("native", "d1")
    assert record.deployment.lines_added == 12
    assert record.raw["deployment"]["novelty"] == {"a": 1}
    assert record.fields[b"specversion"] == b"1.0"
    with pytest.raises(AttributeError, match="immutable"):
        record.id = "another"  # type: ignore[misc] # the test assigns on purpose


async def test_permanent_errors_are_raised(server: EmbeddedServer) -> None:
    """A key of another type and a wrong password are not retried."""
    async with open_client(server.url) as client:
        await client.set(Keys("deployments").enriched, "1")
        async with EnrichedStream(server.url, group=READER_GROUP) as stream:
            with pytest.raises(ResponseError, match="WRONGTYPE"):
                await take_records(stream, 1)
        await client.config_set("requirepass", "s3cr3t")
    async with EnrichedStream(f"{server.url}?password=wrong", group=READER_GROUP) as stream:
        with pytest.raises(RedisConnectionError, match="invalid username-password"):
            await take_records(stream, 1)
