"""The search for a deployment among tickets, failed tickets and records, bounded in time.

It ignores the case of ASCII letters. Redis does not know the case of other letters.
"""

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from typing import Any, cast
from urllib.parse import quote

from msgspec import Struct
from redis.asyncio import Redis

from service.backlog.failures import decode_failed_ticket
from service.console.live import MAX_RECORD_BYTES, pair_fields, split_rows
from service.console.timeline import (
    DeploymentView,
    RollbackFinder,
    view_from_failed,
    view_from_record,
    view_from_ticket,
    with_rollback,
)
from service.store.exchange import decode_text
from service.store.group_commit import GroupCommit, ScriptArgument
from service.store.keys import Keys
from service.store.script import Script, load_script

MAX_RESULTS = 25
MAX_QUERY_LENGTH = 200

_MAX_CONCURRENT_SEARCHES = 2
_TIMEOUT_S = 2.0
_TICKETS_PER_PAGE, _MAX_TICKET_PAGES = 200, 100  # a page takes Redis one or two milliseconds
_RECORDS_PER_PAGE, _MAX_RECORD_PAGES = 100, 30  # failed tickets and records are larger


class SearchResult(Struct, frozen=True, kw_only=True):
    """The deployments that match a query. ``is_complete`` means that nothing was left out.

    ``revision`` is the last published revision if the query is a deployment id. Its record may be
    trimmed.
    """

    query: str
    deployments: Sequence[DeploymentView]
    scanned: int
    is_complete: bool
    revision: int | None = None


class _ScannedPage(Struct, frozen=True):
    """One page of a scan: how many entries it had, the candidates, and whether it is the last."""

    scanned: int
    deployments: Sequence[DeploymentView]
    is_last: bool


class Searcher:
    """Searches one namespace, two searches at a time; ``clock`` returns monotonic seconds."""

    def __init__(
        self,
        client: Redis,
        group_commit: GroupCommit,
        *,
        keys: Keys,
        clock: Callable[[], float],
    ) -> None:
        self._client = client
        self._group_commit = group_commit
        self._keys = keys
        self._clock = clock
        self._search_script, self._stream_script = (
            load_script(__package__, name) for name in ("search", "search_stream")
        )
        self._search_slots = asyncio.Semaphore(_MAX_CONCURRENT_SEARCHES)

    async def search(self, query: str) -> SearchResult:
        """Return the deployments that match; raises RedisUnavailable or redis's errors."""
        async with self._search_slots:
            revision = await self._read_revision(query)
            ends_at, scanned, is_complete = self._clock() + _TIMEOUT_S, 0, True
            found: dict[str, DeploymentView] = {}
            rollback_finder = RollbackFinder()
            for scan_pages in (self._scan_tickets, self._scan_failed, self._scan_records):
                is_at_end, matches = False, dict[str, DeploymentView]()
                async with aclosing(scan_pages(query)) as pages:
                    async for page in pages:
                        scanned, is_at_end = scanned + page.scanned, page.is_last
                        rollback_finder.add(page.deployments)
                        matches |= {
                            deployment.key: deployment
                            for deployment in page.deployments
                            if deployment.matches(query)
                        }
                        if is_at_end or len(matches) > MAX_RESULTS or self._clock() > ends_at:
                            break
                found |= matches
                is_complete = is_complete and is_at_end
            rollbacks = rollback_finder.list_rollbacks()
            return SearchResult(
                query=query,
                deployments=[
                    with_rollback(deployment, rollbacks)
                    for deployment in sorted(found.values(), key=_sort_key)[:MAX_RESULTS]
                ],
                scanned=scanned,
                is_complete=is_complete and len(found) <= MAX_RESULTS,
                revision=revision,
            )

    async def _read_revision(self, query: str) -> int | None:
        """Return the last published revision of a deployment id; None when there is none."""
        async with asyncio.timeout(_TIMEOUT_S):
            reply: Any = await self._client.hget(self._keys.published(query), "revision")
        text = decode_text(reply or b"")
        return int(text) if text.isascii() and text.isdigit() else None

    async def _scan_tickets(self, query: str) -> AsyncGenerator[_ScannedPage]:
        def view_from_row(row: Sequence[Any], now_ms: int) -> DeploymentView:
            return view_from_ticket(decode_text(row[0]), row[1], row[2], now_ms=now_ms)

        keys = (self._keys.backlog, self._keys.tickets)
        for first in range(0, _TICKETS_PER_PAGE * _MAX_TICKET_PAGES, _TICKETS_PER_PAGE):
            yield await self._read_page(
                keys, query, ranks=(first, _TICKETS_PER_PAGE), view_from_row=view_from_row
            )

    async def _scan_failed(self, query: str) -> AsyncGenerator[_ScannedPage]:
        def view_from_row(row: Sequence[Any], _: int) -> DeploymentView:
            return view_from_failed(
                decode_failed_ticket(decode_text(row[0]), float(row[1]), row[2] or None)
            )

        keys = (self._keys.failed, self._keys.failed_data)
        for first in range(0, _RECORDS_PER_PAGE * _MAX_RECORD_PAGES, _RECORDS_PER_PAGE):
            yield await self._read_page(
                keys, query, ranks=(first, _RECORDS_PER_PAGE), view_from_row=view_from_row
            )

    async def _read_page(
        self,
        keys: tuple[str, str],
        query: str,
        *,
        ranks: tuple[int, int],
        view_from_row: Callable[[Sequence[Any], int], DeploymentView],
    ) -> _ScannedPage:
        first, size = ranks
        encoded_query = quote(query, safe="").lower()
        args = (first, first + size - 1, _lower_ascii(query), encoded_query)
        reply = cast("list[Any]", await self._submit(self._search_script, keys, args))
        now_ms, scanned = reply[:2]
        deployments = [view_from_row(row, now_ms) for row in split_rows(reply[2:], 3)]
        return _ScannedPage(scanned, deployments, scanned < size)

    async def _scan_records(self, query: str) -> AsyncGenerator[_ScannedPage]:
        before = "+"
        for _ in range(_MAX_RECORD_PAGES):
            args = (before, _RECORDS_PER_PAGE, _lower_ascii(query), MAX_RECORD_BYTES)
            raw_reply = await self._submit(self._stream_script, (self._keys.enriched,), args)
            reply = cast("list[Any]", raw_reply)
            scanned, before = reply[0], decode_text(reply[1])
            deployments = [
                view_from_record(decode_text(position), pair_fields(fields))
                for position, fields in split_rows(reply[2:], 2)
            ]
            yield _ScannedPage(scanned, deployments, not before)

    async def _submit(
        self, script: Script, keys: Sequence[str], args: Sequence[ScriptArgument]
    ) -> object:
        return await self._group_commit.submit(script, keys=keys, args=args, timeout_s=_TIMEOUT_S)


def _lower_ascii(query: str) -> bytes:
    """Return the query as the scripts compare it: Lua's ``string.lower`` knows ASCII only."""
    return query.encode("utf-8", "replace").lower()


def _sort_key(deployment: DeploymentView) -> tuple[bool, float]:
    """Sort tickets that still wait or are leased first, then the newest."""
    return deployment.status not in {"waiting", "leased"}, -deployment.at_ms
