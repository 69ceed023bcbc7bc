"""What comes out? Follow the output stream and show each record as it is appended."""

import asyncio
from collections.abc import AsyncIterator

import msgspec
from msgspec import Struct
from redis.asyncio import Redis
from redis.exceptions import RedisError

from service.publish.record import EnrichedDeployment
from service.store.connect import AWAY

BLOCK_MS = 2000


class Appended(Struct, frozen=True):
    """One entry of the stream: its position, and its fields as text."""

    position: str
    fields: dict[str, str]


async def follow_stream(client: Redis, stream: str, *, since: str) -> AsyncIterator[Appended]:
    """Give entries as they come, from ``since`` (``0`` or ``$`` or a position) on, for ever."""
    last = since
    if last == "$":
        newest = await client.xrevrange(stream, count=1)
        last = _text(newest[0][0]) if newest else "0-0"
    while True:
        try:
            reply = await client.xread({stream: last}, count=100, block=BLOCK_MS)
        except (*AWAY, RedisError):
            await asyncio.sleep(0.5)
            continue
        for position, fields in _entries(reply):
            last = _text(position)
            text = {_text(name): _text(value) for name, value in fields.items()}
            yield Appended(position=last, fields=text)


def _entries(reply: object) -> list[tuple[bytes, dict[bytes, bytes]]]:
    """List the entries of an XREAD reply: with redis-py 8's unified shapes, a dict by stream."""
    if not isinstance(reply, dict):
        return []
    return [entry for entries in reply.values() for entry in entries]


def _text(value: object) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def describe_record(appended: Appended) -> str:
    """Tell one record in one line, for a person."""
    fields = appended.fields
    record = msgspec.json.decode(fields["data"], type=EnrichedDeployment)
    summary = record.summary
    flags = ", ".join(flag.key for flag in summary.flags[:3]) or "no flags"
    more = len(summary.flags) - 3
    missing = "" if record.completeness.complete else "  INCOMPLETE"
    return _printable(
        f"{fields['applicationkey']} -> {fields['environmentkey']}  "
        f"rev {fields['revision']}  {len(summary.pull_requests)} PRs by "
        f"{len(summary.authors)} people  {flags}{f' +{more}' if more > 0 else ''}  "
        f"lead {_hours(summary.lead_time_ms)}{missing}  {fields['subject']}"
    )


def _hours(duration_ms: int | None) -> str:
    return "unknown" if duration_ms is None else f"{duration_ms / 3_600_000:.1f} h"


def _printable(text: str) -> str:
    """Escape what would move a terminal's cursor: titles and keys come from outside."""
    return "".join(sign if sign.isprintable() else repr(sign)[1:-1] for sign in text)
