"""Whether traces are exported: by the OTEL_* variables and the extra ``otel``."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

from service.log import EventLogger
from service.store.keys import Keys
from service.tracing.tracing import NO_TRACING, Tracing

_ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")


def is_tracing_enabled(environ: Mapping[str, str]) -> bool:
    """Return whether an OTLP endpoint is configured and nothing turns tracing off."""
    disabled = environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true"
    exporters = environ.get("OTEL_TRACES_EXPORTER", "").strip() or "otlp"
    uses_otlp = "otlp" in [name.strip() for name in exporters.split(",")]
    return uses_otlp and not disabled and any(environ.get(name, "").strip() for name in _ENDPOINTS)


@asynccontextmanager
async def open_tracing(
    environ: Mapping[str, str], *, keys: Keys, flush_timeout_s: float, log: EventLogger
) -> AsyncIterator[Tracing]:
    """Export traces if tracing is configured and installed; on exit, flush the spans.

    The flush takes at most ``flush_timeout_s``. An error of tracing never stops the service.
    """
    if not is_tracing_enabled(environ):
        yield NO_TRACING
        return
    try:
        # It needs the extra, and without tracing nothing should load it.
        from service.tracing import otel  # noqa: PLC0415
    except ImportError as error:
        log.warning("tracing_disabled", reason=f"install the extra otel: no {error.name}")
        yield NO_TRACING
        return
    with otel.log_sdk_warnings(log):
        try:
            provider = otel.open_provider()
        except ValueError as error:
            log.warning("tracing_disabled", reason=f"OTEL_*: {type(error).__name__}")
            yield NO_TRACING
            return
        try:
            yield otel.build_tracing(provider, keys)
        finally:
            await otel.close_provider(provider, timeout_s=flush_timeout_s)
