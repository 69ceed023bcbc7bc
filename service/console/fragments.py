"""Fragments: the parts of the overview that are updated live, and what of them changed; pure."""

from collections.abc import Mapping

from msgspec import Struct

Rows = Mapping[str, str]
"""A list as HTML: its rows by key, in order."""

Fragments = Mapping[str, str | Rows]
"""Parts of the overview as HTML, by name: a whole part, or a list."""


class ListChange(Struct, frozen=True, omit_defaults=True):
    """What changed in a list: rows that are new or different, and all keys if these changed."""

    rows: Rows
    keys: list[str] | None = None


def find_changes(old: Fragments, new: Fragments) -> dict[str, str | ListChange]:
    """Return what a viewer who has the old fragments needs to show the new ones."""
    changes: dict[str, str | ListChange] = {}
    for name, fragment in new.items():
        known = old.get(name)
        if fragment == known and list(fragment) == list(known):
            continue
        if isinstance(fragment, str):
            changes[name] = fragment
        else:
            changes[name] = _compare_rows(known if isinstance(known, Mapping) else None, fragment)
    return changes


def _compare_rows(old: Rows | None, new: Rows) -> ListChange:
    known = old or {}
    rows = {key: html for key, html in new.items() if known.get(key) != html}
    keys = list(new)
    return ListChange(rows, None if old is not None and keys == list(old) else keys)
