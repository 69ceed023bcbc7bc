"""How is a number, a moment or a reason told to a person?"""

from datetime import UTC, datetime, timedelta

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_AGE_UNITS = (("d", 86_400), ("h", 3600), ("min", 60))
_ONE_DECIMAL_BELOW = 10

_REASON_TEXTS = {
    "not_found": "LaunchDarkly does not know this deployment",
    "rejected": "LaunchDarkly refuses the question itself",
    "too_large": "the answer is larger than what is read",
    "undecodable": "the answer is no deployment that we can read",
    "upstream_failing": "LaunchDarkly was in trouble until the deadline",
    "internal_error": "a mistake of our own, each time it was tried",
    "poison": "several workers ended while they held it",
    "unmappable": "which deployment ended could not be told from the webhook",
    "corrupt_ticket": "what was kept of it cannot be read",
    "unreadable": "what was kept of it cannot be read",
}


def format_count(number: float) -> str:
    """Give a whole number with its thousands apart."""
    return f"{number:,.0f}"


def format_rate(per_second: float) -> str:
    """Give how many a second, with as many digits as say something."""
    if 0 < per_second < _ONE_DECIMAL_BELOW:
        return f"{per_second:.1f}"
    return format_count(per_second)


def format_age(ms: float) -> str:
    """Give an age in its largest unit."""
    seconds = max(0.0, ms / 1000)
    for unit, unit_s in _AGE_UNITS:
        if seconds >= unit_s:
            return f"{seconds / unit_s:.0f} {unit}"
    return f"{seconds:.0f} s"


def format_duration(ms: float) -> str:
    """Give how long something took, as exact as anybody wants to know."""
    seconds = ms / 1000
    if seconds < 1:
        return f"{ms:.0f} ms"
    if seconds < _ONE_DECIMAL_BELOW:
        return f"{seconds:.1f} s"
    return format_age(ms)


def format_time(ms: float) -> str:
    """Give a moment in UTC; one that no calendar holds as a number."""
    time = _to_datetime(ms)
    return f"{ms:.0f} ms" if time is None else f"{time:%Y-%m-%d %H:%M:%S} UTC"


def format_rfc3339(ms: float) -> str:
    """Give a moment for programs (RFC 3339); empty where no calendar holds it."""
    time = _to_datetime(ms)
    return "" if time is None else time.isoformat(timespec="milliseconds")


def explain_reason(reason: str) -> str:
    """Say in a sentence why something failed; empty where the word itself says all."""
    return _REASON_TEXTS.get(reason, "")


def _to_datetime(ms: float) -> datetime | None:
    try:
        return _EPOCH + timedelta(milliseconds=ms)
    except (OverflowError, ValueError):
        return None
