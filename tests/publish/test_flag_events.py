"""Tests of flag events in records: their form, and when they make a revision."""

import json
from typing import Any

import pytest
from msgspec import Raw

from service.backlog.backlog import Backlog
from service.backlog.ticket import Lease, RefreshState
from service.enrich.flag_events import FlagEventMember, FlagEventsFound, ListedFlagEvent
from service.enrich.models import Deployment, parse_deployment
from service.enrich.verdict import Fail, Found
from service.publish.entry import BEFORE_REVISION, Entry, EntryBuilder
from service.publish.stream import OutputStream, PublishResult, RetentionConfig
from service.store.group_commit import GroupCommit
from service.store.keys import Keys
from tests.factories import deployment_id, make_event, make_lease, make_ticket

NOW = 1_795_428_000_000
SCHEDULE = (120_000, 900_000)
EVENT = ListedFlagEvent(
    id="1",
    flag_key="dark-mode",
    event_type="enabled_targeting",
    event_time=NOW,
    description="Turned on targeting",
    audit_log_entry_id="entry-1",
    impact=Raw(b'{"reason":"waiting"}'),
)
COMPUTED = ListedFlagEvent(
    id="1", flag_key="dark-mode", event_time=NOW, impact=Raw(b'{"size":"large"}')
)


def build_entry(
    flag_events: FlagEventsFound | None, *, lease: Lease | None = None, content: int = 1
) -> Entry:
    """Return the entry of a deployment with these flag events."""
    body = json.dumps({"id": deployment_id(), "linesAdded": content}).encode()
    deployment = parse_deployment(body)
    assert isinstance(deployment, Deployment)
    lease = lease or make_lease(make_ticket(), now=NOW)
    found = Found(deployment=deployment, chunks=(body,), flag_events=flag_events)
    entry = EntryBuilder(refresh_schedule=SCHEDULE).build(found, lease, now_ms=lease.now)
    assert isinstance(entry, Entry)
    return entry


def decode_data(entry: Entry) -> Any:
    """Return the data of an entry, its revision inserted."""
    return json.loads(BEFORE_REVISION + b"1" + entry.data_after_revision)


def test_record_without_flag_events_says_that_nobody_asked() -> None:
    """The field is null, and completeness does not mention them."""
    data = decode_data(build_entry(None))
    assert data["flagEvents"] is None
    assert "flagEvents" not in data["completeness"]


def test_record_holds_the_documented_fields() -> None:
    """The impact is LaunchDarkly's own JSON; the member is absent unless it was read."""
    data = decode_data(build_entry(FlagEventsFound((EVENT,))))
    assert data["flagEvents"] == [
        {
            "flagKey": "dark-mode",
            "eventType": "enabled_targeting",
            "eventTime": NOW,
            "description": "Turned on targeting",
            "impact": {"reason": "waiting"},
            "auditLogEntryId": "entry-1",
        }
    ]
    assert data["completeness"]["flagEvents"] == {"complete": True}
    member = FlagEventMember("grace@example.com")
    named = ListedFlagEvent(flag_key="a", event_time=1, member=member)
    (event,) = decode_data(build_entry(FlagEventsFound((named,))))["flagEvents"]
    assert event["memberEmail"] == "grace@example.com"


def test_record_says_why_flag_events_are_missing() -> None:
    """The deployment itself is complete all the same."""
    entry = build_entry(FlagEventsFound(None, reason="HTTP 500", unsettled=True))
    data = decode_data(entry)
    assert data["flagEvents"] is None
    assert data["completeness"]["flagEvents"] == {"complete": False, "reason": "HTTP 500"}
    assert data["completeness"]["complete"]
    assert entry.complete


def test_digest_covers_flag_events_that_are_settled() -> None:
    """None, no events, and events that a fault left incomplete have the digest of the content."""
    plain = build_entry(None).digest
    assert build_entry(FlagEventsFound(())).digest == plain
    assert build_entry(FlagEventsFound((EVENT,), reason="x", unsettled=True)).digest == plain
    digests = {
        build_entry(FlagEventsFound(events)).digest
        for events in ((EVENT,), (COMPUTED,), (EVENT, COMPUTED))
    }
    assert len(digests) == 3
    assert all(digest.startswith(f"{plain}.") for digest in digests)


def test_flag_events_that_do_not_fit_are_left_out() -> None:
    """The deployment is published all the same; one that is too large by itself is not."""
    body = json.dumps({"id": deployment_id()}).encode()
    deployment = parse_deployment(body)
    assert isinstance(deployment, Deployment)
    found = Found(deployment=deployment, chunks=(body,), flag_events=FlagEventsFound((EVENT,) * 99))
    lease = make_lease(make_ticket())
    entry = EntryBuilder(max_bytes=4000).build(found, lease, now_ms=NOW)
    assert isinstance(entry, Entry)
    data = decode_data(entry)
    assert data["flagEvents"] is None
    assert "ENRICHER_MAX_RECORD_BYTES" in data["completeness"]["flagEvents"]["reason"]
    assert "." not in entry.digest
    failed = EntryBuilder(max_bytes=40).build(found, lease, now_ms=NOW)
    assert isinstance(failed, Fail)


def test_plan_after_the_last_refresh_asks_again_for_a_waiting_impact() -> None:
    """One refresh more is planned, a quarter of an hour later."""
    refresh = RefreshState(1, NOW - SCHEDULE[-1])
    lease = make_lease(make_ticket(refresh=refresh), now=NOW)
    assert build_entry(FlagEventsFound((EVENT,)), lease=lease).plan.due is None
    found = FlagEventsFound((EVENT,), may_change=True)
    entry = build_entry(found, lease=lease)
    assert entry.plan.due == NOW + 900_000
    assert decode_data(entry)["refreshes"] == {"done": 2, "until": NOW + 900_000}


class AppendHarness:
    """Appends entries of one deployment, each with a ticket of its own."""

    def __init__(self, output: OutputStream, backlog: Backlog) -> None:
        self._output = output
        self._backlog = backlog
        self._count = 0

    async def append(
        self, flag_events: FlagEventsFound | None = None, *, content: int = 1
    ) -> PublishResult:
        """Append an entry."""
        self._count += 1
        await self._backlog.add(make_event(delivery=f"d{self._count}"))
        (lease,) = (await self._backlog.claim(1)).leases
        assert isinstance(lease, Lease)
        entry = build_entry(flag_events, lease=lease, content=content)
        return await self._output.append_and_settle(entry, lease)


@pytest.fixture
def harness(group_commit: GroupCommit, keys: Keys, backlog: Backlog) -> AppendHarness:
    """Return the harness of one namespace."""
    output = OutputStream(group_commit, keys=keys, retention=RetentionConfig(60_000, 60_000))
    return AppendHarness(output, backlog)


async def test_flag_event_makes_a_revision_and_its_computed_impact_the_next(
    harness: AppendHarness,
) -> None:
    """The same events again make none."""
    waiting, computed = FlagEventsFound((EVENT,)), FlagEventsFound((COMPUTED,))
    assert await harness.append() == PublishResult("published", 1)
    assert await harness.append(FlagEventsFound(())) == PublishResult("unchanged", 1)
    assert await harness.append(waiting) == PublishResult("published", 2)
    assert await harness.append(waiting) == PublishResult("unchanged", 2)
    assert await harness.append(computed) == PublishResult("published", 3)


async def test_record_without_flag_events_replaces_none_that_has_them(
    harness: AppendHarness,
) -> None:
    """A later webhook asks for none, and a fault reads none: the content is the same."""
    events = FlagEventsFound((EVENT,))
    fault = FlagEventsFound(None, reason="HTTP 500", unsettled=True)
    await harness.append(events)
    for without in (None, fault, FlagEventsFound(())):
        assert await harness.append(without) == PublishResult("unchanged", 1)
        assert await harness.append(events) == PublishResult("unchanged", 1)


async def test_changed_content_makes_a_revision_with_or_without_flag_events(
    harness: AppendHarness,
) -> None:
    """After a revision that lacks them, the next refresh adds them again."""
    events = FlagEventsFound((EVENT,))
    await harness.append(events)
    assert await harness.append(None, content=2) == PublishResult("published", 2)
    assert await harness.append(events, content=2) == PublishResult("published", 3)
