"""The known name that a mistyped name resembles most."""

from collections.abc import Iterable
from difflib import get_close_matches


def find_similar_name(name: str, known_names: Iterable[str], *, prefix: str = "") -> str | None:
    """Return the known name that is closest to ``name``; None if none is close.

    Names are compared without ``prefix``: what all of them share is no likeness.
    """
    known_by_suffix = {known.removeprefix(prefix): known for known in known_names}
    matches = get_close_matches(name.removeprefix(prefix), known_by_suffix, n=1)
    return known_by_suffix[matches[0]] if matches else None
