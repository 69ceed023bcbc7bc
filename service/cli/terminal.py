"""What may follow a command? Its arguments, each with its bounds and its meaning."""

import argparse
import errno
import os
import unicodedata
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import TypeVar

import aiohttp
from msgspec import Struct
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError

from service.contracts import CONTRACTS
from service.store import RedisMisconfigured, RedisUnavailable
from service.store.connect import is_bad_password
from service.store.embedded import EmbeddedServerError

_MAX_NUMBER, _MAX_PORT = 1_000_000, 65_535
_SECONDS_BY_UNIT = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}
_MAX_DURATION_DIGITS = 9
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_DEFAULT_WEBHOOK_URL = "http://127.0.0.1:8080/webhooks/native"

T = TypeVar("T", int, float)


def add_demo_arguments(command: argparse.ArgumentParser) -> None:
    """Add what `demo` takes."""
    whole, number = _number_parser(0), _number_parser(0.1)
    command.add_argument("--events", type=whole, default=0, help="end after so many records")
    command.add_argument(
        "--per-second", type=number, default=2.0, help="deployments a second (default: 2)"
    )
    command.add_argument(
        "--quota", type=_number_parser(10), default=60, help="calls allowed in 5 s (default: 60)"
    )
    command.add_argument("--seed", type=whole, help="the same number invents the same again")


def add_pipeline_arguments(command: argparse.ArgumentParser) -> None:
    """Add what `pipeline` takes."""
    command.add_argument(
        "--url",
        type=_parse_url,
        default=_DEFAULT_WEBHOOK_URL,
        help=f"where to (default: {_DEFAULT_WEBHOOK_URL})",
    )
    command.add_argument("--events", type=_number_parser(0), default=0, help="end after so many")
    command.add_argument(
        "--per-second",
        type=_number_parser(0.1),
        default=2.0,
        help="deployments a second (default: 2)",
    )


def add_simulate_arguments(command: argparse.ArgumentParser) -> None:
    """Add what `simulate` takes."""
    command.add_argument("--host", default="127.0.0.1", help="address to listen on")
    command.add_argument(
        "--port",
        type=_number_parser(0, _MAX_PORT),
        default=9090,
        help="0: any free one (default: 9090)",
    )
    command.add_argument(
        "--options", default="{}", help='JSON of changed options: \'{"quota":{"global_limit":20}}\''
    )


def add_send_arguments(command: argparse.ArgumentParser) -> None:
    """Add what `send` takes."""
    command.add_argument(
        "--url",
        type=_parse_url,
        default=_DEFAULT_WEBHOOK_URL,
        help=f"where to (default: {_DEFAULT_WEBHOOK_URL})",
    )
    command.add_argument("--delivery", default=None, help="idempotency key; default: a new one")
    command.add_argument("--id", help="LaunchDarkly's deployment id, when it is known")
    for name in ("project", "environment", "application"):
        command.add_argument(f"--{name}", metavar="KEY")
    command.add_argument("--version", help="the version that was deployed, such as a SHA")
    command.add_argument("--event-type", choices=("finished", "failed"), default="finished")


def add_schema_arguments(parser: argparse.ArgumentParser) -> None:
    """Which of the contracts is printed."""
    names = [*CONTRACTS]
    parser.add_argument("contract", nargs="?", choices=names, default=names[0], metavar="FILE")
    parser.epilog = f"FILE: {', '.join(names)}"


def add_tail_arguments(command: argparse.ArgumentParser) -> None:
    """Add what `tail` takes."""
    command.add_argument("--from-start", action="store_true", help="begin with the oldest record")
    command.add_argument("--json", action="store_true", help="one JSON object a line")


def add_sources_arguments(command: argparse.ArgumentParser) -> None:
    """Add what `sources` takes; ``what`` says which of the three is wanted."""
    named = command.add_subparsers(dest="what", metavar="WHAT", required=True)
    meanings = {
        "list": "name, URL, how it is verified, whose secrets are set; 1 when one is not",
        "try": "say what would become of a webhook; nothing is queued; 1 when it is not welcome",
        "recipe": "say what has to be pasted on the sender's side",
    }
    listing, trial, recipe = (
        named.add_parser(name, help=meaning, description=meaning)
        for name, meaning in meanings.items()
    )
    trial.add_argument("name", help="a source that is configured")
    trial.add_argument("file", help="the body as it came, or - for standard input")
    for option, sign, form, meaning in (
        ("--header", ":", "'NAME: VALUE'", "a header as it came; may be repeated"),
        ("--query", "=", "NAME=VALUE", "a parameter of the URL; may be repeated"),
    ):
        read = _pair_parser(sign)
        trial.add_argument(
            option, type=read, action="append", default=[], metavar=form, help=meaning
        )
    recipe.add_argument("name", help="a source that is configured, or a preset")
    for each in (listing, recipe):
        each.add_argument(
            "--url", type=_parse_url, help="how senders reach the receiver: https://..."
        )


def add_failed_arguments(command: argparse.ArgumentParser) -> None:
    """Add what `failed` takes; ``what`` says which of the four is wanted."""
    named = command.add_subparsers(dest="what", metavar="WHAT", required=True)
    meanings = {
        "list": "list what was given up or set aside, the newest first",
        "show": "tell all that is known of one: why, when, the webhook, the answer",
        "retry": "put it back into the backlog, due now; an event set aside is read again",
        "drop": "forget it",
    }
    listing, show, retry, drop = (
        named.add_parser(name, help=meaning, description=meaning)
        for name, meaning in meanings.items()
    )
    show.add_argument("job", metavar="JOB", help="as `failed list` names it")
    for each in (listing, show):
        each.add_argument("--json", action="store_true", help="one JSON object a line")
    for each in (retry, drop):
        each.add_argument("jobs", nargs="*", metavar="JOB", help="as `failed list` names it")
        each.add_argument("--all", action="store_true", help="all, or all that the filters leave")
        each.add_argument("--dry-run", action="store_true", help="only say what would be done")
        each.add_argument("--yes", action="store_true", help="do not ask before --all")
    for each in (listing, retry, drop):
        _add_filter_arguments(each)


def add_backfill_arguments(command: argparse.ArgumentParser) -> None:
    """Add what `backfill` takes."""
    for name in ("project", "environment"):
        command.add_argument(f"--{name}", metavar="KEY", required=True)
    command.add_argument(
        "--application",
        metavar="KEY",
        action="append",
        default=[],
        help="this one only; may be repeated",
    )
    for option, name, meaning in (
        ("--from", "since", "such as 2026-11-01 or 2026-11-01T12:00+01:00; UTC unless it says"),
        ("--to", "until", "the same; default: now"),
    ):
        command.add_argument(
            option,
            dest=name,
            type=_parse_time_ms,
            metavar="TIME",
            required=option == "--from",
            help=meaning,
        )
    command.add_argument("--dry-run", action="store_true", help="only count what would be queued")


def add_doctor_arguments(command: argparse.ArgumentParser) -> None:
    """Add what `doctor` takes."""
    command.add_argument("--json", action="store_true", help="one JSON object")


def _add_filter_arguments(command: argparse.ArgumentParser) -> None:
    filters = command.add_argument_group("filters")
    filters.add_argument("--reason", metavar="WORD", help="such as not_found or unmappable")
    filters.add_argument("--source", metavar="NAME", help="what the source is called")
    filters.add_argument("--application", metavar="KEY", help="what was deployed")
    for option in ("--older-than", "--newer-than"):
        filters.add_argument(
            option, type=_parse_duration, metavar="AGE", help="such as 90s, 2h or 7d"
        )
    filters.add_argument("--limit", type=_number_parser(1), metavar="N", help="the newest N only")


def _parse_duration(text: str) -> float:
    """Read a number and its unit; seconds without one."""
    number, unit = (text[:-1], text[-1]) if text[-1:] in _SECONDS_BY_UNIT else (text, "s")
    if not number.isascii() or not number.isdecimal() or len(number) > _MAX_DURATION_DIGITS:
        raise argparse.ArgumentTypeError(f"{text!r} is no age such as 90s, 30m, 2h or 7d")
    return float(int(number) * _SECONDS_BY_UNIT[unit])


def _parse_time_ms(text: str) -> int:
    """Read a date, or a date and a time, as epoch ms."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no time such as 2026-11-01") from None
    known = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return max(1, (known - _EPOCH) // timedelta(milliseconds=1))


def _pair_parser(separator: str) -> Callable[[str], tuple[str, str]]:
    """Read a name and a value with a sign between them."""

    def parse(text: str) -> tuple[str, str]:
        name, found, value = text.partition(separator)
        if not found or not name.strip():
            raise argparse.ArgumentTypeError(
                f"{text!r} has no {separator!r} between name and value"
            )
        return name.strip(), value.strip()

    return parse


def _number_parser(minimum: T, maximum: T | int = _MAX_NUMBER) -> Callable[[str], T]:
    """Read a number of the kind of the lowest one that is taken."""

    def parse(text: str) -> T:
        number = type(minimum)(text)
        if not minimum <= number <= maximum:
            raise argparse.ArgumentTypeError(f"{text} is not from {minimum} to {maximum}")
        return number

    parse.__name__ = "number"  # argparse says: invalid number value
    return parse


def _parse_url(text: str) -> str:
    if not text.startswith(("http://", "https://")):
        raise argparse.ArgumentTypeError(f"{text!r} does not begin with http:// or https://")
    return text


COLUMN_GAP = "  "


class Column(Struct, frozen=True):
    """A column: its title, how wide it is, and whether it is flush right."""

    title: str
    width: int
    align_right: bool = False


def pad_text(text: str, column: Column) -> str:
    """Fill a column; an id is shortened to its beginning, anything else by two dots."""
    shown = truncate_text(text, column.width) if column.title != "id" else text[: column.width]
    padding = " " * (column.width - measure_text_width(shown))
    return padding + shown if column.align_right else shown + padding


def truncate_text(text: str, max_columns: int) -> str:
    """Shorten to so many columns of a terminal; two dots say that something is left out."""
    if measure_text_width(text) <= max_columns:
        return text
    kept = text[: max(0, max_columns)]
    while kept and measure_text_width(kept) > max_columns - 2:
        kept = kept[:-1]
    return f"{kept}.."


def measure_text_width(text: str) -> int:
    """Count columns: East Asian wide signs take two, marks that combine none."""
    return sum(
        0
        if unicodedata.combining(character)
        else 2
        if unicodedata.east_asian_width(character) in "WF"
        else 1
        for character in text
    )


EXPECTED_ERRORS = (
    *(RedisMisconfigured, RedisUnavailable, EmbeddedServerError),
    *(RedisError, aiohttp.ClientError, OSError),  # TimeoutError is an OSError
)
"""What ends a command because something it needs is away or refuses."""


def explain_error(error: Exception) -> str:
    """Say what is away or refuses, and which setting names it."""
    match error:
        case RedisConnectionError() if not is_bad_password(error):
            return f"Redis is away (ENRICHER_REDIS_URL, or that of a `run` going on): {error}"
        case RedisError():
            return f"Redis: {error}"
        case aiohttp.InvalidURL():
            return f"this is no URL to post to: {error}"
        case aiohttp.ClientError():
            return f"nobody answers: {error}"
        case OSError():
            return _explain_os_error(error)
        case _:
            return str(error)


def _explain_os_error(error: OSError) -> str:
    """Say what of this machine cannot be used."""
    if isinstance(error, TimeoutError):
        return "nobody answered in time"
    if error.errno in {errno.EADDRINUSE, errno.EADDRNOTAVAIL, errno.EACCES} and not error.filename:
        fix = "choose another by ENRICHER_HOST and ENRICHER_PORT (simulate: --host and --port)"
        return f"{error.strerror}; {fix}"
    if error.filename is not None:
        path = os.fsdecode(error.filename)
        return f"{path}: {error.strerror} (ENRICHER_DATA_DIR says where our server's data is kept)"
    return str(error)
