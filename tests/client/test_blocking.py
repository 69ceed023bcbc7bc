"""Tests of reading without asyncio."""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest
from redis import Redis

from service.client.blocking import read_blocking
from service.client.stream import EnrichedStream
from service.store.keys import Keys
from tests.publish.sample_records import entry_fields


@pytest.fixture
def stream_harness(redis_url: str, keys: Keys) -> Iterator["BlockingStreamHarness"]:
    """Yield a stream of this test's own."""
    with closing(Redis.from_url(redis_url)) as client:
        yield BlockingStreamHarness(client, redis_url, keys)
        client.delete(keys.enriched)


class BlockingStreamHarness:
    """Appends records to the stream and opens readers."""

    def __init__(self, client: Redis, url: str, keys: Keys) -> None:
        self.client = client
        self.url = url
        self.keys = keys

    def append_records(self, *numbers: int) -> list[str]:
        """Append one record for each number and return their ids."""
        entries: list[dict[Any, Any]] = [{**entry_fields(number)} for number in numbers]
        for fields in entries:
            self.client.xadd(self.keys.enriched, fields)
        return [fields["id"] for fields in entries]

    def open_stream(self) -> EnrichedStream:
        """Open the stream as a consumer of the group."""
        return EnrichedStream(self.url, group="readers", namespace=self.keys.namespace)

    def count_pending(self) -> int:
        """Return how many records are delivered and not acknowledged."""
        pending: Any = self.client.xpending(self.keys.enriched, "readers")
        return int(pending["pending"])


def test_blocking_loop_reads_in_order_and_acknowledges(
    stream_harness: BlockingStreamHarness,
) -> None:
    """Existing records come first, then those that are appended while the loop waits."""
    ids = stream_harness.append_records(*range(5))
    seen: list[str] = []
    later = threading.Timer(0.1, lambda: ids.extend(stream_harness.append_records(5)))
    with read_blocking(stream_harness.open_stream()) as records:
        for record in records:
            seen.append(record.id)
            if len(seen) == 5:
                later.start()
            if len(seen) == 6:
                assert stream_harness.count_pending() == 1  # the current record
                break
    later.join()
    assert seen == ids


def test_record_whose_blocking_loop_body_raised_is_delivered_again(
    stream_harness: BlockingStreamHarness,
) -> None:
    """Nothing is acknowledged, and the next reader receives it at once."""
    first, second = stream_harness.append_records(1, 2)

    def read_and_raise() -> None:
        with read_blocking(stream_harness.open_stream()) as records:
            for record in records:
                raise ValueError(record.id)

    with pytest.raises(ValueError, match=first):
        read_and_raise()
    with read_blocking(stream_harness.open_stream()) as records:
        assert [next(records).id, next(records).id] == [first, second]


def test_ctrl_c_ends_a_waiting_blocking_loop(stream_harness: BlockingStreamHarness) -> None:
    """KeyboardInterrupt is raised at once, and the stream is closed."""

    def wait() -> None:
        with read_blocking(stream_harness.open_stream()) as records:
            threading.Timer(0.2, lambda: os.kill(os.getpid(), signal.SIGINT)).start()
            next(records)

    with pytest.raises(KeyboardInterrupt):
        wait()
    assert stream_harness.client.xinfo_consumers(stream_harness.keys.enriched, "readers") == []


async def test_read_blocking_inside_an_event_loop_raises(
    stream_harness: BlockingStreamHarness,
) -> None:
    """It raises RuntimeError and names ``async for`` instead of blocking the loop."""
    stream = stream_harness.open_stream()
    with pytest.raises(RuntimeError, match="async for"), read_blocking(stream) as records:
        next(records)
    await stream.aclose()
