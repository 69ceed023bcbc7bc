"""Tests of the oracle: it finds each kind of planted loss, duplicate and leftover."""

import json
from typing import Any

from msgspec.structs import replace

from tests.faults.oracle import (
    LeftoverState,
    SentDelivery,
    StreamRecord,
    check_deliveries,
    find_wrong_reports,
)
from tests.faults.record_reader import parse_record


def make_delivery(number: int, job: str, *, epoch: int = 0) -> SentDelivery:
    """Return a delivery with one response 202 and one 200."""
    return SentDelivery(name=f"d{number}", job=job, epoch=epoch, queued=1, duplicates=1)


def make_record(position: int, job: str, revision: int = 1, *, epoch: int = 0) -> StreamRecord:
    """Return a correct record of a job."""
    return StreamRecord(
        entry=(position, 0),
        id=f"{job}:{revision}",
        job=job,
        revision=revision,
        digest=f"{revision}".encode(),
        epoch=epoch,
    )


DELIVERIES = [make_delivery(1, "id:a"), make_delivery(2, "id:b"), make_delivery(3, "id:a", epoch=1)]
RECORDS = [make_record(1, "id:a"), make_record(2, "id:b"), make_record(3, "id:a", 2, epoch=1)]


def test_correct_run_is_clean() -> None:
    """Each job has its record, one of them two revisions, and nothing is left."""
    report = check_deliveries(DELIVERIES, RECORDS, LeftoverState())
    assert report.is_clean
    assert (report.accepted, report.jobs, report.records) == (3, 2, 3)


def test_missing_record_is_lost() -> None:
    """An accepted job without any record or ticket is lost."""
    report = check_deliveries(DELIVERIES, [RECORDS[0], RECORDS[2]], LeftoverState())
    assert report.lost == ["id:b"]
    assert not report.is_clean


def test_record_older_than_last_event_is_stale() -> None:
    """A second event without a new fetch leaves the last record stale."""
    report = check_deliveries(DELIVERIES, RECORDS[:2], LeftoverState())
    assert (report.lost, report.stale) == ([], ["id:a"])
    assert not report.is_clean


def test_unaccepted_delivery_is_not_lost() -> None:
    """A sender without a 2xx response has no promise."""
    refused = SentDelivery(name="d9", job="id:c", epoch=0)
    assert check_deliveries([*DELIVERIES, refused], RECORDS, LeftoverState()).is_clean


def test_repeated_record_is_duplicated() -> None:
    """The oracle finds a repeated id, repeated content in a row, and a missing revision."""
    repeated = replace(RECORDS[1], entry=(9, 0))
    assert (
        "id:b:1" in check_deliveries(DELIVERIES, [*RECORDS, repeated], LeftoverState()).duplicated
    )
    same = replace(make_record(9, "id:b", 2), digest=RECORDS[1].digest)
    assert check_deliveries(DELIVERIES, [*RECORDS, same], LeftoverState()).duplicated == ["id:b"]
    gap = make_record(9, "id:b", 3)
    assert check_deliveries(DELIVERIES, [*RECORDS, gap], LeftoverState()).duplicated == ["id:b"]


def test_record_without_delivery_is_unrequested() -> None:
    """No delivery asked for the job of this record."""
    assert check_deliveries(
        DELIVERIES, [*RECORDS, make_record(9, "id:z")], LeftoverState()
    ).unrequested == ["id:z"]


def test_leftover_ticket_is_stuck() -> None:
    """A backlog entry without a ticket is stuck, and a ticket without a backlog entry too."""
    assert check_deliveries(
        DELIVERIES, RECORDS, LeftoverState(backlog=frozenset({"id:b"}))
    ).stuck == ["id:b"]
    stuck = check_deliveries(
        DELIVERIES, RECORDS[:1], LeftoverState(tickets=frozenset({"id:b", "id:a"}))
    )
    assert (stuck.stuck, stuck.lost) == (["id:a", "id:b"], [])
    assert not stuck.is_clean


def test_failed_job_is_counted_by_reason_and_not_lost() -> None:
    """A failed job has ended, unless it is still waiting too."""
    leftover = LeftoverState(failed={"id:b": "not_found"})
    report = check_deliveries(DELIVERIES, [RECORDS[0], RECORDS[2]], leftover)
    assert report.is_clean
    assert report.failed == {"not_found": 1}
    assert check_deliveries(
        DELIVERIES, RECORDS, replace(leftover, tickets=frozenset({"id:b"}))
    ).pending_and_failed == ["id:b"]


def test_delivery_queued_twice_is_found() -> None:
    """One delivery may get 202 only once."""
    repeated = replace(DELIVERIES[0], queued=2)
    assert check_deliveries([repeated, *DELIVERIES[1:]], RECORDS, LeftoverState()).queued_twice == [
        "d1"
    ]


def test_key_without_ttl_is_found() -> None:
    """Only the allowed keys need no TTL."""
    leftover = LeftoverState(keys_without_ttl=frozenset({"enriched", "reply:1"}))
    report = check_deliveries(
        DELIVERIES, RECORDS, leftover, allowed_without_ttl=frozenset({"enriched"})
    )
    assert report.keys_without_ttl == ["reply:1"]
    assert not report.is_clean


def test_deployment_that_launchdarkly_does_not_know_once_is_reported_wrongly() -> None:
    """It was not reported, or twice, or as something else, or its start after its end."""
    reported = {"a": "finished", "b": "finished", "c": "finished", "d": "failed", "e": "failed"}
    known = [
        ("a", "finished"),
        *(("c", "finished"), ("c", "finished")),
        ("d", "finished"),
        *(("e", "failed"), ("e", "started")),
        ("of a pipeline", "started"),
    ]
    assert find_wrong_reports(reported, known) == [
        "b: not reported",
        "c: finished, finished",
        "d: finished",
        "e: failed, started",
    ]


def parse_revision(
    revision: int, *, previous: str, flag_events: tuple[str, ...] = ()
) -> StreamRecord:
    """Return a record of one deployment as it is read, with another deployment before it."""
    deployment = {"id": "a0eebc99-9c0b-4ef8-0001-000000000001"}
    change: dict[str, Any] = {"previous": {"deploymentId": previous}}
    fields = {
        b"id": b"a",
        b"revision": str(revision).encode(),
        b"complete": b"true",
        b"data": json.dumps(
            {
                "deployment": deployment,
                "change": change,
                "flagEvents": [{"auditLogEntryId": event} for event in flag_events] or None,
            }
        ).encode(),
    }
    fields |= {name + b"key": b"" for name in (b"project", b"environment", b"application")}
    return replace(parse_record(f"{revision}-0".encode(), fields), id=f"a:{revision}")


def test_revision_of_the_same_content_needs_another_change() -> None:
    """A deployment that arrived late gives a later one a revision, and only one."""
    first = parse_revision(1, previous="b")
    deliveries = [make_delivery(1, first.job)]
    corrected = [first, parse_revision(2, previous="c")]
    assert check_deliveries(deliveries, corrected, LeftoverState()).is_clean
    repeated = [*corrected, parse_revision(3, previous="c")]
    report = check_deliveries(deliveries, repeated, LeftoverState())
    assert report.duplicated == [first.job]


def test_revision_of_the_same_content_may_have_another_flag_event() -> None:
    """What happened to a flag gives a deployment a revision; no record has an event twice."""
    first = parse_revision(1, previous="b")
    deliveries = [make_delivery(1, first.job)]
    released = [first, parse_revision(2, previous="b", flag_events=("x",))]
    report = check_deliveries(deliveries, released, LeftoverState())
    assert report.is_clean
    assert report.with_flag_events == 1
    repeated = [*released, parse_revision(3, previous="b", flag_events=("x", "x"))]
    report = check_deliveries(deliveries, repeated, LeftoverState())
    assert report.duplicated == ["a:3"]
