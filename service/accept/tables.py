"""What does a written table say? A typed value, or a sentence that names the key and the fix."""

import tomllib
from collections.abc import Collection, Mapping
from difflib import get_close_matches
from typing import Any, TypeVar

import msgspec

Table = Mapping[str, Any]
T = TypeVar("T", bound=msgspec.Struct)


class SourceError(ValueError):
    """The sources cannot be used as they are written; the message says where and what to do."""


def parse_toml(text: str) -> dict[str, Any]:
    """Read TOML; a SourceError has the line and the column."""
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise SourceError(f"this is not TOML: {error}") from None


def convert_table(table: Table, to: type[T], *, key: str) -> T:
    """Turn the table under ``key`` into a Struct; unknown keys and wrong types are SourceErrors."""
    refuse_unknown(table, to.__struct_fields__, key=key)
    try:
        return msgspec.convert(table, to)
    except msgspec.ValidationError as error:
        problem, _, path = str(error).partition(" - at `$")
        raise SourceError(f"{key}{path.rstrip('`')}: {problem}".removeprefix(".")) from None


def refuse_unknown(table: Table, known: Collection[str], *, key: str) -> None:
    """Raise a SourceError for the first key that nobody would read."""
    for name in table:
        if name not in known:
            place = f"{key}.{name}" if key else name
            raise SourceError(f"{place}: there is no such key{suggest(name, known)}")


def suggest(word: str, known: Collection[str]) -> str:
    """Give the end of a sentence: what may have been meant, or what there is."""
    close = get_close_matches(word, known, n=1)
    return f"; did you mean {close[0]!r}?" if close else f" (there are: {', '.join(sorted(known))})"
