"""Tests of the record: its shape, its summary and its completeness."""

import json
from datetime import datetime
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.enrich.models import Deployment, parse_deployment
from service.enrich.steps import finish_steps
from service.enrich.verdict import Found
from service.publish.entry import BEFORE_REVISION, Entry, EntryBuilder, format_time
from service.publish.record import (
    Completeness,
    EnrichedDeployment,
    Summary,
    measure_completeness,
    summarize,
)
from tests.factories import make_lease, make_ticket

QUEUED_AT = 1_795_428_000_000
LEASE = make_lease(
    make_ticket(
        delivery="d1",
        project="default",
        metadata=b'{"run":7}',
        traceparent="00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        attempts=2,
    ),
    now=QUEUED_AT + 5,
)


def deployment_of(fields: object) -> Deployment:
    """Return the deployment that LaunchDarkly describes with these fields."""
    deployment = parse_deployment(json.dumps(fields).encode())
    assert isinstance(deployment, Deployment)
    return deployment


def build_entry(fields: object, *, stopped: str | None = None) -> Entry:
    """Return the entry of a deployment with these fields."""
    verdict = Found(
        deployment=deployment_of(fields),
        chunks=(json.dumps(fields).encode(),),
        stop_reason=stopped,
    )
    entry = EntryBuilder().build(verdict, LEASE, now_ms=QUEUED_AT + 99)
    assert isinstance(entry, Entry)
    return entry


def measure_at_once(deployment: Deployment, *, stop_reason: str | None) -> Completeness:
    """Return whether a deployment is complete."""
    return finish_steps(measure_completeness(deployment, stop_reason=stop_reason))


def summarize_at_once(deployment: Deployment) -> Summary:
    """Return the summary of a deployment."""
    return finish_steps(summarize(deployment))


def decode_data(entry: Entry, revision: int = 1) -> Any:
    """Return the data with its revision inserted, as the script does."""
    return json.loads(BEFORE_REVISION + str(revision).encode() + entry.data_after_revision)


def test_data_has_the_documented_fields_in_order() -> None:
    """The data starts with schemaVersion and revision and ends with the event."""
    data = decode_data(build_entry({"id": "a", "novel": 1}))
    assert list(data) == [
        "schemaVersion",
        "revision",
        "enrichedAt",
        "attempts",
        "deployment",
        "summary",
        "links",
        "flagEvents",
        "completeness",
        "refreshes",
        "event",
    ]
    assert (data["schemaVersion"], data["enrichedAt"], data["attempts"]) == (1, QUEUED_AT + 99, 3)
    assert data["deployment"] == {"id": "a", "novel": 1}
    assert data["event"] == {
        "source": "native",
        "delivery": "d1",
        "receivedAt": QUEUED_AT,
        "outcome": "succeeded",
        "eventTime": None,
        "metadata": {"run": 7},
    }


@given(st.integers(min_value=1, max_value=10**12))
def test_data_with_any_revision_decodes_as_the_published_type(revision: int) -> None:
    """The text around the revision is valid JSON for a number of any length."""
    entry = build_entry({"id": "a"})
    data = BEFORE_REVISION + str(revision).encode() + entry.data_after_revision
    assert msgspec.json.decode(data, type=EnrichedDeployment).revision == revision


def test_entry_fields_are_cloudevents_attributes() -> None:
    """Names are lower case and values are text; the script adds id, revision and data."""
    entry = build_entry({"id": "a", "environmentKey": "prod", "endedAt": 1_706_701_762_123})
    fields = dict(zip(entry.fields[::2], entry.fields[1::2], strict=True))
    assert fields == {
        "specversion": "1.0",
        "source": "/deployment-enricher/native",
        "type": "deployment.enriched.v1",
        "subject": "a",
        "time": "2024-01-31T11:49:22.123Z",
        "datacontenttype": "application/json",
        "dataschema": "urn:deployment-enricher:enriched-deployment.v1",
        "projectkey": "default",
        "environmentkey": "prod",
        "applicationkey": "",
        "complete": "true",
        "traceparent": LEASE.ticket.traceparent,
    }


def test_digest_depends_on_the_deployment_alone() -> None:
    """The event and the time of enrichment do not change the digest."""
    assert (
        build_entry({"id": "a"}).digest
        == build_entry({"id": "a"}, stopped="page cap reached").digest
    )
    assert build_entry({"id": "a"}).digest != build_entry({"id": "a", "linesAdded": 1}).digest


@given(st.integers())
def test_format_time_of_any_integer_returns_rfc_3339(moment_ms: int) -> None:
    """A time outside the calendar gives the time of the fallback."""
    written = format_time(moment_ms, fallback_ms=QUEUED_AT)
    assert datetime.fromisoformat(written).tzinfo is not None
    assert written.endswith("Z")


@pytest.mark.parametrize(
    ("fields", "complete"),
    [
        ({}, True),
        ({"pullRequests": {"totalCount": 0, "items": []}}, True),
        ({"pullRequests": {"totalCount": 1, "items": [{}]}}, True),
        ({"pullRequests": {"totalCount": 1, "items": [None]}}, False),
        ({"pullRequests": {"totalCount": 2, "items": [{}]}}, False),
        ({"pullRequests": {"items": [{}]}}, True),
        ({"flagReferences": {"totalCount": 25, "items": [{"flagKey": "f"}]}}, False),
        ({"pullRequests": {"items": [{"deployments": {"totalCount": 1, "items": []}}]}}, False),
        ({"pullRequests": {"items": [{"deployments": {"totalCount": 1, "items": [None]}}]}}, False),
        ({"pullRequests": {"items": [{"flagReferences": {"totalCount": 2, "items": []}}]}}, False),
        ({"leadTime": "long", "pullRequests": {"items": [{"externalId": 7}]}}, True),
    ],
)
def test_measure_completeness_compares_items_with_counts(
    fields: dict[str, Any], *, complete: bool
) -> None:
    """Both levels count, null items do not, and a stop reason makes it incomplete."""
    deployment = deployment_of({"id": "a", **fields})
    assert measure_at_once(deployment, stop_reason=None).complete is complete
    assert measure_at_once(deployment, stop_reason="a page was refused").complete is False


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"pullRequests": []}, "pullRequests"),
        ({"pullRequests": {"totalCount": "many"}}, "pullRequests.totalCount"),
        ({"pullRequests": {"items": {}}}, "pullRequests.items"),
        ({"pullRequests": {"items": [7]}}, "pullRequests.items[]"),
        ({"pullRequests": {"_links": []}}, "pullRequests._links"),
        ({"pullRequests": {"_links": {"next": {"href": 7}}}}, "pullRequests._links.next.href"),
        ({"pullRequests": {"items": [{"deployments": 7}]}}, "pullRequests.items[].deployments"),
        ({"flagReferences": {"items": ["f"]}}, "flagReferences.items[]"),
    ],
)
def test_collection_of_another_type_makes_the_record_incomplete(
    fields: dict[str, Any], named: str
) -> None:
    """Nobody knows how many items it should hold. The record has it as LaunchDarkly sent it."""
    entry = build_entry({"id": "a", **fields})
    data = decode_data(entry)
    assert data["deployment"] == {"id": "a", **fields}
    completeness = data["completeness"]
    assert (completeness["complete"], entry.complete) == (False, False)
    assert completeness["reason"] == "a part could not be read"
    assert completeness["unreadableFields"] == [named] == [*entry.unreadable_fields]


def test_fields_of_another_type_are_left_out_of_the_summary_and_named() -> None:
    """Values beside them stay in the summary; the attributes come from the ticket."""
    pull = {"externalId": 1234, "title": "Pay", "author": ["jo"], "url": "u"}
    fields = {
        "id": "a",
        "applicationKey": 7,
        "endedAt": "2026-01-01T00:00:00Z",
        "leadTimeStages": {"codingDurationMs": 5, "reviewDurationMs": "long"},
        "pullRequests": {"totalCount": 1, "items": [pull]},
    }
    entry = build_entry(fields)
    data = decode_data(entry)
    assert data["deployment"] == fields
    assert data["completeness"]["complete"] is True
    assert data["completeness"]["unreadableFields"] == [
        "applicationKey",
        "endedAt",
        "leadTimeStages.reviewDurationMs",
        "pullRequests.items[].author",
        "pullRequests.items[].externalId",
    ]
    assert data["summary"]["pullRequests"] == [
        {"number": None, "title": "Pay", "author": None, "url": "u"}
    ]
    assert data["summary"]["stages"] == [{"name": "coding", "durationMs": 5}]
    attributes = dict(zip(entry.fields[::2], entry.fields[1::2], strict=True))
    assert attributes["time"] == format_time(QUEUED_AT, fallback_ms=0)
    assert "unreadableFields" not in decode_data(build_entry({"id": "a"}))["completeness"]


def test_summarize_sums_authors_flags_and_stages() -> None:
    """Authors are unique, flags are summed by project and key, stages keep the order of work."""
    flag = {"projectKey": "default", "flagKey": "f", "referencesAdded": 2, "referencesRemoved": 1}
    other = {"projectKey": "web", "flagKey": "f", "referencesAdded": 1}
    summary = summarize_at_once(
        deployment_of(
            {
                "id": "a",
                "leadTime": 100,
                "leadTimeStages": {"codingDurationMs": 5, "deployDurationMs": 9},
                "flagReferences": {"items": [flag, None, flag, other]},
                "pullRequests": {
                    "items": [
                        {"externalId": "7", "author": "zoe", "title": "t", "url": "u"},
                        {"externalId": "8", "author": "ann"},
                        {"author": "zoe"},
                        None,
                    ]
                },
            }
        )
    )
    assert summary.authors == ["ann", "zoe"]
    assert [pull.number for pull in summary.pull_requests] == ["7", "8", None]
    assert [(f.project, f.key, f.added, f.removed) for f in summary.flags] == [
        ("default", "f", 4, 2),
        ("web", "f", 1, 0),
    ]
    assert [(stage.name, stage.duration_ms) for stage in summary.stages] == [
        ("coding", 5),
        ("deploy", 9),
    ]
    assert (summary.slowest_stage, summary.lead_time_ms) == ("deploy", 100)


def test_many_flags_are_summed_in_steps() -> None:
    """A deployment with 10,000 references to flags blocks the event loop briefly."""
    items = [{"flagKey": "a", "referencesAdded": 1}] * 10_000
    deployment = deployment_of({"id": "a", "flagReferences": {"items": items}})
    assert len([*summarize(deployment)]) == 10_000 // 4096
    assert [flag.added for flag in summarize_at_once(deployment).flags] == [10_000]


def test_completeness_of_many_pull_requests_is_measured_in_steps() -> None:
    """So is that of a deployment with 5,000 pull requests."""
    deployment = deployment_of({"id": "a", "pullRequests": {"items": [{"id": "p"}] * 5000}})
    assert len([*measure_completeness(deployment, stop_reason=None)]) == 5000 // 1024


def test_summarize_without_own_flags_sums_those_of_pull_requests() -> None:
    """LaunchDarkly may report flag references at either level."""
    pull = {"flagReferences": {"items": [{"flagKey": "f", "referencesRemoved": 3}]}}
    summary = summarize_at_once(deployment_of({"id": "a", "pullRequests": {"items": [pull, pull]}}))
    assert [(flag.key, flag.removed) for flag in summary.flags] == [("f", 6)]
    assert (summary.slowest_stage, summary.stages) == (None, [])
