"""A span of time as text for a person."""

_UNITS = (("d", 86_400), ("h", 3600), ("min", 60))


def format_age(seconds: float, *, decimals: int = 0) -> str:
    """Return a span of time in its largest unit: days, hours, minutes or seconds."""
    for unit, unit_s in _UNITS:
        if seconds >= unit_s:
            return f"{seconds / unit_s:.{decimals}f} {unit}"
    return f"{max(0, seconds):.{decimals}f} s"
