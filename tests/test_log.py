"""Tests of the log: one line per event, whatever its fields hold."""

import asyncio
import io
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.log import Log, build_log, escape_unprintable
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
