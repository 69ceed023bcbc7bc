"""Tests of the reports in tickets: written under the lease, and a start never after its end."""

from collections.abc import AsyncIterator
from typing import Any

import pytest
from msgspec.structs import replace
from redis.asyncio import Redis

from service.backlog import reports as reports_module
from service.backlog.backlog import Backlog
from service.backlog.reports import Reports
from service.backlog.ticket import Lease, ReportState, list_events, with_ticket
from service.store.group_commit import GroupCommit
from service.store.keys import Keys
from tests.factories import make_event

NOW = 1_795_428_000_000


@pytest.fixture
async def reports(group_commit: GroupCommit, redis: Redis, keys: Keys) -> AsyncIterator[Reports]:
    """Return the reports of the namespace; drop the tickets that a test leaves."""
    yield Reports(group_commit, keys=keys)
    await redis.delete(keys.backlog, keys.tickets)


async def add_and_claim(backlog: Backlog, delivery: str, **fields: Any) -> Lease:
    """Add an event of one version of a source with report, and lease its ticket."""
    event_fields = {"deployment_id": None, "version": "1", "report": True, "event_time": NOW}
    await backlog.add(make_event(1, delivery=delivery, **(event_fields | fields)))
    (lease,) = (await backlog.claim(1)).leases
    assert isinstance(lease, Lease)
    return lease


def with_report(lease: Lease, **fields: Any) -> Lease:
    """Return the lease with a new state of its report."""
    report = replace(lease.ticket.report or ReportState(), **fields)
    return with_ticket(lease, replace(lease.ticket, report=report))


async def test_report_is_in_the_ticket_of_the_next_holder(
    backlog: Backlog, reports: Reports
) -> None:
    """Whatever became of the worker that wrote it."""
    lease = with_report(await add_and_claim(backlog, "a"), reported_at=7)
    assert await reports.begin(lease) == "written"
    assert await reports.begin(lease) == "written"  # the reply was lost
    await backlog.postpone(lease, lease.ticket, delay_s=0)
    (again,) = (await backlog.claim(1)).leases
    assert isinstance(again, Lease)
    assert again.ticket.report == ReportState(reported_at=7)


async def test_event_that_arrives_meanwhile_stays(backlog: Backlog, reports: Reports) -> None:
    """The report is written although the ticket has a newer event by then."""
    lease = with_report(await add_and_claim(backlog, "a"), reported_at=7)
    later = make_event(1, delivery="b", version="1", deployment_id=None, report=True)
    await backlog.add(replace(later, event_time=NOW + 60_000))
    assert await reports.begin(lease) == "written"
    stored = with_report(lease, is_stored=True)
    assert await reports.finish(stored) == "written"
    assert await backlog.postpone(stored, stored.ticket, delay_s=60) == "superseded"
    (again,) = (await backlog.claim(1)).leases
    assert isinstance(again, Lease)
    events = [(event.ticket.delivery, event.ticket.report) for event in list_events(again)]
    assert events == [
        ("a", ReportState(reported_at=7, is_stored=True)),
        ("b", ReportState()),
    ]


async def test_answer_clears_the_crashes_of_the_ticket(
    backlog: Backlog, reports: Reports, redis: Redis, keys: Keys
) -> None:
    """A ticket that made its call did not kill its worker."""
    lease = await add_and_claim(backlog, "a")
    await redis.zadd(keys.backlog, {lease.job: 1000.5})  # its worker died
    (again,) = (await backlog.claim(1)).leases
    assert isinstance(again, Lease)
    assert again.crashes == 1
    reported = with_report(again, reported_at=7)
    assert await reports.begin(reported) == "written"
    stored = with_report(reported, is_stored=True)
    assert await reports.finish(stored) == "written"
    await backlog.postpone(stored, stored.ticket, delay_s=0)
    (last,) = (await backlog.claim(1)).leases
    assert isinstance(last, Lease)
    assert last.crashes == 0


async def test_lost_lease_writes_nothing(backlog: Backlog, reports: Reports) -> None:
    """Another worker may report it now."""
    lease = with_report(await add_and_claim(backlog, "a"), reported_at=7)
    await backlog.postpone(lease, replace(lease.ticket, report=ReportState()), delay_s=0)
    assert await reports.begin(lease) == "lease_lost"
    assert await reports.finish(lease) == "lease_lost"


async def test_start_after_the_report_of_its_end_is_late(
    backlog: Backlog, reports: Reports
) -> None:
    """The start of a later deployment of the version is not."""
    end = with_report(await add_and_claim(backlog, "end"), reported_at=7)
    assert await reports.begin(end) == "written"
    for time_ms, expected in ((NOW, "late"), (NOW + 1, "written")):
        start = await add_and_claim(
            backlog, f"start {time_ms}", outcome="started", event_time=time_ms
        )
        assert await reports.begin(with_report(start, reported_at=8)) == expected
        assert await reports.end_start(start) == "ended"
        assert await reports.end_start(start) == "ended"  # the reply was lost


async def test_end_waits_for_a_start_that_is_being_told(
    backlog: Backlog, reports: Reports, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Until its answer is written, or until the patience is over."""
    start = with_report(await add_and_claim(backlog, "start", outcome="started"), reported_at=7)
    assert await reports.begin(start) == "written"
    end = with_report(await add_and_claim(backlog, "end", event_time=NOW + 5), reported_at=8)
    assert await reports.begin(end) == "busy"
    monkeypatch.setattr(reports_module, "REPORT_PATIENCE_S", 0.0)
    assert await reports.begin(end) == "written"
    monkeypatch.undo()
    other = with_report(end, reported_at=9)
    assert await reports.begin(other) == "busy"
    assert await reports.finish(with_report(start, is_stored=True)) == "written"
    assert await reports.begin(other) == "written"


async def test_end_of_a_start_keeps_another_start(
    backlog: Backlog, reports: Reports, redis: Redis, keys: Keys
) -> None:
    """Two deployments of one version may have started."""
    first = await add_and_claim(backlog, "first", outcome="started")
    await backlog.add(
        make_event(
            1,
            delivery="second",
            version="1",
            deployment_id=None,
            report=True,
            outcome="started",
            event_time=NOW + 60_000,
        )
    )
    assert await reports.end_start(first) == "ended"
    (second,) = (await backlog.claim(1)).leases
    assert isinstance(second, Lease)
    assert second.ticket.delivery == "second"
    assert await reports.end_start(second) == "ended"
    assert not await redis.exists(keys.backlog, keys.tickets)
