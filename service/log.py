"""How is a fact written down? One JSON line each; readable lines on a terminal."""

import sys
from typing import TextIO

import msgspec
import structlog

Log = structlog.typing.FilteringBoundLogger


def open_log(
    *, stream: TextIO | None = None, pretty: bool | None = None, level: str = "info"
) -> Log:
    """Make the logger that everything is handed: JSON lines, or colours on a terminal."""
    out = sys.stderr if stream is None else stream
    if pretty is None:
        pretty = out.isatty()
    steps: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    if pretty:
        steps.append(structlog.dev.ConsoleRenderer(colors=out.isatty(), pad_event_to=22))
    else:
        steps.append(structlog.processors.format_exc_info)
        steps.append(structlog.processors.JSONRenderer(serializer=_encode_line))
    bound: Log = structlog.wrap_logger(
        structlog.PrintLogger(out),
        processors=steps,
        wrapper_class=structlog.make_filtering_bound_logger(level),
        cache_logger_on_first_use=True,
    )
    return bound


def _encode_line(facts: object, **_: object) -> str:
    return msgspec.json.encode(facts, enc_hook=repr).decode()
