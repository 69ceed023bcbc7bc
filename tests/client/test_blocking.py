"""Does an ordinary loop read as the asynchronous one does, and let go at once?"""

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
    """Give a stream of one's own to put records in."""
    with closing(Redis.from_url(redis_url)) as client:
        yield BlockingStreamHarness(client, redis_url, keys)
        client.delete(keys.enriched)


class BlockingStreamHarness:
    """Puts records into the stream, and opens it."""

    def __init__(self, client: Redis, url: str, keys: Keys) -> None:
        self.client = client
        self.url = url
        self.keys = keys

    def append_records(self, *numbers: int) -> list[str]:
        """Append so many records; gives their ids."""
        entries: list[dict[Any, Any]] = [{**entry_fields(number)} for number in numbers]
        for fields in entries:
            self.client.xadd(self.keys.enriched, fields)
        return [fields["id"] for fields in entries]

    def open_stream(self) -> EnrichedStream:
        """Open the stream for the one group."""
        return EnrichedStream(self.url, group="readers", namespace=self.keys.namespace)

    def count_pending(self) -> int:
        """Say how many records are given to somebody and not acknowledged."""
        pending: Any = self.client.xpending(self.keys.enriched, "readers")
        return int(pending["pending"])


def test_records_come_in_order_and_are_acknowledged(stream_harness: BlockingStreamHarness) -> None:
    """What is there, then what comes while the loop waits."""
    ids = stream_harness.append_records(*range(5))
    seen: list[str] = []
    later = threading.Timer(0.1, lambda: ids.extend(stream_harness.append_records(5)))
    with read_blocking(stream_harness.open_stream()) as records:
        for record in records:
            seen.append(record.id)
            if len(seen) == 5:
                later.start()
            if len(seen) == 6:
                assert stream_harness.count_pending() == 1  # the one in hand
                break
    later.join()
    assert seen == ids


def test_what_the_body_raised_on_comes_again(stream_harness: BlockingStreamHarness) -> None:
    """Nothing of it is acknowledged, and nothing waits for a dead reader."""
    first, second = stream_harness.append_records(1, 2)

    def stumble() -> None:
        with read_blocking(stream_harness.open_stream()) as records:
            for record in records:
                raise ValueError(record.id)

    with pytest.raises(ValueError, match=first):
        stumble()
    with read_blocking(stream_harness.open_stream()) as records:
        assert [next(records).id, next(records).id] == [first, second]


def test_ctrl_c_ends_a_loop_that_waits(stream_harness: BlockingStreamHarness) -> None:
    """At once, as in any program, and the stream is closed."""

    def wait() -> None:
        with read_blocking(stream_harness.open_stream()) as records:
            threading.Timer(0.2, lambda: os.kill(os.getpid(), signal.SIGINT)).start()
            next(records)

    with pytest.raises(KeyboardInterrupt):
        wait()
    assert stream_harness.client.xinfo_consumers(stream_harness.keys.enriched, "readers") == []


async def test_where_a_loop_runs_it_says_so(stream_harness: BlockingStreamHarness) -> None:
    """Rather than to hang: there the stream is read by ``async for``."""
    stream = stream_harness.open_stream()
    with pytest.raises(RuntimeError, match="async for"), read_blocking(stream) as records:
        next(records)
    await stream.aclose()
