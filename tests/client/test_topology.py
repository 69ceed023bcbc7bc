"""Tests of the client with Sentinel and with a Redis Cluster."""

import asyncio
from pathlib import Path

from service.client.stream import EnrichedStream
from service.store.connect import open_client
from service.store.keys import Keys
from tests.faults.topology import ClusterSet, SentinelSet
from tests.publish.sample_records import append_records

STREAM = Keys("deployments").enriched


async def take_ids(stream: EnrichedStream, count: int) -> list[str]:
    """Return the ids of the next ``count`` records, or raise TimeoutError."""
    async with asyncio.timeout(40):
        return [(await anext(stream)).id for _ in range(count)]


async def test_reader_follows_a_failover_by_sentinel(tmp_path: Path) -> None:
    """After the master is killed the reader resumes at the new one, without duplicates."""
    sentinels = SentinelSet(tmp_path)
    try:
        await sentinels.start()
        first, second = sentinels.servers
        async with EnrichedStream(sentinels.url, group="readers") as stream:
            async with open_client(first.url) as redis:
                ids = await append_records(redis, STREAM, 1, 2)
                assert await take_ids(stream, 2) == ids
                await stream.acknowledge()
                await redis.wait(1, 5000)
            waiting = asyncio.create_task(take_ids(stream, 1))
            first.kill()
            await sentinels.wait_until_master(second)
            async with open_client(second.url) as redis:
                assert await append_records(redis, STREAM, 3) == await waiting
    finally:
        sentinels.kill()


async def test_reader_finds_the_cluster_node_that_owns_the_stream(tmp_path: Path) -> None:
    """The addresses are of nodes that do not own the stream."""
    cluster = ClusterSet(tmp_path, namespace="deployments")
    try:
        await cluster.start()
        async with open_client(cluster.owner.url) as redis:
            ids = await append_records(redis, STREAM, 1, 2)
        async with EnrichedStream(cluster.url, group="readers") as stream:
            assert await take_ids(stream, 2) == ids
    finally:
        cluster.kill()
