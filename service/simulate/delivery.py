"""How does an answer leave: at once, drop by drop, without end, or not at all?"""

import asyncio

import msgspec
from aiohttp import web

from service.simulate.answers import SimulatedResponse

_CHUNK_BYTES = 64 * 1024


class SlowBody(msgspec.Struct, frozen=True, kw_only=True):
    """A body that comes in drops of so many bytes, so many seconds apart."""

    chunk_bytes: int
    interval_s: float


def full_response(response: SimulatedResponse) -> web.Response:
    """Answer at once."""
    return web.Response(status=response.status, body=response.body, headers=response.headers)


def abort_connection(request: web.Request) -> web.Response:
    """Cut the connection; what is returned reaches nobody."""
    if request.transport is not None:
        request.transport.abort()
    return web.Response()


async def send_slowly(
    request: web.Request, source: SimulatedResponse, slow_body: SlowBody
) -> web.StreamResponse:
    """Announce the whole length, then let the body drip."""
    response = web.StreamResponse(status=source.status, headers=source.headers)
    response.content_length = len(source.body)
    await response.prepare(request)
    for start in range(0, len(source.body), slow_body.chunk_bytes):
        await response.write(source.body[start : start + slow_body.chunk_bytes])
        await asyncio.sleep(slow_body.interval_s)
    await response.write_eof()
    return response


async def send_oversized(
    request: web.Request, source: SimulatedResponse, length: int
) -> web.StreamResponse:
    """Answer with JSON that goes on for so many bytes, without saying beforehand how many."""
    response = web.StreamResponse(status=200, headers=source.headers)
    await response.prepare(request)
    await response.write(b'{"metadata":{"padding":"')
    padding = b"x" * _CHUNK_BYTES
    for start in range(0, length, _CHUNK_BYTES):
        await response.write(padding[: length - start])
    await response.write(b'"}}')
    await response.write_eof()
    return response
