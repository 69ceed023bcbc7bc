"""Numbers and times as text for a person; pure."""

from datetime import UTC, datetime, timedelta

from .deployments import FlagEvent

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_UNITS = (("d", 86_400_000), ("h", 3_600_000), ("min", 60_000), ("s", 1000))
_ONE_DECIMAL_BELOW = 10
_SHORT_VERSION, _LONG_VERSION = 10, 20
_EVENT_TEXTS = {"enabled_targeting": "turned on", "disabled_targeting": "turned off"}


def split_duration(ms: float) -> tuple[str, str]:
    """Return a duration in its largest unit as number and unit, with one decimal below 10."""
    for unit, unit_ms in _UNITS:
        if ms >= unit_ms:
            return format_number(ms / unit_ms), unit
    return f"{max(0.0, ms):.0f}", "ms"


def format_duration(ms: float) -> str:
    """Return a duration in its largest unit, such as ``2.5 h``."""
    return " ".join(split_duration(ms))


def format_number(number: float) -> str:
    """Return a number with one decimal below 10 unless it is whole, and commas above 999."""
    rounded = round(float(number), 1)
    if rounded < _ONE_DECIMAL_BELOW and not rounded.is_integer():
        return f"{rounded:.1f}"
    return f"{number:,.0f}"


def format_percent(share: float) -> str:
    """Return a share (0 to 1) as a percentage without its sign."""
    return format_number(100 * share)


def format_utc(ms: float) -> str:
    """Return a time (epoch ms) in UTC; a time outside the calendar as a number."""
    time = _to_datetime(ms)
    return f"{ms:.0f} ms" if time is None else f"{time:%Y-%m-%d %H:%M:%S} UTC"


def format_rfc3339(ms: float) -> str:
    """Return a time (epoch ms) as RFC 3339; empty for a time outside the calendar."""
    time = _to_datetime(ms)
    return "" if time is None else time.isoformat(timespec="milliseconds")


def format_version(version: str) -> str:
    """Return a version for a narrow column: of a long one, such as a SHA, the beginning."""
    if not version:
        return "unknown version"
    return version if len(version) <= _LONG_VERSION else version[:_SHORT_VERSION]


def format_flag_event(event: FlagEvent) -> str:
    """Return what a flag event did: LaunchDarkly's own words if there are no plainer ones."""
    own_words = event.description or event.event_type.replace("_", " ")
    return _EVENT_TEXTS.get(event.event_type, own_words)


def _to_datetime(ms: float) -> datetime | None:
    try:
        return _EPOCH + timedelta(milliseconds=ms)
    except (OverflowError, ValueError):
        return None
