"""What does a written table say? A typed value, or a sentence that names the key and the fix."""

import re
import tomllib
from collections.abc import Collection, Mapping
from difflib import get_close_matches
from typing import Any, TypeVar

import msgspec

from service.accept.lines import KeyPath

TomlTable = Mapping[str, Any]
StructT = TypeVar("StructT", bound=msgspec.Struct)

_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")
_UNNAMED_KEY = "[...]"
_PATH_STEP = re.compile(r"\.([^.\[]+)|\[(\d+)\]")
_ERROR_POSITION = re.compile(r"(?P<problem>.*) \(at line (?P<line>\d+), column (?P<column>\d+)\)")


class SourceError(ValueError):
    """The sources cannot be used as they are written; the message says where and what to do."""

    def __init__(self, problem: str, *, key: KeyPath = ()) -> None:
        super().__init__(f"{_format_key(key)}: {problem}" if key else problem)
        self.key = key


def parse_toml(text: str, *, origin: str) -> dict[str, Any]:
    """Read TOML that comes from ``origin``; a SourceError has the line and the column."""
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        position = _ERROR_POSITION.fullmatch(str(error))
        last_line = len(text.rstrip().splitlines()) or 1
        line, column = (position["line"], position["column"]) if position else (last_line, 1)
        problem = position["problem"] if position else error
        raise SourceError(f"{origin}:{line}:{column}: this is not TOML: {problem}") from None
    except (ValueError, RecursionError) as error:  # a number or a nesting that nobody means
        problem = str(error).partition(";")[0]
        raise SourceError(f"{origin}: this cannot be read: {problem}") from None


def convert_table(table: TomlTable, struct_type: type[StructT], *, key: KeyPath) -> StructT:
    """Turn the table under ``key`` into a Struct; unknown keys and wrong types are SourceErrors."""
    refuse_unknown_keys(table, struct_type.__struct_fields__, key=key)
    try:
        return msgspec.convert(table, struct_type)
    except msgspec.ValidationError as error:
        problem, _, path = str(error).partition(" - at `$")
        raise SourceError(problem, key=key + _parse_msgspec_path(path, table)) from None


def refuse_unknown_keys(table: TomlTable, known_keys: Collection[str], *, key: KeyPath) -> None:
    """Raise a SourceError for the first key that nobody would read."""
    for name in table:
        if name not in known_keys:
            raise SourceError(
                f"there is no such key{format_suggestion(name, known_keys)}", key=(*key, name)
            )


def format_suggestion(name: str, known_names: Collection[str]) -> str:
    """Give the end of a sentence: what may have been meant, or what there is."""
    matches = get_close_matches(name, known_names, n=1)
    return (
        f"; did you mean {matches[0]!r}?"
        if matches
        else f" (there are: {', '.join(sorted(known_names))})"
    )


def _parse_msgspec_path(path: str, table: TomlTable) -> KeyPath:
    """Read msgspec's ``.a[0]``; for ``.a[...]``, which names no key, find the key."""
    steps: KeyPath = tuple(
        int(index) if index else name
        for name, index in _PATH_STEP.findall(path.rstrip("`").replace(_UNNAMED_KEY, ""))
    )
    if _UNNAMED_KEY not in path or len(steps) != 1:
        return steps
    nested_table = table[str(steps[0])]
    return (
        *steps,
        next((key for key, value in nested_table.items() if not isinstance(value, str)), ""),
    )


def _format_key(key: KeyPath) -> str:
    """Write a key as TOML would, and the place in an array as most languages do."""
    parts = []
    for step in key:
        if isinstance(step, int):
            parts.append(f"[{step}]")
        else:
            parts.append(f".{step}" if _BARE_KEY.fullmatch(step) else f'."{step}"')
    return "".join(parts).removeprefix(".")
