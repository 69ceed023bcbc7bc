"""Is the outgoing contract kept, whatever LaunchDarkly says?"""

import json
from datetime import datetime
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.backlog.ticket import Lease, Ticket
from service.enrich.models import Deployment, parse_deployment
from service.enrich.verdict import Found
from service.publish.entry import BEFORE_REVISION, Entry, EntryBuilder, format_time
from service.publish.record import EnrichedDeployment, measure_completeness, summarize

QUEUED_AT = 1_795_428_000_000
LEASE = Lease(
    job="id:a",
    fence=1.5,
    generation=1,
    crashes=0,
    queued_at=QUEUED_AT,
    now=QUEUED_AT + 5,
    ticket=Ticket(
        source="native",
        delivery="d1",
        outcome="succeeded",
        project="default",
        metadata=b'{"run":7}',
        traceparent="00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        attempts=2,
    ),
)


def deployment_of(fields: object) -> Deployment:
    """Read a deployment."""
    deployment = parse_deployment(json.dumps(fields).encode())
    assert isinstance(deployment, Deployment)
    return deployment


def build_entry(fields: object, *, stopped: str | None = None) -> Entry:
    """Write the entry of a deployment."""
    verdict = Found(
        deployment=deployment_of(fields), body=json.dumps(fields).encode(), stop_reason=stopped
    )
    entry = EntryBuilder().build(verdict, LEASE, now_ms=QUEUED_AT + 99)
    assert isinstance(entry, Entry)
    return entry


def decode_data(entry: Entry, revision: int = 1) -> Any:
    """Read the data as the script would have put it together."""
    return json.loads(BEFORE_REVISION + str(revision).encode() + entry.data_after_revision)


def test_the_record_is_what_the_design_says() -> None:
    """Schema version, revision, time, attempts, deployment, summary, completeness, event."""
    data = decode_data(build_entry({"id": "a", "novel": 1}))
    assert list(data) == [
        "schemaVersion",
        "revision",
        "enrichedAt",
        "attempts",
        "deployment",
        "summary",
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
def test_any_revision_fits(revision: int) -> None:
    """What the script puts together is valid and decodes as the published type."""
    entry = build_entry({"id": "a"})
    data = BEFORE_REVISION + str(revision).encode() + entry.data_after_revision
    assert msgspec.json.decode(data, type=EnrichedDeployment).revision == revision


def test_the_attributes_are_cloudevents() -> None:
    """Names are lower case, all values text; id, revision and data are added by the script."""
    entry = build_entry({"id": "a", "environmentKey": "prod", "endedAt": 1_706_701_762_123})
    fields = dict(zip(entry.fields[::2], entry.fields[1::2], strict=True))
    assert fields == {
        "specversion": "1.0",
        "source": "/deployment-enricher/native",
        "type": "deployment.enriched.v1",
        "subject": "a",
        "time": "2024-01-31T11:49:22.123Z",
        "datacontenttype": "application/json",
        "dataschema": "/schemas/enriched-deployment.v1.json",
        "projectkey": "default",
        "environmentkey": "prod",
        "applicationkey": "",
        "complete": "true",
        "traceparent": LEASE.ticket.traceparent,
    }


def test_equal_content_has_an_equal_digest() -> None:
    """The digest is of the deployment alone: who told of it, and when, does not matter."""
    assert (
        build_entry({"id": "a"}).digest
        == build_entry({"id": "a"}, stopped="page cap reached").digest
    )
    assert build_entry({"id": "a"}).digest != build_entry({"id": "a", "linesAdded": 1}).digest


@given(st.integers())
def test_any_time_can_be_written(moment_ms: int) -> None:
    """A moment that no calendar holds gives the fallback's."""
    written = format_time(moment_ms, fallback_ms=QUEUED_AT)
    assert datetime.fromisoformat(written).tzinfo is not None
    assert written.endswith("Z")


@pytest.mark.parametrize(
    ("told", "complete"),
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
    ],
)
def test_complete_means_all_that_is_counted(told: dict[str, Any], *, complete: bool) -> None:
    """At both levels, null items being none."""
    deployment = deployment_of({"id": "a", **told})
    assert measure_completeness(deployment, stop_reason=None).complete is complete
    assert measure_completeness(deployment, stop_reason="a page was refused").complete is False


def test_the_summary_sums() -> None:
    """Authors once, flags by project and key, stages in order of work."""
    flag = {"projectKey": "default", "flagKey": "f", "referencesAdded": 2, "referencesRemoved": 1}
    other = {"projectKey": "web", "flagKey": "f", "referencesAdded": 1}
    told = summarize(
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
    assert told.authors == ["ann", "zoe"]
    assert [pull.number for pull in told.pull_requests] == ["7", "8", None]
    assert [(f.project, f.key, f.added, f.removed) for f in told.flags] == [
        ("default", "f", 4, 2),
        ("web", "f", 1, 0),
    ]
    assert [(stage.name, stage.duration_ms) for stage in told.stages] == [
        ("coding", 5),
        ("deploy", 9),
    ]
    assert (told.slowest_stage, told.lead_time_ms) == ("deploy", 100)


def test_without_flags_of_its_own_those_of_the_pull_requests_are_summed() -> None:
    """LaunchDarkly joins them later, and at either level."""
    pull = {"flagReferences": {"items": [{"flagKey": "f", "referencesRemoved": 3}]}}
    told = summarize(deployment_of({"id": "a", "pullRequests": {"items": [pull, pull]}}))
    assert [(flag.key, flag.removed) for flag in told.flags] == [("f", 6)]
    assert (told.slowest_stage, told.stages) == (None, [])
