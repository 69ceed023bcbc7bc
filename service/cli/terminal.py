"""Text for a terminal: columns, widths, and the sentences for expected errors."""

import errno
import os
import unicodedata

import aiohttp
from msgspec import Struct
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError

from service.simulate.pipeline import PostRefused
from service.store import RedisMisconfigured, RedisUnavailable
from service.store.connect import is_bad_password
from service.store.embedded import EmbeddedServerError

EXIT_CODES = (
    "Exit codes: 0 ended as asked, 1 something needed is away or refuses,"
    " 2 a wrong argument or setting."
)
EXIT_FAILURE, EXIT_USAGE_ERROR = 1, 2

COLUMN_GAP = "  "


class Column(Struct, frozen=True):
    """A column of a table: its title, its width, and whether it is aligned right."""

    title: str
    width: int
    align_right: bool = False


def pad_text(text: str, column: Column) -> str:
    """Return a text of exactly the column's width.

    A longer text ends in two dots; an id is cut to its beginning, which can be searched for.
    """
    shown = truncate_text(text, column.width) if column.title != "id" else text[: column.width]
    padding = " " * (column.width - measure_text_width(shown))
    return padding + shown if column.align_right else shown + padding


def truncate_text(text: str, max_columns: int) -> str:
    """Return a text of at most ``max_columns`` terminal columns; two dots mark what was cut."""
    if measure_text_width(text) <= max_columns:
        return text
    kept = text[: max(0, max_columns)]
    while kept and measure_text_width(kept) > max_columns - 2:
        kept = kept[:-1]
    return f"{kept}.."


def measure_text_width(text: str) -> int:
    """Return the terminal columns of a text: East Asian wide characters take two, marks none."""
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
    *(RedisError, aiohttp.ClientError, PostRefused, OSError),  # TimeoutError is an OSError
)
"""Errors that end a command because something it needs is away or refuses."""


def explain_error(error: Exception) -> str:
    """Return a sentence that names what is away or refuses, and the setting for it."""
    match error:
        case RedisConnectionError() if not is_bad_password(error):
            return f"Redis is away (ENRICHER_REDIS_URL, or that of a running `run`): {error}"
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
    """Return a sentence that names what of this machine cannot be used."""
    if isinstance(error, TimeoutError):
        return "nobody answered in time"
    if error.errno in {errno.EADDRINUSE, errno.EADDRNOTAVAIL, errno.EACCES} and not error.filename:
        fix = "choose another with ENRICHER_HOST and ENRICHER_PORT (simulate: --host and --port)"
        return f"{error.strerror}; {fix}"
    if error.filename is not None:
        path = os.fsdecode(error.filename)
        return (
            f"{path}: {error.strerror} (ENRICHER_DATA_DIR is where the embedded Redis keeps data)"
        )
    return str(error)
