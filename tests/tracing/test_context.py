"""Whose child is a span? That of a well-formed traceparent, and of nothing else."""

import asyncio

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_ON
from opentelemetry.trace import SpanContext, format_span_id, format_trace_id

from service.accept.events import DeploymentCompleted, read_webhook
from service.accept.signature import SignedRequest
from service.accept.sources import Source, native_source
from service.backlog.ticket import Lease, Ticket
from service.configured import read_presets
from service.publish.stream import Settled
from service.publish.writing import Entry
from service.store.keys import Keys
from service.tracing.spans import Spans

TOLD = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
ZEROS = "00-" + "0" * 32 + TOLD[35:]
HEX = "0123456789abcdef"

FINISHED = msgspec.json.encode(
    {"eventType": "finished", "deploymentId": "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"}
)


def write_hex(size: int) -> st.SearchStrategy[str]:
    """Give so many digits, which are not all zero."""
    return st.text(HEX, min_size=size, max_size=size).filter(lambda text: text.strip("0") != "")


WELL_FORMED = st.builds("00-{}-{}-{:02x}".format, write_hex(32), write_hex(16), st.integers(0, 255))
# One with a part changed, put in or taken out: a digit, an id, what a terminal obeys, very much.
SPOILED = st.builds(
    lambda text, at, width, put: text[:at] + put + text[at + width :],
    WELL_FORMED,
    st.integers(0, 55),
    st.sampled_from([0, 1, 2, 16, 32]),
    st.text(max_size=3) | st.sampled_from(["0" * 32, "0" * 16, "F", "\x1b[31m", "\n", "f" * 9000]),
)
ANYTHING = WELL_FORMED | SPOILED | st.text(max_size=80)
anything = given(ANYTHING)


class Desk:
    """Spans of a worker that are kept in memory."""

    def __init__(self) -> None:
        self.kept = InMemorySpanExporter()
        provider = TracerProvider(ALWAYS_ON, shutdown_on_exit=False)
        provider.add_span_processor(SimpleSpanProcessor(self.kept))
        self.spans = Spans(provider.get_tracer("desk"), Keys("desk"))

    def attempt(self, traceparent: str | None) -> ReadableSpan:
        """Try a ticket; gives the span of it."""
        with self.spans.attempt(lease_on(traceparent)):
            pass
        (span,) = self.kept.get_finished_spans()
        return span

    def append(self, entry: Entry, traceparent: str | None) -> tuple[Entry, ReadableSpan]:
        """Append an entry; gives what was appended, and the span of it."""
        appended: list[Entry] = []

        async def keep(given: Entry, _: Lease) -> Settled:
            appended.append(given)
            return Settled(fate="published", revision=1)

        asyncio.run(self.spans.append(keep)(entry, lease_on(traceparent)))  # type: ignore[arg-type] # it is one
        (span,), (kept,) = self.kept.get_finished_spans(), appended
        return kept, span


def lease_on(traceparent: str | None) -> Lease:
    """Give a lease on a ticket that names a span."""
    ticket = Ticket(source="native", delivery="d", outcome="succeeded", traceparent=traceparent)
    return Lease(job="id:a", fence=1.0, generation=1, crashes=0, queued_at=1, now=1, ticket=ticket)


def write(told: SpanContext | None) -> str | None:
    """Write a span as others name it, but for the flags."""
    return told and f"{format_trace_id(told.trace_id)}-{format_span_id(told.span_id)}"


def is_well_formed(text: str) -> bool:
    """Read what W3C Trace Context asks of version 00, in other words than the service does."""
    parts = text.split("-")
    version, trace, span, flags = parts if len(parts) == 4 else ("", "", "", "")
    sizes = [len(part) for part in (version, trace, span, flags)] == [2, 32, 16, 2]
    digits = set("".join(parts)) <= set(HEX)
    return sizes and digits and version != "ff" and bool(trace.strip("0") and span.strip("0"))


@pytest.fixture(scope="module")
def native() -> Source:
    """Give the source that there is without a file."""
    return native_source(["whsec_c2VjcmV0IG9mIHRoZSB0ZXN0cyE="], presets=read_presets())


@anything
@example(ZEROS)
@example(TOLD + "\n")
@example("ff" + TOLD[2:])
def test_a_ticket_names_a_well_formed_span_or_none(native: Source, text: str) -> None:
    """Whatever a sender says: what is malformed gets no further than the door."""
    event = read_webhook(native, SignedRequest({"traceparent": text}, {}, FINISHED))
    assert isinstance(event, DeploymentCompleted)
    assert event.traceparent == (text if is_well_formed(text) else None)


@anything
@example(ZEROS)
@example(TOLD.upper())
def test_an_attempt_is_the_child_of_a_well_formed_span_or_of_none(text: str) -> None:
    """Nor does an older version's ticket, which may hold anything, lend its text to a span."""
    parent = write(Desk().attempt(text).parent)
    if is_well_formed(text):
        assert parent == text[3:52]
    else:  # of a later version more may stand behind, of which nothing is known
        assert parent is None or is_well_formed(text.strip()[:55])


def test_a_ticket_that_names_no_span_begins_a_trace() -> None:
    """As those do which were found without a webhook."""
    assert Desk().attempt(None).parent is None


def test_an_entry_names_its_own_span_once() -> None:
    """In the place of the webhook's, and all else stays as it was."""
    fields = ("specversion", "1.0", "traceparent", TOLD, "complete", "true")
    entry, span = Desk().append(Entry("a", "digest", fields), TOLD)
    named = entry.fields[3]
    assert named[3:52] == write(span.get_span_context())
    assert entry.fields == ("specversion", "1.0", "traceparent", named, "complete", "true")


def test_what_is_left_out_names_no_span() -> None:
    """There is no entry whose field it would be."""
    left = Entry("a", "digest", left_out="application")
    assert Desk().append(left, TOLD)[0] == left
