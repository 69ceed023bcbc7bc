"""Tests of tracing: a deployment can be followed from its sender's trace to the stream entry."""

import asyncio
import threading

import pytest
from aiohttp import web
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanContext, SpanKind, StatusCode, format_span_id, format_trace_id

from service.accept.mapping import DeploymentEvent, Queued
from service.simulate.options import Options
from service.simulate.responses import Canned
from service.tracing.otel import build_tracing, close_provider
from tests.conftest import Eventually
from tests.end_to_end.harness import SECRET, ServiceHarness
from tests.factories import deployment_id, make_event

Event = dict[str, object]

Context = dict[str, str]

CONTEXT = ("traceparent", "tracestate", "baggage")
TRACE, SENDER = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
TRACE_HEADERS = {"traceparent": f"00-{TRACE}-{SENDER}-01"}


class CollectedSpans:
    """The spans of a test, kept in memory."""

    def __init__(self) -> None:
        self.exporter = InMemorySpanExporter()
        self.provider = TracerProvider(shutdown_on_exit=False)
        self.provider.add_span_processor(SimpleSpanProcessor(self.exporter))

    def of_kind(self, kind: SpanKind) -> list[ReadableSpan]:
        """Return the spans of a kind in the order of their end."""
        return [span for span in self.exporter.get_finished_spans() if span.kind is kind]

    def only_of_kind(self, kind: SpanKind) -> ReadableSpan:
        """Return the only span of a kind."""
        (span,) = self.of_kind(kind)
        return span


@pytest.fixture
def collected_spans(service: ServiceHarness) -> CollectedSpans:
    """Collect the spans of the service before a test opens it."""
    collected = CollectedSpans()
    service.tracing = build_tracing(collected.provider, service.keys)
    return collected


@pytest.fixture
def upstream_trace_headers(
    service: ServiceHarness, monkeypatch: pytest.MonkeyPatch
) -> list[Context]:
    """Collect the trace headers of each call to LaunchDarkly."""
    contexts: list[Context] = []
    original_respond = service.simulator._respond

    async def record_context(request: web.Request, route: object) -> web.StreamResponse:
        contexts.append(
            {header: request.headers[header] for header in CONTEXT if header in request.headers}
        )
        return await original_respond(request, route)  # type: ignore[arg-type] # passed through unchanged

    monkeypatch.setattr(service.simulator, "_respond", record_context)
    return contexts


def format_traceparent(context: SpanContext | None) -> str:
    """Return the traceparent of a span context."""
    assert context is not None
    ids = format_trace_id(context.trace_id), format_span_id(context.span_id)
    return f"00-{ids[0]}-{ids[1]}-{context.trace_flags:02x}"


def span_traceparent(span: ReadableSpan) -> str:
    """Return the traceparent of a span."""
    return format_traceparent(span.get_span_context())


def parent_traceparent(span: ReadableSpan) -> str:
    """Return the traceparent of a span's parent."""
    return format_traceparent(span.parent)


def span_attributes(span: ReadableSpan) -> dict[str, object]:
    """Return the attributes of a span."""
    return dict(span.attributes or {})


async def test_trace_connects_sender_call_and_entry(
    service: ServiceHarness,
    event: Event,
    collected_spans: CollectedSpans,
    upstream_trace_headers: list[Context],
    eventually: Eventually,
) -> None:
    """Each span is the child of the previous one; the call and the entry name their spans."""
    await service.open()
    webhook = {**event, "deploymentId": deployment_id()}
    assert (await service.post(webhook, extra_headers=TRACE_HEADERS))[0] == 202
    await eventually(service.is_done)
    await eventually(lambda: has_ended_span(collected_spans, SpanKind.CONSUMER))
    server, consumer = (
        collected_spans.only_of_kind(SpanKind.SERVER),
        collected_spans.only_of_kind(SpanKind.CONSUMER),
    )
    client, producer = (
        collected_spans.only_of_kind(SpanKind.CLIENT),
        collected_spans.only_of_kind(SpanKind.PRODUCER),
    )
    assert parent_traceparent(server) == TRACE_HEADERS["traceparent"]
    assert parent_traceparent(consumer) == span_traceparent(server)
    assert parent_traceparent(client) == parent_traceparent(producer) == span_traceparent(consumer)
    assert upstream_trace_headers == [{"traceparent": span_traceparent(client)}]
    assert [record["traceparent"] for record in await service.records()] == [
        span_traceparent(producer)
    ]


async def test_spans_follow_conventions_and_hold_no_secrets(
    service: ServiceHarness, event: Event, collected_spans: CollectedSpans, eventually: Eventually
) -> None:
    """Names and attributes are OpenTelemetry's. Spans hold no secret, token or query."""
    await service.open()
    await service.post({**event, "deploymentId": deployment_id()}, delivery="delivery-1")
    async with service.session.post(f"{service.receiver_url}/webhooks/hush?token=hush", data=b"{}"):
        pass
    async with service.session.get(f"{service.receiver_url}/healthz"):
        pass
    await eventually(lambda: has_ended_span(collected_spans, SpanKind.CONSUMER))
    server, refused = collected_spans.of_kind(SpanKind.SERVER)
    assert server.name == refused.name == "POST /webhooks/{source}"
    assert span_attributes(server) == {
        "http.request.method": "POST",
        "http.route": "/webhooks/{source}",
        "http.response.status_code": 202,
        "url.path": "/webhooks/native",
        "url.scheme": "http",
    }
    client = span_attributes(collected_spans.only_of_kind(SpanKind.CLIENT))
    assert (
        collected_spans.only_of_kind(SpanKind.CLIENT).name == client["http.request.method"] == "GET"
    )
    assert client["http.response.status_code"] == 200
    assert str(client["url.full"]).startswith(service.settings.launchdarkly_url)
    consumer, producer = (
        collected_spans.only_of_kind(SpanKind.CONSUMER),
        collected_spans.only_of_kind(SpanKind.PRODUCER),
    )
    assert (consumer.name, producer.name) == (
        f"process {service.keys.backlog}",
        f"append {service.keys.enriched}",
    )
    assert span_attributes(consumer)["messaging.message.id"] == "delivery-1"
    assert span_attributes(producer)["enricher.outcome"] == "published"
    span_json = "".join(span.to_json() for span in collected_spans.exporter.get_finished_spans())
    for secret in (SECRET, Options().token, "hush"):
        assert secret not in span_json


async def test_every_attempt_is_a_child_of_the_webhook(
    service: ServiceHarness, event: Event, collected_spans: CollectedSpans, eventually: Eventually
) -> None:
    """A failed attempt and its call name the error; the next attempt is a sibling."""
    await service.open()
    service.simulator.set_response(deployment_id(), Canned(status=400, body=b"{}"))
    await service.post({**event, "deploymentId": deployment_id()}, extra_headers=TRACE_HEADERS)
    await eventually(lambda: has_ended_span(collected_spans, SpanKind.CONSUMER))
    (first,) = collected_spans.of_kind(SpanKind.CONSUMER)
    call = collected_spans.of_kind(SpanKind.CLIENT)[0]
    assert first.status.status_code is call.status.status_code is StatusCode.ERROR
    assert span_attributes(call)["error.type"] == "400"
    assert span_attributes(first)["error.type"]
    assert parent_traceparent(first) == span_traceparent(
        collected_spans.only_of_kind(SpanKind.SERVER)
    )
    assert not collected_spans.of_kind(SpanKind.PRODUCER)


@pytest.mark.parametrize(
    "odd", ["", "00", f"ff-{TRACE}-{SENDER}-01", f"00-{'0' * 32}-{SENDER}-01", "ü" * 55, "a" * 4000]
)
async def test_malformed_traceparent_starts_a_new_trace(
    service: ServiceHarness,
    event: Event,
    collected_spans: CollectedSpans,
    odd: str,
    eventually: Eventually,
) -> None:
    """The webhook is accepted and starts a trace of its own."""
    await service.open()
    webhook = {**event, "deploymentId": deployment_id()}
    assert (await service.post(webhook, extra_headers={"traceparent": odd}))[0] == 202
    await eventually(lambda: has_ended_span(collected_spans, SpanKind.CONSUMER))
    assert collected_spans.only_of_kind(SpanKind.SERVER).parent is None
    (record,) = await service.records()
    assert record["traceparent"] == span_traceparent(
        collected_spans.only_of_kind(SpanKind.PRODUCER)
    )
    assert parent_traceparent(collected_spans.only_of_kind(SpanKind.CONSUMER)) == span_traceparent(
        collected_spans.only_of_kind(SpanKind.SERVER)
    )
    assert len(odd) < len(TRACE) or odd not in service.log_output.getvalue()


@pytest.mark.parametrize(
    "state", ["vendor=hush", "hush", "=hush,,=", "hush=" + "x" * 600, ",".join(["hush=1"] * 40)]
)
async def test_tracestate_and_baggage_are_dropped(
    service: ServiceHarness,
    event: Event,
    collected_spans: CollectedSpans,
    upstream_trace_headers: list[Context],
    state: str,
    eventually: Eventually,
) -> None:
    """No call, record, span or log line contains the tracestate or the baggage of a sender."""
    await service.open()
    webhook = {**event, "deploymentId": deployment_id()}
    headers = TRACE_HEADERS | {"tracestate": state, "baggage": state}
    assert (await service.post(webhook, extra_headers=headers))[0] == 202
    await eventually(lambda: has_ended_span(collected_spans, SpanKind.CONSUMER))
    assert (
        parent_traceparent(collected_spans.only_of_kind(SpanKind.SERVER))
        == TRACE_HEADERS["traceparent"]
    )
    assert upstream_trace_headers == [
        {"traceparent": span_traceparent(collected_spans.only_of_kind(SpanKind.CLIENT))}
    ]
    spans = "".join(span.to_json() for span in collected_spans.exporter.get_finished_spans())
    assert "hush" not in spans + service.log_output.getvalue() + str(await service.records())


async def test_event_trace_is_linked_when_request_has_another(
    service: ServiceHarness, collected_spans: CollectedSpans
) -> None:
    """A CloudEvent may name its sender and its request an intermediary: a link connects them."""
    traceparents: list[str | None] = []

    async def record_traceparent(event: DeploymentEvent) -> Queued:
        traceparents.append(event.traceparent)
        return Queued(job="id:1")

    tracer = collected_spans.provider.get_tracer("request")
    enqueue = service.tracing.wrap_enqueue(record_traceparent)
    for traceparent in (TRACE_HEADERS["traceparent"], None):
        with tracer.start_as_current_span("request", kind=SpanKind.SERVER):
            await enqueue(make_event(traceparent=traceparent))
    linked, plain = collected_spans.of_kind(SpanKind.SERVER)
    assert [format_traceparent(link.context) for link in linked.links] == [
        TRACE_HEADERS["traceparent"]
    ]
    assert not plain.links
    assert traceparents == [TRACE_HEADERS["traceparent"], span_traceparent(plain)]


async def test_disabled_tracing_keeps_the_sender_traceparent(
    service: ServiceHarness,
    event: Event,
    upstream_trace_headers: list[Context],
    eventually: Eventually,
) -> None:
    """Calls get no header, and the entry has the traceparent of the sender."""
    await service.open()
    await service.post({**event, "deploymentId": deployment_id()}, extra_headers=TRACE_HEADERS)
    await eventually(service.is_done)
    assert [record["traceparent"] for record in await service.records()] == [
        TRACE_HEADERS["traceparent"]
    ]
    assert upstream_trace_headers == [{}]


async def test_shutdown_stops_waiting_for_a_hanging_collector() -> None:
    """The flush at shutdown ends after its timeout."""
    provider, entered = TracerProvider(shutdown_on_exit=False), asyncio.Event()
    loop, released = asyncio.get_running_loop(), threading.Event()

    class HangingProcessor(SimpleSpanProcessor):
        def shutdown(self) -> None:
            loop.call_soon_threadsafe(entered.set)
            released.wait(20)

    provider.add_span_processor(HangingProcessor(InMemorySpanExporter()))
    await close_provider(provider, timeout_s=0.05)
    await entered.wait()
    assert not released.is_set()
    released.set()


async def has_ended_span(traces: CollectedSpans, kind: SpanKind) -> bool:
    """Return whether a span of a kind has ended."""
    return bool(traces.of_kind(kind))
