"""How does a service without asyncio read the stream? In an ordinary loop.

    with read_blocking(EnrichedStream("redis://host:6379", group="release-notes")) as records:
        for record in records:
            ...  # when the loop comes round, this record is acknowledged

All that :mod:`service.client.stream` promises holds; while nothing comes, the loop blocks.
"""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

from .entry import Record
from .stream import EnrichedStream


@contextmanager
def read_blocking(stream: EnrichedStream) -> Iterator[Iterator[Record]]:
    """Read a stream that nobody has begun to read; leaving closes it.

    Raises RuntimeError where an event loop runs already: there the stream is read by ``async for``.
    """
    if _is_loop_running():
        raise RuntimeError("a running event loop is here: read the stream by `async for`")
    with asyncio.Runner() as runner:
        try:
            yield _iterate_records(runner, stream)
        finally:
            runner.run(stream.aclose())


def _is_loop_running() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


def _iterate_records(runner: asyncio.Runner, stream: EnrichedStream) -> Iterator[Record]:
    async def next_record() -> Record | None:
        return await anext(stream, None)

    aiter(stream)
    while (record := runner.run(next_record())) is not None:
        yield record
