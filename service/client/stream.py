"""The stream of enriched deployments, read as typed records with ``async for``.

    async with EnrichedStream("redis://host:6379", group="release-notes") as records:
        async for record in records:
            ...  # the next iteration acknowledges this record

A group delivers each record to one of its consumers, at least once: a record is acknowledged when
the next one is requested. If a loop body raises or is cancelled, its record is delivered again.
Without a group the reader receives all records from ``since`` on. In both cases the reader skips
ids that it still remembers.
"""

import asyncio
import os
import socket
from collections import deque
from contextlib import suppress
from datetime import UTC, datetime
from typing import Self

from redis.exceptions import RedisError, ResponseError

from ..store.connect import UNAVAILABLE_ERRORS, open_client
from ..store.keys import Keys
from .entry import InvalidEntry, Record, StreamEntry, parse_entry
from .fetcher import EntryFetcher
from .group import EntrySource, GroupConsumer, GroupMissing, PlainConsumer, ReaderOptions

_CLOSE_TIMEOUT_S = 2.0
_CANCEL_INTERVAL_S = 0.1


class RecentIds:
    """The newest ids: at least half of ``capacity``, at most all of it."""

    def __init__(self, capacity: int) -> None:
        self._half = max(1, capacity // 2)
        self._newer: set[str] = set()
        self._older: set[str] = set()

    def add(self, record_id: str) -> None:
        """Remember an id; forget the older half when the newer half is full."""
        self._newer.add(record_id)
        if len(self._newer) >= self._half:
            self._newer, self._older = set(), self._newer

    def __contains__(self, record_id: str) -> bool:
        return record_id in self._newer or record_id in self._older


class InvalidEntryError(Exception):
    """An entry is not a record that this version reads; it was not acknowledged."""


class EnrichedStream:
    """The enriched deployments of one namespace, as they are appended; it never ends by itself.

    ``url`` takes every form of ``ENRICHER_REDIS_URL``. ``since`` is where to begin: a time, a
    position, ``0`` for the oldest entry or ``$`` for the end. An existing group resumes at its own
    position. Without ``consumer`` the reader generates a name and deletes that consumer on close.
    """

    trimmed = 0
    """How many records were trimmed after a consumer of the group had fetched them, unread."""

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
        self._group_consumer = self._build_group_consumer(
            Keys(namespace).enriched, group, consumer, since
        )
        self._is_consumer_named = consumer is not None
        self._source: EntrySource = self._group_consumer or PlainConsumer(
            Keys(namespace).enriched, since=format_position(since), options=self._options
        )
        self._fetcher = EntryFetcher(self._client, self._source, options=self._options)
        self._recent_ids = RecentIds(self._options.recent_ids)
        self._prefetched: deque[StreamEntry] = deque()
        self._current: tuple[bytes, str] | None = None
        self._fetch_task: asyncio.Task[list[StreamEntry]] | None = None
        self._renew_at = 0.0

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
        """Begin a loop; a record whose loop body was interrupted is delivered again."""
        if self._current is not None or self._prefetched:
            self._discard_prefetched()
        return self

    async def __anext__(self) -> Record:
        """Acknowledge the last record and return the next; only ``aclose`` ends the loop."""
        self._mark_done()
        while not self._fetcher.is_closed:
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
        """Acknowledge the current record now, for example before leaving the loop."""
        self._mark_done()
        await self._renew()

    async def aclose(self) -> None:
        """End the loop, release what was prefetched to the group, and disconnect."""
        if self._fetcher.is_closed:
            return
        self._fetcher.is_closed = True
        if self._fetch_task is not None:
            self._fetch_task.cancel()
            await asyncio.gather(self._fetch_task, return_exceptions=True)
        held = [entry.position for entry in self._prefetched]
        if self._current is not None:
            held.insert(0, self._current[0])
        connection = self._fetcher.connection
        # After a failure here other consumers claim the entries later, when they are idle.
        with suppress(*UNAVAILABLE_ERRORS, RedisError, GroupMissing):
            async with asyncio.timeout(_CLOSE_TIMEOUT_S):
                await self._source.release(connection, held)
                if self._group_consumer is not None and not self._is_consumer_named:
                    await self._group_consumer.delete_consumer(connection)
        await connection.disconnect()
        await self._client.aclose()

    def _mark_done(self) -> None:
        if self._current is not None:
            position, record_id = self._current
            self._current = None
            self._recent_ids.add(record_id)
            self._source.mark_done(position)

    def _parse_new_record(self, entry: StreamEntry) -> Record | None:
        """Return the record of an entry as the current one; None if the entry is skipped."""
        if entry.flat_fields is None:
            self.trimmed += 1
            self._source.mark_done(entry.position)
            return None
        record = parse_entry(entry.position, entry.flat_fields)
        if isinstance(record, InvalidEntry):
            if self._options.on_invalid_entry is None:
                self._prefetched.appendleft(entry)
                raise InvalidEntryError(f"entry {record.position} is not a record: {record.reason}")
            self._options.on_invalid_entry(record)
        elif record.id not in self._recent_ids:
            self._current = (entry.position, record.id)
            return record
        self._source.mark_done(entry.position)
        return None

    async def _fetch(self) -> list[StreamEntry]:
        """Return the next entries, fetched in a task that ``aclose`` can cancel."""
        task = self._fetch_task = asyncio.ensure_future(self._fetcher.fetch())
        try:
            await asyncio.wait((task,))
        except asyncio.CancelledError:
            while not task.done():  # redis-py may swallow a cancellation before Python 3.12
                task.cancel()
                await asyncio.wait((task,), timeout=_CANCEL_INTERVAL_S)
            if not task.cancelled():
                task.exception()  # an exception that nobody retrieves would be logged
            self._source.on_disconnect()  # what was fetched meanwhile is fetched again
            raise
        finally:
            self._fetch_task = None
        if task.cancelled() and self._fetcher.is_closed:
            return []
        entries = task.result()
        self._schedule_renewal()
        return entries

    async def _renew(self) -> None:
        """Reset the idle time of the held entries, so that no other consumer claims them."""
        try:
            held = await self._source.renew(self._fetcher.connection, self._prefetched)
        except GroupMissing:
            self._discard_prefetched()
        except (*UNAVAILABLE_ERRORS, ResponseError) as error:
            await self._fetcher.wait_or_raise(error, 0)
            self._discard_prefetched()
        else:
            self._prefetched = deque(held)
            self._schedule_renewal()

    def _schedule_renewal(self) -> None:
        """Set the next renewal well before other consumers may claim the held entries."""
        now = asyncio.get_running_loop().time()
        self._renew_at = now + self._options.claim_after_s / 4

    def _discard_prefetched(self) -> None:
        """Drop the entries that were fetched but not read; they are fetched again."""
        self._prefetched.clear()
        self._current = None
        self._source.on_disconnect()


def format_position(since: str | datetime) -> str:
    """Return the stream position of a time; a time without a zone is UTC."""
    if isinstance(since, str):
        return since
    moment = since if since.tzinfo else since.replace(tzinfo=UTC)
    return f"{max(0, int(moment.timestamp() * 1000))}-0"
