"""Is a log line one line, whatever it tells of?"""

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
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        """Say so."""
        return True


def log_json_line(**fields: object) -> dict[str, Any]:
    """Write one fact for programs and read it back; it must be one line of ASCII."""
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
    """Write a failure as a worker does."""
    try:
        raise error
    except type(error):
        log.exception("attempt_error", **fields)


def test_a_fact_is_a_json_line() -> None:
    """Its name, its level, its moment and its facts."""
    read = log_json_line(job="id:1", took_ms=7)
    assert read.pop("timestamp").endswith("Z")
    assert read == {"event": "thing_happened", "level": "info", "job": "id:1", "took_ms": 7}


@pytest.mark.parametrize(
    "value", [value for _, value in HOSTILE], ids=[name for name, _ in HOSTILE]
)
def test_no_fact_breaks_the_line(value: object) -> None:
    """Whatever the facts hold, the line is one, and JSON."""
    assert "fact" in log_json_line(fact=value)


def test_a_fact_that_holds_itself_is_still_a_line() -> None:
    """What no JSON can hold is told in words."""
    loop: list[object] = []
    loop.append(loop)
    out = io.StringIO()
    build_log(stream=out).info("thing_happened", fact=loop)
    assert json.loads(out.getvalue())["event"] == "log_event_unserializable"


@given(st.recursive(st.text() | st.binary() | st.floats() | st.none(), st.lists))
def test_any_fact_is_a_line(value: object) -> None:
    """As above, with anything."""
    assert "fact" in log_json_line(fact=value)


@given(st.text())
def test_text_comes_back_as_it_was(text: str) -> None:
    """Escaping loses nothing."""
    assert log_json_line(fact=text)["fact"] == text


def test_a_traceback_is_inside_a_field() -> None:
    """An exception does not spread over many lines."""
    out = io.StringIO()
    fail_and_log(build_log(stream=out), ValueError("first\nsecond"), job="id:1")
    read = json.loads(out.getvalue())
    assert len(out.getvalue().splitlines()) == 1
    assert read["exception"].startswith("Traceback")
    assert read["exception"].endswith("first\nsecond")


def test_below_the_level_nothing_is_written() -> None:
    """A demo shows errors only."""
    out = io.StringIO()
    build_log(stream=out, level="error").info("thing_happened")
    assert out.getvalue() == ""


@pytest.mark.parametrize("pretty", [True, False])
def test_a_secret_is_not_written(pretty: bool) -> None:
    """Not even when somebody logs one."""
    out = io.StringIO()
    build_log(stream=out, pretty=pretty).info(
        "thing_happened", token=Secret("s3cr3t"), o=[Secret("s3cr3t")]
    )
    assert "s3cr3t" not in out.getvalue()
    assert "Secret(set)" in out.getvalue()


def test_a_terminal_gets_readable_lines() -> None:
    """The stream decides, unless it is decided for it."""
    out = TerminalStream()
    build_log(stream=out).info("thing_happened", job="id:1")
    assert not out.getvalue().startswith("{")
    assert "thing_happened" in out.getvalue()


def test_no_fact_moves_the_cursor_of_a_terminal() -> None:
    """Facts from outside are escaped on a terminal, in tracebacks too."""
    out = io.StringIO()
    log = build_log(stream=out, pretty=True)
    fail_and_log(log, ValueError(ESCAPES), title=ESCAPES, titles=[ESCAPES])
    assert not [sign for sign in out.getvalue() if not sign.isprintable() and sign != "\n"]
    assert "Traceback" in out.getvalue()


@given(st.text())
def test_printable_text_is_printable_and_reversible_enough(text: str) -> None:
    """No sign is left that a terminal would obey; what was harmless is as it was."""
    shown = escape_unprintable(text)
    assert shown.isprintable()
    assert shown == text or not text.isprintable()


async def test_lines_of_one_moment_are_written_together_and_at_once() -> None:
    """A system call each would cost a receiver more than all its thinking; none is held back."""
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
