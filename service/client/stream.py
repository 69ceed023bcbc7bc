"""How does a downstream service read the stream? ``async for`` over typed records.

    async with EnrichedStream("redis://host:6379", group="release-notes") as records:
        async for record in records:
            ...  # when the loop comes round, this record is acknowledged

In a group each record goes to one of its consumers, at least once: it is acknowledged when the next
one is asked for. What a loop body raised on, or was cut off from, comes again. Without a group all
records are read, from ``since`` on. Either way no id comes twice that this reader still remembers.
"""

import asyncio
import os
import socket
from collections import deque
from contextlib import suppress
from datetime import UTC, datetime
from typing import Self

from redis.exceptions import RedisError, ResponseError

from ..store.connect import (
    UNAVAILABLE_ERRORS,
    drop_idle_connections,
    is_bad_password,
    is_retryable,
    open_client,
)
from ..store.keys import Keys
from .connection import Connection
from .entry import InvalidEntry, Record, StreamEntry, parse_entry
from .group import (
    EntrySource,
    GroupConsumer,
    GroupMissing,
    PlainConsumer,
    ReaderOptions,
)


class RecentIds:
    """Remembers at least half of ``capacity`` ids, and at most all of it, the newest."""

    def __init__(self, capacity: int) -> None:
        self._half = max(1, capacity // 2)
        self._newer: set[str] = set()
        self._older: set[str] = set()

    def add(self, record_id: str) -> None:
        """Remember an id."""
        self._newer.add(record_id)
        if len(self._newer) >= self._half:
            self._newer, self._older = set(), self._newer

    def __contains__(self, record_id: str) -> bool:
        return record_id in self._newer or record_id in self._older


_RETRY_DELAYS_S = (0.05, 0.1, 0.2, 0.5, 1.0)
_CLOSE_TIMEOUT_S = 2.0


class InvalidEntryError(Exception):
    """An entry of the stream is no record that this version reads; it was not acknowledged."""


class EnrichedStream:
    """The enriched deployments of one namespace, as they come, for ever.

    ``url`` is any address that ``ENRICHER_REDIS_URL`` takes. ``since`` is where to begin: a time, a
    position, ``0`` for the oldest or ``$`` for the end; a group that is there already goes on where
    it was. Without ``consumer`` a name is made up, and retired at the end.
    """

    trimmed = 0
    """How many records were trimmed from the stream before they could be read."""

    def __init__(
        self,
        url: str,
        *,
        group: str | None = None,
        consumer: str | None = None,
        since: str | datetime = "0",
        namespace: str = "deployments",
        options: ReaderOptions | None = None,
    ) -> None:
        self._options = options or ReaderOptions()
        self._client = open_client(url, namespace=namespace)
        self._connection = Connection(self._client)
        self._group_consumer = self._build_group_consumer(
            Keys(namespace).enriched, group, consumer, since
        )
        self._is_consumer_named = consumer is not None
        self._source: EntrySource = self._group_consumer or PlainConsumer(
            Keys(namespace).enriched, since=format_position(since), options=self._options
        )
        self._recent_ids = RecentIds(self._options.recent_ids)
        self._prefetched: deque[StreamEntry] = deque()
        self._current: tuple[bytes, str] | None = None
        self._fetch_task: asyncio.Task[list[StreamEntry]] | None = None
        self._renew_at = 0.0
        self._is_closed = False

    def _build_group_consumer(
        self, stream: str, group: str | None, consumer: str | None, since: str | datetime
    ) -> GroupConsumer | None:
        if group is None:
            return None
        consumer_name = consumer or f"{socket.gethostname()}-{os.getpid()}-{id(self):x}"
        start = format_position(since)
        return GroupConsumer(
            stream, group, consumer=consumer_name, since=start, options=self._options
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    def __aiter__(self) -> Self:
        """Begin a loop; what an earlier one was cut off from comes again."""
        if self._current is not None or self._prefetched:
            self._discard_prefetched()
        return self

    async def __anext__(self) -> Record:
        """Acknowledge the last record, give the next; the end comes only by ``aclose``."""
        self._mark_done()
        while not self._is_closed:
            if not self._prefetched:
                self._prefetched.extend(await self._fetch())
            elif asyncio.get_running_loop().time() >= self._renew_at:
                await self._renew()
            while self._prefetched:
                record = self._parse_new_record(self._prefetched.popleft())
                if record is not None:
                    return record
        raise StopAsyncIteration

    async def acknowledge(self) -> None:
        """Acknowledge the record in hand now: for who leaves the loop after it."""
        self._mark_done()
        await self._renew()

    async def aclose(self) -> None:
        """End the loop, hand back what was fetched for it, and let Redis go."""
        if self._is_closed:
            return
        self._is_closed = True
        if self._fetch_task is not None:
            self._fetch_task.cancel()
            await asyncio.gather(self._fetch_task, return_exceptions=True)
        held = [entry.position for entry in self._prefetched]
        if self._current is not None:
            held.insert(0, self._current[0])
        with suppress(
            *UNAVAILABLE_ERRORS, RedisError, GroupMissing
        ):  # else it is taken over a little later
            async with asyncio.timeout(_CLOSE_TIMEOUT_S):
                await self._source.release(self._connection, held)
                if self._group_consumer is not None and not self._is_consumer_named:
                    await self._group_consumer.delete_consumer(self._connection)
        await self._connection.disconnect()
        await self._client.aclose()

    def _mark_done(self) -> None:
        if self._current is not None:
            position, record_id = self._current
            self._current = None
            self._recent_ids.add(record_id)
            self._source.mark_done(position)

    def _parse_new_record(self, entry: StreamEntry) -> Record | None:
        """Take the record of an entry in hand; None when there is nothing to give."""
        if entry.flat_fields is None:
            self.trimmed += 1
            self._source.mark_done(entry.position)
            return None
        record = parse_entry(entry.position, entry.flat_fields)
        if isinstance(record, InvalidEntry):
            if self._options.on_invalid_entry is None:
                self._prefetched.appendleft(entry)
                raise InvalidEntryError(f"{record.position} is no record of ours: {record.reason}")
            self._options.on_invalid_entry(record)
        elif record.id not in self._recent_ids:
            self._current = (entry.position, record.id)
            return record
        self._source.mark_done(entry.position)
        return None

    async def _fetch(self) -> list[StreamEntry]:
        """Fetch the next entries, in a task of its own that ``aclose`` may end."""
        self._fetch_task = asyncio.ensure_future(self._fetch_with_retry())
        try:
            return await self._fetch_task
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if self._is_closed and not (task and task.cancelling()):
                return []
            raise
        finally:
            self._fetch_task = None

    async def _fetch_with_retry(self) -> list[StreamEntry]:
        """Fetch the next entries, whatever becomes of the server meanwhile."""
        failures = 0
        while not self._is_closed:  # redis-py may swallow a cancellation before Python 3.12
            try:
                entries = await self._source.fetch(self._connection)
            except GroupMissing:
                continue
            except asyncio.CancelledError:
                self._source.on_disconnect()
                raise
            except (*UNAVAILABLE_ERRORS, ResponseError) as error:
                await self._wait_or_raise(error, failures)
                failures += 1
                continue
            self._schedule_renewal()
            return entries
        return []

    async def _renew(self) -> None:
        """Keep what is held from being taken over while loop bodies take their time."""
        try:
            held = await self._source.renew(self._connection, self._prefetched)
        except GroupMissing:
            self._discard_prefetched()
        except (*UNAVAILABLE_ERRORS, ResponseError) as error:
            await self._wait_or_raise(error, 0)
            self._discard_prefetched()
        else:
            self._prefetched = deque(held)
            self._schedule_renewal()

    def _schedule_renewal(self) -> None:
        """Look after what is held long before others take it for abandoned."""
        now = asyncio.get_running_loop().time()
        self._renew_at = now + self._options.claim_after_s / 4

    def _discard_prefetched(self) -> None:
        """Drop what is fetched and not read: it is fetched again."""
        self._prefetched.clear()
        self._current = None
        self._source.on_disconnect()

    async def _wait_or_raise(self, error: Exception, failures: int) -> None:
        """Wait a little for a server that is away; raise what no patience mends."""
        is_permanent = isinstance(error, ResponseError) and not is_retryable(error)
        if is_permanent or is_bad_password(error):
            raise error
        self._source.on_disconnect()
        await self._connection.disconnect()
        await drop_idle_connections(self._client)
        await asyncio.sleep(_RETRY_DELAYS_S[min(failures, len(_RETRY_DELAYS_S) - 1)])


def format_position(since: str | datetime) -> str:
    """Give the position of a moment; a moment without a zone is UTC."""
    if isinstance(since, str):
        return since
    moment = since if since.tzinfo else since.replace(tzinfo=UTC)
    return f"{max(0, int(moment.timestamp() * 1000))}-0"
