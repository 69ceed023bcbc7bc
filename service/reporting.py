"""Reporting: reports a deployment to LaunchDarkly under its lease, once, whatever dies between."""

from collections.abc import Awaitable, Callable

from msgspec import Struct
from msgspec.structs import replace

from service.backlog.leases import HeldLease, LeaseKeeper
from service.backlog.reports import Reports, WriteStatus
from service.backlog.ticket import (
    Lease,
    ReportState,
    lease_log_fields,
    select_event,
    with_ticket,
)
from service.enrich.reporter import Reporter
from service.enrich.verdict import Ended, Fail, Retry, Unreported
from service.log import EventLogger

UntilAccepted = Callable[
    [HeldLease, Callable[[float], Awaitable[WriteStatus]]], Awaitable[WriteStatus]
]
"""Calls a function with the fence of a lease until Redis accepts its write."""


class Reporting(Struct, frozen=True):
    """The steps of a report: acquire a call, write the report, post the event, write the answer.

    After the first write, the held lease says that the deployment may have been reported. So a
    worker that stops puts that back with the ticket.
    """

    reports: Reports
    reporter: Reporter
    log: EventLogger

    async def report(
        self,
        held_lease: HeldLease,
        verdict: Unreported,
        *,
        lease_keeper: LeaseKeeper,
        until_accepted: UntilAccepted,
        read_now_ms: Callable[[], int],
    ) -> Retry | Fail | Ended:
        """Report one event of a lease to LaunchDarkly, and return the verdict on it.

        ``read_now_ms`` returns the time of Redis, as far as this process knows it.
        """
        index = verdict.event_index

        async def write(
            report: ReportState, step: Callable[[Lease], Awaitable[WriteStatus]]
        ) -> WriteStatus:
            lease = select_event(_lease_of(held_lease), index)
            held_lease.lease = with_ticket(lease, replace(lease.ticket, report=report))
            status = await until_accepted(
                held_lease, lambda fence: step(replace(_lease_of(held_lease), fence=fence))
            )
            lease_keeper.resume_renewing(held_lease)
            return status

        lease = select_event(_lease_of(held_lease), index)
        before = lease.ticket.report or ReportState()
        await self.reporter.acquire(lease)
        status = await write(replace(before, reported_at=read_now_ms()), self.reports.begin)
        if status != "written":
            held_lease.lease = with_ticket(_lease_of(held_lease), lease.ticket)
            return Ended(index) if status == "late" else self.reporter.decide_busy(lease)
        answer = await self.reporter.post(select_event(_lease_of(held_lease), index))
        report = answer.report
        if report.reported_at:
            report = replace(report, reported_at=read_now_ms())
        await write(report, self.reports.finish)
        if report.is_stored:
            lease = select_event(_lease_of(held_lease), index)
            held_lease.lease = with_ticket(lease, replace(lease.ticket, attempts=0))
            self.log.info(
                "deployment_reported", **lease_log_fields(lease), outcome=lease.ticket.outcome
            )
        return answer.verdict


def _lease_of(held_lease: HeldLease) -> Lease:
    lease = held_lease.lease
    assert isinstance(lease, Lease)  # noqa: S101 - a corrupt ticket is never reported
    return lease
