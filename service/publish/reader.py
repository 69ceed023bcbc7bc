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

from service.publish.feed import Feed, Habits, Member, Onlooker, TryAgain
from service.publish.line import Line
from service.publish.reading import Record, StreamEntry, Unreadable, read_entry
from service.publish.seen import Seen
from service.store.connect import AWAY, is_bad_password, is_not_now, leave, open_client
from service.store.keys import Keys

_PAUSES_S = (0.05, 0.1, 0.2, 0.5, 1.0)
_GOODBYE_S = 2.0


class UnreadableEntry(Exception):
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
        habits: Habits | None = None,
    ) -> None:
        self._habits = habits or Habits()
        self._client = open_client(url, namespace=namespace)
        self._line = Line(self._client)
        self._member = self._make_member(Keys(namespace).enriched, group, consumer, since)
        self._is_named = consumer is not None
        self._feed: Feed = self._member or Onlooker(
            Keys(namespace).enriched, since=write_position(since), habits=self._habits
        )
        self._seen = Seen(self._habits.remember)
        self._waiting: deque[StreamEntry] = deque()
        self._in_hand: tuple[bytes, str] | None = None
        self._fetching: asyncio.Task[list[StreamEntry]] | None = None
        self._refresh_at = 0.0
        self._is_closed = False

    def _make_member(
        self, stream: str, group: str | None, consumer: str | None, since: str | datetime
    ) -> Member | None:
        if group is None:
            return None
        name = consumer or f"{socket.gethostname()}-{os.getpid()}-{id(self):x}"
        begin = write_position(since)
        return Member(stream, group, consumer=name, since=begin, habits=self._habits)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    def __aiter__(self) -> Self:
        """Begin a loop; what an earlier one was cut off from comes again."""
        if self._in_hand is not None or self._waiting:
            self._forget()
        return self

    async def __anext__(self) -> Record:
        """Acknowledge the last record, give the next; the end comes only by ``aclose``."""
        self._note_done()
        while not self._is_closed:
            if not self._waiting:
                self._waiting.extend(await self._fetch())
            elif asyncio.get_running_loop().time() >= self._refresh_at:
                await self._refresh()
            while self._waiting:
                record = self._read(self._waiting.popleft())
                if record is not None:
                    return record
        raise StopAsyncIteration

    async def acknowledge(self) -> None:
        """Acknowledge the record in hand now: for who leaves the loop after it."""
        self._note_done()
        await self._refresh()

    async def aclose(self) -> None:
        """End the loop, hand back what was fetched for it, and let Redis go."""
        if self._is_closed:
            return
        self._is_closed = True
        if self._fetching is not None:
            self._fetching.cancel()
            await asyncio.gather(self._fetching, return_exceptions=True)
        held = [entry.position for entry in self._waiting]
        if self._in_hand is not None:
            held.insert(0, self._in_hand[0])
        with suppress(*AWAY, RedisError, TryAgain):  # else it is taken over a little later
            async with asyncio.timeout(_GOODBYE_S):
                await self._feed.leave(self._line, held)
                if self._member is not None and not self._is_named:
                    await self._member.retire(self._line)
        await self._line.hang_up()
        await self._client.aclose()

    def _note_done(self) -> None:
        if self._in_hand is not None:
            position, name = self._in_hand
            self._in_hand = None
            self._seen.add(name)
            self._feed.note_done(position)

    def _read(self, entry: StreamEntry) -> Record | None:
        """Take the record of an entry in hand; None when there is nothing to give."""
        if entry.parts is None:
            self.trimmed += 1
            self._feed.note_done(entry.position)
            return None
        record = read_entry(entry.position, entry.parts)
        if isinstance(record, Unreadable):
            if self._habits.on_unreadable is None:
                self._waiting.appendleft(entry)
                raise UnreadableEntry(f"{record.position} is no record of ours: {record.reason}")
            self._habits.on_unreadable(record)
        elif record.id not in self._seen:
            self._in_hand = (entry.position, record.id)
            return record
        self._feed.note_done(entry.position)
        return None

    async def _fetch(self) -> list[StreamEntry]:
        """Fetch the next entries, in a task of its own that ``aclose`` may end."""
        self._fetching = asyncio.ensure_future(self._fetch_patiently())
        try:
            return await self._fetching
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if self._is_closed and not (task and task.cancelling()):
                return []
            raise
        finally:
            self._fetching = None

    async def _fetch_patiently(self) -> list[StreamEntry]:
        """Fetch the next entries, whatever becomes of the server meanwhile."""
        failures = 0
        while not self._is_closed:  # redis-py may swallow a cancellation before Python 3.12
            try:
                entries = await self._feed.fetch(self._line)
            except TryAgain:
                continue
            except asyncio.CancelledError:
                self._feed.note_cut()
                raise
            except (*AWAY, ResponseError) as error:
                await self._bear(error, failures)
                failures += 1
                continue
            self._plan_refresh()
            return entries
        return []

    async def _refresh(self) -> None:
        """Keep what is held from being taken over while loop bodies take their time."""
        try:
            held = await self._feed.refresh(self._line, self._waiting)
        except TryAgain:
            self._forget()
        except (*AWAY, ResponseError) as error:
            await self._bear(error, 0)
            self._forget()
        else:
            self._waiting = deque(held)
            self._plan_refresh()

    def _plan_refresh(self) -> None:
        """Look after what is held long before others take it for abandoned."""
        now = asyncio.get_running_loop().time()
        self._refresh_at = now + self._habits.take_over_after_s / 4

    def _forget(self) -> None:
        """Drop what is fetched and not read: it is fetched again."""
        self._waiting.clear()
        self._in_hand = None
        self._feed.note_cut()

    async def _bear(self, error: Exception, failures: int) -> None:
        """Wait a little for a server that is away; raise what no patience mends."""
        is_final = isinstance(error, ResponseError) and not is_not_now(error)
        if is_final or is_bad_password(error):
            raise error
        self._feed.note_cut()
        await self._line.hang_up()
        await leave(self._client)
        await asyncio.sleep(_PAUSES_S[min(failures, len(_PAUSES_S) - 1)])


def write_position(since: str | datetime) -> str:
    """Give the position of a moment; a moment without a zone is UTC."""
    if isinstance(since, str):
        return since
    moment = since if since.tzinfo else since.replace(tzinfo=UTC)
    return f"{max(0, int(moment.timestamp() * 1000))}-0"
