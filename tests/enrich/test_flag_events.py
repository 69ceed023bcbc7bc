"""Tests of flag events: which are read, kept and selected, whatever LaunchDarkly sends."""

import json
from typing import Any

import jsonschema
import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from msgspec import Raw

from service.client.entry import Record, parse_entry
from service.contracts import build_record_schema
from service.enrich.flag_events import (
    MAX_EVENT_BYTES,
    UNREADABLE_EVENT,
    FlagEventCollector,
    FlagEventsFound,
    ListedFlagEvent,
    find_start,
    find_touched_flags,
    parse_flag_event,
    round_start,
    select_flag_events,
)
from service.enrich.models import (
    Deployment,
    DeploymentPage,
    PartialDeployment,
    parse_deployment,
    parse_deployment_page,
)
from service.enrich.steps import finish_steps
from service.enrich.verdict import Found
from service.publish.entry import BEFORE_REVISION, Entry, EntryBuilder
from tests.enrich.test_lenient_decoder import JSON
from tests.factories import make_lease, make_ticket

NOW = 1_795_428_000_000
MINUTE = 60_000
EMAIL = "grace.hopper@example.com"
EVENT: dict[str, Any] = {
    "id": "e3b2b0e0-9e9b-4c9a-8e9a-000000000001",
    "projectId": "65baa44ecc4b5bce113bb4f7",
    "projectKey": "default",
    "environmentKey": "production",
    "flagKey": "dark-mode",
    "eventType": "enabled_targeting",
    "eventTime": NOW,
    "description": "Turned on targeting",
    "auditLogEntryId": "entry-1",
    "member": {"id": "m", "email": EMAIL, "firstName": "Grace", "lastName": "Hopper"},
    "actions": ["updateOn"],
    "impact": {"size": "small", "percentage": 7.5, "reason": "evaluations", "novel": [1]},
}
VALIDATOR = jsonschema.Draft202012Validator(build_record_schema())
FIELDS = [*EVENT, "member.email", "impact.reason", "impact.percentage"]


def make_item(**changes: Any) -> Raw:
    """Return one item of a list as JSON."""
    return Raw(json.dumps(EVENT | changes).encode())


def parse(item: Raw, *, with_member: bool = False) -> ListedFlagEvent:
    """Return the event of an item that can be used."""
    event = parse_flag_event(item, with_member=with_member)
    assert event is not None
    return event


def make_deployment(**fields: Any) -> Deployment:
    """Return a deployment from its JSON."""
    deployment = parse_deployment(json.dumps({"id": "a"} | fields).encode())
    assert isinstance(deployment, Deployment | PartialDeployment)
    return deployment


def references(*flags: str | None, project: str | None = "default") -> dict[str, Any]:
    """Return a collection of references to flags of one project."""
    return {"items": [{"projectKey": project, "flagKey": flag} for flag in flags]}


def build_data(found: FlagEventsFound) -> bytes:
    """Return the data of a record with these flag events, as the script appends it."""
    deployment = make_deployment()
    lease = make_lease(make_ticket())
    entry = EntryBuilder().build(
        Found(deployment=deployment, chunks=(b'{"id":"a"}',), flag_events=found), lease, now_ms=5
    )
    assert isinstance(entry, Entry)
    return BEFORE_REVISION + b"1" + entry.data_after_revision


def test_event_keeps_the_impact_as_sent_and_drops_the_member() -> None:
    """Unknown fields inside the impact reach the reader."""
    event = parse(make_item())
    assert (event.flag_key, event.event_type, event.event_time) == (
        "dark-mode",
        "enabled_targeting",
        NOW,
    )
    assert msgspec.json.decode(event.impact) == EVENT["impact"]
    assert event.member is None
    with_member = parse(make_item(), with_member=True).member
    assert with_member is not None
    assert with_member.email == EMAIL


def test_description_without_members_does_not_name_the_member() -> None:
    """The address is cut out of the text, too."""
    item = make_item(description=f"{EMAIL} turned on targeting")
    assert parse(item).description == "(member) turned on targeting"
    assert EMAIL in (parse(item, with_member=True).description or "")


@pytest.mark.parametrize("impact", [None, 7, "waiting", [], [{"reason": "waiting"}]])
def test_impact_of_another_type_is_null(impact: Any) -> None:
    """It is no object, so no reader could use it."""
    event = parse(make_item(impact=impact))
    assert bytes(event.impact) == b"null"
    assert not event.is_waiting


@pytest.mark.parametrize(
    ("impact", "is_waiting"),
    [({"reason": "waiting"}, True), ({"reason": "global"}, False), ({"reason": 7}, False)],
)
def test_event_is_waiting_while_its_impact_says_so(impact: Any, *, is_waiting: bool) -> None:
    """A reason of another type is no reason."""
    assert parse(make_item(impact=impact)).is_waiting is is_waiting


@pytest.mark.parametrize(
    "item",
    [
        Raw(b"null"),
        Raw(b"[]"),
        Raw(b"{}"),
        make_item(flagKey=7),
        make_item(flagKey=""),
        make_item(eventTime="noon"),
        make_item(eventTime=None),
        make_item(description="x" * MAX_EVENT_BYTES),
        Raw(b'{"flagKey":' + b"[" * 5000 + b"]" * 5000 + b"}"),
    ],
)
def test_event_without_flag_or_time_or_too_large_is_left_out(item: Raw) -> None:
    """It belongs to no deployment; the list says so."""
    assert parse_flag_event(item, with_member=True) is None
    collector = make_collector()
    collector.add_page([item, make_item()])
    assert collector.reason == UNREADABLE_EVENT
    assert len(collector.list_by_flag()["dark-mode"]) == 1


@given(st.lists(st.tuples(st.sampled_from(FIELDS), JSON), max_size=4), st.booleans())
@example([("impact.reason", "waiting"), ("member", "x")], False)
@example([("eventTime", "1795428000000")], True)
def test_any_json_in_any_field_makes_a_valid_record(
    changes: list[tuple[str, Any]], with_members: bool
) -> None:
    """The event is in the record, or left out; schema and client read the record."""
    item = json.loads(json.dumps(EVENT))
    for path, value in changes:
        *parents, name = path.split(".")
        target = item[parents[0]] if parents else item
        if isinstance(target, dict):
            target[name] = value
    collector = make_collector(with_members=with_members)
    collector.add_page([Raw(json.dumps(item).encode())])
    events = tuple(event for events in collector.list_by_flag().values() for event in events)
    data = build_data(FlagEventsFound(events, reason=collector.reason))
    VALIDATOR.validate(json.loads(data))
    record = parse_entry(b"1-0", [b"id", b"x:1", b"data", data])
    assert isinstance(record, Record)
    assert record.data.flag_events is not None
    assert len(record.data.flag_events) == len(events)
    assert with_members or "memberEmail" not in data.decode()


ITEMS = st.lists(JSON | st.fixed_dictionaries({}, optional=dict.fromkeys(EVENT, JSON)), max_size=4)
PAGES = st.fixed_dictionaries(
    {"items": JSON | ITEMS}, optional={"totalCount": JSON, "_links": JSON, "novel": JSON}
)


@given(st.binary(max_size=40) | (PAGES | JSON).map(lambda page: json.dumps(page).encode()))
def test_any_page_is_read_or_refused(body: bytes) -> None:
    """Whatever its items are, those that can be used are kept."""
    page = parse_deployment_page(body)
    collector = make_collector()
    if isinstance(page, DeploymentPage):
        collector.add_page(page.items or ())
        assert collector.item_count == len(page.items or ())
    by_flag = collector.list_by_flag()
    selected = select_flag_events(by_flag, {*by_flag}, since_ms=-(2**63))
    assert len(selected) == sum(map(len, by_flag.values()))


def make_collector(
    *, with_members: bool = False, max_events: int = 100, max_bytes: int = 1 << 20
) -> FlagEventCollector:
    """Return a collector of the environment that the events are of."""
    return FlagEventCollector(
        "production", with_members=with_members, max_events=max_events, max_bytes=max_bytes
    )


def test_collector_keeps_each_event_of_the_environment_once_in_order_of_time() -> None:
    """Pages may overlap; an event of another environment is none of ours."""
    collector = make_collector()
    later, earlier = make_item(), make_item(id="2", eventTime=NOW - 1)
    assert collector.add_page([later, make_item(id="3", environmentKey="staging")])
    assert collector.add_page([later, earlier])
    assert not collector.add_page([earlier])
    assert [event.event_time for event in collector.list_by_flag()["dark-mode"]] == [NOW - 1, NOW]
    assert collector.reason is None


@pytest.mark.parametrize(("max_events", "max_bytes"), [(3, 1 << 20), (100, 1000)])
def test_collector_stops_at_its_limit_and_says_so(max_events: int, max_bytes: int) -> None:
    """A page of any length is read no further."""
    collector = make_collector(max_events=max_events, max_bytes=max_bytes)
    collector.add_page([make_item(id=str(number)) for number in range(10)])
    assert 0 < len(collector.list_by_flag()["dark-mode"]) < 10
    assert "more than" in (collector.reason or "")


def test_touched_flags_are_those_of_the_deployment_and_its_pull_requests() -> None:
    """References to flags of another or an unknown project do not count."""
    deployment = make_deployment(
        flagReferences=references("a", None, ""),
        pullRequests={
            "items": [
                None,
                {"flagReferences": references("b")},
                {"flagReferences": references("c", project="other")},
                {"flagReferences": references("d", project=None)},
                {"flagReferences": {"items": None}},
                {},
            ]
        },
    )
    assert finish_steps(find_touched_flags(deployment, "default")) == {"a", "b"}
    assert finish_steps(find_touched_flags(make_deployment(), "default")) == set()


def test_selected_events_are_of_touched_flags_since_the_start() -> None:
    """They are in order of time, across flags."""
    by_flag = {
        "a": (parse(make_item(id="1", flagKey="a", eventTime=5)),),
        "b": (
            parse(make_item(id="2", flagKey="b", eventTime=3)),
            parse(make_item(id="3", flagKey="b", eventTime=9)),
        ),
        "c": (parse(make_item(id="4", flagKey="c", eventTime=6)),),
    }
    selected = select_flag_events(by_flag, {"a", "b", "unseen"}, since_ms=4)
    assert [event.id for event in selected] == ["1", "3"]


def test_events_belong_to_a_deployment_from_its_end_on() -> None:
    """Without an end of LaunchDarkly, from the webhook's; before the end there are none."""
    ended = make_deployment(endedAt=7, status="finished")
    assert find_start(ended, reported_at=8, published_at=9) == 7
    without_end = make_deployment(status="finished")
    assert find_start(without_end, reported_at=8, published_at=9) == 8
    assert find_start(without_end, reported_at=None, published_at=9) == 9
    assert find_start(make_deployment(status="started"), reported_at=8, published_at=9) is None
    assert find_start(make_deployment(endedAt=-(2**63)), reported_at=8, published_at=9) == 1


@given(st.integers(1, 2**62))
def test_rounded_start_is_not_later(since_ms: int) -> None:
    """A list for it has every event that is needed."""
    assert 1 <= round_start(since_ms, now_ms=NOW) <= max(since_ms, 1)


def test_starts_of_a_day_share_few_lists() -> None:
    """Deployments of the same age class need the same list."""
    starts = {round_start(NOW - minutes * MINUTE, now_ms=NOW) for minutes in range(24 * 60)}
    assert len(starts) <= 10
