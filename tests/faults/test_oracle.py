"""Does the oracle see what is lost, twice or left over? Each planted by hand."""

from msgspec.structs import replace

from tests.faults.oracle import LeftoverState, PublishedRecord, SentDelivery, check_deliveries


def make_delivery(number: int, job: str, *, epoch: int = 0) -> SentDelivery:
    """Make a delivery that was queued once and known again once."""
    return SentDelivery(name=f"d{number}", job=job, epoch=epoch, queued=1, duplicates=1)


def make_record(position: int, job: str, revision: int = 1, *, epoch: int = 0) -> PublishedRecord:
    """Make the record of a job as it should be."""
    return PublishedRecord(
        entry=(position, 0),
        id=f"{job}:{revision}",
        job=job,
        revision=revision,
        digest=f"{revision}".encode(),
        epoch=epoch,
    )


DELIVERIES = [make_delivery(1, "id:a"), make_delivery(2, "id:b"), make_delivery(3, "id:a", epoch=1)]
RECORDS = [make_record(1, "id:a"), make_record(2, "id:b"), make_record(3, "id:a", 2, epoch=1)]


def test_what_is_as_it_should_be_is_clean() -> None:
    """Each job has its record, one of them two revisions, and nothing is left."""
    report = check_deliveries(DELIVERIES, RECORDS, LeftoverState())
    assert report.is_clean
    assert (report.accepted, report.jobs, report.records) == (3, 2, 3)


def test_a_planted_loss_is_found() -> None:
    """A job that was accepted, and of which there is nothing anywhere, is lost."""
    report = check_deliveries(DELIVERIES, [RECORDS[0], RECORDS[2]], LeftoverState())
    assert report.lost == ["id:b"]
    assert not report.is_clean


def test_an_event_that_was_swallowed_is_found() -> None:
    """A second event after which nobody looked again leaves the last record stale."""
    report = check_deliveries(DELIVERIES, RECORDS[:2], LeftoverState())
    assert (report.lost, report.stale) == ([], ["id:a"])
    assert not report.is_clean


def test_what_was_never_accepted_is_not_lost() -> None:
    """Nothing was promised to a sender that got no 2xx."""
    refused = SentDelivery(name="d9", job="id:c", epoch=0)
    assert check_deliveries([*DELIVERIES, refused], RECORDS, LeftoverState()).is_clean


def test_a_planted_duplicate_is_found() -> None:
    """The same id twice, the same content twice in a row, or a revision left out."""
    twice = replace(RECORDS[1], entry=(9, 0))
    assert "id:b:1" in check_deliveries(DELIVERIES, [*RECORDS, twice], LeftoverState()).duplicated
    same = replace(make_record(9, "id:b", 2), digest=RECORDS[1].digest)
    assert check_deliveries(DELIVERIES, [*RECORDS, same], LeftoverState()).duplicated == ["id:b"]
    gap = make_record(9, "id:b", 3)
    assert check_deliveries(DELIVERIES, [*RECORDS, gap], LeftoverState()).duplicated == ["id:b"]


def test_a_record_of_what_nobody_asked_for_is_found() -> None:
    """It was invented on the way."""
    assert check_deliveries(
        DELIVERIES, [*RECORDS, make_record(9, "id:z")], LeftoverState()
    ).unrequested == ["id:z"]


def test_a_planted_stuck_ticket_is_found() -> None:
    """In the backlog without a ticket, or a ticket without a place in it."""
    assert check_deliveries(
        DELIVERIES, RECORDS, LeftoverState(backlog=frozenset({"id:b"}))
    ).stuck == ["id:b"]
    stuck = check_deliveries(
        DELIVERIES, RECORDS[:1], LeftoverState(tickets=frozenset({"id:b", "id:a"}))
    )
    assert (stuck.stuck, stuck.lost) == (["id:a", "id:b"], [])
    assert not stuck.is_clean


def test_what_failed_is_counted_by_reason_and_not_lost() -> None:
    """Among the failed is an end too, but not while it waits as well."""
    leftover = LeftoverState(failed={"id:b": "not_found"})
    report = check_deliveries(DELIVERIES, [RECORDS[0], RECORDS[2]], leftover)
    assert report.is_clean
    assert report.failed == {"not_found": 1}
    assert check_deliveries(
        DELIVERIES, RECORDS, replace(leftover, tickets=frozenset({"id:b"}))
    ).pending_and_failed == ["id:b"]


def test_a_delivery_queued_twice_is_found() -> None:
    """One delivery is told 202 once."""
    twice = replace(DELIVERIES[0], queued=2)
    assert check_deliveries([twice, *DELIVERIES[1:]], RECORDS, LeftoverState()).queued_twice == [
        "d1"
    ]


def test_a_key_that_would_stay_for_ever_is_found() -> None:
    """But for those that may."""
    leftover = LeftoverState(keys_without_ttl=frozenset({"enriched", "reply:1"}))
    report = check_deliveries(
        DELIVERIES, RECORDS, leftover, allowed_without_ttl=frozenset({"enriched"})
    )
    assert report.keys_without_ttl == ["reply:1"]
    assert not report.is_clean
