"""What does a written table say? A typed value, or a sentence that names the key and the fix."""

import re
import tomllib
from collections.abc import Collection, Mapping
from difflib import get_close_matches
from typing import Any, TypeVar

import msgspec

from service.accept.lines import KeyPath

Table = Mapping[str, Any]
T = TypeVar("T", bound=msgspec.Struct)

_BARE = re.compile(r"[A-Za-z0-9_-]+")
_SOME_KEY = "[...]"
_STEP = re.compile(r"\.([^.\[]+)|\[(\d+)\]")
_WHERE = re.compile(r"(?P<problem>.*) \(at line (?P<line>\d+), column (?P<column>\d+)\)")


class SourceError(ValueError):
    """The sources cannot be used as they are written; the message says where and what to do."""

    def __init__(self, problem: str, *, key: KeyPath = ()) -> None:
        super().__init__(f"{_write_key(key)}: {problem}" if key else problem)
        self.key = key


def parse_toml(text: str, *, origin: str) -> dict[str, Any]:
    """Read TOML that comes from ``origin``; a SourceError has the line and the column."""
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        found = _WHERE.fullmatch(str(error))
        last = len(text.rstrip().splitlines()) or 1
        line, column = (found["line"], found["column"]) if found else (last, 1)
        problem = found["problem"] if found else error
        raise SourceError(f"{origin}:{line}:{column}: this is not TOML: {problem}") from None
    except (ValueError, RecursionError) as error:  # a number or a nesting that nobody means
        problem = str(error).partition(";")[0]
        raise SourceError(f"{origin}: this cannot be read: {problem}") from None


def convert_table(table: Table, to: type[T], *, key: KeyPath) -> T:
    """Turn the table under ``key`` into a Struct; unknown keys and wrong types are SourceErrors."""
    refuse_unknown(table, to.__struct_fields__, key=key)
    try:
        return msgspec.convert(table, to)
    except msgspec.ValidationError as error:
        problem, _, path = str(error).partition(" - at `$")
        raise SourceError(problem, key=key + _read_path(path, table)) from None


def refuse_unknown(table: Table, known: Collection[str], *, key: KeyPath) -> None:
    """Raise a SourceError for the first key that nobody would read."""
    for name in table:
        if name not in known:
            raise SourceError(f"there is no such key{suggest(name, known)}", key=(*key, name))


def suggest(word: str, known: Collection[str]) -> str:
    """Give the end of a sentence: what may have been meant, or what there is."""
    close = get_close_matches(word, known, n=1)
    return f"; did you mean {close[0]!r}?" if close else f" (there are: {', '.join(sorted(known))})"


def _read_path(path: str, table: Table) -> KeyPath:
    """Read msgspec's ``.a[0]``; for ``.a[...]``, which names no key, find the key."""
    steps: KeyPath = tuple(
        int(place) if place else name
        for name, place in _STEP.findall(path.rstrip("`").replace(_SOME_KEY, ""))
    )
    if _SOME_KEY not in path or len(steps) != 1:
        return steps
    inner = table[str(steps[0])]
    return (*steps, next((key for key, value in inner.items() if not isinstance(value, str)), ""))


def _write_key(key: KeyPath) -> str:
    """Write a key as TOML would, and the place in an array as most languages do."""
    parts = []
    for step in key:
        if isinstance(step, int):
            parts.append(f"[{step}]")
        else:
            parts.append(f".{step}" if _BARE.fullmatch(step) else f'."{step}"')
    return "".join(parts).removeprefix(".")
