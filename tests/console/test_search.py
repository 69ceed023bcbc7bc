"""Is what a person seeks found in the stream, however much and however large it is?"""

import time
from typing import cast

import pytest
from redis.asyncio import Redis

from service.console.search import Searcher
from service.store.group_commit import GroupCommit
from service.store.keys import Keys
from service.store.script import load_script
from tests.publish.sample_records import append_records


@pytest.fixture
def searcher(group_commit: GroupCommit, keys: Keys) -> Searcher:
    """Seek in one namespace."""
    return Searcher(group_commit, keys=keys, clock=time.monotonic)


@pytest.mark.parametrize("count", [1, 9, 10, 11, 110, 111, 250])
async def test_the_oldest_record_is_found_too(
    redis: Redis, keys: Keys, searcher: Searcher, count: int
) -> None:
    """On whatever page it is; and each is looked at once."""
    await append_records(redis, keys.enriched, *range(count))
    found = await searcher.search(f"{0:012d}")
    assert [sighting.deployment_id[-12:] for sighting in found.deployments] == [f"{0:012d}"]
    assert (found.scanned, found.is_complete) == (count, True)
    assert (await searcher.search("not to be found")).scanned == count


async def test_records_that_are_large_are_looked_at_few_at_a_time(
    redis: Redis, keys: Keys, searcher: Searcher, group_commit: GroupCommit
) -> None:
    """Nobody waits for a search, and nothing of it is passed over."""
    await append_records(redis, keys.enriched, *range(12), novel="x" * 1_000_000)
    found = await searcher.search(f"{0:012d}")
    assert len(found.deployments) == 1
    assert (found.scanned, found.is_complete) == (12, True)
    page = load_script("service.console", "search_stream")
    args = ("+", 100, "nothing", "nothing", 65_536)
    looked, _ = cast("list[int]", await group_commit.submit(page, keys=(keys.enriched,), args=args))
    assert looked == 5  # behind the first four MiB


async def test_an_empty_stream_holds_nothing(searcher: Searcher) -> None:
    """And all of it was looked at."""
    found = await searcher.search("anything")
    assert (found.scanned, found.is_complete, list(found.deployments)) == (0, True, [])
