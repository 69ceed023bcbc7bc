"""A reader process that a test kills: it prints each id and hangs in the given loop body."""

import asyncio
import sys

from service.client.group import ReaderOptions
from service.client.stream import EnrichedStream


async def read(url: str, namespace: str, group: str, hang_at: int) -> None:
    """Read until killed."""
    stream = EnrichedStream(
        url, group=group, consumer="mortal", namespace=namespace, options=ReaderOptions(prefetch=4)
    )
    count = 0
    async for record in stream:
        count += 1
        print(record.id, flush=True)  # noqa: T201 - the test reads the output
        if count == hang_at:
            await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(read(sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4])))
