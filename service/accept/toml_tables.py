"""TOML tables: typed values out of them, and errors that name the key and the fix."""

import re
import tomllib
from collections.abc import Collection, Iterable, Mapping
from difflib import get_close_matches
from typing import Any, TypeVar

import msgspec

KeyPath = tuple[str | int, ...]
"""The steps to a key, such as ``("fields", "version")``; a number is an index of an array."""

TomlTable = Mapping[str, Any]
StructT = TypeVar("StructT", bound=msgspec.Struct)

_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")
_UNNAMED_KEY = "[...]"
_PATH_STEP = re.compile(r"\.([^.\[]+)|\[([0-9]+)\]")
_ERROR_POSITION = re.compile(
    r"(?P<problem>.*) \(at line (?P<line>[0-9]+), column (?P<column>[0-9]+)\)"
)


class SourceError(ValueError):
    """A mistake in the sources; the message names the key, the value and the fix."""

    def __init__(self, problem: str, *, key: KeyPath = ()) -> None:
        super().__init__(f"{_format_key(key)}: {problem}" if key else problem)


def parse_toml(text: str, *, origin: str) -> dict[str, Any]:
    """Parse TOML; SourceError with ``origin``, the line and the column of a syntax error."""
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        position = _ERROR_POSITION.fullmatch(str(error))
        last_line = len(text.rstrip().splitlines()) or 1
        line, column = (position["line"], position["column"]) if position else (last_line, 1)
        problem = position["problem"] if position else error
        raise SourceError(f"{origin}:{line}:{column}: this is not TOML: {problem}") from None
    except (ValueError, RecursionError) as error:  # a number too long or a nesting too deep
        problem = str(error).partition(";")[0]
        raise SourceError(f"{origin}: this cannot be read: {problem}") from None


def convert_table(table: TomlTable, struct_type: type[StructT], *, key: KeyPath) -> StructT:
    """Convert the table under ``key`` to a Struct; SourceError for unknown keys and wrong types."""
    refuse_unknown_keys(table, struct_type.__struct_fields__, key=key)
    try:
        return msgspec.convert(table, struct_type)
    except msgspec.ValidationError as error:
        problem, _, path = str(error).partition(" - at `$")
        raise SourceError(problem, key=key + _parse_msgspec_path(path, table)) from None


def refuse_unknown_keys(table: TomlTable, known_keys: Collection[str], *, key: KeyPath) -> None:
    """Raise a SourceError for the first key that is not among ``known_keys``."""
    for name in table:
        if name not in known_keys:
            raise SourceError(
                f"there is no such key{format_suggestion(name, known_keys)}", key=(*key, name)
            )


def format_suggestion(name: str, known_names: Collection[str]) -> str:
    """Return the end of an error message: the name that was probably meant, or all names."""
    similar_name = find_similar_name(name, known_names)
    return (
        f"; did you mean {similar_name!r}?"
        if similar_name is not None
        else f" (there are: {', '.join(sorted(known_names))})"
    )


def _parse_msgspec_path(path: str, table: TomlTable) -> KeyPath:
    """Parse msgspec's ``.a[0]``; for ``.a[...]``, which names no key, search the key."""
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
    """Return a key as TOML writes it, with the index of an array in brackets."""
    parts = []
    for step in key:
        if isinstance(step, int):
            parts.append(f"[{step}]")
        else:
            parts.append(f".{step}" if _BARE_KEY.fullmatch(step) else f'."{step}"')
    return "".join(parts).removeprefix(".")


def find_similar_name(name: str, known_names: Iterable[str], *, prefix: str = "") -> str | None:
    """Return the known name that is closest to ``name``; None if none is close.

    Names are compared without ``prefix``: what all of them share is no likeness.
    """
    known_by_suffix = {known.removeprefix(prefix): known for known in known_names}
    matches = get_close_matches(name.removeprefix(prefix), known_by_suffix, n=1)
    return known_by_suffix[matches[0]] if matches else None
