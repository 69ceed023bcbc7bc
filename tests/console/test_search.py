"""Tests of the search in the stream: long streams and large records."""

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
def searcher(redis: Redis, group_commit: GroupCommit, keys: Keys) -> Searcher:
    """Return a searcher of the test's namespace."""
    return Searcher(redis, group_commit, keys=keys, clock=time.monotonic)


@pytest.mark.parametrize("count", [1, 9, 10, 11, 110, 111, 250])
async def test_search_finds_the_oldest_record_and_scans_each_once(
    redis: Redis, keys: Keys, searcher: Searcher, count: int
) -> None:
    """The oldest record is found on whatever page it is."""
    await append_records(redis, keys.enriched, *range(count))
    result = await searcher.search(f"{0:012d}")
    assert [view.deployment_id[-12:] for view in result.deployments] == [f"{0:012d}"]
    assert (result.scanned, result.is_complete) == (count, True)
    assert (await searcher.search("not to be found")).scanned == count


async def test_search_of_large_records_reads_few_at_a_time(
    redis: Redis, keys: Keys, searcher: Searcher, group_commit: GroupCommit
) -> None:
    """One script call stays short, and the search still reads every record."""
    await append_records(redis, keys.enriched, *range(12), novel="x" * 1_000_000)
    result = await searcher.search(f"{0:012d}")
    assert len(result.deployments) == 1
    assert (result.scanned, result.is_complete) == (12, True)
    script = load_script("service.console", "search_stream")
    args = ("+", 100, "nothing", 65_536)
    scanned, _ = cast(
        "list[int]", await group_commit.submit(script, keys=(keys.enriched,), args=args)
    )
    assert scanned == 5  # the script ends after the first four MiB


@pytest.mark.parametrize("query", ["to1-rc", "TO1-RC", "To1-Rc", "Überfall", "ÜBERFALL"])
async def test_search_for_a_version_in_another_case_finds_the_record(
    redis: Redis, keys: Keys, searcher: Searcher, query: str
) -> None:
    """The case of ASCII letters does not matter; other letters are found as they are."""
    await append_records(redis, keys.enriched, 1, applicationVersion="tO1-rC Überfall")
    await append_records(redis, keys.enriched, 2, applicationVersion="another")
    result = await searcher.search(query)
    assert [view.version for view in result.deployments] == ["tO1-rC Überfall"]


@pytest.mark.parametrize("query", ["D7", "d7"])
async def test_search_for_a_delivery_in_another_case_finds_the_record(
    redis: Redis, keys: Keys, searcher: Searcher, query: str
) -> None:
    """The id of a webhook is in the data of the record."""
    await append_records(redis, keys.enriched, 7, 8)
    result = await searcher.search(query)
    assert [view.delivery for view in result.deployments] == ["d7"]


async def test_search_for_a_ticket_with_other_letters_finds_it_as_typed(
    redis: Redis, keys: Keys, searcher: Searcher
) -> None:
    """Neither side changes the case of a letter that is not ASCII."""
    await redis.zadd(keys.backlog, {"find:a/b/ÜBER/1": 1})
    result = await searcher.search("ÜBeR")
    await redis.delete(keys.backlog)
    assert [view.job for view in result.deployments] == ["find:a/b/ÜBER/1"]


async def test_search_of_records_of_middle_size_ends_a_page_after_one_mebibyte(
    redis: Redis, keys: Keys, searcher: Searcher, group_commit: GroupCommit
) -> None:
    """To ignore the case takes Redis about 5 ms for a MiB; the search still reads every record."""
    await append_records(redis, keys.enriched, *range(60), novel="X" * 50_000)
    script = load_script("service.console", "search_stream")
    args = ("+", 100, "nothing", 65_536)
    scanned, _ = cast(
        "list[int]", await group_commit.submit(script, keys=(keys.enriched,), args=args)
    )
    assert 20 <= scanned <= 31
    result = await searcher.search("not to be found")
    assert (result.scanned, result.is_complete) == (60, True)


async def test_search_of_an_empty_namespace_finds_nothing(searcher: Searcher) -> None:
    """The result is empty and complete."""
    result = await searcher.search("anything")
    assert (result.scanned, result.is_complete, list(result.deployments)) == (0, True, [])


async def test_search_for_a_published_deployment_returns_its_revision(
    redis: Redis, keys: Keys, searcher: Searcher
) -> None:
    """The revision is known also when the record was trimmed."""
    await redis.hset(keys.published("some-id"), "revision", "7")
    assert (await searcher.search("some-id")).revision == 7
    assert (await searcher.search("other-id")).revision is None
    await redis.delete(keys.published("some-id"))
