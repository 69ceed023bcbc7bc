"""A group of two readers: each record goes to one of them, and a faster one gets more.

python two_readers.py redis://127.0.0.1:6379 10
"""

import asyncio
import sys

from deployment_enricher_client import EnrichedStream, ReaderOptions


async def read(url: str, name: str, ids: asyncio.Queue[tuple[str, str]]) -> None:
    """Read as one consumer of the group; both could be processes on different machines."""
    options = ReaderOptions(prefetch=1)  # so that neither takes what the other could do
    async with EnrichedStream(url, group="two", consumer=name, options=options) as records:
        async for record in records:
            await ids.put((name, record.id))


async def main(url: str, count: int) -> None:
    """Print which reader got which record, until so many were read."""
    ids: asyncio.Queue[tuple[str, str]] = asyncio.Queue()
    readers = [asyncio.create_task(read(url, name, ids)) for name in ("anna", "ben")]
    for _ in range(count):
        print(*await ids.get(), flush=True)
    for reader in readers:
        reader.cancel()
    await asyncio.gather(*readers, return_exceptions=True)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2])))
