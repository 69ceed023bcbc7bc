"""Who looks again? Any worker that has nothing else to do, with calls that are left over."""

from collections.abc import Sequence
from typing import Literal, cast

from msgspec import Struct

from service.backlog.schedule import plan_looks
from service.backlog.ticket import Lease
from service.store.group import GroupCommit
from service.store.keys import Keys
from service.store.script import Script, load_script, read_lua

_ENDING = frozenset({"not_found", "poison"})
"""What ends all further looks: it is gone, or kills who looks at it."""


def load_settling() -> str:
    """Give the Lua that ends a ticket and plans a look; put before every script that does both."""
    return read_lua(__package__, "ending") + read_lua(__package__, "plan")


class Looking(Struct, frozen=True, kw_only=True):
    """When to look (ms after the first record), for how long marks are kept (ms), our share."""

    schedule: Sequence[int]
    marks_ms: int
    share: float
    at_once: int = 100


class Looks:
    """The looks that are planned. ``leftover`` is Lua that says how many calls are left over."""

    def __init__(self, group: GroupCommit, *, keys: Keys, looking: Looking, leftover: str) -> None:
        self._group = group
        self._keys = keys
        self._looking = looking
        self._again: Script = load_script(__package__, "look_again", prelude=leftover)
        self._skip: Script = load_script(__package__, "skip_look", prelude=load_settling())

    async def look_again(self) -> float | None:
        """Make tickets of looks that are due, if calls are left over.

        Gives 0 when there are some now, else the seconds after which to ask again; None: nothing
        is planned.
        """
        keys = self._keys
        reply = await self._group.submit(
            self._again,
            keys=(
                *(keys.looks, keys.look_tickets, keys.backlog, keys.tickets, keys.failed),
                *(keys.budget, keys.calls, keys.callers),
            ),
            args=(self._looking.at_once, self._looking.share),
        )
        _, wait_ms = cast("tuple[int, int]", reply)
        return None if wait_ms < 0 else wait_ms / 1000

    async def skip(self, lease: Lease, reason: str) -> Literal["skipped", "again", "lost"]:
        """End a look of which nothing came; the next one follows, unless there is no use in it."""
        keys, look = self._keys, lease.ticket.look
        deployment_id = lease.ticket.deployment_id
        assert look is not None and deployment_id is not None  # noqa: S101, PT018 - for the types
        plan = plan_looks(
            () if reason in _ENDING else self._looking.schedule,
            lease,
            deployment_id,
            now_ms=lease.now,
            unfinished=False,
        )
        reply = await self._group.submit(
            self._skip,
            keys=(
                *(keys.backlog, keys.tickets, keys.calls, keys.callers, keys.bell),
                *(keys.published(deployment_id), keys.looks, keys.look_tickets, keys.counts),
            ),
            args=(
                *(lease.job, lease.fence, lease.generation, deployment_id, plan.since),
                *("" if plan.due is None else plan.due, plan.ticket, self._looking.marks_ms),
            ),
            durable=True,
        )
        return cast('Literal["skipped"]', cast("bytes", reply).decode())
