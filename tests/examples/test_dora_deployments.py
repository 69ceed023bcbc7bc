"""Tests of what the example takes from a record: of every age, with and without what it lacks."""

from typing import Any

import pytest

from deploy.examples.dora.deployments import Deployment, Impact, parse_record
from service.client.entry import Record, parse_entry
from tests.examples.dora_records import make_change, make_fields

ENDED_AT = 1_795_428_000_000


def parse(**changes: Any) -> Deployment:
    """Return the deployment of a record of the client."""
    fields = make_fields(1, ended_at=ENDED_AT, **changes)
    flat = [item for pair in fields.items() for item in pair]
    encoded = [item.encode() if isinstance(item, str) else item for item in flat]
    record = parse_entry(b"1-0", encoded)
    assert isinstance(record, Record), record
    return parse_record(record)


def make_flag_event(**fields: Any) -> dict[str, Any]:
    """Return a flag event as a record has it."""
    event = {"flagKey": "a", "eventType": "enabled_targeting", "eventTime": ENDED_AT}
    return event | {"description": None, "impact": None, "auditLogEntryId": None} | fields


def test_record_without_the_newer_fields_is_a_deployment() -> None:
    """Older records lack change, flagEvents and links; others have null."""
    assert parse(data={"change": None, "flagEvents": None, "links": None}).change is None
    deployment = parse(data={"flagEvents": []})
    assert deployment.flag_events == ()
    assert parse(data={"change": make_change(2)}).change is not None


@pytest.mark.parametrize(
    ("sent", "expected"),
    [
        (None, Impact()),
        ("large", Impact()),
        ({"reason": "waiting", "size": "none"}, Impact(is_waiting=True)),
        ({"size": "small", "percentage": 3.5, "reason": "global"}, Impact("small", 3.5)),
        ({"size": 4, "percentage": 3}, Impact("", 3)),
        ({"size": "small", "percentage": "3"}, Impact("small")),
    ],
)
def test_impact_is_read_as_far_as_it_can_be(sent: object, expected: Impact) -> None:
    """It is LaunchDarkly's own JSON, of any type."""
    deployment = parse(data={"flagEvents": [make_flag_event(impact=sent)]})
    assert deployment.flag_events is not None
    assert [event.impact for event in deployment.flag_events] == [expected]


def test_end_of_a_deployment_is_the_webhooks_time_if_launchdarkly_names_none() -> None:
    """As the field time of the entry."""
    assert parse().ended_at == ENDED_AT
    event = {"source": "s", "delivery": "d", "receivedAt": 9, "outcome": "failed", "metadata": None}
    deployment = parse(endedAt=None, data={"event": event | {"eventTime": 8}})
    assert (deployment.ended_at, deployment.succeeded) == (8, False)
    assert parse(endedAt=None, data={"event": event | {"eventTime": None}}).ended_at == 9


def test_flag_events_are_in_order_of_time() -> None:
    """Whoever wrote them."""
    events = [make_flag_event(flagKey=key, eventTime=at) for key, at in (("b", 2), ("a", 1))]
    deployment = parse(data={"flagEvents": events})
    assert [event.flag_key for event in deployment.flag_events or ()] == ["a", "b"]
