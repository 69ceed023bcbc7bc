"""The spans: webhook, attempt, call and append, by OpenTelemetry's semantic conventions.

https://opentelemetry.io/docs/specs/semconv: http and messaging. No attribute holds a header, the
query of a webhook, a body or the message of an exception.
"""

import asyncio
import contextlib
import logging
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from types import SimpleNamespace

from aiohttp import (
    ClientSession,
    TraceConfig,
    TraceRequestEndParams,
    TraceRequestExceptionParams,
    TraceRequestStartParams,
    web,
)
from aiohttp.typedefs import Handler
from msgspec.structs import replace
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.propagators.textmap import TextMapPropagator
from opentelemetry.sdk.resources import SERVICE_NAME, SERVICE_VERSION, Resource
from opentelemetry.sdk.trace import TracerProvider as SdkTracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
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

from service import __version__
from service.accept.handler import Enqueue
from service.accept.mapping import DeploymentEvent, EnqueueResult
from service.backlog.ticket import Lease
from service.enrich.verdict import Fail, Found, Retry, Verdict
from service.log import EventLogger
from service.publish.entry import Entry
from service.publish.stream import PublishResult
from service.store.keys import Keys
from service.tracing.tracing import Tracing
from service.worker import WorkerDependencies

_FIRST_ERROR_STATUS = 400
_WEBHOOK_ROUTE = "/webhooks/{source}"  # also of a source whose route holds its name


def build_trace_config(tracer: Tracer, propagator: TextMapPropagator) -> TraceConfig:
    """Return the trace config of the session that calls LaunchDarkly: one client span per call."""
    config = TraceConfig()

    async def start_call_span(
        _: ClientSession, context: SimpleNamespace, params: TraceRequestStartParams
    ) -> None:
        attributes: dict[str, str | int] = {
            "http.request.method": params.method,
            "server.address": params.url.host or "",
            "server.port": params.url.port or 0,
            "url.full": str(params.url.with_user(None)),
        }
        context.span = tracer.start_span(params.method, kind=SpanKind.CLIENT, attributes=attributes)
        propagator.inject(params.headers, context=set_span_in_context(context.span))

    async def end_call_span(
        _: ClientSession, context: SimpleNamespace, params: TraceRequestEndParams
    ) -> None:
        status = params.response.status
        context.span.set_attribute("http.response.status_code", status)
        if status >= _FIRST_ERROR_STATUS:
            context.span.set_status(StatusCode.ERROR)
            context.span.set_attribute("error.type", str(status))
        context.span.end()

    async def fail_call_span(
        _: ClientSession, context: SimpleNamespace, params: TraceRequestExceptionParams
    ) -> None:
        context.span.set_status(StatusCode.ERROR)
        context.span.set_attribute("error.type", type(params.exception).__name__)
        context.span.end()

    config.on_request_start.append(start_call_span)
    config.on_request_end.append(end_call_span)
    config.on_request_exception.append(fail_call_span)
    return config


Enrich = Callable[[Lease], Awaitable[Verdict]]
Append = Callable[[Entry, Lease], Awaitable[PublishResult]]

# Tickets and entries hold W3C trace context, whatever OTEL_PROPAGATORS says.
_W3C_PROPAGATOR = TraceContextTextMapPropagator()
_KNOWN_METHODS = {"GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH"}
_FIRST_SERVER_ERROR_STATUS = 500


def build_tracing(provider: TracerProvider, keys: Keys) -> Tracing:
    """Return the hooks that make spans with this provider."""
    tracer = provider.get_tracer("deployment-enricher", __version__)
    spans = PipelineSpans(tracer, keys)

    @web.middleware
    async def trace_webhook(request: web.Request, handler: Handler) -> web.StreamResponse:
        return await spans.trace_webhook(request, handler)

    return Tracing(
        middlewares=(trace_webhook,),
        trace_configs=(build_trace_config(tracer, _W3C_PROPAGATOR),),
        wrap_enqueue=spans.wrap_enqueue,
        wrap_worker=spans.wrap_worker,
    )


class PipelineSpans:
    """The spans of one deployment: webhook, attempt and append."""

    def __init__(self, tracer: Tracer, keys: Keys) -> None:
        self._tracer = tracer
        self._keys = keys

    async def trace_webhook(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Answer a webhook within a server span, a child of the sender's span."""
        resource = request.match_info.route.resource
        if resource is None or not resource.canonical.startswith("/webhooks/"):
            return await handler(request)
        method = request.method if request.method in _KNOWN_METHODS else "_OTHER"
        attributes: dict[str, AttributeValue] = {
            "http.request.method": method,
            "http.route": _WEBHOOK_ROUTE,
            "url.scheme": request.scheme,
        }
        parent = _parse_parent(request.headers.get("traceparent"))
        name = f"{'HTTP' if method == '_OTHER' else method} {_WEBHOOK_ROUTE}"
        with self._start_span(name, SpanKind.SERVER, parent, attributes) as span:
            response = await handler(request)
            span.set_attribute("http.response.status_code", response.status)
            if response.status >= _FIRST_SERVER_ERROR_STATUS:
                _mark_failed(span, str(response.status))
            if response.status != web.HTTPNotFound.status_code:  # a 404 path may hold anything
                span.set_attribute("url.path", request.path)
            return response

    def wrap_enqueue(self, enqueue: Enqueue) -> Enqueue:
        """Return ``enqueue`` that stores the webhook's span in the ticket."""

        async def enqueue_traced(event: DeploymentEvent) -> EnqueueResult:
            return await enqueue(replace(event, traceparent=_choose_traceparent(event.traceparent)))

        return enqueue_traced

    def wrap_worker(self, dependencies: WorkerDependencies) -> WorkerDependencies:
        """Return the dependencies of a worker whose attempts and entries are traced."""
        return replace(
            dependencies,
            trace_attempt=self.attempt_span,
            enrich=self.wrap_enrich(dependencies.enrich),
            append_and_settle=self.wrap_append(dependencies.append_and_settle),
        )

    def attempt_span(self, lease: Lease) -> AbstractContextManager[object]:
        """Return a consumer span for one attempt, a child of the webhook's span."""
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
        parent = _parse_parent(ticket.traceparent)
        return self._start_span(f"process {queue}", SpanKind.CONSUMER, parent, attributes)

    def wrap_enrich(self, enrich: Enrich) -> Enrich:
        """Return ``enrich`` that records calls or the reason in the attempt's span."""

        async def enrich_traced(lease: Lease) -> Verdict:
            span = get_current_span()
            try:
                verdict = await enrich(lease)
            except Exception as error:
                _mark_failed(span, type(error).__name__)
                raise
            match verdict:
                case Found(calls=calls):
                    span.set_attribute("enricher.calls", calls)
                case Retry(reason=reason) | Fail(reason=reason):
                    _mark_failed(span, reason)
            return verdict

        return enrich_traced

    def wrap_append(self, append: Append) -> Append:
        """Return ``append`` within a producer span, whose context the entry carries."""
        stream = self._keys.enriched
        attributes: dict[str, AttributeValue] = {
            "messaging.system": "redis",
            "messaging.operation.name": "append",
            "messaging.operation.type": "send",
            "messaging.destination.name": stream,
        }

        async def append_traced(entry: Entry, lease: Lease) -> PublishResult:
            with self._start_span(f"append {stream}", SpanKind.PRODUCER, None, attributes) as span:
                traced_entry = _with_traceparent(entry, _format_traceparent(span))
                result = await append(traced_entry, lease)
                span.set_attribute("enricher.outcome", result.status)
                span.set_attribute("enricher.revision", result.revision)
                return result

        return append_traced

    @contextmanager
    def _start_span(
        self,
        name: str,
        kind: SpanKind,
        parent: Context | None,
        attributes: dict[str, AttributeValue],
    ) -> Iterator[Span]:
        """Run a span. An exception leaves only its type in it: its message may quote secrets."""
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
                _mark_failed(span, type(error).__name__)
                raise


def _parse_parent(traceparent: str | None) -> Context:
    """Return the parent context; an empty one if it is missing or malformed."""
    return _W3C_PROPAGATOR.extract(
        {"traceparent": traceparent} if traceparent else {}, context=Context()
    )


def _format_traceparent(span: Span) -> str | None:
    carrier: dict[str, str] = {}
    if span.get_span_context().is_valid:
        _W3C_PROPAGATOR.inject(carrier, context=set_span_in_context(span, Context()))
    return carrier.get("traceparent")


def _with_traceparent(entry: Entry, traceparent: str | None) -> Entry:
    """Return an entry with another traceparent; a filtered one is not written and stays."""
    if traceparent is None or entry.filtered_because:
        return entry
    pairs = dict(zip(entry.fields[::2], entry.fields[1::2], strict=True))
    pairs["traceparent"] = traceparent
    return replace(entry, fields=tuple(part for pair in pairs.items() for part in pair))


def _choose_traceparent(traceparent: str | None) -> str | None:
    """Return the webhook's span, or the event's own traceparent if it is of another trace."""
    span = get_current_span()
    event_context = get_current_span(_parse_parent(traceparent)).get_span_context()
    if event_context.is_valid and event_context.trace_id != span.get_span_context().trace_id:
        span.add_link(event_context)
        return traceparent
    return _format_traceparent(span) or traceparent


def _mark_failed(span: Span, error_type: str) -> None:
    span.set_status(StatusCode.ERROR)
    span.set_attribute("error.type", error_type)


_DEFAULT_SERVICE_NAME = "deployment-enricher"


def open_provider() -> SdkTracerProvider:
    """Return a provider configured by the OTEL_* variables. Raises ValueError for bad ones."""
    resource = Resource({SERVICE_VERSION: __version__}).merge(Resource.create())
    if str(resource.attributes.get(SERVICE_NAME, "")).startswith("unknown_service"):
        resource = resource.merge(Resource({SERVICE_NAME: _DEFAULT_SERVICE_NAME}))
    # Not at exit: without a collector that would block for half a minute.
    provider = SdkTracerProvider(resource=resource, shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    return provider


async def close_provider(provider: SdkTracerProvider, *, timeout_s: float) -> None:
    """Flush the spans, for at most ``timeout_s``; the rest is lost."""
    loop, flushed = asyncio.get_running_loop(), asyncio.Event()

    def shut_down() -> None:
        provider.shutdown()
        with contextlib.suppress(RuntimeError):  # the loop is closed
            loop.call_soon_threadsafe(flushed.set)

    threading.Thread(target=shut_down, name="last-spans", daemon=True).start()
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(flushed.wait(), timeout_s)


@contextlib.contextmanager
def log_sdk_warnings(log: EventLogger) -> Iterator[None]:
    """Log the warnings of the SDK as events of the service."""
    logger, handler = logging.getLogger("opentelemetry"), _SdkLogHandler(log)
    propagated, logger.propagate = logger.propagate, False
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.propagate = propagated


class _SdkLogHandler(logging.Handler):
    """Passes SDK messages to the event loop, whose thread owns the log."""

    def __init__(self, log: EventLogger) -> None:
        super().__init__(logging.WARNING)
        self._log = log
        self._loop = asyncio.get_running_loop()

    def emit(self, record: logging.LogRecord) -> None:
        """Log the message template without its values: one may be a header."""
        with contextlib.suppress(RuntimeError):  # the loop is closed
            self._loop.call_soon_threadsafe(self._log_warning, str(record.msg))

    def _log_warning(self, reason: str) -> None:
        self._log.warning("tracing_export_failed", reason=reason)
