"""The scheduled refreshes, which idle workers queue while there are spare calls."""

from collections.abc import Sequence
from typing import Literal, cast

from msgspec import Struct

from service.backlog.lines import load_lines_lua
from service.backlog.refresh_schedule import plan_refresh
from service.backlog.ticket import Lease
from service.store.group_commit import GroupCommit
from service.store.keys import Keys
from service.store.script import Script, load_script, read_lua

SkipStatus = Literal["skipped", "superseded", "lease_lost"]

_FINAL_REASONS = frozenset({"not_found", "poison"})
"""Reasons that end all refreshes: the deployment is gone, or its ticket kills workers."""


def load_settle_lua() -> str:
    """Return the Lua functions that end a ticket and schedule a refresh."""
    return read_lua(__package__, "lib_lines", "lib_tickets", "lib_refreshes")


class RefreshConfig(Struct, frozen=True, kw_only=True):
    """When to refresh (ms after the first record), TTL of marks (ms), rate-limit share."""

    schedule: Sequence[int]
    dedup_ttl_ms: int
    rate_limit_share: float
    batch_size: int = 100


class Refreshes:
    """The scheduled refreshes of one namespace; ``budget_lua`` defines the spare calls."""

    def __init__(
        self, group_commit: GroupCommit, *, keys: Keys, config: RefreshConfig, budget_lua: str
    ) -> None:
        self._group_commit = group_commit
        self._keys = keys
        self._config = config
        prelude = budget_lua + load_lines_lua()
        self._refresh_due: Script = load_script(__package__, "refresh_due", prelude=prelude)
        self._skip: Script = load_script(__package__, "skip_refresh", prelude=load_settle_lua())

    async def enqueue_due(self) -> float | None:
        """Queue tickets of the refreshes that are due, if there are spare calls.

        Return 0 if tickets were queued, else the seconds after which to ask again; None if no
        refresh is scheduled.
        """
        keys = self._keys
        reply = await self._group_commit.submit(
            self._refresh_due,
            keys=(
                *(keys.refreshes, keys.refresh_tickets, keys.backlog, keys.tickets, keys.failed),
                *(keys.budget, keys.budget_calls, keys.budget_waiting),
            ),
            args=(self._config.batch_size, self._config.rate_limit_share),
        )
        _, wait_ms = cast("tuple[int, int]", reply)
        return None if wait_ms < 0 else wait_ms / 1000

    async def skip(self, lease: Lease, reason: str) -> SkipStatus:
        """End a failed refresh and schedule the next one, unless the reason is final.

        Raise :class:`service.store.RedisRefused` if Redis refuses the write for now.
        """
        keys, refresh = self._keys, lease.ticket.refresh
        deployment_id = lease.ticket.deployment_id
        assert refresh is not None and deployment_id is not None  # noqa: S101, PT018 - for the types
        plan = plan_refresh(
            () if reason in _FINAL_REASONS else self._config.schedule,
            lease,
            deployment_id,
            now_ms=lease.now,
            unfinished=False,
        )
        reply = await self._group_commit.submit(
            self._skip,
            keys=(
                *(keys.backlog, keys.tickets, keys.budget_calls, keys.budget_waiting, keys.wakeup),
                *(keys.published(deployment_id), keys.refreshes, keys.refresh_tickets, keys.counts),
            ),
            args=(
                *(lease.job, lease.fence, lease.generation, deployment_id, plan.since),
                *("" if plan.due is None else plan.due, plan.ticket, self._config.dedup_ttl_ms),
            ),
            durable=True,
            patient=False,
        )
        return cast("SkipStatus", cast("bytes", reply).decode())
