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

_REFUSED = 400


def trace_calls(tracer: Tracer, propagator: TextMapPropagator) -> TraceConfig:
    """Make what a session does around each call."""
    config = TraceConfig()

    async def begin(_: ClientSession, call: SimpleNamespace, told: TraceRequestStartParams) -> None:
        attributes: dict[str, str | int] = {
            "http.request.method": told.method,
            "server.address": told.url.host or "",
            "server.port": told.url.port or 0,
            "url.full": str(told.url.with_user(None)),
        }
        call.span = tracer.start_span(told.method, kind=SpanKind.CLIENT, attributes=attributes)
        propagator.inject(told.headers, context=set_span_in_context(call.span))

    async def end(_: ClientSession, call: SimpleNamespace, told: TraceRequestEndParams) -> None:
        status = told.response.status
        call.span.set_attribute("http.response.status_code", status)
        if status >= _REFUSED:
            call.span.set_status(StatusCode.ERROR)
            call.span.set_attribute("error.type", str(status))
        call.span.end()

    async def fail(
        _: ClientSession, call: SimpleNamespace, told: TraceRequestExceptionParams
    ) -> None:
        call.span.set_status(StatusCode.ERROR)
        call.span.set_attribute("error.type", type(told.exception).__name__)
        call.span.end()

    config.on_request_start.append(begin)
    config.on_request_end.append(end)
    config.on_request_exception.append(fail)
    return config
