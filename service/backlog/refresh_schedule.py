"""When is a published deployment looked at again? Numbers in, a plan out.

LaunchDarkly joins pull requests and flags to a deployment late. So each is looked at again some
times after the record of its webhook, and a webhook that comes later begins that anew.
"""

from collections.abc import Sequence

from msgspec import Struct
from msgspec.structs import replace

from service.backlog.ticket import Lease, RefreshState, new_ticket_bytes

_FINAL_AFTER_MS = 86_400_000


class RefreshPlan(Struct, frozen=True, kw_only=True):
    """What follows on a look, or on the first record. Times are Redis ms.

    ``taken`` counts the looks until now. ``due`` is the next one, ``until`` the last that is
    planned, ``ticket`` what to look with; both times are None when no more will follow.
    """

    done: int = 0
    since: int = 0
    due: int | None = None
    until: int | None = None
    ticket: bytes = b""


def schedule_for(schedule: Sequence[int], *, ended_at: int | None, now_ms: int) -> Sequence[int]:
    """Give the schedule of a deployment: none if it ended so long ago that it is in its final form.

    So a past that is queued anew does not cost each of its looks.
    """
    final_after_ms = max([_FINAL_AFTER_MS, *schedule[-1:]])
    return () if ended_at is not None and ended_at < now_ms - final_after_ms else schedule


def plan_refresh(
    schedule: Sequence[int], lease: Lease, deployment_id: str, *, now_ms: int, unfinished: bool
) -> RefreshPlan:
    """Plan what follows on this lease; ``schedule`` is ms after the first record, ascending.

    What came late skips the looks that it missed. One that had not ended is looked at each time
    that as much time has passed again, but no longer than the others.
    """
    state = lease.ticket.refresh
    done, since = (0, now_ms) if state is None else (state.done + 1, state.since)
    elapsed = now_ms - since
    upcoming = [after_ms for after_ms in schedule if after_ms > elapsed]
    if not upcoming:
        return RefreshPlan(done=done, since=since)
    doubled_ms = max(2 * elapsed, schedule[0])
    ticket = replace(lease.ticket, attempts=0, reason=None, refresh=RefreshState(done, since))
    return RefreshPlan(
        done=done,
        since=since,
        due=since + (min(upcoming[0], doubled_ms) if unfinished else upcoming[0]),
        until=since + schedule[-1],
        ticket=new_ticket_bytes(ticket, job=f"id:{deployment_id}", queued_at=lease.queued_at),
    )
