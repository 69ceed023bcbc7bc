"""How is a fact written down? One JSON line each; readable lines on a terminal."""

import asyncio
import json
import sys
import traceback
from collections.abc import Mapping
from typing import Protocol, TextIO

import msgspec
import structlog

Log = structlog.typing.FilteringBoundLogger


class FactLog(Protocol):
    """Where facts go: our loggers, and whatever stands before one."""

    def info(self, event: str, **facts: object) -> object:
        """Write one fact."""

    def warning(self, event: str, **facts: object) -> object:
        """Write a fact that somebody should look at."""

    def error(self, event: str, **facts: object) -> object:
        """Write that something is wrong."""

    def exception(self, event: str, **facts: object) -> object:
        """Write that our own code failed, with the exception being handled."""


def open_log(
    *, stream: TextIO | None = None, pretty: bool | None = None, level: str = "info"
) -> Log:
    """Make the logger that everything is handed: JSON lines, or colours on a terminal."""
    out = sys.stderr if stream is None else stream
    if pretty is None:
        pretty = out.isatty()
    steps: list[structlog.typing.Processor] = [
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        *(_steps_for_people(colors=out.isatty()) if pretty else _steps_for_programs()),
    ]
    bound: Log = structlog.wrap_logger(
        _Lines(out),
        processors=steps,
        wrapper_class=structlog.make_filtering_bound_logger(level),
        cache_logger_on_first_use=True,
    )
    return bound


def note_trouble(log: FactLog, _: object, context: Mapping[str, object]) -> None:
    """Write what nobody was there to catch as a fact, and not as a traceback that may quote."""
    error = context.get("exception")
    log.warning("unexpected", reason=context.get("message"), error=type(error).__name__)


class _Lines:
    """Writes lines: those of one turn of the event loop in one system call."""

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._waiting: list[str] = []

    def msg(self, line: str) -> None:
        """Write one line."""
        self._waiting.append(f"{line}\n")
        if len(self._waiting) > 1:
            return
        try:
            asyncio.get_running_loop().call_soon(self._write)
        except RuntimeError:  # there is no loop
            self._write()

    log = debug = info = warn = warning = error = critical = exception = fatal = msg

    def _write(self) -> None:
        lines, self._waiting = self._waiting, []
        self._out.write("".join(lines))
        self._out.flush()


def make_printable(text: str) -> str:
    """Escape what would move a terminal's cursor: names and titles come from outside."""
    if text.isprintable():
        return text
    return "".join(sign if sign.isprintable() else ascii(sign)[1:-1] for sign in text)


def _steps_for_programs() -> tuple[structlog.typing.Processor, ...]:
    return (
        structlog.processors.format_exc_info,
        structlog.processors.JSONRenderer(serializer=_encode_line),
    )


def _steps_for_people(*, colors: bool) -> tuple[structlog.typing.Processor, ...]:
    renderer = structlog.dev.ConsoleRenderer(
        colors=colors, pad_event_to=22, exception_formatter=_write_exception
    )
    return (_make_facts_printable, renderer)


def _encode_line(facts: object, **_: object) -> str:
    """Encode one line. What is not ASCII is escaped: the stream's encoding must not matter."""
    try:
        line = msgspec.json.encode(facts, enc_hook=repr)
        if line.isascii():
            return line.decode()
    except (TypeError, ValueError, RecursionError, msgspec.MsgspecError):
        pass  # lone surrogates, keys that are no text, values that hold themselves
    try:
        return json.dumps(facts, default=repr, skipkeys=True)
    except (TypeError, ValueError, RecursionError):
        return json.dumps({"event": "fact_unwritable", "facts": repr(facts)})


def _make_facts_printable(
    _: object, __: str, facts: structlog.typing.EventDict
) -> structlog.typing.EventDict:
    return {
        name: make_printable(value) if isinstance(value, str) else value
        for name, value in facts.items()
    }


def _write_exception(out: TextIO, exc_info: structlog.typing.ExcInfo) -> None:
    lines = "".join(traceback.format_exception(*exc_info)).split("\n")
    out.write("\n" + "\n".join(make_printable(line) for line in lines))
