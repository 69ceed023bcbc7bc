"""How does text stand in the columns of a terminal? Padded, or cut, by the width of its signs."""

import unicodedata

from msgspec import Struct

GAP = "  "


class Column(Struct, frozen=True):
    """A column: its title, how wide it is, and whether it is flush right."""

    title: str
    width: int
    right: bool = False


def pad_text(text: str, column: Column) -> str:
    """Fill a column; an id is shortened to its beginning, anything else by two dots."""
    shown = cut_text(text, column.width) if column.title != "id" else text[: column.width]
    blank = " " * (column.width - measure_text(shown))
    return blank + shown if column.right else shown + blank


def cut_text(text: str, columns: int) -> str:
    """Shorten to so many columns of a terminal; two dots say that something is left out."""
    if measure_text(text) <= columns:
        return text
    kept = text[: max(0, columns)]
    while kept and measure_text(kept) > columns - 2:
        kept = kept[:-1]
    return f"{kept}.."


def measure_text(text: str) -> int:
    """Count columns: East Asian wide signs take two, marks that combine none."""
    return sum(
        0 if unicodedata.combining(sign) else 2 if unicodedata.east_asian_width(sign) in "WF" else 1
        for sign in text
    )
