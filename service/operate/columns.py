"""How does text stand in the columns of a terminal? Padded, or cut, by the width of its signs."""

import unicodedata

from msgspec import Struct

COLUMN_GAP = "  "


class Column(Struct, frozen=True):
    """A column: its title, how wide it is, and whether it is flush right."""

    title: str
    width: int
    align_right: bool = False


def pad_text(text: str, column: Column) -> str:
    """Fill a column; an id is shortened to its beginning, anything else by two dots."""
    shown = truncate_text(text, column.width) if column.title != "id" else text[: column.width]
    padding = " " * (column.width - measure_text_width(shown))
    return padding + shown if column.align_right else shown + padding


def truncate_text(text: str, max_columns: int) -> str:
    """Shorten to so many columns of a terminal; two dots say that something is left out."""
    if measure_text_width(text) <= max_columns:
        return text
    kept = text[: max(0, max_columns)]
    while kept and measure_text_width(kept) > max_columns - 2:
        kept = kept[:-1]
    return f"{kept}.."


def measure_text_width(text: str) -> int:
    """Count columns: East Asian wide signs take two, marks that combine none."""
    return sum(
        0
        if unicodedata.combining(character)
        else 2
        if unicodedata.east_asian_width(character) in "WF"
        else 1
        for character in text
    )
