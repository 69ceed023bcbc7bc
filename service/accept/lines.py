"""On which line does a key stand? What tomllib does not tell of TOML that it has read."""

import re
import tomllib
from collections.abc import Iterator, Sequence
from typing import NamedTuple

KeyPath = tuple[str | int, ...]
"""The way to a key: ``("source", 0, "fields", "version")``, numbers for the places of an array."""

# In the order of trial: the longer quotes before the shorter ones that they begin with.
_TOKEN = re.compile(
    r"""
      (?P<blank>[ \t\r]+|\#[^\n]*)
    | (?P<text>\"\"\"(?:[^\\]|\\.)*?\"{3,5}|'''.*?'{3,5}|"(?:[^"\\\n]|\\.)*"|'[^'\n]*')
    | (?P<sign>[\[\]{},=.\n])
    | (?P<word>[^\s\[\]{},=.#"']+)
    """,
    re.VERBOSE | re.DOTALL,
)


class _Token(NamedTuple):
    text: str
    line: int


def find_line(text: str, path: KeyPath) -> tuple[int, int]:
    """Give the line, from 1, of a key of valid TOML, and how many steps of the path lead to it.

    Where the whole path leads nowhere, it is the line of the last step that there is; a path of
    which nothing is there is on line 1.
    """
    lines = dict(reversed(list(find_keys(text))))
    for steps in range(len(path), 0, -1):
        if path[:steps] in lines:
            return lines[path[:steps]], steps
    return 1, 0


def find_keys(text: str) -> Iterator[tuple[KeyPath, int]]:
    """Give every key of valid TOML, every table and every place of an array, with its line."""
    yield from _Reader(_tokens_of(text)).read_document()


def _tokens_of(text: str) -> Iterator[_Token]:
    line = 1
    for match in _TOKEN.finditer(text):
        if match.lastgroup != "blank":
            yield _Token(match.group(), line)
        line += match.group().count("\n")


class _Reader:
    """Walks over the tokens of a document once."""

    def __init__(self, tokens: Iterator[_Token]) -> None:
        self._tokens = [*tokens, _Token("\n", 0)]
        self._at = 0
        self._places: dict[KeyPath, int] = {}  # of each array of tables, its last place so far

    def read_document(self) -> Iterator[tuple[KeyPath, int]]:
        table: KeyPath = ()
        while self._at < len(self._tokens):
            match self._peek():
                case "\n":
                    self._take()
                case "[":
                    table, line = self._read_header()
                    yield from _with_parents(table, (), line)
                case _:
                    yield from self._read_pair(table)

    def _read_header(self) -> tuple[KeyPath, int]:
        line = self._take().line
        is_array = self._peek() == "["
        if is_array:
            self._take()
        names = self._read_key()
        self._skip("]" * (2 if is_array else 1))
        path: KeyPath = ()
        for name in names[:-1]:
            path = self._enter((*path, name))
        path = (*path, names[-1])
        if is_array:
            self._places[path] = self._places.get(path, -1) + 1
        return self._enter(path), line

    def _enter(self, path: KeyPath) -> KeyPath:
        return (*path, self._places[path]) if path in self._places else path

    def _read_pair(self, table: KeyPath) -> Iterator[tuple[KeyPath, int]]:
        line = self._tokens[self._at].line
        path = (*table, *self._read_key())
        self._skip("=")
        yield from _with_parents(path, table, line)
        yield from self._read_value(path)

    def _read_key(self) -> Sequence[str]:
        names = [_unquote(self._take().text)]
        while self._peek() == ".":
            self._take()
            names.append(_unquote(self._take().text))
        return names

    def _read_value(self, path: KeyPath) -> Iterator[tuple[KeyPath, int]]:
        match self._peek():
            case "[":
                yield from self._read_array(path)
            case "{":
                yield from self._read_inline_table(path)
            case _:
                while self._peek() not in (",", "]", "}", "\n"):
                    self._take()  # a number or a time is several tokens

    def _read_array(self, path: KeyPath) -> Iterator[tuple[KeyPath, int]]:
        self._take()
        place = 0
        while self._peek() != "]":
            if self._peek() in (",", "\n"):
                self._take()
                continue
            yield (*path, place), self._tokens[self._at].line
            yield from self._read_value((*path, place))
            place += 1
        self._take()

    def _read_inline_table(self, path: KeyPath) -> Iterator[tuple[KeyPath, int]]:
        self._take()
        while self._peek() != "}":
            if self._peek() in (",", "\n"):
                self._take()
            else:
                yield from self._read_pair(path)
        self._take()

    def _peek(self) -> str:
        return self._tokens[self._at].text

    def _take(self) -> _Token:
        self._at += 1
        return self._tokens[self._at - 1]

    def _skip(self, signs: str) -> None:
        self._at += len(signs)


def _with_parents(path: KeyPath, above: KeyPath, line: int) -> Iterator[tuple[KeyPath, int]]:
    """Give a path, and before it the tables that it makes on its way: ``a.b = 1`` makes ``a``."""
    for steps in range(len(above) + 1, len(path) + 1):
        yield path[:steps], line


def _unquote(key: str) -> str:
    if key[0] not in "\"'":
        return key
    return str(tomllib.loads(f"key = {key}")["key"])
