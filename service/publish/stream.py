"""How does a record get out? Appended and settled in one act."""

import asyncio
from collections.abc import Mapping
from typing import Any, Literal, cast

from msgspec import Struct
from redis.exceptions import RedisError

from service.backlog.looks import load_settling
from service.backlog.ticket import Lease
from service.log import FactLog
from service.publish.writing import Entry
from service.store.group import GroupCommit
from service.store.keys import Keys
from service.store.script import Script, load_script

_TRIM_EVERY_S = 60.0


class Retention(Struct, frozen=True):
    """How long things are kept, in ms; ``hard_cap`` is a number of entries, 0 for none.

    A reader group that was not seen for ``dead_ms`` is not waited for any more.
    """

    marks_ms: int
    entries_ms: int
    hard_cap: int = 0
    dead_ms: int = 604_800_000


class Trimmed(Struct, frozen=True):
    """What trimming did: entries that were old, those above the cap, and the dead groups.

    ``dead`` tells of each group how long it was not seen, in ms.
    """

    dropped: int
    cut: int = 0
    dead: Mapping[str, int] = {}


class Settled(Struct, frozen=True):
    """How publishing ended. ``lost``: the lease was another's by then, and nothing was written."""

    fate: Literal["published", "unchanged", "left_out", "lost"]
    revision: int


class OutputStream:
    """The stream of enriched records."""

    def __init__(self, group: GroupCommit, *, keys: Keys, retention: Retention) -> None:
        self._group = group
        self._keys = keys
        self._retention = retention
        self._append: Script = load_script(
            __package__, "append_and_settle", prelude=load_settling()
        )
        self._trim: Script = load_script(__package__, "trim")

    async def append_and_settle(self, entry: Entry, lease: Lease) -> Settled:
        """Append one record as the next revision, unless its content is that of the last one.

        What is left out ends its ticket, without a record: once wanted, a list may bring it back.

        The next look at the deployment is planned in the same act.
        """
        keys, plan = self._keys, entry.plan
        reply = await self._group.submit(
            self._append,
            keys=(
                *(keys.backlog, keys.tickets, keys.enriched, keys.published(entry.deployment_id)),
                *(keys.calls, keys.budget, keys.bell, keys.counts, keys.milestones),
                *(keys.looks, keys.look_tickets),
            ),
            args=(
                lease.job,
                lease.fence,
                lease.generation,
                entry.deployment_id,
                entry.digest,
                self._retention.marks_ms,
                entry.data_before_revision,
                entry.data_after_revision,
                plan.since,
                "" if plan.due is None else plan.due,
                plan.ticket,
                "" if entry.left_out else entry.payload,
                *entry.fields,
            ),
            durable=True,
        )
        fate, revision = cast("tuple[bytes, int]", reply)
        return Settled(fate=cast("Literal['published']", fate.decode()), revision=int(revision))

    async def trim(self) -> Trimmed:
        """Drop what is older than the retention and read by every living group."""
        reply = await self._group.submit(
            self._trim,
            keys=(
                self._keys.enriched,
                self._keys.counts,
                self._keys.milestones,
                self._keys.readers,
            ),
            args=(self._retention.entries_ms, self._retention.hard_cap, self._retention.dead_ms),
        )
        dropped, cut, *dead = cast("list[Any]", reply)
        pairs = zip(dead[::2], dead[1::2], strict=True)
        return Trimmed(dropped, cut, {name.decode("utf-8", "replace"): ms for name, ms in pairs})

    async def keep_trimmed(self, log: FactLog) -> None:
        """Trim now and then, for ever; Redis being away is no reason to end."""
        reported: set[str] = set()
        while True:
            try:
                trimmed = await self.trim()
                if trimmed.dropped or trimmed.cut:
                    log.info("stream_trimmed", dropped=trimmed.dropped, above_cap=trimmed.cut)
                for group in sorted(trimmed.dead.keys() - reported):
                    unseen_s = trimmed.dead[group] // 1000
                    log.warning("reader_group_dead", group=group, unseen_s=unseen_s)
                reported = {*trimmed.dead}
            except RedisError as error:
                log.warning("trimming_failed", reason=str(error))
            await asyncio.sleep(_TRIM_EVERY_S)
