"""Reading the stream without asyncio, in an ordinary loop.

    with read_blocking(EnrichedStream("redis://host:6379", group="release-notes")) as records:
        for record in records:
            ...  # the next iteration acknowledges this record

Everything that :mod:`.stream` promises holds. The loop blocks while there is no new record.
"""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

from .entry import Record
from .stream import EnrichedStream


@contextmanager
def read_blocking(stream: EnrichedStream) -> Iterator[Iterator[Record]]:
    """Yield the records of a stream that is not being read yet; close it on exit.

    Raises RuntimeError inside a running event loop: use ``async for`` there.
    """
    if _is_loop_running():
        raise RuntimeError("an event loop is running: read the stream with `async for`")
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
