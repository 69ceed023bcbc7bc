"""What comes out? The entries of the output stream as they are appended, whoever restarts."""

import asyncio
from collections.abc import AsyncIterator, Callable

import msgspec
from msgspec import Raw, Struct
from redis.asyncio import Redis
from redis.exceptions import ResponseError

from service.publish.reading import read_as_text
from service.store.connect import AWAY, describe_trouble, is_bad_password, is_not_now, leave

_BLOCK_MS = 2000
_PAUSE_S = 0.5
_BATCH = 100


class Appended(Struct, frozen=True):
    """One entry of the stream: its position, and its fields as text."""

    position: str
    fields: dict[str, str]


async def follow_stream(
    client: Redis,
    stream: str,
    *,
    since: str,
    tell: Callable[[str], None] = lambda _: None,
) -> AsyncIterator[Appended]:
    """Give entries as they come, from ``since`` (``0`` or ``$`` or a position) on, for ever.

    A server that is away is waited for, and ``tell`` hears of it once; an error that no patience
    mends (a wrong password, a key of another type) is raised as redis raises it.
    """
    last, is_away = since, False
    while True:
        try:
            if last == "$":
                last = await _find_end(client, stream)
            reply = await client.xread({stream: last}, count=_BATCH, block=_BLOCK_MS)
        except (*AWAY, ResponseError) as error:
            if is_bad_password(error) or (
                isinstance(error, ResponseError) and not is_not_now(error)
            ):
                raise
            if not is_away:
                tell(f"Redis is away, waiting for it: {describe_trouble(error)}")
            is_away = True
            await leave(client)
            await asyncio.sleep(_PAUSE_S)
            continue
        is_away = False
        for appended in _read_entries(reply):
            last = appended.position
            yield appended


def write_json(appended: Appended) -> str:
    """Give an entry as one line of JSON; ``data`` as the JSON that it is, else as text."""
    fields: dict[str, object] = {**appended.fields}
    try:
        fields["data"] = Raw(msgspec.json.format(appended.fields["data"].encode(), indent=-1))
    except (KeyError, msgspec.MsgspecError, RecursionError):
        fields["unreadable"] = True
    return msgspec.json.encode({"position": appended.position, **fields}).decode()


async def _find_end(client: Redis, stream: str) -> str:
    newest = await client.xrevrange(stream, count=1)
    return _read_text(newest[0][0]) if newest else "0-0"


def _read_entries(reply: object) -> list[Appended]:
    """List the entries of an XREAD reply: with redis-py 8's unified shapes, a dict by stream."""
    if not isinstance(reply, dict):
        return []
    return [
        Appended(
            position=_read_text(position),
            fields=read_as_text(fields),
        )
        for entries in reply.values()
        for position, fields in entries
    ]


def _read_text(value: object) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
