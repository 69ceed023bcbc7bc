"""Parsers of command-line values: each checks a text and converts it."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import click

MAX_NUMBER = 1_000_000
DEFAULT_WEBHOOK_URL = "http://127.0.0.1:8080/webhooks/native"
_MAX_DURATION_DIGITS = 9
_SECONDS_BY_UNIT = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def parse_duration(text: str) -> float:
    """Return a number and its unit (s, m, h, d or w) as seconds; a bare number is seconds."""
    number, unit = (text[:-1], text[-1]) if text[-1:] in _SECONDS_BY_UNIT else (text, "s")
    if not number.isascii() or not number.isdecimal() or len(number) > _MAX_DURATION_DIGITS:
        raise click.BadParameter(f"{text!r} is not an age such as 90s, 30m, 2h or 7d")
    return float(int(number) * _SECONDS_BY_UNIT[unit])


def parse_time_ms(text: str) -> int:
    """Return a date, or a date and a time, as epoch ms of at least 1; UTC without an offset."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise click.BadParameter(f"{text!r} is not a time such as 2026-11-01") from None
    aware_moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return max(1, (aware_moment - _EPOCH) // timedelta(milliseconds=1))


def pair_parser(separator: str) -> Callable[[str], tuple[str, str]]:
    """Return a parser of a name and a value with ``separator`` between them."""

    def parse_pair(text: str) -> tuple[str, str]:
        name, found, value = text.partition(separator)
        if not found or not name.strip():
            raise click.BadParameter(f"{text!r} has no {separator!r} between name and value")
        return name.strip(), value.strip()

    return parse_pair


def parse_url(text: str) -> str:
    """Return an http or https URL unchanged."""
    if not text.startswith(("http://", "https://")):
        raise click.BadParameter(f"{text!r} does not begin with http:// or https://")
    return text
