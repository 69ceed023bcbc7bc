"""When was it? The many ways in which senders write a time."""

import re
from datetime import datetime

# Seconds below, milliseconds from here on: 1e11 is the year 5138 in s, and March 1973 in ms.
_FIRST_MS = 100_000_000_000
_LAST_MS = 253_402_300_799_999  # the end of the year 9999

_DIGITS = re.compile(r"[0-9]{1,15}")
_ISO_8601 = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}[T ][0-9]{2}:[0-9]{2}(:[0-9]{2}([.,][0-9]{1,9})?)?"
    r" ?(Z|[+-][0-9]{2}(:?[0-9]{2})?)"
)


def read_time(value: object) -> int | None:
    """Give ms since 1970 for s, ms or ISO 8601 with an offset, as number or text; else None.

    GitLab sends ``2025-05-02 11:55:16 +0000``, Azure seven fractional digits, Jenkins ``+0800``,
    Harness digits in a text.
    """
    if isinstance(value, str):
        value = _read_digits_or_iso(value)
    if value is None or isinstance(value, bool) or not isinstance(value, int | float):
        return None
    ms = value if value >= _FIRST_MS else value * 1000
    return int(ms) if 0 < ms <= _LAST_MS else None


def _read_digits_or_iso(text: str) -> float | None:
    if _DIGITS.fullmatch(text):
        return int(text)
    if not _ISO_8601.fullmatch(text):
        return None
    try:
        return datetime.fromisoformat(text).timestamp()
    except ValueError:  # shaped like a time, yet none: the 31st of June
        return None
