"""Can one deployment be followed from its sender's trace to the entry in the stream?"""

import asyncio
import threading
from collections.abc import Awaitable, Callable

import pytest
from aiohttp import web
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanContext, SpanKind, StatusCode, format_span_id, format_trace_id

from service.accept.events import DeploymentCompleted, Queued
from service.simulate.answers import Planted
from service.simulate.options import Options
from service.tracing.export import close_provider
from service.tracing.spans import trace_with
from tests.story.stage import SECRET, Story, name_deployment

Event = dict[str, object]
Eventually = Callable[[Callable[[], Awaitable[bool]]], Awaitable[None]]

Context = dict[str, str]

CONTEXT = ("traceparent", "tracestate", "baggage")
TRACE, SENDER = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
SENT = {"traceparent": f"00-{TRACE}-{SENDER}-01"}


class Traces:
    """Spans that were collected in memory."""

    def __init__(self) -> None:
        self.kept = InMemorySpanExporter()
        self.provider = TracerProvider(shutdown_on_exit=False)
        self.provider.add_span_processor(SimpleSpanProcessor(self.kept))

    def of(self, kind: SpanKind) -> list[ReadableSpan]:
        """List the spans of a kind, as they ended."""
        return [span for span in self.kept.get_finished_spans() if span.kind is kind]

    def only(self, kind: SpanKind) -> ReadableSpan:
        """Give the one span of a kind."""
        (span,) = self.of(kind)
        return span


@pytest.fixture
def traces(story: Story) -> Traces:
    """Collect the spans of a story that is not opened yet."""
    collected = Traces()
    story.tracing = trace_with(collected.provider, story.keys)
    return collected


@pytest.fixture
def asked(story: Story, monkeypatch: pytest.MonkeyPatch) -> list[Context]:
    """List the trace context of each call that LaunchDarkly is asked with."""
    heard: list[Context] = []
    answer = story.simulator._answer

    async def listen(request: web.Request, route: object) -> web.StreamResponse:
        heard.append({word: request.headers[word] for word in CONTEXT if word in request.headers})
        return await answer(request, route)  # type: ignore[arg-type] # handed on as it came

    monkeypatch.setattr(story.simulator, "_answer", listen)
    return heard


def write(told: SpanContext | None) -> str:
    """Write a span as a traceparent."""
    assert told is not None
    ids = format_trace_id(told.trace_id), format_span_id(told.span_id)
    return f"00-{ids[0]}-{ids[1]}-{told.trace_flags:02x}"


def name(span: ReadableSpan) -> str:
    """Write a span as others name it."""
    return write(span.get_span_context())


def parent(span: ReadableSpan) -> str:
    """Write the span of which this is a child."""
    return write(span.parent)


def complete(traceparent: str | None) -> DeploymentCompleted:
    """Make an event that names its sender's span."""
    return DeploymentCompleted(
        source="native",
        delivery="1",
        project=None,
        environment=None,
        application=None,
        version=None,
        deployment_id=name_deployment(),
        outcome="succeeded",
        event_time=None,
        metadata=None,
        metadata_dropped=False,
        traceparent=traceparent,
    )


def facts(span: ReadableSpan) -> dict[str, object]:
    """Give the attributes of a span."""
    return dict(span.attributes or {})


async def test_one_trace_goes_from_the_sender_to_the_entry(
    story: Story, event: Event, traces: Traces, asked: list[Context], eventually: Eventually
) -> None:
    """Each span is the child of the one before; the call and the entry name theirs."""
    await story.open()
    told = {**event, "deploymentId": name_deployment()}
    assert (await story.post(told, also=SENT))[0] == 202
    await eventually(story.is_done)
    await eventually(lambda: ended(traces, SpanKind.CONSUMER))
    server, consumer = traces.only(SpanKind.SERVER), traces.only(SpanKind.CONSUMER)
    client, producer = traces.only(SpanKind.CLIENT), traces.only(SpanKind.PRODUCER)
    assert parent(server) == SENT["traceparent"]
    assert parent(consumer) == name(server)
    assert parent(client) == parent(producer) == name(consumer)
    assert asked == [{"traceparent": name(client)}]
    assert [record["traceparent"] for record in await story.records()] == [name(producer)]


async def test_spans_are_told_by_the_conventions_and_without_secrets(
    story: Story, event: Event, traces: Traces, eventually: Eventually
) -> None:
    """Names and attributes are OpenTelemetry's; secret, token and query of a webhook stay out."""
    await story.open()
    await story.post({**event, "deploymentId": name_deployment()}, delivery="told")
    async with story.session.post(f"{story.door}/webhooks/hush?token=hush", data=b"{}"):
        pass
    async with story.session.get(f"{story.door}/healthz"):
        pass
    await eventually(lambda: ended(traces, SpanKind.CONSUMER))
    server, refused = traces.of(SpanKind.SERVER)
    assert server.name == refused.name == "POST /webhooks/{source}"
    assert facts(server) == {
        "http.request.method": "POST",
        "http.route": "/webhooks/{source}",
        "http.response.status_code": 202,
        "url.path": "/webhooks/native",
        "url.scheme": "http",
    }
    client = facts(traces.only(SpanKind.CLIENT))
    assert traces.only(SpanKind.CLIENT).name == client["http.request.method"] == "GET"
    assert client["http.response.status_code"] == 200
    assert str(client["url.full"]).startswith(story.settings.launchdarkly_url)
    consumer, producer = traces.only(SpanKind.CONSUMER), traces.only(SpanKind.PRODUCER)
    assert (consumer.name, producer.name) == (
        f"process {story.keys.backlog}",
        f"append {story.keys.enriched}",
    )
    assert facts(consumer)["messaging.message.id"] == "told"
    assert facts(producer)["enricher.fate"] == "published"
    written = "".join(span.to_json() for span in traces.kept.get_finished_spans())
    for secret in (SECRET, Options().token, "hush"):
        assert secret not in written


async def test_every_attempt_is_a_child_of_the_webhook(
    story: Story, event: Event, traces: Traces, eventually: Eventually
) -> None:
    """A failed attempt says why, as does its call; the next is its sibling."""
    await story.open()
    story.simulator.plant_answer(name_deployment(), Planted(status=400, body=b"{}"))
    await story.post({**event, "deploymentId": name_deployment()}, also=SENT)
    await eventually(lambda: ended(traces, SpanKind.CONSUMER))
    (first,) = traces.of(SpanKind.CONSUMER)
    call = traces.of(SpanKind.CLIENT)[0]
    assert first.status.status_code is call.status.status_code is StatusCode.ERROR
    assert facts(call)["error.type"] == "400"
    assert facts(first)["error.type"]
    assert parent(first) == name(traces.only(SpanKind.SERVER))
    assert not traces.of(SpanKind.PRODUCER)


@pytest.mark.parametrize(
    "odd", ["", "00", f"ff-{TRACE}-{SENDER}-01", f"00-{'0' * 32}-{SENDER}-01", "ü" * 55, "a" * 4000]
)
async def test_a_malformed_traceparent_breaks_nothing(
    story: Story, event: Event, traces: Traces, odd: str, eventually: Eventually
) -> None:
    """The webhook begins a trace of its own."""
    await story.open()
    told = {**event, "deploymentId": name_deployment()}
    assert (await story.post(told, also={"traceparent": odd}))[0] == 202
    await eventually(lambda: ended(traces, SpanKind.CONSUMER))
    assert traces.only(SpanKind.SERVER).parent is None
    (record,) = await story.records()
    assert record["traceparent"] == name(traces.only(SpanKind.PRODUCER))
    assert parent(traces.only(SpanKind.CONSUMER)) == name(traces.only(SpanKind.SERVER))
    assert len(odd) < len(TRACE) or odd not in story.written.getvalue()


@pytest.mark.parametrize(
    "state", ["vendor=hush", "hush", "=hush,,=", "hush=" + "x" * 600, ",".join(["hush=1"] * 40)]
)
async def test_what_a_vendor_told_another_goes_no_further(
    story: Story,
    event: Event,
    traces: Traces,
    asked: list[Context],
    state: str,
    eventually: Eventually,
) -> None:
    """Well-formed or not: no tracestate and no baggage is in a call, a record, a span or a line."""
    await story.open()
    told = {**event, "deploymentId": name_deployment()}
    others = SENT | {"tracestate": state, "baggage": state}
    assert (await story.post(told, also=others))[0] == 202
    await eventually(lambda: ended(traces, SpanKind.CONSUMER))
    assert parent(traces.only(SpanKind.SERVER)) == SENT["traceparent"]
    assert asked == [{"traceparent": name(traces.only(SpanKind.CLIENT))}]
    spans = "".join(span.to_json() for span in traces.kept.get_finished_spans())
    assert "hush" not in spans + story.written.getvalue() + str(await story.records())


async def test_an_event_of_another_trace_than_its_request_stays_in_its_own(
    story: Story, traces: Traces
) -> None:
    """A CloudEvent may name its sender, its request an intermediary: a link leads from it."""
    heard: list[str | None] = []

    async def remember(event: DeploymentCompleted) -> Queued:
        heard.append(event.traceparent)
        return Queued(job="id:1")

    tracer = traces.provider.get_tracer("request")
    carried = story.tracing.carry(remember)
    for told in (SENT["traceparent"], None):
        with tracer.start_as_current_span("request", kind=SpanKind.SERVER):
            await carried(complete(told))
    linked, plain = traces.of(SpanKind.SERVER)
    assert [write(link.context) for link in linked.links] == [SENT["traceparent"]]
    assert not plain.links
    assert heard == [SENT["traceparent"], name(plain)]


async def test_without_tracing_the_entry_names_the_sender_s_span(
    story: Story, event: Event, asked: list[Context], eventually: Eventually
) -> None:
    """Nothing is added to a call, and the traceparent goes through as it came."""
    await story.open()
    await story.post({**event, "deploymentId": name_deployment()}, also=SENT)
    await eventually(story.is_done)
    assert [record["traceparent"] for record in await story.records()] == [SENT["traceparent"]]
    assert asked == [{}]


async def test_the_last_spans_wait_for_nobody_for_ever() -> None:
    """A collector that hangs is left when the time is over."""
    provider, entered = TracerProvider(shutdown_on_exit=False), asyncio.Event()
    loop, held = asyncio.get_running_loop(), threading.Event()

    class Hanging(SimpleSpanProcessor):
        def shutdown(self) -> None:
            loop.call_soon_threadsafe(entered.set)
            held.wait(20)

    provider.add_span_processor(Hanging(InMemorySpanExporter()))
    await close_provider(provider, longest_s=0.05)
    await entered.wait()
    assert not held.is_set()
    held.set()


async def ended(traces: Traces, kind: SpanKind) -> bool:
    """Tell whether a span of a kind has ended."""
    return bool(traces.of(kind))
