"""Fetching entries while Redis fails, restarts or fails over."""

import asyncio
from collections.abc import AsyncGenerator

from redis.asyncio import Redis
from redis.exceptions import ResponseError

from ..store.connect import (
    UNAVAILABLE_ERRORS,
    drop_idle_connections,
    is_bad_password,
    is_retryable,
)
from .connection import Connection
from .entry import StreamEntry
from .group import EntrySource, GroupMissing, PlainConsumer, ReaderOptions

_RETRY_DELAYS_S = (0.05, 0.1, 0.2, 0.5, 1.0)


class EntryFetcher:
    """Fetches entries from one source, over a connection that it opens again after a failure."""

    def __init__(self, client: Redis, source: EntrySource, *, options: ReaderOptions) -> None:
        self._client = client
        self._source = source
        self._options = options
        self.connection = Connection(client)
        self.is_closed = False

    async def fetch(self) -> list[StreamEntry]:
        """Return the next entries, retrying while Redis is unavailable; none once it is closed."""
        failures = 0
        while not self.is_closed:  # redis-py may swallow a cancellation before Python 3.12
            try:
                return await self._source.fetch(self.connection)
            except GroupMissing:
                continue
            except asyncio.CancelledError:
                self._source.on_disconnect()
                raise
            except (*UNAVAILABLE_ERRORS, ResponseError) as error:
                await self.wait_or_raise(error, failures)
                failures += 1
        return []

    async def wait_or_raise(self, error: Exception, failures: int) -> None:
        """Disconnect and wait after a passing error; raise an error that no retry can fix.

        ``failures`` counts the failures before this one; the delay grows with it.
        """
        is_permanent = isinstance(error, ResponseError) and not is_retryable(error)
        if is_permanent or is_bad_password(error):
            raise error
        if self._options.on_unavailable is not None and failures == 0:
            self._options.on_unavailable(error)
        self._source.on_disconnect()
        await self.connection.disconnect()
        await drop_idle_connections(self._client)
        await asyncio.sleep(_RETRY_DELAYS_S[min(failures, len(_RETRY_DELAYS_S) - 1)])


async def read_entries(
    client: Redis, stream: str, *, since: str, options: ReaderOptions
) -> AsyncGenerator[StreamEntry, None]:
    """Yield the raw entries of a stream without a group, from ``since`` on; never ends.

    ``since`` is a position, ``0`` for the oldest entry or ``$`` for the end. An entry counts as
    read when the next one is requested.
    """
    source = PlainConsumer(stream, since=since, options=options)
    fetcher = EntryFetcher(client, source, options=options)
    try:
        while True:
            for entry in await fetcher.fetch():
                yield entry
                source.mark_done(entry.position)
    finally:
        await fetcher.connection.disconnect()
