"""Does a record fit one line, in columns, whatever it holds?"""

import io
from collections.abc import Callable

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from service.cli.tail import (
    StreamEntryText,
    measure_terminal_width,
    render_record_header,
    render_record_row,
)
from service.cli.terminal import measure_text_width

MakeEntry = Callable[..., StreamEntryText]
FOREIGN: list[dict[str, str]] = [
    {},
    {"hello": "world"},
    {"data": ""},
    {"data": "nonsense"},
    {"data": "{}"},
    {"data": "[" * 100_000},
    {"data": '{"schemaVersion":2}'},
    {"data": "\ufffd"},
]


def test_columns_stand_below_their_titles(make_entry: MakeEntry) -> None:
    """At 80 columns, with the short id."""
    assert render_record_header(columns=80) == (
        "id        application      environment  rev  PRs  lead time  flags touched"
    )
    assert render_record_row(make_entry(), columns=80) == (
        "a0eebc99  billing-service  production     2    1      1.5 h  dark-mode"
    )


def test_a_wide_terminal_has_room_for_the_whole_id(make_entry: MakeEntry) -> None:
    """So that it can be copied."""
    header, row = render_record_header(columns=120), render_record_row(make_entry(), columns=120)
    assert header.startswith("deployment ")
    assert row.startswith("a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11  billing-service  ")
    assert header.index("flags") == row.index("dark-mode")


def test_flags_without_room_are_counted(make_entry: MakeEntry) -> None:
    """As many as fit are named."""
    three = make_entry(flags=("one", "two", "three"))
    assert render_record_row(three, columns=160).endswith("  one, two, three")
    assert render_record_row(three, columns=80).endswith("  one, two, three")
    assert render_record_row(three, columns=74).endswith("  one, two +1")
    assert render_record_row(make_entry(flags=("a" * 40, "b")), columns=80).endswith("aa.. +1")
    assert render_record_row(make_entry(flags=()), columns=80).endswith("  none")


def test_an_incomplete_record_says_so(make_entry: MakeEntry) -> None:
    """Before anything else in the last column."""
    entry = make_entry()
    data = entry.fields["data"].replace('"complete":true', '"complete":false')
    data = data.replace('"leadTimeMs":5400000', '"leadTimeMs":null')
    row = render_record_row(
        StreamEntryText(entry.position, entry.fields | {"data": data}), columns=100
    )
    assert row.endswith("        ?  INCOMPLETE dark-mode")


@pytest.mark.parametrize("fields", FOREIGN, ids=repr)
def test_an_entry_that_is_no_record_is_told_as_such(fields: dict[str, str]) -> None:
    """Its position tells where to look."""
    row = render_record_row(StreamEntryText("17-0", fields), columns=80)
    assert row == "17-0  is no enriched deployment: foreign or damaged"


def test_a_record_without_routing_fields_is_still_told(make_entry: MakeEntry) -> None:
    """Data is what counts."""
    entry = make_entry()
    row = render_record_row(StreamEntryText("17-0", {"data": entry.fields["data"]}), columns=80)
    assert row.split() == ["?", "?", "?", "2", "1", "1.5", "h", "dark-mode"]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.text(), st.lists(st.text(), max_size=4), st.integers(40, 200))
def test_nothing_from_outside_moves_the_cursor_or_wraps(
    make_entry: MakeEntry, text: str, flags: list[str], columns: int
) -> None:
    """Keys come from outside: escaped, and cut to what the terminal has."""
    flags = [flag.encode("utf-8", "replace").decode() for flag in flags]
    entry = make_entry(flags=tuple(flags), subject=text, applicationkey=text, environmentkey=text)
    for shown in (entry, StreamEntryText(text, {})):
        row = render_record_row(shown, columns=columns)
        assert row.isprintable()
        assert measure_text_width(row) <= columns


def test_a_hostile_key_is_shown_escaped(make_entry: MakeEntry) -> None:
    """One sees what was tried."""
    row = render_record_row(make_entry(applicationkey="\x1b[2Jx\n"), columns=80)
    assert "\\x1b[2Jx\\n" in row


def test_what_is_no_terminal_has_columns_enough() -> None:
    """A file or a pipe is not cut to somebody's window."""
    assert measure_terminal_width(io.StringIO()) >= 120
