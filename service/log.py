"""How is a fact written down? One JSON line each; readable lines on a terminal."""

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
    """Where facts go: our loggers, and whatever stands before one."""

    def info(self, event: str, **fields: object) -> object:
        """Write one fact."""

    def warning(self, event: str, **fields: object) -> object:
        """Write a fact that somebody should look at."""

    def error(self, event: str, **fields: object) -> object:
        """Write that something is wrong."""

    def exception(self, event: str, **fields: object) -> object:
        """Write that our own code failed, with the exception being handled."""


def build_log(
    *, stream: TextIO | None = None, pretty: bool | None = None, level: str = "info"
) -> Log:
    """Make the logger that everything is handed: JSON lines, or colours on a terminal."""
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
    """Write what nobody was there to catch as a fact, and not as a traceback that may quote."""
    error = context.get("exception")
    log.warning("unhandled_error", reason=context.get("message"), error=type(error).__name__)


class _LineLogger:
    """Writes lines: those of one turn of the event loop in one system call."""

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
        except RuntimeError:  # there is no loop
            self._write()

    log = debug = info = warn = warning = error = critical = exception = fatal = msg

    def _write(self) -> None:
        lines, self._buffer = self._buffer, []
        self._out.write("".join(lines))
        self._out.flush()


def escape_unprintable(text: str) -> str:
    """Escape what would move a terminal's cursor: names and titles come from outside."""
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
    """Encode one line. What is not ASCII is escaped: the stream's encoding must not matter."""
    try:
        line = msgspec.json.encode(fields, enc_hook=repr)
        if line.isascii():
            return line.decode()
    except (TypeError, ValueError, RecursionError, msgspec.MsgspecError):
        pass  # lone surrogates, keys that are no text, values that hold themselves
    try:
        return json.dumps(fields, default=repr, skipkeys=True)
    except (TypeError, ValueError, RecursionError):
        return json.dumps({"event": "log_event_unserializable", "facts": repr(fields)})


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
