"""Which spans are there? Webhook, attempt, call and append, by OpenTelemetry's conventions.

https://opentelemetry.io/docs/specs/semconv: http and messaging. No header, no query of a webhook,
no body and no message of an exception is in any attribute.
"""

from collections.abc import Awaitable, Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

from aiohttp import web
from aiohttp.typedefs import Handler
from msgspec.structs import replace
from opentelemetry.context import Context
from opentelemetry.trace import (
    Span,
    SpanKind,
    StatusCode,
    Tracer,
    TracerProvider,
    get_current_span,
    set_span_in_context,
)
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from opentelemetry.util.types import AttributeValue

from service.accept.events import DeploymentCompleted, Remembered
from service.accept.webhooks import Remember
from service.backlog.ticket import Lease
from service.enrich.verdict import Found, Later, Never, Verdict
from service.publish.stream import Settled
from service.publish.writing import Entry
from service.store.keys import Keys
from service.tracing.calls import trace_calls
from service.tracing.tracing import Tracing
from service.worker import Collaborators

Enrich = Callable[[Lease], Awaitable[Verdict]]
Append = Callable[[Entry, Lease], Awaitable[Settled]]

_W3C = TraceContextTextMapPropagator()  # what a ticket and an entry hold, whatever else is set
_METHODS = {"GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH"}
_FAULT_OF_OURS = 500


def trace_with(provider: TracerProvider, keys: Keys) -> Tracing:
    """Make what stands around the stages' verbs."""
    tracer = provider.get_tracer("deployment-enricher")
    spans = Spans(tracer, keys)

    @web.middleware
    async def receive(request: web.Request, handler: Handler) -> web.StreamResponse:
        return await spans.receive(request, handler)

    return Tracing(
        middlewares=(receive,),
        calls=(trace_calls(tracer, _W3C),),
        carry=spans.carry,
        join=spans.join,
    )


class Spans:
    """Begins and ends them, one inside the other."""

    def __init__(self, tracer: Tracer, keys: Keys) -> None:
        self._tracer = tracer
        self._keys = keys

    async def receive(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Answer a webhook within a span, the child of its sender's."""
        resource = request.match_info.route.resource
        route = resource.canonical if resource else ""
        if not route.startswith("/webhooks/"):
            return await handler(request)
        method = request.method if request.method in _METHODS else "_OTHER"
        attributes: dict[str, AttributeValue] = {
            "http.request.method": method,
            "http.route": route,
            "url.scheme": request.scheme,
        }
        parent = _read_parent(request.headers.get("traceparent"))
        name = f"{'HTTP' if method == '_OTHER' else method} {route}"
        with self._begin(name, SpanKind.SERVER, parent, attributes) as span:
            response = await handler(request)
            span.set_attribute("http.response.status_code", response.status)
            if response.status >= _FAULT_OF_OURS:
                _fail(span, str(response.status))
            if response.status != web.HTTPNotFound.status_code:  # else it may hold anything
                span.set_attribute("url.path", request.path)
            return response

    def carry(self, remember: Remember) -> Remember:
        """Let the ticket name the webhook's span."""

        async def remember_traced(event: DeploymentCompleted) -> Remembered:
            return await remember(replace(event, traceparent=_join(event.traceparent)))

        return remember_traced

    def join(self, hands: Collaborators) -> Collaborators:
        """Let a worker's attempts be spans, and its entries name them."""
        return replace(
            hands,
            attempt=self.attempt,
            enrich=self.enrich(hands.enrich),
            append_and_settle=self.append(hands.append_and_settle),
        )

    def attempt(self, lease: Lease) -> AbstractContextManager[object]:
        """Try a ticket within a span, the child of its webhook's."""
        ticket, queue = lease.ticket, self._keys.backlog
        attributes: dict[str, AttributeValue] = {
            "messaging.system": "redis",
            "messaging.operation.name": "process",
            "messaging.operation.type": "process",
            "messaging.destination.name": queue,
            "messaging.message.id": ticket.delivery,
            "enricher.source": ticket.source,
            "enricher.job": lease.job,
            "enricher.attempt": ticket.attempts + 1,
        }
        parent = _read_parent(ticket.traceparent)
        return self._begin(f"process {queue}", SpanKind.CONSUMER, parent, attributes)

    def enrich(self, enrich: Enrich) -> Enrich:
        """Let the attempt's span tell what it came to."""

        async def enrich_traced(lease: Lease) -> Verdict:
            span = get_current_span()
            try:
                verdict = await enrich(lease)
            except Exception as error:
                _fail(span, type(error).__name__)
                raise
            match verdict:
                case Found(calls=calls):
                    span.set_attribute("enricher.calls", calls)
                case Later(reason=reason) | Never(reason=reason):
                    _fail(span, reason)
            return verdict

        return enrich_traced

    def append(self, append: Append) -> Append:
        """Append a record within a span, which its entry names."""
        stream = self._keys.enriched
        attributes: dict[str, AttributeValue] = {
            "messaging.system": "redis",
            "messaging.operation.name": "append",
            "messaging.operation.type": "send",
            "messaging.destination.name": stream,
        }

        async def append_traced(entry: Entry, lease: Lease) -> Settled:
            with self._begin(f"append {stream}", SpanKind.PRODUCER, None, attributes) as span:
                named = _name_span(entry, _write(span))
                settled = await append(named, lease)
                span.set_attribute("enricher.fate", settled.fate)
                span.set_attribute("enricher.revision", settled.revision)
                return settled

        return append_traced

    @contextmanager
    def _begin(
        self,
        name: str,
        kind: SpanKind,
        parent: Context | None,
        attributes: dict[str, AttributeValue],
    ) -> Iterator[Span]:
        """Begin a span, and end it. An exception leaves its name only: its message may quote."""
        with self._tracer.start_as_current_span(
            name,
            context=parent,
            kind=kind,
            attributes=attributes,
            record_exception=False,
            set_status_on_exception=False,
        ) as span:
            try:
                yield span
            except BaseException as error:
                _fail(span, type(error).__name__)
                raise


def _read_parent(traceparent: str | None) -> Context:
    """Read whose child a span is; nobody's, if that is malformed or not told."""
    return _W3C.extract({"traceparent": traceparent} if traceparent else {}, context=Context())


def _write(span: Span) -> str | None:
    written: dict[str, str] = {}
    if span.get_span_context().is_valid:
        _W3C.inject(written, context=set_span_in_context(span, Context()))
    return written.get("traceparent")


def _name_span(entry: Entry, traceparent: str | None) -> Entry:
    """Let an entry name another span than its webhook's; one that is left out names none."""
    if traceparent is None or entry.left_out:
        return entry
    pairs = dict(zip(entry.fields[::2], entry.fields[1::2], strict=True))
    pairs["traceparent"] = traceparent
    return replace(entry, fields=tuple(part for pair in pairs.items() for part in pair))


def _join(told: str | None) -> str | None:
    """Give the webhook's span, unless its event is of another trace than the request was."""
    span = get_current_span()
    theirs = get_current_span(_read_parent(told)).get_span_context()
    if theirs.is_valid and theirs.trace_id != span.get_span_context().trace_id:
        span.add_link(theirs)
        return told
    return _write(span) or told


def _fail(span: Span, kind: str) -> None:
    span.set_status(StatusCode.ERROR)
    span.set_attribute("error.type", kind)
