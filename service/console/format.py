"""Numbers, times and reasons as text for a person; pure."""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_AGE_UNITS = (("d", 86_400), ("h", 3600), ("min", 60))
_ONE_DECIMAL_BELOW = 10

REASON_TEXTS: Mapping[str, str] = {
    "corrupt_ticket": "the stored ticket cannot be read",
    "forbidden": "LaunchDarkly's token may not read this project and environment",
    "internal_error": "an error in this service's own code, at every attempt",
    "not_found": "LaunchDarkly does not know this deployment",
    "other": "a reason that this version does not know",
    "poison": "several workers died while they held it",
    "record_too_large": "the record is larger than ENRICHER_MAX_RECORD_BYTES",
    "rejected": "LaunchDarkly rejects the request",
    "report_forbidden": "LaunchDarkly's token may not report deployments",
    "report_invalid": "this version cannot be reported to LaunchDarkly",
    "report_rejected": "LaunchDarkly rejects the report of this deployment",
    "too_large": "the response is larger than ENRICHER_MAX_RESPONSE_BYTES",
    "undecodable": "the response is not a deployment that this version can read",
    "unmappable": "the webhook does not say which deployment finished",
    "upstream_failing": "LaunchDarkly kept failing until the timeout",
}
_UNREADABLE_TEXT = "the stored reason and response cannot be read"  # of the failed ticket itself

RETRY_RESULT_TEXTS: Mapping[str, str] = {
    "queued": "is due now",
    "superseded": "was dropped, because a newer ticket of the same job waits",
    "skipped": "was skipped",
    "gone": "is not among the failed tickets, or has failed again",
    "dropped": "was dropped",
}
"""What happened to a ticket that was to be retried or dropped, by RetryResult.status."""


def format_count(number: float) -> str:
    """Return a whole number with commas between thousands."""
    return f"{number:,.0f}"


def format_rate(per_second: float) -> str:
    """Return a rate, with one decimal below 10."""
    if 0 < per_second < _ONE_DECIMAL_BELOW:
        return f"{per_second:.1f}"
    return format_count(per_second)


def format_age(seconds: float, *, digits: int = 0) -> str:
    """Return a time span in its largest unit, with so many decimals."""
    for unit, unit_s in _AGE_UNITS:
        if seconds >= unit_s:
            return f"{seconds / unit_s:.{digits}f} {unit}"
    return f"{max(0.0, seconds):.{digits}f} s"


def format_age_ms(ms: float) -> str:
    """Return a time span in its largest unit."""
    return format_age(ms / 1000)


def format_duration(ms: float) -> str:
    """Return a duration, more precise the shorter it is."""
    seconds = ms / 1000
    if seconds < 1:
        return f"{ms:.0f} ms"
    if seconds < _ONE_DECIMAL_BELOW:
        return f"{seconds:.1f} s"
    return format_age(seconds)


def format_time(ms: float) -> str:
    """Return a time (epoch ms) in UTC; a time outside the calendar as a number."""
    time = _to_datetime(ms)
    return f"{ms:.0f} ms" if time is None else f"{time:%Y-%m-%d %H:%M:%S} UTC"


def format_rfc3339(ms: float) -> str:
    """Return a time (epoch ms) as RFC 3339; empty for a time outside the calendar."""
    time = _to_datetime(ms)
    return "" if time is None else time.isoformat(timespec="milliseconds")


def explain_reason(reason: str) -> str:
    """Return a sentence about the reason of a failure; empty for an unknown reason."""
    return _UNREADABLE_TEXT if reason == "unreadable" else REASON_TEXTS.get(reason, "")


def _to_datetime(ms: float) -> datetime | None:
    try:
        return _EPOCH + timedelta(milliseconds=ms)
    except (OverflowError, ValueError):
        return None
