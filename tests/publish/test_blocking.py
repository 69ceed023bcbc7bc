"""Does an ordinary loop read as the asynchronous one does, and let go at once?"""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest
from redis import Redis

from service.publish.blocking import read_blocking
from service.publish.reader import EnrichedStream
from service.store.keys import Keys
from tests.publish.shelf import write_fields


@pytest.fixture
def shelf(redis_url: str, keys: Keys) -> Iterator["Shelf"]:
    """Give a stream of one's own to put records in."""
    with closing(Redis.from_url(redis_url)) as client:
        yield Shelf(client, redis_url, keys)
        client.delete(keys.enriched)


class Shelf:
    """Puts records into the stream, and opens it."""

    def __init__(self, client: Redis, url: str, keys: Keys) -> None:
        self.client = client
        self.url = url
        self.keys = keys

    def put(self, *numbers: int) -> list[str]:
        """Append so many records; gives their ids."""
        written: list[dict[Any, Any]] = [{**write_fields(number)} for number in numbers]
        for fields in written:
            self.client.xadd(self.keys.enriched, fields)
        return [fields["id"] for fields in written]

    def open(self) -> EnrichedStream:
        """Open the stream for the one group."""
        return EnrichedStream(self.url, group="readers", namespace=self.keys.namespace)

    def list_pending(self) -> int:
        """Say how many records are given to somebody and not acknowledged."""
        told: Any = self.client.xpending(self.keys.enriched, "readers")
        return int(told["pending"])


def test_records_come_in_order_and_are_acknowledged(shelf: Shelf) -> None:
    """What is there, then what comes while the loop waits."""
    ids = shelf.put(*range(5))
    seen: list[str] = []
    later = threading.Timer(0.1, lambda: ids.extend(shelf.put(5)))
    with read_blocking(shelf.open()) as records:
        for record in records:
            seen.append(record.id)
            if len(seen) == 5:
                later.start()
            if len(seen) == 6:
                assert shelf.list_pending() == 1  # the one in hand
                break
    later.join()
    assert seen == ids


def test_what_the_body_raised_on_comes_again(shelf: Shelf) -> None:
    """Nothing of it is acknowledged, and nothing waits for a dead reader."""
    first, second = shelf.put(1, 2)

    def stumble() -> None:
        with read_blocking(shelf.open()) as records:
            for record in records:
                raise ValueError(record.id)

    with pytest.raises(ValueError, match=first):
        stumble()
    with read_blocking(shelf.open()) as records:
        assert [next(records).id, next(records).id] == [first, second]


def test_ctrl_c_ends_a_loop_that_waits(shelf: Shelf) -> None:
    """At once, as in any program, and the stream is closed."""

    def wait() -> None:
        with read_blocking(shelf.open()) as records:
            threading.Timer(0.2, lambda: os.kill(os.getpid(), signal.SIGINT)).start()
            next(records)

    with pytest.raises(KeyboardInterrupt):
        wait()
    assert shelf.client.xinfo_consumers(shelf.keys.enriched, "readers") == []


async def test_where_a_loop_runs_it_says_so(shelf: Shelf) -> None:
    """Rather than to hang: there the stream is read by ``async for``."""
    stream = shelf.open()
    with pytest.raises(RuntimeError, match="async for"), read_blocking(stream) as records:
        next(records)
    await stream.aclose()
