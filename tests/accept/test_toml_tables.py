"""On which line does a key stand? Where a person would look for it."""

import tomllib
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.accept.toml_tables import KeyPath, find_line, list_key_lines

WRITTEN = '''\
# name = "not here"
title = "it's # no [comment]"

[[source]]           # line 4
name = "one"
secrets = [
  "env:A",           # [ and { in a comment
  'file:/b',
]
"when" = { "body.kind" = ["x", "y"], body.size = 1.5 }
note = """
[[source]]
name = "a text, not a source" \\"""
"""
at = 2026-01-01T00:00:00.5+01:00

[source.fields]
version = "a"

[[source]]           # line 20
fields.version = "b"
verify = [{ token = "X" }, { hmac = "Y",
  algorithm = "sha1" }]
raw = \'\'\'one
two\'\'\'
[preset.'my "own"'.fields]
id = "c"
'''.replace('"Y",\n  algo', '"Y", algo')


@pytest.mark.parametrize(
    ("path", "line"),
    [
        (("title",), 2),
        (("source", 0), 4),
        (("source", 0, "name"), 5),
        (("source", 0, "secrets"), 6),
        (("source", 0, "secrets", 1), 8),
        (("source", 0, "when", "body.kind"), 10),
        (("source", 0, "when", "body", "size"), 10),
        (("source", 0, "note"), 11),
        (("source", 0, "at"), 15),
        (("source", 0, "fields"), 17),
        (("source", 0, "fields", "version"), 18),
        (("source", 1), 20),
        (("source", 1, "fields", "version"), 21),
        (("source", 1, "verify", 1, "algorithm"), 22),
        (("source", 1, "raw"), 23),
        (("preset", 'my "own"'), 25),
        (("preset", 'my "own"', "fields", "id"), 26),
    ],
)
def test_a_key_is_found_on_its_line(path: KeyPath, line: int) -> None:
    """Whatever it is written in: table, inline table, array, dotted key, after texts."""
    assert find_line(WRITTEN, path) == (line, len(path))


def test_what_is_not_there_is_on_the_line_of_what_it_would_stand_in() -> None:
    """A key that is missing is sought where it has to be added."""
    assert find_line(WRITTEN, ("source", 1, "outcome", "path")) == (20, 2)
    assert find_line(WRITTEN, ("sauce",)) == (1, 0)


def test_a_table_that_goes_on_further_down_stands_where_it_began() -> None:
    """The first line of several is the one to look at."""
    assert find_line("a.b = 1\na.c = 2\n", ("a",)) == (1, 1)


def key_paths(value: Any, prefix: KeyPath = ()) -> Iterator[KeyPath]:
    """List every way into what tomllib has read."""
    members = value.items() if isinstance(value, dict) else enumerate(value)
    for step, inner in members:
        yield (*prefix, step)
        if isinstance(inner, dict | list):
            yield from key_paths(inner, (*prefix, step))


KEYS = st.sampled_from(["a", "b-1", '"q.\\"[="', "'l = #'", "a.b", 'x."y z"'])
SCALARS = st.sampled_from(
    [
        "1",
        "-1.5e3",
        "true",
        "1979-05-27 07:32:00.5Z",
        '"s # ] }"',
        "'l , ='",
        '"""m\n[a]\\""""""',
        "'''k\n'''",
    ]
)


@st.composite
def arrays(draw: st.DrawFn, values: st.SearchStrategy[str]) -> str:
    """Write an array, on one line or several."""
    gap = draw(st.sampled_from([" ", "\n", " # ] }\n"]))
    return f"[{gap}{f',{gap}'.join(draw(st.lists(values, max_size=3)))}{gap}]"


@st.composite
def inline_tables(draw: st.DrawFn, values: st.SearchStrategy[str]) -> str:
    """Write an inline table."""
    pairs = draw(st.lists(st.tuples(KEYS, values), max_size=3))
    return f"{{ {', '.join(f'{key} = {value}' for key, value in pairs)} }}"


VALUES = st.recursive(SCALARS, lambda inner: arrays(inner) | inline_tables(inner), max_leaves=6)
LINES = st.one_of(
    st.tuples(KEYS, VALUES).map(" = ".join),
    KEYS.map("[{}]".format),
    KEYS.map("[[ {} ]] # [x]".format),
    st.sampled_from(["", "# x = 1"]),
)


@given(st.lists(LINES, max_size=8).map("\n".join))
def test_what_is_found_is_what_tomllib_reads(text: str) -> None:
    """Every key, table and place of an array, nothing else, each on a line with its name."""
    try:
        read = tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        return
    assert {path for path, _ in list_key_lines(text)} == set(key_paths(read))
    lines = text.split("\n")
    for path, line in list_key_lines(text):
        if isinstance(path[-1], str):
            assert path[-1][0] in lines[line - 1]
