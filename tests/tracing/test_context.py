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

from service.accept.mapping import DeploymentCompleted, parse_webhook
from service.accept.signatures import SignedRequest
from service.accept.source_files import read_presets
from service.accept.sources import Source, native_source
from service.backlog.ticket import Lease, Ticket
from service.publish.entry import Entry
from service.publish.stream import PublishResult
from service.store.keys import Keys
from service.tracing.otel import PipelineSpans

INCOMING = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
ZEROS = "00-" + "0" * 32 + INCOMING[35:]
HEX = "0123456789abcdef"

FINISHED = msgspec.json.encode(
    {"eventType": "finished", "deploymentId": "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"}
)


def hex_digits(size: int) -> st.SearchStrategy[str]:
    """Give so many digits, which are not all zero."""
    return st.text(HEX, min_size=size, max_size=size).filter(lambda text: text.strip("0") != "")


WELL_FORMED = st.builds(
    "00-{}-{}-{:02x}".format, hex_digits(32), hex_digits(16), st.integers(0, 255)
)
# One with a part changed, put in or taken out: a digit, an id, what a terminal obeys, very much.
INVALID = st.builds(
    lambda text, at, width, put: text[:at] + put + text[at + width :],
    WELL_FORMED,
    st.integers(0, 55),
    st.sampled_from([0, 1, 2, 16, 32]),
    st.text(max_size=3) | st.sampled_from(["0" * 32, "0" * 16, "F", "\x1b[31m", "\n", "f" * 9000]),
)
ANYTHING = WELL_FORMED | INVALID | st.text(max_size=80)
anything = given(ANYTHING)


class TracedAttempts:
    """Spans of a worker that are kept in memory."""

    def __init__(self) -> None:
        self.exporter = InMemorySpanExporter()
        provider = TracerProvider(ALWAYS_ON, shutdown_on_exit=False)
        provider.add_span_processor(SimpleSpanProcessor(self.exporter))
        self.spans = PipelineSpans(provider.get_tracer("desk"), Keys("desk"))

    def attempt(self, traceparent: str | None) -> ReadableSpan:
        """Try a ticket; gives the span of it."""
        with self.spans.attempt_span(lease_with_trace(traceparent)):
            pass
        (span,) = self.exporter.get_finished_spans()
        return span

    def append(self, entry: Entry, traceparent: str | None) -> tuple[Entry, ReadableSpan]:
        """Append an entry; gives what was appended, and the span of it."""
        appended: list[Entry] = []

        async def record(appended_entry: Entry, _: Lease) -> PublishResult:
            appended.append(appended_entry)
            return PublishResult(status="published", revision=1)

        asyncio.run(self.spans.wrap_append(record)(entry, lease_with_trace(traceparent)))  # type: ignore[arg-type] # it is one
        (span,), (recorded,) = self.exporter.get_finished_spans(), appended
        return recorded, span


def lease_with_trace(traceparent: str | None) -> Lease:
    """Give a lease on a ticket that names a span."""
    ticket = Ticket(source="native", delivery="d", outcome="succeeded", traceparent=traceparent)
    return Lease(job="id:a", fence=1.0, generation=1, crashes=0, queued_at=1, now=1, ticket=ticket)


def format_span(context: SpanContext | None) -> str | None:
    """Write a span as others name it, but for the flags."""
    return context and f"{format_trace_id(context.trace_id)}-{format_span_id(context.span_id)}"


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
@example(INCOMING + "\n")
@example("ff" + INCOMING[2:])
def test_a_ticket_names_a_well_formed_span_or_none(native: Source, text: str) -> None:
    """Whatever a sender says: what is malformed gets no further than the receiver."""
    event = parse_webhook(native, SignedRequest({"traceparent": text}, {}, FINISHED))
    assert isinstance(event, DeploymentCompleted)
    assert event.traceparent == (text if is_well_formed(text) else None)


@anything
@example(ZEROS)
@example(INCOMING.upper())
def test_an_attempt_is_the_child_of_a_well_formed_span_or_of_none(text: str) -> None:
    """Nor does an older version's ticket, which may hold anything, lend its text to a span."""
    parent = format_span(TracedAttempts().attempt(text).parent)
    if is_well_formed(text):
        assert parent == text[3:52]
    else:  # of a later version more may stand behind, of which nothing is known
        assert parent is None or is_well_formed(text.strip()[:55])


def test_a_ticket_that_names_no_span_begins_a_trace() -> None:
    """As those do which were found without a webhook."""
    assert TracedAttempts().attempt(None).parent is None


def test_an_entry_names_its_own_span_once() -> None:
    """In the place of the webhook's, and all else stays as it was."""
    fields = ("specversion", "1.0", "traceparent", INCOMING, "complete", "true")
    entry, span = TracedAttempts().append(Entry("a", "digest", fields), INCOMING)
    named = entry.fields[3]
    assert named[3:52] == format_span(span.get_span_context())
    assert entry.fields == ("specversion", "1.0", "traceparent", named, "complete", "true")


def test_what_is_left_out_names_no_span() -> None:
    """There is no entry whose field it would be."""
    left = Entry("a", "digest", filtered_because="application")
    assert TracedAttempts().append(left, INCOMING)[0] == left
