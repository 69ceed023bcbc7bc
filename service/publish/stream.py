"""How does a record get out? Appended and settled in one act."""

from typing import Literal, cast

from msgspec import Struct

from service.backlog.looks import load_plan
from service.backlog.ticket import Lease
from service.publish.record import BEFORE_REVISION, Entry
from service.store.group import GroupCommit
from service.store.keys import Keys
from service.store.script import Script, load_script


class Retention(Struct, frozen=True):
    """How long things are kept, in ms; ``hard_cap`` is a number of entries, 0 for none."""

    marks_ms: int
    entries_ms: int
    hard_cap: int = 0


class Settled(Struct, frozen=True):
    """How publishing ended. ``lost``: the lease was another's by then, and nothing was written."""

    fate: Literal["published", "unchanged", "lost"]
    revision: int


class OutputStream:
    """The stream of enriched records."""

    def __init__(self, group: GroupCommit, *, keys: Keys, retention: Retention) -> None:
        self._group = group
        self._keys = keys
        self._retention = retention
        self._append: Script = load_script(__package__, "append_and_settle", prelude=load_plan())
        self._trim: Script = load_script(__package__, "trim")

    async def append_and_settle(self, entry: Entry, lease: Lease) -> Settled:
        """Append one record as the next revision, unless its content is that of the last one.

        The next look at the deployment is planned in the same act.
        """
        keys, plan = self._keys, entry.plan
        reply = await self._group.submit(
            self._append,
            keys=(
                keys.backlog,
                keys.tickets,
                keys.enriched,
                keys.published(entry.deployment_id),
                keys.calls,
                keys.budget,
                keys.bell,
                keys.looks,
                keys.look_tickets,
            ),
            args=(
                lease.job,
                lease.fence,
                lease.generation,
                entry.deployment_id,
                entry.digest,
                self._retention.marks_ms,
                BEFORE_REVISION,
                entry.data_after_revision,
                plan.since,
                "" if plan.due is None else plan.due,
                plan.ticket,
                *entry.fields,
            ),
            durable=True,
        )
        fate, revision = cast("tuple[bytes, int]", reply)
        return Settled(fate=cast("Literal['published']", fate.decode()), revision=int(revision))

    async def trim(self) -> int:
        """Drop what is older than the retention and read by every group; gives how many."""
        reply = await self._group.submit(
            self._trim,
            keys=(self._keys.enriched,),
            args=(self._retention.entries_ms, self._retention.hard_cap),
        )
        return cast("int", reply)
