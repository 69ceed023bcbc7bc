"""On which line does a key stand? What tomllib does not tell of TOML that it has read."""

import re
import tomllib
from collections.abc import Iterator, Sequence
from typing import NamedTuple

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
