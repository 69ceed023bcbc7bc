"""The stream, as the connectors of others read it, as the Redis user ``reader``."""

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from redis.asyncio import Redis

from service.store.connect import open_client
from service.store.keys import Keys
from tests.deploy.acl_users import AclUsers
from tests.end_to_end.harness import read_stream
from tests.interop.conftest import RunProgram
from tests.publish.sample_records import append_records


@pytest.fixture
async def reader_url(redis: Redis, redis_url: str, keys: Keys) -> AsyncIterator[str]:
    """Create the user of docs/operations.md for consumers; yield its URL."""
    acl_users = AclUsers(redis, redis_url, keys)
    yield await acl_users.add("reader")
    assert await acl_users.list_refusals() == []
    await acl_users.delete()


async def count_pending(redis: Redis, stream: str, group: str) -> int:
    """Return how many entries a group has read and not acknowledged."""
    summary: Any = await redis.xpending(stream, group)
    return int(summary["pending"])


async def test_faststream_reads_and_acknowledges_every_entry(
    redis: Redis, keys: Keys, reader_url: str, run_python: RunProgram
) -> None:
    """The handler gets the record, and the message has the other fields of the entry."""
    await append_records(redis, keys.enriched, 1, 2, 3)
    await redis.xgroup_create(keys.enriched, "faststream", id="0")
    printed = await run_python("read_with_faststream.py", reader_url, keys.enriched, "3")
    entries = await read_stream(redis, keys.enriched)
    assert [json.loads(line) for line in printed.splitlines()] == [
        {"id": entry["id"], "data": json.loads(entry["data"])} for entry in entries
    ]
    assert await count_pending(redis, keys.enriched, "faststream") == 0


# What these connectors send to Redis, by their source: docs/consumers.md names the files. They are
# not run here. ``{stream}`` and ``{entry}`` are the key and the id of the first entry.
CONNECTORS = {
    "redpanda-connect": [
        "PING",
        "CLIENT SETNAME connect",
        "XGROUP CREATE {stream} connect 0",
        "XREADGROUP GROUP connect one COUNT 10 BLOCK 1 STREAMS {stream} 0",
        "XREADGROUP GROUP connect one COUNT 10 BLOCK 1 STREAMS {stream} >",
        "XACK {stream} connect {entry}",
    ],
    "dapr": [
        "PING",
        "INFO server",
        "XGROUP CREATE {stream} dapr 0 MKSTREAM",
        "XREADGROUP GROUP dapr dapr COUNT 100 BLOCK 1 STREAMS {stream} >",
        "XPENDING {stream} dapr - + 100",
        "XCLAIM {stream} dapr dapr 0 {entry}",
        "XACK {stream} dapr {entry}",
    ],
    "redis-kafka-connect": [
        "CLIENT SETNAME lettuce",
        "XGROUP CREATE {stream} kafka 0-0 MKSTREAM",
        "XREADGROUP GROUP kafka consumer-0 COUNT 500 BLOCK 1 STREAMS {stream} >",
        "XACK {stream} kafka {entry}",
    ],
    "keda": ["PING", "XLEN {stream}", "XINFO GROUPS {stream}", "XPENDING {stream} group"],
}


@pytest.mark.parametrize("connector", CONNECTORS)
async def test_reader_may_send_the_commands_of_a_connector(
    redis: Redis, keys: Keys, reader_url: str, connector: str
) -> None:
    """None is denied, and an entry has the field ``data`` that the connector is told to read."""
    await append_records(redis, keys.enriched, 1)
    await redis.xgroup_create(keys.enriched, "group", id="0")
    entries: Any = await redis.xrange(keys.enriched)
    [(entry, fields)] = entries
    assert json.loads(fields[b"data"])["deployment"]["id"] == fields[b"subject"].decode()
    async with open_client(reader_url) as client:
        client.response_callbacks.clear()
        for command in CONNECTORS[connector]:
            arguments = command.format(stream=keys.enriched, entry=entry.decode()).split()
            await client.execute_command(*arguments)  # type: ignore[no-untyped-call] # of redis-py
