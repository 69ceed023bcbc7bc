"""When is a published deployment looked at again? Numbers in, a plan out.

LaunchDarkly joins pull requests and flags to a deployment late. So each is looked at again some
times after the record of its webhook, and a webhook that comes later begins that anew.
"""

from collections.abc import Sequence

from msgspec import Struct
from msgspec.structs import replace

from service.backlog.ticket import Lease, Look, store_ticket

_GROWN_MS = 86_400_000


class Plan(Struct, frozen=True, kw_only=True):
    """What follows on a look, or on the first record. Times are Redis ms.

    ``taken`` counts the looks until now. ``due`` is the next one, ``until`` the last that is
    planned, ``ticket`` what to look with; both times are None when no more will follow.
    """

    taken: int = 0
    since: int = 0
    due: int | None = None
    until: int | None = None
    ticket: bytes = b""


def choose_schedule(schedule: Sequence[int], *, ended_at: int | None, now_ms: int) -> Sequence[int]:
    """Give the schedule of a deployment: none if it ended so long ago that it is in its final form.

    So a past that is queued anew does not cost each of its looks.
    """
    grown_ms = max([_GROWN_MS, *schedule[-1:]])
    return () if ended_at is not None and ended_at < now_ms - grown_ms else schedule


def plan_looks(
    schedule: Sequence[int], lease: Lease, deployment_id: str, *, now_ms: int, unfinished: bool
) -> Plan:
    """Plan what follows on this lease; ``schedule`` is ms after the first record, ascending.

    What came late skips the looks that it missed. One that had not ended is looked at each time
    that as much time has passed again, but no longer than the others.
    """
    look = lease.ticket.look
    taken, since = (0, now_ms) if look is None else (look.taken + 1, look.since)
    elapsed = now_ms - since
    ahead = [moment for moment in schedule if moment > elapsed]
    if not ahead:
        return Plan(taken=taken, since=since)
    soon = max(2 * elapsed, schedule[0])
    ticket = replace(lease.ticket, attempts=0, reason=None, look=Look(taken, since))
    return Plan(
        taken=taken,
        since=since,
        due=since + (min(ahead[0], soon) if unfinished else ahead[0]),
        until=since + schedule[-1],
        ticket=store_ticket(ticket, job=f"id:{deployment_id}", queued_at=lease.queued_at),
    )
