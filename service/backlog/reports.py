"""Reports: what tickets say about the deployments that are reported to LaunchDarkly.

A report is written to its ticket before the call and after it. So the next holder of the lease
knows that a deployment may have been reported, whichever process ended in between.
"""

from typing import Literal, cast

from service.backlog.ticket import (
    REPORT_PATIENCE_S,
    STARTED,
    Lease,
    QueuedEvent,
    encode_ticket,
)
from service.store.group_commit import GroupCommit
from service.store.keys import Keys
from service.store.script import Script, load_script, read_lua

_REPORT_TTL_MS = 172_800_000
"""How long it is known that the end of a version was reported. A start that waits is younger."""

WriteStatus = Literal["written", "busy", "late", "lease_lost"]
"""``busy``: a start of the version is being reported. ``late``: its end was reported before."""


class Reports:
    """The reports of the tickets of one namespace."""

    def __init__(self, group_commit: GroupCommit, *, keys: Keys) -> None:
        self._group_commit = group_commit
        self._keys = keys
        tickets_lua = read_lua(__package__, "lib_lines", "lib_tickets")
        self._write: Script = load_script(__package__, "write_report", prelude=tickets_lua)
        self._end_start: Script = load_script(__package__, "end_start", prelude=tickets_lua)

    async def begin(self, lease: Lease) -> WriteStatus:
        """Write the report of a lease durably, before it is sent to LaunchDarkly."""
        return await self._write_report(lease, "begin")

    async def finish(self, lease: Lease) -> WriteStatus:
        """Write what the answer to a report says. Without it, the report counts as unanswered."""
        return await self._write_report(lease, "finish")

    async def end_start(self, lease: Lease) -> Literal["ended", "lease_lost"]:
        """End the ticket of a start.

        Raise :class:`service.store.RedisRefused` if Redis refuses the write for now.
        """
        keys = self._keys
        reply = await self._group_commit.submit(
            self._end_start,
            keys=(
                *(keys.backlog, keys.tickets, keys.budget_calls, keys.budget_waiting),
                *(keys.wakeup, keys.counts),
            ),
            args=(lease.job, lease.fence, lease.generation, *lease.settled_events),
            durable=True,
            patient=False,
        )
        return cast('Literal["ended", "lease_lost"]', cast("bytes", reply).decode())

    async def _write_report(self, lease: Lease, step: Literal["begin", "finish"]) -> WriteStatus:
        keys, ticket = self._keys, lease.ticket
        reply = await self._group_commit.submit(
            self._write,
            keys=(keys.backlog, keys.tickets, keys.reported(lease.job.partition(":")[2])),
            args=(
                lease.job,
                lease.fence,
                lease.index + 1,
                encode_ticket(ticket, job=lease.job),
                "start" if ticket.outcome == STARTED else "end",
                QueuedEvent(ticket, lease.queued_at).time_ms,
                step,
                round(REPORT_PATIENCE_S * 1000),
                _REPORT_TTL_MS,
            ),
            durable=step == "begin",
            patient=False,
        )
        return cast("WriteStatus", cast("bytes", reply).decode())
