"""What becomes of a failure that is taken up again?"""

import json

import pytest
from msgspec.structs import replace

from service.accept.mapping import Batch, Unmappable, parse_webhook
from service.accept.replay import ReplayContext, replay_context
from service.accept.signatures import SignedRequest
from service.accept.sources import Source, load_sources
from service.backlog.failures import (
    MAX_RAW_BYTES,
    FailedTicket,
    FailureRecord,
    Requeue,
    Skip,
    decode_failed_ticket,
    encode_failure,
    plan_retry,
)
from service.backlog.ticket import Ticket
from service.cli.preconditions import read_presets

TOKEN = "token-that-nobody-may-see"
SENDER = """
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
"""
FIXED_SOURCE = f'{SENDER}version = "body.sha"\n'


def load_source(text: str) -> Source:
    """Load the one source."""
    (source,) = load_sources(text, presets=read_presets(), read_secret=lambda _: TOKEN).values()
    return source


def build_request(**headers: str) -> SignedRequest:
    """Send an event of ours, with these headers besides."""
    all_headers = {
        "x-token": TOKEN,
        "x-kind": "rollout",
        "x-stage": "production",
        "x-id": "7",
    } | headers
    body = json.dumps({"app": "shop", "sha": "7fd1a60"}).encode()
    return SignedRequest(all_headers, {"state": "ok", "token": TOKEN, "other": "1"}, body)


def park(source: Source, request: SignedRequest) -> FailedTicket:
    """Set an event aside as the receiver does, and read what was kept."""
    event = parse_webhook(source, request)
    if isinstance(event, Batch):
        (event,) = event.events
    assert isinstance(event, Unmappable)
    failure = FailureRecord(
        reason="unmappable", detail=event.reason, raw=event.raw, replay_context=event.replay_context
    )
    stored = encode_failure(failure)
    assert TOKEN.encode() not in stored
    return decode_failed_ticket(f"unmappable:ours/{event.delivery}", 1.0, stored)


def test_a_ticket_begins_as_if_it_had_just_come() -> None:
    """Without attempts, and without the reason of the last one."""
    ticket = Ticket(
        source="native", delivery="d", outcome="failed", version="1", attempts=9, reason="HTTP 502"
    )
    failed = FailedTicket(
        job="id:x", at_ms=1, digest="", failure=FailureRecord(reason="x", ticket=ticket)
    )
    assert plan_retry(failed, {}) == Requeue("id:x", replace(ticket, attempts=0, reason=None))


def test_what_the_expressions_name_is_kept_and_never_a_secret() -> None:
    """Headers and parameters; not the token, though an expression names it too."""
    clues = replay_context(
        load_source(SENDER), build_request(cookie="c", authorization="a", **{"content-type": "b"})
    )
    assert clues.headers == {
        "content-type": "b",
        "x-id": "7",
        "x-kind": "rollout",
        "x-stage": "production",
    }
    assert clues.query == {"state": "ok"}


def test_bytes_that_are_no_text_are_kept_as_they_can_be() -> None:
    """A header that is not UTF-8 must not cost the event."""
    aside = park(load_source(SENDER), build_request(**{"x-stage": "caf\udce9"}))
    assert aside.failure is not None
    assert aside.failure.replay_context is not None
    assert aside.failure.replay_context.headers["x-stage"] == "caf\ufffd"


def test_an_event_is_read_by_the_source_as_it_is_now() -> None:
    """Nothing but what was kept is needed; it keeps the delivery under which it came."""
    aside = park(load_source(SENDER), build_request())
    plan = plan_retry(aside, {"ours": load_source(FIXED_SOURCE)})
    assert isinstance(plan, Requeue)
    assert plan.job == "find:default/production/shop/7fd1a60"
    assert (plan.ticket.delivery, plan.ticket.source) == ("7", "ours")


def test_an_event_of_a_batch_is_read_alone() -> None:
    """As an envelope of its own, under the delivery that it had."""
    envelope = {
        "specversion": "1.0",
        "id": "1",
        "source": "s",
        "data": {"app": "shop", "sha": "7fd1a60"},
    }
    request = build_request(**{"content-type": "application/cloudevents-batch+json"})
    batch = SignedRequest(request.headers, request.query, json.dumps([envelope]).encode())
    aside = park(load_source(SENDER), batch)
    plan = plan_retry(aside, {"ours": load_source(FIXED_SOURCE)})
    assert isinstance(plan, Requeue)
    assert f"unmappable:ours/{plan.ticket.delivery}" == aside.job


def test_what_still_cannot_be_mapped_is_left_with_the_reason_of_now() -> None:
    """And what was kept stays."""
    aside = park(load_source(SENDER), build_request())
    plan = plan_retry(aside, {"ours": load_source(FIXED_SOURCE.replace("body.sha", "body.tag"))})
    assert isinstance(plan, Skip)
    assert plan.reason == "missing: tag"
    assert aside.failure is not None
    assert plan.failure == replace(aside.failure, detail="missing: tag")


def test_what_was_kept_before_headers_were_says_so() -> None:
    """Failures of an older version can be read, and are not mistaken."""
    old = replace(FailureRecord(reason="unmappable", raw=b'{"app":"shop"}'), replay_context=None)
    failed = decode_failed_ticket("unmappable:ours/7", 1.0, encode_failure(old))
    plan = plan_retry(failed, {"ours": load_source(FIXED_SOURCE)})
    assert isinstance(plan, Skip)
    assert plan.reason.endswith("waits for (its headers were not stored)")


@pytest.mark.parametrize(
    ("job", "failure", "reason"),
    [
        ("id:x", None, "its failure record cannot be read"),
        ("id:x", FailureRecord(reason="corrupt_ticket"), "its ticket is not readable"),
        ("unmappable:gone/1", FailureRecord(reason="unmappable"), "there is no source 'gone' here"),
        (
            "unmappable:ours/1",
            FailureRecord(
                reason="unmappable", raw=b"x" * (MAX_RAW_BYTES + 1), replay_context=ReplayContext()
            ),
            "only a part of its body was stored",
        ),
    ],
)
def test_what_cannot_be_is_left_as_it_is(
    job: str, failure: FailureRecord | None, reason: str
) -> None:
    """With what to do instead, where there is something."""
    failed = FailedTicket(job=job, at_ms=1, digest="", failure=failure)
    plan = plan_retry(failed, {"ours": load_source(FIXED_SOURCE)})
    assert isinstance(plan, Skip)
    assert plan.reason.startswith(reason)
    assert plan.failure is None
