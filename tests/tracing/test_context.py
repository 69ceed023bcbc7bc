"""Tests of the parent of a span: only a well-formed traceparent counts."""

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

from service.accept.mapping import DeploymentEvent, parse_webhook
from service.accept.signatures import SignedRequest
from service.accept.source_files import read_presets
from service.accept.sources import Source, native_source
from service.backlog.ticket import Lease
from service.publish.entry import Entry
from service.publish.stream import PublishResult
from service.store.keys import Keys
from service.tracing.otel import PipelineSpans
from tests.factories import make_lease, make_ticket

INCOMING = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
ZEROS = "00-" + "0" * 32 + INCOMING[35:]
HEX = "0123456789abcdef"

FINISHED = msgspec.json.encode(
    {"eventType": "finished", "deploymentId": "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"}
)


def hex_digits(size: int) -> st.SearchStrategy[str]:
    """Return a strategy for hexadecimal digits that are not all zero."""
    return st.text(HEX, min_size=size, max_size=size).filter(lambda text: text.strip("0") != "")


WELL_FORMED = st.builds(
    "00-{}-{}-{:02x}".format, hex_digits(32), hex_digits(16), st.integers(0, 255)
)
# A traceparent with a part replaced, inserted or removed: digits, ids, terminal escapes, long text.
INVALID = st.builds(
    lambda text, start, size, new: text[:start] + new + text[start + size :],
    WELL_FORMED,
    st.integers(0, 55),
    st.sampled_from([0, 1, 2, 16, 32]),
    st.text(max_size=3) | st.sampled_from(["0" * 32, "0" * 16, "F", "\x1b[31m", "\n", "f" * 9000]),
)
ANYTHING = WELL_FORMED | INVALID | st.text(max_size=80)
anything = given(ANYTHING)


class TracedAttempts:
    """A worker's attempts with their spans in memory."""

    def __init__(self) -> None:
        self.exporter = InMemorySpanExporter()
        provider = TracerProvider(ALWAYS_ON, shutdown_on_exit=False)
        provider.add_span_processor(SimpleSpanProcessor(self.exporter))
        self.spans = PipelineSpans(provider.get_tracer("test"), Keys("test"))

    def attempt(self, traceparent: str | None) -> ReadableSpan:
        """Try a ticket; return its span."""
        with self.spans.attempt_span(lease_with_trace(traceparent)):
            pass
        (span,) = self.exporter.get_finished_spans()
        return span

    def append(self, entry: Entry, traceparent: str | None) -> tuple[Entry, ReadableSpan]:
        """Append an entry; return the appended entry and its span."""
        appended: list[Entry] = []

        async def record(appended_entry: Entry, _: Lease) -> PublishResult:
            appended.append(appended_entry)
            return PublishResult(status="published", revision=1)

        asyncio.run(self.spans.wrap_append(record)(entry, lease_with_trace(traceparent)))  # type: ignore[arg-type] # the right type
        (span,), (recorded,) = self.exporter.get_finished_spans(), appended
        return recorded, span


def lease_with_trace(traceparent: str | None) -> Lease:
    """Return a lease on a ticket with this traceparent."""
    return make_lease(make_ticket(traceparent=traceparent))


def format_span(context: SpanContext | None) -> str | None:
    """Return the traceparent of a span context without its flags."""
    return context and f"{format_trace_id(context.trace_id)}-{format_span_id(context.span_id)}"


def is_well_formed(text: str) -> bool:
    """Return whether a text is a W3C traceparent of version 00. Independent of the service."""
    parts = text.split("-")
    version, trace, span, flags = parts if len(parts) == 4 else ("", "", "", "")
    sizes = [len(part) for part in (version, trace, span, flags)] == [2, 32, 16, 2]
    digits = set("".join(parts)) <= set(HEX)
    return sizes and digits and version != "ff" and bool(trace.strip("0") and span.strip("0"))


@pytest.fixture(scope="module")
def native() -> Source:
    """Return the source that exists without a sources file."""
    return native_source(["whsec_c2VjcmV0IG9mIHRoZSB0ZXN0cyE="], presets=read_presets())


@anything
@example(ZEROS)
@example(INCOMING + "\n")
@example("ff" + INCOMING[2:])
def test_ticket_keeps_only_a_well_formed_traceparent(native: Source, text: str) -> None:
    """The receiver drops a malformed traceparent of a sender."""
    event = parse_webhook(native, SignedRequest({"traceparent": text}, {}, FINISHED))
    assert isinstance(event, DeploymentEvent)
    assert event.traceparent == (text if is_well_formed(text) else None)


@anything
@example(ZEROS)
@example(INCOMING.upper())
def test_attempt_has_only_a_well_formed_parent(text: str) -> None:
    """A ticket of an older version may hold any text; a malformed one is no parent."""
    parent = format_span(TracedAttempts().attempt(text).parent)
    if is_well_formed(text):
        assert parent == text[3:52]
    else:  # a later version may append more fields
        assert parent is None or is_well_formed(text.strip()[:55])


def test_ticket_without_traceparent_starts_a_trace() -> None:
    """Tickets of reconciliation have no webhook and no traceparent."""
    assert TracedAttempts().attempt(None).parent is None


def test_entry_has_the_traceparent_of_its_own_span() -> None:
    """It replaces the traceparent of the webhook; all other fields stay."""
    fields = ("specversion", "1.0", "traceparent", INCOMING, "complete", "true")
    entry, span = TracedAttempts().append(Entry("a", "digest", fields), INCOMING)
    traceparent = entry.fields[3]
    assert traceparent[3:52] == format_span(span.get_span_context())
    assert entry.fields == ("specversion", "1.0", "traceparent", traceparent, "complete", "true")


def test_filtered_entry_has_no_traceparent() -> None:
    """A filtered deployment has no entry."""
    filtered = Entry("a", "digest", filtered_because="application")
    assert TracedAttempts().append(filtered, INCOMING)[0] == filtered
