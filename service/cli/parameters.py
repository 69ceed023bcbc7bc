"""Parsers of command-line values: each checks a text and converts it."""

import re
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import TypeVar

import click
from yarl import URL

from service.settings import is_utf8
from service.store.url import is_host_name

MAX_NUMBER = 1_000_000
DEFAULT_WEBHOOK_URL = "http://127.0.0.1:8080/webhooks/native"
_MAX_DURATION_DIGITS = 9
_SECONDS_BY_UNIT = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}
_UNUSABLE_IN_URL = re.compile(r"[\x00-\x20\x7f]")
_UNUSABLE_IN_HEADER = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")  # those that aiohttp refuses
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

Value = TypeVar("Value")


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
    """Return an http or https URL unchanged; it has a host and a valid port."""
    if not text.startswith(("http://", "https://")):
        raise click.BadParameter(f"{text!r} does not begin with http:// or https://")
    if _UNUSABLE_IN_URL.search(text):
        raise click.BadParameter(f"{text!r} has a space or a control character: percent-encode it")
    try:
        url = URL(text)  # as aiohttp parses it
        is_usable = is_host_name(url.host) and url.port != 0
    except ValueError:
        is_usable = False
    if not is_usable:
        raise click.BadParameter(
            f"{text!r} has no valid host and port: give a URL such as {DEFAULT_WEBHOOK_URL}"
        )
    return text


def parse_base_url(text: str) -> str:
    """Return an http or https URL unchanged, to which a path can be added."""
    if "?" in text or "#" in text:
        raise click.BadParameter(f"{text!r} has a query or a fragment: give https://host only")
    return parse_url(text)


def parse_host(text: str) -> str:
    """Return an address to listen on unchanged."""
    if not is_host_name(text):
        raise click.BadParameter(f"{text!r} is not an address such as 127.0.0.1")
    return text


def parse_header_value(text: str) -> str:
    """Return a text unchanged that may be sent in a header of HTTP."""
    if _UNUSABLE_IN_HEADER.search(text):
        raise click.BadParameter(f"{text!r} has a control character, which no header can hold")
    return text


def require_utf8(command: click.Command) -> None:
    """Make a command, and those below it, refuse arguments that are not UTF-8, except paths.

    Python reads bytes that are not UTF-8 as lone surrogates, which can be neither sent nor stored.
    """
    for parameter in command.params:
        if parameter.callback is None and not isinstance(parameter.type, click.Path):
            parameter.callback = _check_utf8
    for subcommand in command.commands.values() if isinstance(command, click.Group) else ():
        require_utf8(subcommand)


def _check_utf8(context: click.Context, parameter: click.Parameter, value: Value) -> Value:
    for text in _iterate_texts(value):
        if not is_utf8(text):
            raise click.BadParameter(f"{text!r} is not UTF-8 text", context, parameter)
    return value


def _iterate_texts(value: object) -> Iterator[str]:
    """Yield the texts of an argument, which may be given several times or have several parts."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, tuple):
        for part in value:
            yield from _iterate_texts(part)
