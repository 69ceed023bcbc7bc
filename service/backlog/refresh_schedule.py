"""The refresh schedule: when a published deployment is fetched again.

LaunchDarkly adds pull requests and flags to a deployment late. So the worker fetches each
deployment again several times after the first record. A later webhook restarts the schedule.
"""

from collections.abc import Sequence

from msgspec import Struct
from msgspec.structs import replace

from service.backlog.ticket import Lease, RefreshState, new_ticket_bytes

_FINAL_AFTER_MS = 86_400_000
_ASK_AGAIN_AFTER_MS = 900_000  # LaunchDarkly computes an impact within some ten minutes


class RefreshPlan(Struct, frozen=True, kw_only=True):
    """What follows a refresh, or the first record. Times are Redis ms.

    ``done`` counts the refreshes so far. ``since`` is when the schedule started. ``due`` is the
    next refresh and ``until`` the last one; both are None if no refresh follows. ``ticket`` is the
    stored ticket of the next refresh.
    """

    done: int = 0
    since: int = 0
    due: int | None = None
    until: int | None = None
    ticket: bytes = b""


def schedule_for(schedule: Sequence[int], *, ended_at: int | None, now_ms: int) -> Sequence[int]:
    """Return the schedule of a deployment; empty if it ended so long ago that it is final.

    A backfill of old deployments therefore costs no refreshes.
    """
    final_after_ms = max([_FINAL_AFTER_MS, *schedule[-1:]])
    return () if ended_at is not None and ended_at < now_ms - final_after_ms else schedule


def plan_refresh(
    schedule: Sequence[int],
    lease: Lease,
    deployment_id: str,
    *,
    now_ms: int,
    unfinished: bool,
    may_change: bool = False,
) -> RefreshPlan:
    """Return the plan after this lease; ``schedule`` is ms after the first record, ascending.

    A late refresh skips those that it missed. An unfinished deployment is fetched again each time
    that the elapsed time has doubled, but not later than the schedule says. If the
    result of the last refresh ``may_change`` soon, one extra refresh follows.
    """
    state = lease.ticket.refresh
    done, since = (0, now_ms) if state is None else (state.done + 1, state.since)
    elapsed = now_ms - since
    upcoming = [after_ms for after_ms in schedule if after_ms > elapsed]
    if upcoming:
        doubled_ms = max(2 * elapsed, schedule[0])
        due = since + (min(upcoming[0], doubled_ms) if unfinished else upcoming[0])
        until, is_last = since + schedule[-1], False
    elif may_change and state is not None and not state.is_last:
        due = until = now_ms + _ASK_AGAIN_AFTER_MS
        is_last = True
    else:
        return RefreshPlan(done=done, since=since)
    state = RefreshState(done, since, is_last)
    ticket = replace(lease.ticket, attempts=0, reason=None, taken=(), refresh=state)
    return RefreshPlan(
        done=done,
        since=since,
        due=due,
        until=until,
        ticket=new_ticket_bytes(ticket, job=f"id:{deployment_id}", queued_at=lease.queued_at),
    )
