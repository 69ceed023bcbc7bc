"""The command `tail`: follow the output stream through restarts of Redis, as table or JSON."""

import os
import shutil
import sys
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from typing import TextIO

import click
import msgspec
from msgspec import Raw, Struct
from redis.asyncio import Redis

from service.cli.preconditions import resolve_redis_url
from service.cli.signals import run_async
from service.cli.terminal import (
    COLUMN_GAP,
    EXIT_CODES,
    Column,
    measure_text_width,
    pad_text,
    truncate_text,
)
from service.client.entry import format_fields
from service.client.fetcher import read_entries
from service.client.group import ReaderOptions
from service.log import escape_unprintable
from service.publish.record import EnrichedDeployment, TouchedFlag
from service.settings import Settings, read_settings
from service.store.connect import describe_error, open_client
from service.store.exchange import decode_text
from service.store.keys import Keys

_REPLY_TIMEOUT_S = 10


@click.command("tail", epilog=EXIT_CODES)
@click.option("--from-start", is_flag=True, help="Begin with the oldest record.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a line.")
@run_async
async def tail_command(*, from_start: bool, as_json: bool) -> None:
    """Follow the output stream: one line for each record."""
    await tail(read_settings(os.environ), since="0" if from_start else "$", as_json=as_json)


async def tail(settings: Settings, *, since: str, as_json: bool) -> None:
    """Print every record that is appended; raises redis's errors when Redis is away at first."""
    stream, url = Keys(settings.namespace).enriched, resolve_redis_url(settings)
    async with open_client(
        url, namespace=settings.namespace, reply_timeout_s=_REPLY_TIMEOUT_S
    ) as client:
        await client.ping()
        if not as_json:
            click.echo(render_record_header(columns=measure_terminal_width(sys.stdout)))
        async for entry in follow_stream(client, stream, since=since, on_unavailable=_print_notice):
            columns = measure_terminal_width(sys.stdout)
            click.echo(
                render_entry_json(entry) if as_json else render_record_row(entry, columns=columns)
            )


def _print_notice(text: str) -> None:
    click.echo(escape_unprintable(text), err=True)


class StreamEntryText(Struct, frozen=True):
    """One entry of the stream: its position, and its fields as text."""

    position: str
    fields: dict[str, str]


async def follow_stream(
    client: Redis,
    stream: str,
    *,
    since: str,
    on_unavailable: Callable[[str], None] = lambda _: None,
) -> AsyncGenerator[StreamEntryText, None]:
    """Yield every entry after ``since`` (``0``, ``$`` or a position) as it is appended.

    While Redis is away, the reader retries and calls ``on_unavailable`` once. An error that waiting
    does not cure (a wrong password, a key of another type) is raised as redis raises it.
    """
    options = ReaderOptions(
        on_unavailable=lambda error: on_unavailable(
            f"Redis is away, waiting for it: {describe_error(error)}"
        )
    )
    async with aclosing(read_entries(client, stream, since=since, options=options)) as entries:
        async for entry in entries:
            yield StreamEntryText(decode_text(entry.position), format_fields(entry.fields))


def render_entry_json(entry: StreamEntryText) -> str:
    """Return an entry as one line of JSON; ``data`` that is not JSON stays text."""
    fields: dict[str, object] = {**entry.fields}
    try:
        fields["data"] = Raw(msgspec.json.format(entry.fields["data"].encode(), indent=-1))
    except (KeyError, msgspec.MsgspecError, RecursionError):
        fields["unreadable"] = True
    return msgspec.json.encode({"position": entry.position, **fields}).decode()


_WIDE_TERMINAL_COLUMNS = 110  # a terminal as wide as this shows whole deployment ids
_SHORT_ID_WIDTH, _FULL_ID_WIDTH = 8, 36


_MIDDLE_COLUMNS = (
    Column("application", 15),
    Column("environment", 11),
    Column("rev", 3, align_right=True),
    Column("PRs", 3, align_right=True),
    Column("lead time", 9, align_right=True),
)
_FLAGS_TITLE = "flags touched"
_DEFAULT_COLUMNS = 160  # width for a file or a pipe


def measure_terminal_width(out: TextIO) -> int:
    """Return the columns of a terminal; a large default for anything else."""
    return shutil.get_terminal_size().columns if out.isatty() else _DEFAULT_COLUMNS


def render_record_header(*, columns: int) -> str:
    """Return the line of titles for a terminal of this width."""
    return _render_row([column.title for column in _select_columns(columns)], _FLAGS_TITLE, columns)


def render_record_row(entry: StreamEntryText, *, columns: int) -> str:
    """Return one record as one line that does not wrap; a foreign entry as a notice."""
    record = decode_record(entry)
    if record is None:
        reason = "is no enriched deployment: foreign or damaged"
        return truncate_text(f"{escape_unprintable(entry.position)}  {reason}", columns)
    fields, summary = entry.fields, record.summary
    cells = (
        fields.get("subject", "?"),
        fields.get("applicationkey", "?"),
        fields.get("environmentkey", "?"),
        str(record.revision),
        str(len(summary.pull_requests)),
        _format_hours(summary.lead_time_ms),
    )
    incomplete_mark = "" if record.completeness.complete else "INCOMPLETE "
    flags_width = (
        columns
        - sum(column.width + len(COLUMN_GAP) for column in _select_columns(columns))
        - len(incomplete_mark)
    )
    flags = _render_flags(summary.flags, flags_width)
    return _render_row(
        [escape_unprintable(cell) for cell in cells], incomplete_mark + flags, columns
    )


def decode_record(entry: StreamEntryText) -> EnrichedDeployment | None:
    """Return the record of an entry; None if the entry holds none."""
    try:
        return msgspec.json.decode(entry.fields.get("data", ""), type=EnrichedDeployment)
    except (msgspec.MsgspecError, RecursionError):
        return None


def _select_columns(columns: int) -> tuple[Column, ...]:
    id_width = _FULL_ID_WIDTH if columns >= _WIDE_TERMINAL_COLUMNS else _SHORT_ID_WIDTH
    return (
        Column("deployment" if id_width == _FULL_ID_WIDTH else "id", id_width),
        *_MIDDLE_COLUMNS,
    )


def _render_row(cells: Sequence[str], last_cell: str, columns: int) -> str:
    padded = [
        pad_text(cell, column) for cell, column in zip(cells, _select_columns(columns), strict=True)
    ]
    return truncate_text(COLUMN_GAP.join([*padded, last_cell]), columns)


def _render_flags(flags: Sequence[TouchedFlag], max_width: int) -> str:
    """Return as many flag names as fit, and the number of the others."""
    names = [escape_unprintable(flag.key) for flag in flags]
    for shown in range(len(names), 0, -1):
        hidden = len(names) - shown
        text = ", ".join(names[:shown]) + (f" +{hidden}" if hidden else "")
        if measure_text_width(text) <= max_width:
            return text
    if not names:
        return "none"
    hidden_note = f" +{len(names) - 1}" if len(names) > 1 else ""
    return truncate_text(names[0], max_width - len(hidden_note)) + hidden_note


def _format_hours(duration_ms: int | None) -> str:
    return "?" if duration_ms is None else f"{duration_ms / 3_600_000:.1f} h"
