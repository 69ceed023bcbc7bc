"""How does an answer leave: at once, drop by drop, without end, or not at all?"""

import asyncio

import msgspec
from aiohttp import web

from service.simulate.answers import Answer

_CHUNK = 64 * 1024


class Drip(msgspec.Struct, frozen=True, kw_only=True):
    """A body that comes in drops of so many bytes, so many seconds apart."""

    size: int
    every_s: float


def send_whole(answer: Answer) -> web.Response:
    """Answer at once."""
    return web.Response(status=answer.status, body=answer.body, headers=answer.headers)


def cut_connection(request: web.Request) -> web.Response:
    """Cut the connection; what is returned reaches nobody."""
    if request.transport is not None:
        request.transport.abort()
    return web.Response()


async def send_drops(request: web.Request, answer: Answer, drip: Drip) -> web.StreamResponse:
    """Announce the whole length, then let the body drip."""
    response = web.StreamResponse(status=answer.status, headers=answer.headers)
    response.content_length = len(answer.body)
    await response.prepare(request)
    for start in range(0, len(answer.body), drip.size):
        await response.write(answer.body[start : start + drip.size])
        await asyncio.sleep(drip.every_s)
    await response.write_eof()
    return response


async def send_flood(request: web.Request, answer: Answer, length: int) -> web.StreamResponse:
    """Answer with JSON that goes on for so many bytes, without saying beforehand how many."""
    response = web.StreamResponse(status=200, headers=answer.headers)
    await response.prepare(request)
    await response.write(b'{"metadata":{"padding":"')
    padding = b"x" * _CHUNK
    for start in range(0, length, _CHUNK):
        await response.write(padding[: length - start])
    await response.write(b'"}}')
    await response.write_eof()
    return response
