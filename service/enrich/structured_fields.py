"""Structured fields of HTTP (RFC 9651): lists and dictionaries of items with parameters.

A field that breaks a rule is malformed as a whole, as the RFC says. Inner lists are not supported:
a field with one counts as malformed. Byte sequences, dates and display strings are kept as text.
"""

import re
from collections.abc import Mapping

from msgspec import Struct

BareItem = str | int | float | bool

_MAX_CHARS = 4096
_SPACES = re.compile(r" *")
_WHITESPACE = re.compile(r"[ \t]*")
_KEY = re.compile(r"[a-z*][a-z0-9_.*-]*")
_BARE_ITEM = re.compile(
    r'"(?P<string>(?:[\x20-\x21\x23-\x5b\x5d-\x7e]|\\["\\])*)"'
    r"|(?P<decimal>-?[0-9]{1,12}\.[0-9]{1,3})(?![0-9.])"
    r"|(?P<integer>-?[0-9]{1,15})(?![0-9.])"
    r"|(?P<token>[A-Za-z*][A-Za-z0-9:/!#$%&'*+.^_`|~-]*)"
    r"|\?(?P<boolean>[01])"
    r'|(?P<text>:[A-Za-z0-9+/=]*:|@-?[0-9]{1,15}(?![0-9.])|%"[\x20-\x21\x23-\x7e]*")'
)
_ESCAPE = re.compile(r"\\(.)")


class Item(Struct, frozen=True):
    """One value and its parameters. Strings and tokens are both text."""

    value: BareItem
    parameters: Mapping[str, BareItem]


def parse_list(text: str) -> list[Item]:
    """Parse a list field; several header lines are joined with commas. Malformed: empty."""
    items: list[Item] = []
    try:
        reader = _FieldReader(text)
        while reader.next_member():
            items.append(reader.read_item())
    except _Malformed:
        return []
    return items


def parse_dictionary(text: str) -> dict[str, Item]:
    """Parse a dictionary field; the last value of a repeated key counts. Malformed: empty."""
    members: dict[str, Item] = {}
    try:
        reader = _FieldReader(text)
        while reader.next_member():
            key = reader.read_key()
            members[key] = reader.read_item() if reader.skip("=") else reader.read_flag()
    except _Malformed:
        return {}
    return members


class _Malformed(Exception):
    """The field breaks a rule of RFC 9651."""


class _FieldReader:
    """Reads one field from left to right."""

    __slots__ = ("_has_members", "_position", "_text")

    def __init__(self, text: str) -> None:
        if len(text) > _MAX_CHARS:
            raise _Malformed
        self._text = text.strip(" ")
        self._position = 0
        self._has_members = False

    def next_member(self) -> bool:
        """Go to the next member of a list or dictionary; return False at the end."""
        if self._has_members:
            self._match(_WHITESPACE)
            if self._position == len(self._text):
                return False
            if not self.skip(","):
                raise _Malformed
            self._match(_WHITESPACE)
        elif not self._text:
            return False
        self._has_members = True
        return True

    def skip(self, character: str) -> bool:
        """Skip one character if it is next."""
        is_next = self._text.startswith(character, self._position)
        self._position += is_next
        return is_next

    def read_key(self) -> str:
        return self._match(_KEY).group()

    def read_item(self) -> Item:
        return Item(self._read_bare_item(), self._read_parameters())

    def read_flag(self) -> Item:
        """Read the parameters of a dictionary member without a value, which means true."""
        return Item(True, self._read_parameters())

    def _read_bare_item(self) -> BareItem:
        match = self._match(_BARE_ITEM)
        text = match[match.lastgroup or 0]
        match match.lastgroup:
            case "string":
                return _ESCAPE.sub(r"\1", text)
            case "integer":
                return int(text)
            case "decimal":
                return float(text)
            case "boolean":
                return text == "1"
            case _:
                return text

    def _read_parameters(self) -> dict[str, BareItem]:
        parameters: dict[str, BareItem] = {}
        while self.skip(";"):
            self._match(_SPACES)
            key = self.read_key()
            parameters[key] = self._read_bare_item() if self.skip("=") else True
        return parameters

    def _match(self, pattern: re.Pattern[str]) -> re.Match[str]:
        match = pattern.match(self._text, self._position)
        if match is None:
            raise _Malformed
        self._position = match.end()
        return match
