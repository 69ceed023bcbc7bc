"""The output stream: appending a record and settling its ticket in one script; trimming."""

import asyncio
from collections.abc import Mapping
from typing import Any, Literal, cast

from msgspec import Struct
from msgspec.structs import replace
from redis.exceptions import RedisError

from service.backlog.refreshes import load_settle_lua
from service.backlog.ticket import Lease
from service.log import EventLogger
from service.publish.entry import BEFORE_REVISION, Entry
from service.store.encoded_command import pack_chunks
from service.store.group_commit import GroupCommit
from service.store.keys import Keys
from service.store.script import Script, load_script, read_lua

PublishStatus = Literal["published", "unchanged", "filtered", "lease_lost", "taken"]

_TRIM_INTERVAL_S = 60.0


class RetentionConfig(Struct, frozen=True):
    """How long entries and deduplication marks are kept, in ms.

    ``max_records`` is the largest number of entries, 0 for no limit. Trimming does not wait for a
    reader group that was idle for ``idle_group_ms``.
    """

    dedup_ttl_ms: int
    max_age_ms: int
    max_records: int = 0
    idle_group_ms: int = 604_800_000


class TrimResult(Struct, frozen=True):
    """What trimming removed: expired entries, and entries above the limit.

    ``has_more``: the next call may remove more at once. ``idle_groups`` maps each idle reader group
    to how long it has been idle (ms).
    """

    expired: int
    over_limit: int = 0
    has_more: bool = False
    idle_groups: Mapping[str, int] = {}


class PublishResult(Struct, frozen=True):
    """The outcome of publishing. ``lease_lost``: another worker has the ticket; no write.

    ``taken``: the source reported this deployment by another event; no write, and the lease stands.
    """

    status: PublishStatus
    revision: int


def _append_mode(entry: Entry) -> str:
    if entry.is_shared:
        return "share"
    return "filter" if entry.filtered_because else "append"


def _source_event(lease: Lease) -> tuple[str, str]:
    """Return the field of the source in ``published``, and what tells its events apart.

    A source reports each deployment once: with its outcome, and its time or when it arrived.
    """
    ticket = lease.ticket
    if ticket.refresh is not None:
        return "", ""
    time_ms, kind = ticket.event_time, "ended"
    if time_ms is None:
        time_ms, kind = lease.received_at, "arrived"
    return f"event:{ticket.source}", f"{ticket.outcome} {kind} {time_ms}"


class OutputStream:
    """The Redis stream of enriched records."""

    def __init__(
        self, group_commit: GroupCommit, *, keys: Keys, retention: RetentionConfig
    ) -> None:
        self._group_commit = group_commit
        self._keys = keys
        self._retention = retention
        self._append_script: Script = load_script(
            __package__,
            "append_and_settle",
            prelude=load_settle_lua() + read_lua(__package__, "lib_history"),
        )
        self._trim_script: Script = load_script(__package__, "trim")

    async def append_and_settle(self, entry: Entry, lease: Lease) -> PublishResult:
        """Append one record as the next revision unless nothing changed; end its ticket.

        Besides the content, ``change`` may be another one: an earlier deployment arrived late. The
        same script schedules the next refresh. A filtered entry ends its ticket without a record;
        reconciliation may queue the deployment again after the filter changes. Raise
        :class:`service.store.RedisRefused` if Redis refuses the write for now.
        """
        keys, plan = self._keys, entry.plan
        reply = await self._group_commit.submit(
            self._append_script,
            keys=(
                *(keys.backlog, keys.tickets, keys.enriched, keys.published(entry.deployment_id)),
                *(keys.budget_calls, keys.budget, keys.wakeup, keys.counts, keys.milestones),
                *(keys.refreshes, keys.refresh_tickets, keys.history(*entry.history.scope)),
            ),
            args=(
                lease.job,
                lease.fence,
                lease.generation,
                entry.deployment_id,
                entry.digest,
                self._retention.dedup_ttl_ms,
                BEFORE_REVISION,
                pack_chunks(entry.data_chunks),
                plan.since,
                "" if plan.due is None else plan.due,
                plan.ticket,
                _append_mode(entry),
                *lease.settled_events,
                *_source_event(lease),
                entry.history.text,
                *entry.fields,
            ),
            durable=True,
            patient=False,
        )
        status, revision = cast("tuple[bytes, int]", reply)
        return PublishResult(status=cast("PublishStatus", status.decode()), revision=int(revision))

    async def trim(self) -> TrimResult:
        """Remove entries older than the retention that every active reader group has read.

        One call removes a bounded number: see trim.lua. Raise a RedisError.
        """
        reply = await self._group_commit.submit(
            self._trim_script,
            keys=(
                self._keys.enriched,
                self._keys.counts,
                self._keys.milestones,
                self._keys.reader_groups,
            ),
            args=(
                self._retention.max_age_ms,
                self._retention.max_records,
                self._retention.idle_group_ms,
            ),
        )
        expired, over_limit, has_more, *idle_groups = cast("list[Any]", reply)
        pairs = zip(idle_groups[::2], idle_groups[1::2], strict=True)
        return TrimResult(
            expired,
            over_limit,
            has_more == 1,
            {name.decode("utf-8", "replace"): idle_ms for name, idle_ms in pairs},
        )

    async def trim_all(self) -> TrimResult:
        """Trim slice by slice until nothing is left to remove; return the sum. Raise a RedisError.

        Other scripts are executed between two slices.
        """
        expired = over_limit = 0
        while True:
            trimmed = await self.trim()
            expired, over_limit = expired + trimmed.expired, over_limit + trimmed.over_limit
            if not trimmed.has_more:
                return replace(trimmed, expired=expired, over_limit=over_limit)

    async def trim_periodically(self, log: EventLogger) -> None:
        """Trim every minute until cancelled; errors of Redis are logged."""
        reported: set[str] = set()
        while True:
            try:
                trimmed = await self.trim_all()
                if trimmed.expired or trimmed.over_limit:
                    log.info(
                        "stream_trimmed", expired=trimmed.expired, over_limit=trimmed.over_limit
                    )
                for group in sorted(trimmed.idle_groups.keys() - reported):
                    idle_s = trimmed.idle_groups[group] // 1000
                    log.warning("reader_group_idle", group=group, idle_s=idle_s)
                reported = {*trimmed.idle_groups}
            except RedisError as error:
                log.warning("trim_failed", reason=str(error))
            await asyncio.sleep(_TRIM_INTERVAL_S)
