"""Does the oracle see what is lost, twice or left over? Each planted by hand."""

from msgspec.structs import replace

from tests.faults.oracle import Delivery, Left, Record, judge


def deliver(number: int, job: str, *, epoch: int = 0) -> Delivery:
    """Make a delivery that was queued once and known again once."""
    return Delivery(name=f"d{number}", job=job, epoch=epoch, queued=1, duplicates=1)


def publish(place: int, job: str, revision: int = 1, *, epoch: int = 0) -> Record:
    """Make the record of a job as it should be."""
    return Record(
        entry=(place, 0),
        id=f"{job}:{revision}",
        job=job,
        revision=revision,
        digest=f"{revision}".encode(),
        epoch=epoch,
    )


DELIVERIES = [deliver(1, "id:a"), deliver(2, "id:b"), deliver(3, "id:a", epoch=1)]
RECORDS = [publish(1, "id:a"), publish(2, "id:b"), publish(3, "id:a", 2, epoch=1)]


def test_what_is_as_it_should_be_is_clean() -> None:
    """Each job has its record, one of them two revisions, and nothing is left."""
    judgement = judge(DELIVERIES, RECORDS, Left())
    assert judgement.is_clean
    assert (judgement.accepted, judgement.jobs, judgement.records) == (3, 2, 3)


def test_a_planted_loss_is_found() -> None:
    """A job that was accepted, and of which there is nothing anywhere, is lost."""
    judgement = judge(DELIVERIES, [RECORDS[0], RECORDS[2]], Left())
    assert judgement.lost == ["id:b"]
    assert not judgement.is_clean


def test_an_event_that_was_swallowed_is_found() -> None:
    """A second event after which nobody looked again leaves the last record stale."""
    judgement = judge(DELIVERIES, RECORDS[:2], Left())
    assert (judgement.lost, judgement.stale) == ([], ["id:a"])
    assert not judgement.is_clean


def test_what_was_never_accepted_is_not_lost() -> None:
    """Nothing was promised to a sender that got no 2xx."""
    refused = Delivery(name="d9", job="id:c", epoch=0)
    assert judge([*DELIVERIES, refused], RECORDS, Left()).is_clean


def test_a_planted_duplicate_is_found() -> None:
    """The same id twice, the same content twice in a row, or a revision left out."""
    twice = replace(RECORDS[1], entry=(9, 0))
    assert "id:b:1" in judge(DELIVERIES, [*RECORDS, twice], Left()).duplicated
    same = replace(publish(9, "id:b", 2), digest=RECORDS[1].digest)
    assert judge(DELIVERIES, [*RECORDS, same], Left()).duplicated == ["id:b"]
    gap = publish(9, "id:b", 3)
    assert judge(DELIVERIES, [*RECORDS, gap], Left()).duplicated == ["id:b"]


def test_a_record_of_what_nobody_asked_for_is_found() -> None:
    """It was invented on the way."""
    assert judge(DELIVERIES, [*RECORDS, publish(9, "id:z")], Left()).invented == ["id:z"]


def test_a_planted_stuck_ticket_is_found() -> None:
    """In the backlog without a ticket, or a ticket without a place in it."""
    assert judge(DELIVERIES, RECORDS, Left(backlog=frozenset({"id:b"}))).stuck == ["id:b"]
    stuck = judge(DELIVERIES, RECORDS[:1], Left(tickets=frozenset({"id:b", "id:a"})))
    assert (stuck.stuck, stuck.lost) == (["id:a", "id:b"], [])
    assert not stuck.is_clean


def test_what_failed_is_counted_by_reason_and_not_lost() -> None:
    """Among the failed is an end too, but not while it waits as well."""
    left = Left(failed={"id:b": "not_found"})
    judgement = judge(DELIVERIES, [RECORDS[0], RECORDS[2]], left)
    assert judgement.is_clean
    assert judgement.failed == {"not_found": 1}
    assert judge(DELIVERIES, RECORDS, replace(left, tickets=frozenset({"id:b"}))).both == ["id:b"]


def test_a_delivery_queued_twice_is_found() -> None:
    """One delivery is told 202 once."""
    twice = replace(DELIVERIES[0], queued=2)
    assert judge([twice, *DELIVERIES[1:]], RECORDS, Left()).twice_queued == ["d1"]


def test_a_key_that_would_stay_for_ever_is_found() -> None:
    """But for those that may."""
    left = Left(lasting=frozenset({"enriched", "claim:1"}))
    judgement = judge(DELIVERIES, RECORDS, left, may_last=frozenset({"enriched"}))
    assert judgement.lasting == ["claim:1"]
    assert not judgement.is_clean
