"""How do spans leave? In batches, by a thread of the SDK's own: no webhook waits for them."""

import asyncio
import contextlib
import logging
import threading
from collections.abc import Iterator

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import SERVICE_NAME, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor

from service.log import EventLogger

_DEFAULT_SERVICE_NAME = "deployment-enricher"


def open_provider() -> TracerProvider:
    """Make what collects spans, as the variables OTEL_* say; ValueError for what they cannot."""
    resource = Resource.create()
    if str(resource.attributes.get(SERVICE_NAME, "")).startswith("unknown_service"):
        resource = resource.merge(Resource({SERVICE_NAME: _DEFAULT_SERVICE_NAME}))
    # Not at exit: that would wait for half a minute where nobody takes the spans.
    provider = TracerProvider(resource=resource, shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    return provider


async def close_provider(provider: TracerProvider, *, timeout_s: float) -> None:
    """Send what is left, but wait no longer than that: the rest is lost with the process."""
    loop, flushed = asyncio.get_running_loop(), asyncio.Event()

    def shut_down() -> None:
        provider.shutdown()
        with contextlib.suppress(RuntimeError):  # nobody waits any more
            loop.call_soon_threadsafe(flushed.set)

    threading.Thread(target=shut_down, name="last-spans", daemon=True).start()
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(flushed.wait(), timeout_s)


@contextlib.contextmanager
def log_sdk_warnings(log: EventLogger) -> Iterator[None]:
    """Write what the SDK complains of as facts of ours."""
    logger, handler = logging.getLogger("opentelemetry"), _SdkLogHandler(log)
    propagated, logger.propagate = logger.propagate, False
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.propagate = propagated


class _SdkLogHandler(logging.Handler):
    """Hands complaints over to the loop: the log belongs to its thread."""

    def __init__(self, log: EventLogger) -> None:
        super().__init__(logging.WARNING)
        self._log = log
        self._loop = asyncio.get_running_loop()

    def emit(self, record: logging.LogRecord) -> None:
        """Write the form of a complaint without its values: a header may be among them."""
        with contextlib.suppress(RuntimeError):  # the loop is closed
            self._loop.call_soon_threadsafe(self._log_warning, str(record.msg))

    def _log_warning(self, reason: str) -> None:
        self._log.warning("tracing_troubled", reason=reason)
