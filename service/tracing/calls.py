"""How is a call to LaunchDarkly traced? A span each, which the call names to who answers.

It ends when the headers are there; the body is read after it.
"""

from types import SimpleNamespace

from aiohttp import (
    ClientSession,
    TraceConfig,
    TraceRequestEndParams,
    TraceRequestExceptionParams,
    TraceRequestStartParams,
)
from opentelemetry.propagators.textmap import TextMapPropagator
from opentelemetry.trace import SpanKind, StatusCode, Tracer, set_span_in_context

_FIRST_ERROR_STATUS = 400


def build_trace_config(tracer: Tracer, propagator: TextMapPropagator) -> TraceConfig:
    """Make what a session does around each call."""
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
