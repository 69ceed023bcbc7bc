"""The log: one JSON line per event, or readable lines on a terminal."""

import asyncio
import atexit
import json
import logging
import math
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Protocol, TextIO

import msgspec
import structlog

from service.log_repeats import RepeatLimiter, TroubleKey
from service.log_writer import LogWriter

Log = structlog.typing.FilteringBoundLogger
LogFields = Mapping[str, Any]
EventCounter = Callable[[LogFields], None]

_COUNTERS_FIELD = "event_counters"
_MIN_LEVEL = "info"

_ANSWER_EVENTS = frozenset({"sources_reload_failed", "token_reload_failed"})
"""Warnings that answer what a person did: each is logged, however often it comes."""

_REASON_FIELDS = ("reason", "error", "logger", "scope", "group", "peer", "source")
_MAX_LIBRARY_REASON = 200

_encode_fields = msgspec.json.Encoder(enc_hook=repr).encode


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
    *,
    stream: TextIO | None = None,
    pretty: bool | None = None,
    level: str = "info",
    clock: Callable[[], float] = time.monotonic,
) -> Log:
    """Return the logger. ``pretty`` None: readable lines on a terminal, else JSON lines.

    Without a ``stream`` a thread writes to stderr, so that no reader of it can stop the process.
    ``clock`` returns monotonic seconds; repeated warnings are logged at growing intervals.
    """
    out = sys.stderr if stream is None else stream
    if pretty is None:
        pretty = out.isatty()
    rendering: list[structlog.typing.Processor] = (
        _pretty_processors(colors=out.isatty()) if pretty else [_render_json]
    )
    line_logger = _LineLogger(out, _open_writer(out, rendering) if stream is None else None)
    repeats = _RepeatFilter(_wrap_logger(line_logger, rendering), clock=clock)
    if stream is None:
        atexit.register(repeats.report_waiting)  # runs before the writer is closed
    head: list[structlog.typing.Processor] = [
        _count_event,  # before the level is looked at: an event that is not written counts too
        *([] if level == _MIN_LEVEL else [_drop_below(level)]),
        repeats.apply,
    ]
    return _wrap_logger(line_logger, [*head, *rendering])


def _wrap_logger(target: object, processors: list[structlog.typing.Processor]) -> Log:
    logger: Log = structlog.wrap_logger(
        target,
        processors=processors,
        wrapper_class=structlog.make_filtering_bound_logger(_MIN_LEVEL),
        cache_logger_on_first_use=True,
    )
    return logger


def _open_writer(out: TextIO, rendering: list[structlog.typing.Processor]) -> LogWriter | None:
    """Return a writer to the file of a stream; None for a stream without one."""
    try:
        fd = out.fileno()
    except OSError:
        return None
    render = _wrap_logger(structlog.ReturnLogger(), rendering)
    return LogWriter(
        fd,
        encoding=out.encoding,
        render_lost=lambda count: str(render.warning("log_lines_lost", count=count)),
    )


def count_lost_lines(log: Log) -> int:
    """Return how many lines of a log from :func:`build_log` were lost so far."""
    line_logger = getattr(log, "_logger", None)  # structlog has no accessor
    return line_logger.count_lost() if isinstance(line_logger, _LineLogger) else 0


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


class LibraryLogHandler(logging.Handler):
    """Passes the warnings of libraries, asyncio among them, to the log."""

    def __init__(self, log: EventLogger) -> None:
        super().__init__(logging.WARNING)
        self._log = log

    def emit(self, record: logging.LogRecord) -> None:
        """Log the first line of the message template, without its values: one may be a secret."""
        reason = str(record.msg).partition("\n")[0][:_MAX_LIBRARY_REASON]
        self._log.warning("library_warning", logger=record.name, reason=reason)


def log_interpreter_errors(log: EventLogger) -> None:
    """Log what Python itself would print to stderr, and wait for: errors that nobody can catch.

    Its text would also stand in the middle of a line of the log. The error that ends the process
    is logged with its traceback.
    """

    def log_error(reason: str, error: type[BaseException] | None) -> None:
        log.warning("unhandled_error", reason=reason, error=error.__name__ if error else "")

    def log_end(
        error_type: type[BaseException], error: BaseException, at: TracebackType | None
    ) -> None:
        if issubclass(error_type, KeyboardInterrupt):
            sys.__excepthook__(error_type, error, at)
        else:
            log.error("unhandled_error", reason="in the main thread", exc_info=error)

    sys.excepthook = log_end
    sys.unraisablehook = lambda args: log_error(args.err_msg or "in a destructor", args.exc_type)
    threading.excepthook = lambda args: log_error("in a thread", args.exc_type)


class _LineLogger:
    """Passes lines to a writer; without one, writes those of a turn of the event loop at once."""

    def __init__(self, out: TextIO, writer: LogWriter | None = None) -> None:
        self._out = out
        self._writer = writer
        self._buffer: list[str] = []
        self._lost = 0

    def msg(self, line: str) -> None:
        """Write one line."""
        if self._writer is not None:
            self._writer.put(f"{line}\n")
            return
        self._buffer.append(f"{line}\n")
        if len(self._buffer) > 1:
            return
        try:
            asyncio.get_running_loop().call_soon(self._write)
        except RuntimeError:  # no event loop runs
            self._write()

    log = debug = info = warn = warning = error = critical = exception = fatal = msg

    def count_lost(self) -> int:
        """Return the number of lines that could not be written."""
        return self._lost if self._writer is None else self._writer.lost

    def _write(self) -> None:
        lines, self._buffer = self._buffer, []
        try:
            self._out.write("".join(lines))
            self._out.flush()
        except (OSError, ValueError):  # an error here would be logged, and fail again
            self._lost += len(lines)


class _RepeatFilter:
    """Drops the repetitions of a warning or error, and logs their number at growing intervals.

    A warning about one ticket (``job``) is no repetition, unless it holds an exception.
    """

    def __init__(self, log: Log, *, clock: Callable[[], float]) -> None:
        self._log = log
        self._clock = clock
        self._limiter = RepeatLimiter()
        self._waiting: dict[TroubleKey, tuple[str, dict[str, Any]]] = {}
        self._timer_loop: asyncio.AbstractEventLoop | None = None

    def apply(
        self, _: object, method_name: str, fields: structlog.typing.EventDict
    ) -> structlog.typing.EventDict:
        """Return the fields of an event to log; raise DropEvent for one that waits."""
        if method_name == "info" or not _is_repeatable(fields):
            return fields
        key, now_s = self._limiter.normalize(_build_trouble_key(fields)), self._clock()
        count = self._limiter.add(key, now_s)
        if not count:
            self._waiting[key] = (method_name, {**_drop_traceback(fields)})
            self._schedule_report(now_s)
            raise structlog.DropEvent
        return fields if count == 1 else {**fields, "repeated": count}

    def report_waiting(self) -> None:
        """Log all that waits, at the end of the process."""
        self._report(math.inf)

    def _report(self, now_s: float) -> None:
        for key, count in [*self._limiter.pop_due(now_s)]:
            method_name, fields = self._waiting.pop(key)
            getattr(self._log, method_name)(**fields, repeated=count)

    def _report_due(self) -> None:
        self._timer_loop = None
        now_s = self._clock()
        self._report(now_s)
        self._schedule_report(now_s)

    def _schedule_report(self, now_s: float) -> None:
        """Report what waits when it is due; without an event loop, with the next occurrence."""
        due_s = self._limiter.next_due_s()
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            return
        if due_s is not None and self._timer_loop is not loop:
            self._timer_loop = loop
            loop.call_later(max(0.0, due_s - now_s), self._report_due)


def _is_repeatable(fields: LogFields) -> bool:
    if fields["event"] in _ANSWER_EVENTS:
        return False
    return "job" not in fields or bool(fields.get("exc_info"))


def _build_trouble_key(fields: LogFields) -> TroubleKey:
    reasons = [str(fields[name]) for name in _REASON_FIELDS if name in fields]
    if fields.get("exc_info"):
        reasons.append(_exception_name(fields["exc_info"]))
    return str(fields["event"]), " ".join(reasons)


def _drop_traceback(fields: LogFields) -> LogFields:
    """Return the fields with the class of an exception for its traceback, which came before."""
    if not fields.get("exc_info"):
        return fields
    error = _exception_name(fields["exc_info"])
    return {"error": error} | {name: fields[name] for name in fields if name != "exc_info"}


def _exception_name(exc_info: object) -> str:
    error = exc_info if isinstance(exc_info, BaseException) else sys.exception()
    return type(error).__name__


def escape_unprintable(text: str) -> str:
    """Escape control characters: names and titles come from outside."""
    if text.isprintable():
        return text
    return "".join(
        character if character.isprintable() else ascii(character)[1:-1] for character in text
    )


def _pretty_processors(*, colors: bool) -> list[structlog.typing.Processor]:
    renderer = structlog.dev.ConsoleRenderer(
        colors=colors, pad_event_to=22, exception_formatter=_write_exception
    )
    return [
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        _escape_fields,
        renderer,
    ]


def _render_json(logger: object, level: str, fields: structlog.typing.EventDict) -> str:
    """Return an event as one JSON line. One processor costs half of what structlog's four cost."""
    fields["level"] = level
    fields["timestamp"] = datetime.now(UTC)
    if "exc_info" in fields:
        fields = structlog.processors.format_exc_info(logger, level, fields)
    return _encode_line(fields)


def _encode_line(fields: LogFields) -> str:
    """Return one JSON line, in ASCII: the encoding of the stream must not matter."""
    try:
        line = _encode_fields(fields)
        if line.isascii():
            return line.decode()
    except (TypeError, ValueError, RecursionError, msgspec.MsgspecError):
        pass  # lone surrogates, keys that are not text, cyclic values
    try:
        return json.dumps(fields, default=_to_text, skipkeys=True)
    except (TypeError, ValueError, RecursionError):
        return json.dumps({"event": "log_event_unserializable", "fields": repr(fields)})


def _to_text(value: object) -> str:
    """Return a value that is not JSON as text: a time as msgspec writes it, the repr of another."""
    return str(msgspec.to_builtins(value)) if isinstance(value, datetime) else repr(value)


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
