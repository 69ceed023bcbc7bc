"""Does a reader find its master, and follow it, when Redis is more than one server?"""

import asyncio
from pathlib import Path

from service.client.stream import EnrichedStream
from service.store.connect import open_client
from service.store.keys import Keys
from tests.faults.topology import ClusterSet, SentinelSet
from tests.publish.sample_records import append_records

STREAM = Keys("deployments").enriched


async def take_ids(stream: EnrichedStream, count: int) -> list[str]:
    """Take so many records, in time."""
    async with asyncio.timeout(40):
        return [(await anext(stream)).id for _ in range(count)]


async def test_a_reader_follows_the_master_that_sentinel_names(tmp_path: Path) -> None:
    """The master is killed under it: it goes on with the next, and gives nothing twice."""
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


async def test_a_reader_finds_the_node_of_a_cluster_that_has_the_stream(tmp_path: Path) -> None:
    """By the addresses of nodes that do not have it."""
    cluster = ClusterSet(tmp_path, namespace="deployments")
    try:
        await cluster.start()
        async with open_client(cluster.owner.url) as redis:
            ids = await append_records(redis, STREAM, 1, 2)
        async with EnrichedStream(cluster.url, group="readers") as stream:
            assert await take_ids(stream, 2) == ids
    finally:
        cluster.kill()
