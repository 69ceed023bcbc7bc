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

from service.log import FactLog

_NAME = "deployment-enricher"


def open_provider() -> TracerProvider:
    """Make what collects spans, as the variables OTEL_* say; ValueError for what they cannot."""
    resource = Resource.create()
    if str(resource.attributes.get(SERVICE_NAME, "")).startswith("unknown_service"):
        resource = resource.merge(Resource({SERVICE_NAME: _NAME}))
    # Not at exit: that would wait for half a minute where nobody takes the spans.
    provider = TracerProvider(resource=resource, shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    return provider


async def close_provider(provider: TracerProvider, *, longest_s: float) -> None:
    """Send what is left, but wait no longer than that: the rest is lost with the process."""
    loop, sent = asyncio.get_running_loop(), asyncio.Event()

    def close() -> None:
        provider.shutdown()
        with contextlib.suppress(RuntimeError):  # nobody waits any more
            loop.call_soon_threadsafe(sent.set)

    threading.Thread(target=close, name="last-spans", daemon=True).start()
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(sent.wait(), longest_s)


@contextlib.contextmanager
def tell_trouble(log: FactLog) -> Iterator[None]:
    """Write what the SDK complains of as facts of ours."""
    logger, complaints = logging.getLogger("opentelemetry"), _Complaints(log)
    before, logger.propagate = logger.propagate, False
    logger.addHandler(complaints)
    try:
        yield
    finally:
        logger.removeHandler(complaints)
        logger.propagate = before


class _Complaints(logging.Handler):
    """Hands complaints over to the loop: the log belongs to its thread."""

    def __init__(self, log: FactLog) -> None:
        super().__init__(logging.WARNING)
        self._log = log
        self._loop = asyncio.get_running_loop()

    def emit(self, record: logging.LogRecord) -> None:
        """Write the form of a complaint without its values: a header may be among them."""
        with contextlib.suppress(RuntimeError):  # the loop is closed
            self._loop.call_soon_threadsafe(self._write, str(record.msg))

    def _write(self, reason: str) -> None:
        self._log.warning("tracing_troubled", reason=reason)
