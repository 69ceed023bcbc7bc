"""What does a written table say? A typed value, or a sentence that names the key and the fix."""

import re
import tomllib
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

import msgspec

from service.suggestions import find_similar_name

KeyPath = tuple[str | int, ...]
"""The way to a key: ``("source", 0, "fields", "version")``, numbers for the places of an array."""

# In the order of trial: the longer quotes before the shorter ones that they begin with.
_TOKEN_PATTERN = re.compile(
    r"""
      (?P<blank>[ \t\r]+|\#[^\n]*)
    | (?P<text>\"\"\"(?:[^\\]|\\.)*?\"{3,5}|'''.*?'{3,5}|"(?:[^"\\\n]|\\.)*"|'[^'\n]*')
    | (?P<sign>[\[\]{},=.\n])
    | (?P<word>[^\s\[\]{},=.#"']+)
    """,
    re.VERBOSE | re.DOTALL,
)


class _TomlToken(NamedTuple):
    text: str
    line: int


def find_line(text: str, path: KeyPath) -> tuple[int, int]:
    """Give the line, from 1, of a key of valid TOML, and how many steps of the path lead to it.

    Where the whole path leads nowhere, it is the line of the last step that there is; a path of
    which nothing is there is on line 1.
    """
    lines = dict(reversed(list(list_key_lines(text))))
    for steps in range(len(path), 0, -1):
        if path[:steps] in lines:
            return lines[path[:steps]], steps
    return 1, 0


def list_key_lines(text: str) -> Iterator[tuple[KeyPath, int]]:
    """Give every key of valid TOML, every table and every place of an array, with its line."""
    yield from _KeyLineScanner(_tokenize(text)).scan_document()


def _tokenize(text: str) -> Iterator[_TomlToken]:
    line = 1
    for match in _TOKEN_PATTERN.finditer(text):
        if match.lastgroup != "blank":
            yield _TomlToken(match.group(), line)
        line += match.group().count("\n")


class _KeyLineScanner:
    """Walks over the tokens of a document once."""

    def __init__(self, tokens: Iterator[_TomlToken]) -> None:
        self._tokens = [*tokens, _TomlToken("\n", 0)]
        self._position = 0
        self._last_indexes: dict[
            KeyPath, int
        ] = {}  # of each array of tables, its last place so far

    def scan_document(self) -> Iterator[tuple[KeyPath, int]]:
        table: KeyPath = ()
        while self._position < len(self._tokens):
            match self._peek():
                case "\n":
                    self._next_token()
                case "[":
                    table, line = self._scan_header()
                    yield from _with_parents(table, (), line)
                case _:
                    yield from self._scan_pair(table)

    def _scan_header(self) -> tuple[KeyPath, int]:
        line = self._next_token().line
        is_array = self._peek() == "["
        if is_array:
            self._next_token()
        names = self._scan_key()
        self._skip_symbols("]" * (2 if is_array else 1))
        path: KeyPath = ()
        for name in names[:-1]:
            path = self._resolve_array_path((*path, name))
        path = (*path, names[-1])
        if is_array:
            self._last_indexes[path] = self._last_indexes.get(path, -1) + 1
        return self._resolve_array_path(path), line

    def _resolve_array_path(self, path: KeyPath) -> KeyPath:
        return (*path, self._last_indexes[path]) if path in self._last_indexes else path

    def _scan_pair(self, table: KeyPath) -> Iterator[tuple[KeyPath, int]]:
        line = self._tokens[self._position].line
        path = (*table, *self._scan_key())
        self._skip_symbols("=")
        yield from _with_parents(path, table, line)
        yield from self._scan_value(path)

    def _scan_key(self) -> Sequence[str]:
        names = [_unquote(self._next_token().text)]
        while self._peek() == ".":
            self._next_token()
            names.append(_unquote(self._next_token().text))
        return names

    def _scan_value(self, path: KeyPath) -> Iterator[tuple[KeyPath, int]]:
        match self._peek():
            case "[":
                yield from self._scan_array(path)
            case "{":
                yield from self._scan_inline_table(path)
            case _:
                while self._peek() not in (",", "]", "}", "\n"):
                    self._next_token()  # a number or a time is several tokens

    def _scan_array(self, path: KeyPath) -> Iterator[tuple[KeyPath, int]]:
        self._next_token()
        index = 0
        while self._peek() != "]":
            if self._peek() in (",", "\n"):
                self._next_token()
                continue
            yield (*path, index), self._tokens[self._position].line
            yield from self._scan_value((*path, index))
            index += 1
        self._next_token()

    def _scan_inline_table(self, path: KeyPath) -> Iterator[tuple[KeyPath, int]]:
        self._next_token()
        while self._peek() != "}":
            if self._peek() in (",", "\n"):
                self._next_token()
            else:
                yield from self._scan_pair(path)
        self._next_token()

    def _peek(self) -> str:
        return self._tokens[self._position].text

    def _next_token(self) -> _TomlToken:
        self._position += 1
        return self._tokens[self._position - 1]

    def _skip_symbols(self, symbols: str) -> None:
        self._position += len(symbols)


def _with_parents(path: KeyPath, parent: KeyPath, line: int) -> Iterator[tuple[KeyPath, int]]:
    """Give a path, and before it the tables that it makes on its way: ``a.b = 1`` makes ``a``."""
    for steps in range(len(parent) + 1, len(path) + 1):
        yield path[:steps], line


def _unquote(key: str) -> str:
    if key[0] not in "\"'":
        return key
    return str(tomllib.loads(f"key = {key}")["key"])


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
    similar_name = find_similar_name(name, known_names)
    return (
        f"; did you mean {similar_name!r}?"
        if similar_name is not None
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
