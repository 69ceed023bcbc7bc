"""What becomes of a failure that is taken up again?"""

import json

import pytest
from msgspec.structs import replace

from service.accept.clues import Clues, keep_clues
from service.accept.events import Batch, Unmappable, read_webhook
from service.accept.signature import SignedRequest
from service.accept.sources import Source, load_sources
from service.backlog.again import Anew, Left, take_up
from service.backlog.failure import (
    RAW_CAP,
    Failed,
    Failure,
    encode_failure,
    read_failed,
    record_failure,
)
from service.backlog.ticket import Ticket
from service.configured import read_presets

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
MENDED = f'{SENDER}version = "body.sha"\n'


def load(text: str) -> Source:
    """Load the one source."""
    (source,) = load_sources(text, presets=read_presets(), read_secret=lambda _: TOKEN).values()
    return source


def send(**headers: str) -> SignedRequest:
    """Send an event of ours, with these headers besides."""
    given = {"x-token": TOKEN, "x-kind": "rollout", "x-stage": "production", "x-id": "7"} | headers
    body = json.dumps({"app": "shop", "sha": "7fd1a60"}).encode()
    return SignedRequest(given, {"state": "ok", "token": TOKEN, "other": "1"}, body)


def set_aside(source: Source, request: SignedRequest) -> Failed:
    """Set an event aside as the door does, and read what was kept."""
    event = read_webhook(source, request)
    if isinstance(event, Batch):
        (event,) = event.events
    assert isinstance(event, Unmappable)
    failure = record_failure("unmappable", detail=event.reason, raw=event.raw, clues=event.clues)
    stored = encode_failure(failure)
    assert TOKEN.encode() not in stored
    return read_failed(f"unmappable:ours/{event.delivery}", 1.0, stored)


def test_a_ticket_begins_as_if_it_had_just_come() -> None:
    """Without attempts, and without the reason of the last one."""
    ticket = Ticket(
        source="native", delivery="d", outcome="failed", version="1", attempts=9, reason="HTTP 502"
    )
    failed = Failed(job="id:x", at_ms=1, digest="", failure=Failure(reason="x", ticket=ticket))
    assert take_up(failed, {}) == Anew("id:x", replace(ticket, attempts=0, reason=None))


def test_what_the_expressions_name_is_kept_and_never_a_secret() -> None:
    """Headers and parameters; not the token, though an expression names it too."""
    clues = keep_clues(load(SENDER), send(cookie="c", authorization="a", **{"content-type": "b"}))
    assert clues.headers == {
        "content-type": "b",
        "x-id": "7",
        "x-kind": "rollout",
        "x-stage": "production",
    }
    assert clues.query == {"state": "ok"}


def test_bytes_that_are_no_text_are_kept_as_they_can_be() -> None:
    """A header that is not UTF-8 must not cost the event."""
    aside = set_aside(load(SENDER), send(**{"x-stage": "caf\udce9"}))
    assert aside.failure is not None
    assert aside.failure.clues is not None
    assert aside.failure.clues.headers["x-stage"] == "caf\ufffd"


def test_an_event_is_read_by_the_source_as_it_is_now() -> None:
    """Nothing but what was kept is needed; it keeps the delivery under which it came."""
    aside = set_aside(load(SENDER), send())
    plan = take_up(aside, {"ours": load(MENDED)})
    assert isinstance(plan, Anew)
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
    request = send(**{"content-type": "application/cloudevents-batch+json"})
    batch = SignedRequest(request.headers, request.query, json.dumps([envelope]).encode())
    aside = set_aside(load(SENDER), batch)
    plan = take_up(aside, {"ours": load(MENDED)})
    assert isinstance(plan, Anew)
    assert f"unmappable:ours/{plan.ticket.delivery}" == aside.job


def test_what_still_cannot_be_mapped_is_left_with_the_reason_of_now() -> None:
    """And what was kept stays."""
    aside = set_aside(load(SENDER), send())
    plan = take_up(aside, {"ours": load(MENDED.replace("body.sha", "body.tag"))})
    assert isinstance(plan, Left)
    assert plan.reason == "missing: tag"
    assert aside.failure is not None
    assert plan.failure == replace(aside.failure, detail="missing: tag")


def test_what_was_kept_before_headers_were_says_so() -> None:
    """Failures of an older version can be read, and are not mistaken."""
    old = replace(record_failure("unmappable", raw=b'{"app":"shop"}'), clues=None)
    failed = read_failed("unmappable:ours/7", 1.0, encode_failure(old))
    plan = take_up(failed, {"ours": load(MENDED)})
    assert isinstance(plan, Left)
    assert plan.reason.endswith("waits for (its headers were not kept)")


@pytest.mark.parametrize(
    ("job", "failure", "reason"),
    [
        ("id:x", None, "what is kept of it cannot be read"),
        ("id:x", Failure(reason="unreadable_ticket"), "its ticket could not be read"),
        ("unmappable:gone/1", Failure(reason="unmappable"), "there is no source 'gone' here"),
        (
            "unmappable:ours/1",
            record_failure("unmappable", raw=b"x" * (RAW_CAP + 1), clues=Clues()),
            "its body was kept in part only",
        ),
    ],
)
def test_what_cannot_be_is_left_as_it_is(job: str, failure: Failure | None, reason: str) -> None:
    """With what to do instead, where there is something."""
    failed = Failed(job=job, at_ms=1, digest="", failure=failure)
    plan = take_up(failed, {"ours": load(MENDED)})
    assert isinstance(plan, Left)
    assert plan.reason.startswith(reason)
    assert plan.failure is None
