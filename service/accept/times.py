"""When was it? The many ways in which senders write a time."""

import re
from datetime import UTC, datetime, timedelta

# Seconds below, milliseconds from here on: 1e11 is the year 5138 in s, and March 1973 in ms.
_MIN_MS = 100_000_000_000
_MAX_MS = 253_402_300_799_999  # the end of the year 9999

_NUMERIC_TIME = re.compile(r"[0-9]{1,15}([.][0-9]{1,9})?")
_ISO_8601 = re.compile(
    r"([0-9]{4}-[0-9]{2}-[0-9]{2}[T ][0-9]{2}:[0-9]{2}(?::[0-9]{2}(?:[.,][0-9]{1,9})?)?)"
    r" ?(?:(Z|UTC)|([+-][0-9]{2}(?::?[0-9]{2})?))"
)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_ONE_MS = timedelta(milliseconds=1)


def parse_time(value: object) -> int | None:
    """Give ms since 1970 for s, ms or ISO 8601 with an offset, as number or text; else None.

    GitLab sends ``2025-05-02 11:55:16 +0000``, Azure seven fractional digits, Jenkins ``+0800``,
    Buildkite ``2025-05-02 11:55:16 UTC``, Harness and CodeDeploy numbers in a text.
    """
    if isinstance(value, str):
        if iso_match := _ISO_8601.fullmatch(value):
            return _parse_iso(iso_match[1], iso_match[3] or "+00:00")
        value = float(value) if _NUMERIC_TIME.fullmatch(value) else None
    if value is None or isinstance(value, bool) or not isinstance(value, int | float):
        return None
    ms = value if value >= _MIN_MS else value * 1000
    return round(ms) if 0 < ms <= _MAX_MS else None


def _parse_iso(local_time: str, offset: str) -> int | None:
    try:
        ms = (datetime.fromisoformat(local_time + offset) - _EPOCH) // _ONE_MS
    except (ValueError, OverflowError):  # shaped like a time, yet none: the 31st of June
        return None
    return ms if 0 < ms <= _MAX_MS else None
