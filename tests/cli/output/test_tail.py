"""Tests of `tail`: every entry once and in order, whatever happens to Redis."""

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest
from redis.asyncio import Redis
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ResponseError

from service.cli.tail import StreamEntryText, follow_stream, render_entry_json
from service.store.connect import open_client
from service.store.embedded import EmbeddedServer
from service.store.keys import Keys

MakeEntry = Callable[..., StreamEntryText]


@pytest.fixture
def server(tmp_path: Path) -> Iterator[EmbeddedServer]:
    """Start a Redis that a test may kill."""
    with EmbeddedServer(tmp_path) as started:
        yield started


async def take_entries(entries: AsyncIterator[StreamEntryText], count: int) -> list[dict[str, str]]:
    """Take so many entries, in time."""
    async with asyncio.timeout(20):
        return [(await anext(entries)).fields for _ in range(count)]


async def wait_for_connections(path: Path, *, times: int) -> None:
    """Wait until somebody has tried in vain so many times to reach a server."""
    attempts = asyncio.Semaphore(0)

    def reject(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        attempts.release()
        writer.close()

    async with asyncio.timeout(20), await asyncio.start_unix_server(reject, path):
        for _ in range(times):
            await attempts.acquire()


async def test_tail_from_the_start_yields_every_entry_in_order(redis: Redis, keys: Keys) -> None:
    """What was there, then what comes."""
    for number in range(250):
        await redis.xadd(keys.enriched, {"n": str(number)})
    entries = follow_stream(redis, keys.enriched, since="0")
    assert await take_entries(entries, 250) == [{"n": str(number)} for number in range(250)]
    await redis.xadd(keys.enriched, {"n": "new"})
    assert await take_entries(entries, 1) == [{"n": "new"}]


async def test_tail_from_the_end_yields_new_entries_only(redis: Redis, keys: Keys) -> None:
    """Of a stream that has entries, and of one that does not exist yet."""
    for stream in (keys.enriched, keys.enriched):
        entries = follow_stream(redis, stream, since="$")
        waiting = asyncio.create_task(take_entries(entries, 1))
        async with asyncio.timeout(10):
            while not [client for client in await redis.client_list() if client["cmd"] == "xread"]:
                await asyncio.sleep(0.01)
        await redis.xadd(stream, {"n": "new"})
        assert await waiting == [{"n": "new"}]
        await entries.aclose()


async def test_bytes_that_are_no_text_are_shown(redis: Redis, keys: Keys) -> None:
    """Somebody else's entry must not end it."""
    await redis.xadd(keys.enriched, {b"\xff": b"\xfe", b"ok": b"1"})
    entries = follow_stream(redis, keys.enriched, since="0")
    assert await take_entries(entries, 1) == [{"\ufffd": "\ufffd", "ok": "1"}]


async def test_restart_of_redis_loses_no_entry(server: EmbeddedServer) -> None:
    """It waits, says so once, and goes on behind the last entry it gave."""
    messages: list[str] = []
    async with open_client(server.url) as writer, open_client(server.url) as reader:
        await writer.xadd("s", {"n": "1"})
        entries = follow_stream(reader, "s", since="0", on_unavailable=messages.append)
        assert await take_entries(entries, 1) == [{"n": "1"}]
        waiting = asyncio.create_task(take_entries(entries, 2))
        assert server.pid is not None
        os.kill(server.pid, signal.SIGKILL)
        server.stop()
        await wait_for_connections(server.socket, times=3)
        server.start()
        await writer.xadd("s", {"n": "2"})
        await writer.xadd("s", {"n": "3"})
        assert await waiting == [{"n": "2"}, {"n": "3"}]
    assert len(messages) == 1
    assert messages[0].startswith("Redis is away, waiting for it: ")


async def test_permanent_redis_error_is_raised(server: EmbeddedServer, redis: Redis) -> None:
    """A wrong password, a key of another type."""
    await redis.set("no-stream", "1", px=20_000)
    with pytest.raises(ResponseError, match="WRONGTYPE"):
        await take_entries(follow_stream(redis, "no-stream", since="0"), 1)
    async with open_client(server.url) as client:
        await client.config_set("requirepass", "s3cr3t")
    address = f"{server.url}?password=wrong"
    async with open_client(address) as client:
        with pytest.raises(RedisConnectionError, match="invalid username-password"):
            await take_entries(follow_stream(client, "s", since="$"), 1)


def test_record_is_one_line_of_json(make_entry: MakeEntry) -> None:
    """With its data as JSON, and where it stands in the stream."""
    entry = make_entry()
    pretty = json.dumps(json.loads(entry.fields["data"]), indent=2)
    line = render_entry_json(StreamEntryText(entry.position, entry.fields | {"data": pretty}))
    assert "\n" not in line
    read = json.loads(line)
    assert read["position"] == "1800000000000-0"
    assert read["data"]["summary"]["leadTimeMs"] == 5_400_000
    assert read["data"] == json.loads(entry.fields["data"])


def test_numbers_are_printed_as_they_were_written(make_entry: MakeEntry) -> None:
    """No reader's precision gets in between."""
    line = render_entry_json(make_entry(data='{"n": 12345678901234567890.10, "m": 1e999}'))
    assert '"data":{"n":12345678901234567890.10,"m":1e999}' in line


@pytest.mark.parametrize(
    "fields", [{}, {"a": "\n\x1b"}, {"data": "{"}, {"data": "[" * 100_000}], ids=repr
)
def test_foreign_entry_is_one_line_of_json(fields: dict[str, str]) -> None:
    """It says that it could not be read, and shows what is there."""
    line = render_entry_json(StreamEntryText("17-0", fields))
    assert line.isprintable()
    assert json.loads(line) == {"position": "17-0", "unreadable": True, **fields}
