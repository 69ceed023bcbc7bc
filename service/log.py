"""The log: one JSON line per event, or readable lines on a terminal."""

import asyncio
import json
import logging
import sys
import traceback
from collections.abc import Callable, Mapping
from typing import Any, Protocol, TextIO

import msgspec
import structlog

Log = structlog.typing.FilteringBoundLogger
LogFields = Mapping[str, Any]
EventCounter = Callable[[LogFields], None]

_COUNTERS_FIELD = "event_counters"
_MIN_LEVEL = "info"


class EventLogger(Protocol):
    """What the service needs of a logger: events with fields, at four levels."""

    def info(self, event: str, **fields: object) -> object:
        """Log an event."""

    def warning(self, event: str, **fields: object) -> object:
        """Log an event that an operator should look at."""

    def error(self, event: str, **fields: object) -> object:
        """Log an error."""

    def exception(self, event: str, **fields: object) -> object:
        """Log an error of the service itself, with the exception that is being handled."""


def build_log(
    *, stream: TextIO | None = None, pretty: bool | None = None, level: str = "info"
) -> Log:
    """Return the logger. ``pretty`` None: readable lines on a terminal, else JSON lines."""
    out = sys.stderr if stream is None else stream
    if pretty is None:
        pretty = out.isatty()
    processors: list[structlog.typing.Processor] = [
        _count_event,  # before the level is looked at: an event that is not written counts too
        *([] if level == _MIN_LEVEL else [_drop_below(level)]),
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        *(_pretty_processors(colors=out.isatty()) if pretty else _json_processors()),
    ]
    logger: Log = structlog.wrap_logger(
        _LineLogger(out),
        processors=processors,
        wrapper_class=structlog.make_filtering_bound_logger(_MIN_LEVEL),
        cache_logger_on_first_use=True,
    )
    return logger


def count_events(log: Log, counters: Mapping[str, EventCounter]) -> Log:
    """Return a log that also calls the counter of each event, which it finds by the event's name.

    ``log`` must come from :func:`build_log`.
    """
    counting_log: Log = log.bind(**{_COUNTERS_FIELD: counters})
    return counting_log


def _count_event(
    _: object, __: str, fields: structlog.typing.EventDict
) -> structlog.typing.EventDict:
    counters: Mapping[str, EventCounter] | None = fields.pop(_COUNTERS_FIELD, None)
    if counters is not None and (counter := counters.get(fields["event"])) is not None:
        counter(fields)
    return fields


def _drop_below(level: str) -> structlog.typing.Processor:
    levels = logging.getLevelNamesMapping()
    min_level = levels[level.upper()]

    def drop(
        _: object, method_name: str, fields: structlog.typing.EventDict
    ) -> structlog.typing.EventDict:
        if levels[method_name.upper()] < min_level:
            raise structlog.DropEvent
        return fields

    return drop


def log_unhandled_error(log: EventLogger, _: object, context: Mapping[str, object]) -> None:
    """Log an error that the event loop reports, without a traceback: it may quote secrets."""
    error = context.get("exception")
    log.warning("unhandled_error", reason=context.get("message"), error=type(error).__name__)


class _LineLogger:
    """Writes lines: all lines of one turn of the event loop in one system call."""

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._buffer: list[str] = []

    def msg(self, line: str) -> None:
        """Write one line."""
        self._buffer.append(f"{line}\n")
        if len(self._buffer) > 1:
            return
        try:
            asyncio.get_running_loop().call_soon(self._write)
        except RuntimeError:  # no event loop runs
            self._write()

    log = debug = info = warn = warning = error = critical = exception = fatal = msg

    def _write(self) -> None:
        lines, self._buffer = self._buffer, []
        self._out.write("".join(lines))
        self._out.flush()


def escape_unprintable(text: str) -> str:
    """Escape control characters: names and titles come from outside."""
    if text.isprintable():
        return text
    return "".join(
        character if character.isprintable() else ascii(character)[1:-1] for character in text
    )


def _json_processors() -> tuple[structlog.typing.Processor, ...]:
    return (
        structlog.processors.format_exc_info,
        structlog.processors.JSONRenderer(serializer=_encode_line),
    )


def _pretty_processors(*, colors: bool) -> tuple[structlog.typing.Processor, ...]:
    renderer = structlog.dev.ConsoleRenderer(
        colors=colors, pad_event_to=22, exception_formatter=_write_exception
    )
    return (_escape_fields, renderer)


def _encode_line(fields: object, **_: object) -> str:
    """Return one JSON line, in ASCII: the encoding of the stream must not matter."""
    try:
        line = msgspec.json.encode(fields, enc_hook=repr)
        if line.isascii():
            return line.decode()
    except (TypeError, ValueError, RecursionError, msgspec.MsgspecError):
        pass  # lone surrogates, keys that are not text, cyclic values
    try:
        return json.dumps(fields, default=repr, skipkeys=True)
    except (TypeError, ValueError, RecursionError):
        return json.dumps({"event": "log_event_unserializable", "fields": repr(fields)})


def _escape_fields(
    _: object, __: str, fields: structlog.typing.EventDict
) -> structlog.typing.EventDict:
    return {
        name: escape_unprintable(value) if isinstance(value, str) else value
        for name, value in fields.items()
    }


def _write_exception(out: TextIO, exc_info: structlog.typing.ExcInfo) -> None:
    lines = "".join(traceback.format_exception(*exc_info)).split("\n")
    out.write("\n" + "\n".join(escape_unprintable(line) for line in lines))
