"""Where is my deployment? Sought among what waits, what failed and what came out, in bounds."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from typing import Any, cast
from urllib.parse import quote

from msgspec import Struct

from service.backlog.failure import read_failed
from service.operate.console.looking import LARGEST, pair_fields, read_text, split_rows
from service.operate.console.sightings import Sighting, sight_failed, sight_record, sight_ticket
from service.store.group import Argument, GroupCommit
from service.store.keys import Keys
from service.store.script import Script, load_script

MOST = 25
LONGEST_WORDS = 200

_AT_ONCE = 2
_PATIENCE_S = 2.0
_PAGE, _PAGES = 500, 40  # of tickets; a page is below a millisecond of Redis's time
_FEW, _FEW_PAGES = 100, 30  # of failures and records, which are larger


class Findings(Struct, frozen=True, kw_only=True):
    """What was found. ``is_whole``: everything was looked at, and all of it is here.

    ``revision`` is the last one of the deployment with this id, whose record may be trimmed by now.
    """

    words: str
    sightings: Sequence[Sighting]
    looked: int
    is_whole: bool
    revision: int | None = None


class _Page(Struct, frozen=True):
    """One page: how many were looked at, what may fit, and whether it is the last."""

    looked: int
    sightings: Sequence[Sighting]
    is_last: bool


class Seeker:
    """Seeks in one namespace, few searches at once; ``clock`` gives monotonic seconds."""

    def __init__(self, group: GroupCommit, *, keys: Keys, clock: Callable[[], float]) -> None:
        self._group = group
        self._keys = keys
        self._clock = clock
        self._seek, self._seek_records, self._find_mark = (
            load_script(__package__, name) for name in ("seek", "seek_records", "find_mark")
        )
        self._turns = asyncio.Semaphore(_AT_ONCE)

    async def seek(self, words: str) -> Findings:
        """Find the deployments that answer to these words; raises Unavailable."""
        async with self._turns:
            revision = await self._find_revision(words)
            ends_at, looked, is_whole = self._clock() + _PATIENCE_S, 0, True
            found: dict[str, Sighting] = {}
            for turn_pages in (self._turn_tickets, self._turn_failed, self._turn_records):
                is_at_end, fit = False, dict[str, Sighting]()
                async with aclosing(turn_pages(words)) as pages:
                    async for page in pages:
                        looked, is_at_end = looked + page.looked, page.is_last
                        fit |= {one.key: one for one in page.sightings if one.answers_to(words)}
                        if is_at_end or len(fit) > MOST or self._clock() > ends_at:
                            break
                found |= fit
                is_whole = is_whole and is_at_end
            return Findings(
                words=words,
                sightings=sorted(found.values(), key=_rank)[:MOST],
                looked=looked,
                is_whole=is_whole and len(found) <= MOST,
                revision=revision,
            )

    async def _find_revision(self, words: str) -> int | None:
        reply = await self._submit(self._find_mark, (self._keys.published(words),), ())
        text = read_text(reply or b"")
        return int(text) if text.isascii() and text.isdigit() else None

    async def _turn_tickets(self, words: str) -> AsyncGenerator[_Page]:
        def sight(row: Sequence[Any], now_ms: int) -> Sighting:
            return sight_ticket(read_text(row[0]), row[1], row[2], now_ms=now_ms)

        keys = (self._keys.backlog, self._keys.tickets)
        for first in range(0, _PAGE * _PAGES, _PAGE):
            yield await self._read_page(keys, words, ranks=(first, _PAGE), sight=sight)

    async def _turn_failed(self, words: str) -> AsyncGenerator[_Page]:
        def sight(row: Sequence[Any], _: int) -> Sighting:
            return sight_failed(read_failed(read_text(row[0]), float(row[1]), row[2] or None))

        keys = (self._keys.failed, self._keys.failures)
        for first in range(0, _FEW * _FEW_PAGES, _FEW):
            yield await self._read_page(keys, words, ranks=(first, _FEW), sight=sight)

    async def _read_page(
        self,
        keys: tuple[str, str],
        words: str,
        *,
        ranks: tuple[int, int],
        sight: Callable[[Sequence[Any], int], Sighting],
    ) -> _Page:
        first, size = ranks
        named = quote(words, safe="").lower()
        args = (first, first + size - 1, words.lower(), named)
        reply = cast("list[Any]", await self._submit(self._seek, keys, args))
        now_ms, looked = reply[:2]
        sightings = [sight(row, now_ms) for row in split_rows(reply[2:], 3)]
        return _Page(looked, sightings, looked < size)

    async def _turn_records(self, words: str) -> AsyncGenerator[_Page]:
        before = "+"
        for _ in range(_FEW_PAGES):
            args = (before, _FEW, words, words.lower(), LARGEST)
            told = await self._submit(self._seek_records, (self._keys.enriched,), args)
            reply = cast("list[Any]", told)
            looked, before = reply[0], read_text(reply[1])
            sightings = [
                sight_record(read_text(position), pair_fields(fields))
                for position, fields in split_rows(reply[2:], 2)
            ]
            yield _Page(looked, sightings, not before)

    async def _submit(
        self, script: Script, keys: Sequence[str], args: Sequence[Argument]
    ) -> object:
        return await self._group.submit(script, keys=keys, args=args, patience_s=_PATIENCE_S)


def _rank(one: Sighting) -> tuple[bool, float]:
    """Rank what has not ended first, then the newest: old failures hide nothing that came later."""
    return one.fate not in {"waiting", "in hand"}, -one.at_ms
