"""Tests of failure records: what is stored, and how a retry is planned."""

import json

import pytest
from msgspec.structs import replace

from service.accept.mapping import Batch, Unmappable, parse_webhook
from service.accept.replay import ReplayContext, replay_context
from service.accept.signatures import SignedRequest
from service.accept.source_files import read_presets
from service.accept.sources import Source, load_sources
from service.backlog.failures import (
    FailedTicket,
    FailureRecord,
    Requeue,
    Skip,
    compress_raw,
    decode_failed_ticket,
    encode_failure,
    plan_retry,
    with_raw,
)
from tests.factories import make_ticket

TOKEN = "token-that-nobody-may-see"
SOURCE_TOML = """
[[source]]
name = "ours"
verify = [{ token = "X-Token" }, { query = "token" }]
secrets = ["x"]
project = "default"
when = { "headers.x_kind" = "rollout" }
outcome = { path = "body.state || query.state", succeeded = ["ok"] }
dedupe = "headers.x_id || headers.x_token || query.token"
[source.fields]
environment = "headers.{name: x_stage}.name"
application = "body.app"
version = "body.revision"
"""
FIXED_SOURCE = SOURCE_TOML.replace("body.revision", "body.sha")


def load_source(text: str) -> Source:
    """Return the only source of a TOML text."""
    (source,) = load_sources(text, presets=read_presets(), read_secret=lambda _: TOKEN).values()
    return source


def build_request(**headers: str) -> SignedRequest:
    """Return a signed webhook of the source, with more headers."""
    all_headers = {
        "x-token": TOKEN,
        "x-kind": "rollout",
        "x-stage": "production",
        "x-id": "7",
    } | headers
    body = json.dumps({"app": "shop", "sha": "7fd1a60"}).encode()
    return SignedRequest(all_headers, {"state": "ok", "token": TOKEN, "other": "1"}, body)


def park(source: Source, request: SignedRequest) -> FailedTicket:
    """Park an event as the receiver does, and return the failed ticket."""
    event = parse_webhook(source, request)
    if isinstance(event, Batch):
        (event,) = event.events
    assert isinstance(event, Unmappable)
    failure = FailureRecord(
        reason="unmappable", detail=event.reason, raw=event.raw, replay_context=event.replay_context
    )
    stored = encode_failure(failure)
    assert TOKEN.encode() not in stored
    failed = decode_failed_ticket(f"unmappable:ours/{event.delivery}", 1.0, stored)
    return with_raw(failed, compress_raw(failure.raw))


def test_retry_of_a_failed_ticket_resets_attempts_and_reason() -> None:
    """A retried ticket starts over."""
    ticket = make_ticket(attempts=9, reason="HTTP 502")
    failed = FailedTicket(
        job="id:x", at_ms=1, digest="", failure=FailureRecord(reason="x", ticket=ticket)
    )
    assert plan_retry(failed, {}) == Requeue("id:x", replace(ticket, attempts=0, reason=None))


def test_replay_context_holds_named_headers_and_no_secret() -> None:
    """It holds headers and parameters that expressions name, but never the token."""
    context = replay_context(
        load_source(SOURCE_TOML),
        build_request(cookie="c", authorization="a", **{"content-type": "b"}),
    )
    assert context.headers == {
        "content-type": "b",
        "x-id": "7",
        "x-kind": "rollout",
        "x-stage": "production",
    }
    assert context.query == {"state": "ok"}


def test_park_of_a_header_that_is_not_utf8_replaces_bytes() -> None:
    """A header that is not UTF-8 must not lose the event."""
    parked = park(load_source(SOURCE_TOML), build_request(**{"x-stage": "caf\udce9"}))
    assert parked.failure is not None
    assert parked.failure.replay_context is not None
    assert parked.failure.replay_context.headers["x-stage"] == "caf\ufffd"


def test_retry_of_a_parked_event_maps_it_with_the_current_source() -> None:
    """The stored data is sufficient; the event keeps its delivery id."""
    parked = park(load_source(SOURCE_TOML), build_request())
    plan = plan_retry(parked, {"ours": load_source(FIXED_SOURCE)})
    assert isinstance(plan, Requeue)
    assert plan.job == "find:default/production/shop/7fd1a60"
    assert (plan.ticket.delivery, plan.ticket.source) == ("7", "ours")


def test_retry_of_a_parked_event_of_a_batch_maps_it_alone() -> None:
    """The event is an envelope of its own, under the delivery id that it had."""
    envelope = {
        "specversion": "1.0",
        "id": "1",
        "source": "s",
        "data": {"app": "shop", "sha": "7fd1a60"},
    }
    request = build_request(**{"content-type": "application/cloudevents-batch+json"})
    batch = SignedRequest(request.headers, request.query, json.dumps([envelope]).encode())
    parked = park(load_source(SOURCE_TOML), batch)
    plan = plan_retry(parked, {"ours": load_source(FIXED_SOURCE)})
    assert isinstance(plan, Requeue)
    assert f"unmappable:ours/{plan.ticket.delivery}" == parked.job


def test_retry_of_an_event_that_still_cannot_be_mapped_stores_the_new_reason() -> None:
    """The rest of the record stays."""
    parked = park(load_source(SOURCE_TOML), build_request())
    plan = plan_retry(parked, {"ours": load_source(FIXED_SOURCE.replace("body.sha", "body.tag"))})
    assert isinstance(plan, Skip)
    assert plan.reason == "missing: tag"
    assert parked.failure is not None
    assert plan.failure == replace(parked.failure, detail="missing: tag")


def test_retry_of_a_record_without_replay_context_says_so() -> None:
    """A record of an older version can be decoded; the reason names what is missing."""
    old = replace(FailureRecord(reason="unmappable", raw=b'{"app":"shop"}'), replay_context=None)
    stored = decode_failed_ticket("unmappable:ours/7", 1.0, encode_failure(old))
    failed = with_raw(stored, compress_raw(old.raw))
    plan = plan_retry(failed, {"ours": load_source(FIXED_SOURCE)})
    assert isinstance(plan, Skip)
    assert plan.reason.endswith("waits for (its headers were not stored)")


@pytest.mark.parametrize(
    ("job", "failure", "reason"),
    [
        ("id:x", None, "its failure record cannot be read"),
        ("id:x", FailureRecord(reason="corrupt_ticket"), "its ticket is not readable"),
        ("unmappable:gone/1", FailureRecord(reason="unmappable"), "there is no source 'gone' here"),
    ],
)
def test_retry_that_is_impossible_leaves_the_record_unchanged(
    job: str, failure: FailureRecord | None, reason: str
) -> None:
    """The reason says what to do instead, if anything can be done."""
    failed = FailedTicket(job=job, at_ms=1, digest="", failure=failure)
    plan = plan_retry(failed, {"ours": load_source(FIXED_SOURCE)})
    assert isinstance(plan, Skip)
    assert plan.reason.startswith(reason)
    assert plan.failure is None


def test_retry_of_an_event_whose_body_cannot_be_read_stores_that_reason() -> None:
    """Storing it also finds out whether the event is gone, because another retry deleted both."""
    failure = FailureRecord(reason="unmappable", raw_size=7, replay_context=ReplayContext())
    failed = FailedTicket(job="unmappable:ours/1", at_ms=1, digest="", failure=failure)
    plan = plan_retry(failed, {"ours": load_source(FIXED_SOURCE)})
    assert isinstance(plan, Skip)
    assert plan.reason.startswith("its body cannot be read")
    assert plan.failure == replace(failure, detail=plan.reason)
