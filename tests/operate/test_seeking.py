"""Is what a person seeks found in the stream, however much and however large it is?"""

import time
from typing import cast

import pytest
from redis.asyncio import Redis

from service.operate.console.seeking import Seeker
from service.store.group import GroupCommit
from service.store.keys import Keys
from service.store.script import load_script
from tests.publish.shelf import append


@pytest.fixture
def seeker(group: GroupCommit, keys: Keys) -> Seeker:
    """Seek in one namespace."""
    return Seeker(group, keys=keys, clock=time.monotonic)


@pytest.mark.parametrize("count", [1, 9, 10, 11, 110, 111, 250])
async def test_the_oldest_record_is_found_too(
    redis: Redis, keys: Keys, seeker: Seeker, count: int
) -> None:
    """On whatever page it is; and each is looked at once."""
    await append(redis, keys.enriched, *range(count))
    found = await seeker.seek(f"{0:012d}")
    assert [sighting.deployment_id[-12:] for sighting in found.sightings] == [f"{0:012d}"]
    assert (found.looked, found.is_whole) == (count, True)
    assert (await seeker.seek("not to be found")).looked == count


async def test_records_that_are_large_are_looked_at_few_at_a_time(
    redis: Redis, keys: Keys, seeker: Seeker, group: GroupCommit
) -> None:
    """Nobody waits for a search, and nothing of it is passed over."""
    await append(redis, keys.enriched, *range(12), novel="x" * 1_000_000)
    found = await seeker.seek(f"{0:012d}")
    assert len(found.sightings) == 1
    assert (found.looked, found.is_whole) == (12, True)
    page = load_script("service.operate.console", "seek_records")
    args = ("+", 100, "nothing", "nothing", 65_536)
    looked, _ = cast("list[int]", await group.submit(page, keys=(keys.enriched,), args=args))
    assert looked == 5  # behind the first four MiB


async def test_an_empty_stream_holds_nothing(seeker: Seeker) -> None:
    """And all of it was looked at."""
    found = await seeker.seek("anything")
    assert (found.looked, found.is_whole, list(found.sightings)) == (0, True, [])
