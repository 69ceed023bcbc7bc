"""Tests of the log: one line per event, whatever its fields hold."""

import asyncio
import io
import json
import logging
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.log import (
    LibraryLogHandler,
    Log,
    build_log,
    count_lost_lines,
    escape_unprintable,
    log_unhandled_error,
)
from service.settings import Secret

ESCAPES = "\x1b[2J\x9b1A\r\b\x07\u202e\u2028"
HOSTILE = [
    ("bytes", b"\xff\x00"),
    ("a lone surrogate", "\ud800"),
    ("newlines", "a\nb\r\nc\u2028d"),
    ("escape codes", ESCAPES),
    ("no number", float("nan")),
    ("a huge number", 10**40),
    ("an object", object()),
    ("an exception", ValueError("a\nb")),
    ("keys of all kinds", {1: "a", (1, 2): "b", "\ud800": "c"}),
    ("a set", {"a"}),
    ("deep", [[[["x"]]]]),
]


class TerminalStream(io.StringIO):
    """A stream that reports a terminal."""

    def isatty(self) -> bool:
        """Return True."""
        return True


def log_json_line(**fields: object) -> dict[str, Any]:
    """Log an event as JSON and return it; it must be one line of ASCII."""
    out = io.StringIO()
    build_log(stream=out).info("thing_happened", **fields)
    line = out.getvalue()
    assert line.endswith("\n")
    assert line.isascii()
    assert len(line.splitlines()) == 1
    event: dict[str, Any] = json.loads(line)
    assert event["event"] == "thing_happened"
    return event


def fail_and_log(log: Log, error: Exception, **fields: object) -> None:
    """Log an exception as a worker does."""
    try:
        raise error
    except type(error):
        log.exception("attempt_error", **fields)


def test_log_event_is_one_json_line() -> None:
    """It holds the event, the level, the time and the fields."""
    read = log_json_line(job="id:1", took_ms=7)
    assert read.pop("timestamp").endswith("Z")
    assert read == {"event": "thing_happened", "level": "info", "job": "id:1", "took_ms": 7}


@pytest.mark.parametrize(
    "value", [value for _, value in HOSTILE], ids=[name for name, _ in HOSTILE]
)
def test_log_event_with_a_hostile_value_stays_one_line(value: object) -> None:
    """The line is one line of JSON."""
    assert "field" in log_json_line(field=value)


def test_log_event_with_a_cyclic_value_is_one_line() -> None:
    """The fallback is the repr of the fields."""
    loop: list[object] = []
    loop.append(loop)
    out = io.StringIO()
    build_log(stream=out).info("thing_happened", field=loop)
    assert json.loads(out.getvalue())["event"] == "log_event_unserializable"


@given(st.recursive(st.text() | st.binary() | st.floats() | st.none(), st.lists))
def test_log_event_with_any_value_is_one_line(value: object) -> None:
    """Hypothesis chooses the value."""
    assert "field" in log_json_line(field=value)


@given(st.text())
def test_log_event_text_round_trips(text: str) -> None:
    """Escaping to ASCII loses nothing."""
    assert log_json_line(fact=text)["fact"] == text


def test_exception_traceback_is_inside_a_field() -> None:
    """An exception does not span several lines."""
    out = io.StringIO()
    fail_and_log(build_log(stream=out), ValueError("first\nsecond"), job="id:1")
    read = json.loads(out.getvalue())
    assert len(out.getvalue().splitlines()) == 1
    assert read["exception"].startswith("Traceback")
    assert read["exception"].endswith("first\nsecond")


def test_log_below_the_level_writes_nothing() -> None:
    """The demo logs errors only."""
    out = io.StringIO()
    build_log(stream=out, level="error").info("thing_happened")
    assert out.getvalue() == ""


@pytest.mark.parametrize("pretty", [True, False])
def test_secret_in_a_field_is_not_written(pretty: bool) -> None:
    """Neither as JSON nor on a terminal."""
    out = io.StringIO()
    build_log(stream=out, pretty=pretty).info(
        "thing_happened", token=Secret("s3cr3t"), o=[Secret("s3cr3t")]
    )
    assert "s3cr3t" not in out.getvalue()
    assert "Secret(set)" in out.getvalue()


def test_terminal_gets_readable_lines() -> None:
    """A terminal gets readable lines by default."""
    out = TerminalStream()
    build_log(stream=out).info("thing_happened", job="id:1")
    assert not out.getvalue().startswith("{")
    assert "thing_happened" in out.getvalue()


def test_terminal_line_has_no_control_characters() -> None:
    """Text from outside is escaped, in tracebacks too."""
    out = io.StringIO()
    log = build_log(stream=out, pretty=True)
    fail_and_log(log, ValueError(ESCAPES), title=ESCAPES, titles=[ESCAPES])
    assert not [sign for sign in out.getvalue() if not sign.isprintable() and sign != "\n"]
    assert "Traceback" in out.getvalue()


@given(st.text())
def test_escape_unprintable_keeps_printable_text(text: str) -> None:
    """Control characters are escaped; printable text is unchanged."""
    shown = escape_unprintable(text)
    assert shown.isprintable()
    assert shown == text or not text.isprintable()


async def test_lines_of_one_loop_turn_are_written_in_one_call() -> None:
    """One system call per line would cost the receiver more CPU than the rest of a webhook."""
    writes: list[str] = []

    class Out(io.StringIO):
        def write(self, text: str) -> int:
            writes.append(text)
            return len(text)

    log = build_log(stream=Out())
    for number in range(3):
        log.info("thing_happened", number=number)
    assert writes == []
    await asyncio.sleep(0)
    assert [len(text.splitlines()) for text in writes] == [3]
    log.info("thing_happened")
    await asyncio.sleep(0)
    assert len(writes) == 2


def read_lines(out: io.StringIO) -> list[dict[str, Any]]:
    """Return the JSON lines without their time and level."""
    lines = [json.loads(line) for line in out.getvalue().splitlines()]
    return [
        {name: line[name] for name in line if name not in {"timestamp", "level"}} for line in lines
    ]


def test_repeated_warning_is_logged_at_growing_intervals_with_its_count() -> None:
    """Other trouble, one line per attempt and warnings about single tickets are all logged."""
    out, now_s = io.StringIO(), [0.0]
    log = build_log(stream=out, clock=lambda: now_s[0])
    for tenths in range(40):
        now_s[0] = tenths / 10
        log.warning("redis_disconnected", reason="refused")
    assert [line.get("repeated") for line in read_lines(out)] == [None, 10, 20]
    out.truncate(0)
    out.seek(0)
    log.warning("redis_disconnected", reason="timed out")
    for number in range(3):
        log.info("deployment_postponed", reason="garbled")
        log.warning("lease_lost", job=f"id:{number}")
        log.warning("sources_reload_failed", reason="no such file")
    assert len(read_lines(out)) == 10


async def test_repetitions_of_trouble_that_has_ended_are_logged_without_traceback() -> None:
    """The first line has the traceback; the last one the number of what no line counted."""
    out, now_s = io.StringIO(), [0.0]
    log = build_log(stream=out, clock=lambda: now_s[0])
    for _ in range(5):
        fail_and_log(log, ValueError("x"), job="id:1")
    now_s[0] = 1.0
    async with asyncio.timeout(20):
        while len(out.getvalue().splitlines()) < 2:
            await asyncio.sleep(0.01)
    first, last = read_lines(out)
    assert first["exception"].startswith("Traceback")
    assert last == {
        "event": "attempt_error",
        "error": "ValueError",
        "job": "id:1",
        "repeated": 4,
    }


def test_flood_of_the_event_loop_is_one_line() -> None:
    """At a low limit of open files, asyncio reports each failed accept() on its own."""
    out = io.StringIO()
    log = build_log(stream=out, clock=lambda: 0.0)
    context = {"message": "socket.accept() out of system resource", "exception": OSError(24, "x")}
    for _ in range(1000):
        log_unhandled_error(log, None, context)
    assert [line["error"] for line in read_lines(out)] == ["OSError"]


def test_library_warning_is_an_event_without_its_values() -> None:
    """A value may be a secret; what follows the first line of a message, too."""
    out = io.StringIO()
    handler = LibraryLogHandler(build_log(stream=out))
    handler.emit(
        logging.makeLogRecord({"name": "asyncio", "msg": "%s failed\nsecret", "args": ("secret",)})
    )
    assert read_lines(out) == [
        {"event": "library_warning", "logger": "asyncio", "reason": "%s failed"}
    ]


async def test_stream_that_fails_loses_lines_and_is_not_reported_to_itself() -> None:
    """A report of the failure would fail too, and so on for ever."""

    class Full(io.StringIO):
        def write(self, _: str) -> int:
            raise OSError(28, "No space left on device")

    log = build_log(stream=Full())
    asyncio.get_running_loop().set_exception_handler(
        lambda _, context: log_unhandled_error(log, None, context)
    )
    log.info("thing_happened")
    log.info("thing_happened")
    for _ in range(5):
        await asyncio.sleep(0)
    assert count_lost_lines(log) == 2
