"""What comes out? The entries of the output stream as they are appended, whoever restarts."""

import asyncio
from collections.abc import AsyncIterator, Callable

import msgspec
from msgspec import Raw, Struct
from redis.asyncio import Redis
from redis.exceptions import ResponseError

from service.publish.reading import format_fields
from service.store.connect import (
    UNAVAILABLE_ERRORS,
    describe_error,
    drop_idle_connections,
    is_bad_password,
    is_retryable,
)

_BLOCK_MS = 2000
_RECONNECT_PAUSE_S = 0.5
_BATCH_SIZE = 100


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
) -> AsyncIterator[StreamEntryText]:
    """Give entries as they come, from ``since`` (``0`` or ``$`` or a position) on, for ever.

    A server that is away is waited for, and ``tell`` hears of it once; an error that no patience
    mends (a wrong password, a key of another type) is raised as redis raises it.
    """
    last_position, is_unavailable = since, False
    while True:
        try:
            if last_position == "$":
                last_position = await _read_last_position(client, stream)
            reply = await client.xread({stream: last_position}, count=_BATCH_SIZE, block=_BLOCK_MS)
        except (*UNAVAILABLE_ERRORS, ResponseError) as error:
            if is_bad_password(error) or (
                isinstance(error, ResponseError) and not is_retryable(error)
            ):
                raise
            if not is_unavailable:
                on_unavailable(f"Redis is away, waiting for it: {describe_error(error)}")
            is_unavailable = True
            await drop_idle_connections(client)
            await asyncio.sleep(_RECONNECT_PAUSE_S)
            continue
        is_unavailable = False
        for entry in _parse_entries(reply):
            last_position = entry.position
            yield entry


def render_entry_json(entry: StreamEntryText) -> str:
    """Give an entry as one line of JSON; ``data`` as the JSON that it is, else as text."""
    fields: dict[str, object] = {**entry.fields}
    try:
        fields["data"] = Raw(msgspec.json.format(entry.fields["data"].encode(), indent=-1))
    except (KeyError, msgspec.MsgspecError, RecursionError):
        fields["unreadable"] = True
    return msgspec.json.encode({"position": entry.position, **fields}).decode()


async def _read_last_position(client: Redis, stream: str) -> str:
    newest = await client.xrevrange(stream, count=1)
    return _decode_text(newest[0][0]) if newest else "0-0"


def _parse_entries(reply: object) -> list[StreamEntryText]:
    """List the entries of an XREAD reply: with redis-py 8's unified shapes, a dict by stream."""
    if not isinstance(reply, dict):
        return []
    return [
        StreamEntryText(
            position=_decode_text(position),
            fields=format_fields(fields),
        )
        for entries in reply.values()
        for position, fields in entries
    ]


def _decode_text(value: object) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
