"""How does a record look on one line? In columns that fit the terminal, for a person."""

import shutil
from collections.abc import Sequence
from typing import TextIO

import msgspec

from service.log import make_printable
from service.operate.columns import GAP, Column, cut_text, measure_text, pad_text
from service.operate.tail import Appended
from service.publish.record import EnrichedDeployment
from service.publish.summary import TouchedFlag

_WIDE_FROM = 110  # columns; from here on there is room for whole deployment ids
_SHORT_ID, _LONG_ID = 8, 36


_BETWEEN = (
    Column("application", 15),
    Column("environment", 11),
    Column("rev", 3, right=True),
    Column("PRs", 3, right=True),
    Column("lead time", 9, right=True),
)
_LAST = "flags touched"
_UNKNOWN_COLUMNS = 160  # of a file or a pipe


def measure_columns(out: TextIO) -> int:
    """Say how many columns there are; more than enough where it is no terminal."""
    return shutil.get_terminal_size().columns if out.isatty() else _UNKNOWN_COLUMNS


def write_header(*, columns: int) -> str:
    """Give the titles, for a terminal of so many columns."""
    return _write_row([each.title for each in _columns_of(columns)], _LAST, columns)


def write_record(appended: Appended, *, columns: int) -> str:
    """Tell one record in one line that does not wrap; an entry that is none is told as such."""
    record = read_record(appended)
    if record is None:
        reason = "is no enriched deployment: not written by us, or damaged"
        return cut_text(f"{make_printable(appended.position)}  {reason}", columns)
    fields, summary = appended.fields, record.summary
    cells = (
        fields.get("subject", "?"),
        fields.get("applicationkey", "?"),
        fields.get("environmentkey", "?"),
        str(record.revision),
        str(len(summary.pull_requests)),
        _write_hours(summary.lead_time_ms),
    )
    missing = "" if record.completeness.complete else "INCOMPLETE "
    room = columns - sum(each.width + len(GAP) for each in _columns_of(columns)) - len(missing)
    flags = _write_flags(summary.flags, room)
    return _write_row([make_printable(cell) for cell in cells], missing + flags, columns)


def read_record(appended: Appended) -> EnrichedDeployment | None:
    """Read the record of an entry; None when the entry holds none."""
    try:
        return msgspec.json.decode(appended.fields.get("data", ""), type=EnrichedDeployment)
    except (msgspec.MsgspecError, RecursionError):
        return None


def _columns_of(columns: int) -> tuple[Column, ...]:
    id_width = _LONG_ID if columns >= _WIDE_FROM else _SHORT_ID
    return (Column("deployment" if id_width == _LONG_ID else "id", id_width), *_BETWEEN)


def _write_row(cells: Sequence[str], last: str, columns: int) -> str:
    padded = [pad_text(cell, each) for cell, each in zip(cells, _columns_of(columns), strict=True)]
    return cut_text(GAP.join([*padded, last]), columns)


def _write_flags(flags: Sequence[TouchedFlag], room: int) -> str:
    """Name as many flags as there is room for, and count the rest."""
    names = [make_printable(flag.key) for flag in flags]
    for shown in range(len(names), 0, -1):
        rest = len(names) - shown
        text = ", ".join(names[:shown]) + (f" +{rest}" if rest else "")
        if measure_text(text) <= room:
            return text
    if not names:
        return "none"
    more = f" +{len(names) - 1}" if len(names) > 1 else ""
    return cut_text(names[0], room - len(more)) + more


def _write_hours(duration_ms: int | None) -> str:
    return "?" if duration_ms is None else f"{duration_ms / 3_600_000:.1f} h"
