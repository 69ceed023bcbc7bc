"""Reading of webhook bodies: how large and how slow one may be, and how many are held at once.

A small body never waits. A large one reserves memory while it arrives, counted twice: for its bytes
and for what is made of them. While the memory is used up, reading waits. So no body is read faster
than the receiver can process it, and the sender's connection slows down.
"""

import asyncio
from http import HTTPStatus
from io import BytesIO

from aiohttp import StreamReader, web
from msgspec import Struct

from service.buffer_memory import BufferMemory, MemoryHold, Reading

FREE_BYTES = 1 << 16
"""A body of up to this size reserves no memory: about as much waits in each connection anyway."""

_MIN_BYTES_PER_S = 1 << 18
_CHECK_INTERVAL_S = 1.0


class BodyRefusal(Struct, frozen=True):
    """Why a body was not read, and the status of the response."""

    status: HTTPStatus
    reason: str


_TOO_LARGE = BodyRefusal(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "the body is too large")
_WRONGLY_ENCODED = BodyRefusal(HTTPStatus.BAD_REQUEST, "the body is not encoded as its headers say")
_DISCONNECTED = BodyRefusal(HTTPStatus.BAD_REQUEST, "the sender closed the connection")
_FULL = BodyRefusal(
    HTTPStatus.SERVICE_UNAVAILABLE, "the memory for bodies is used up by other webhooks"
)
_IN_THE_WAY = BodyRefusal(
    HTTPStatus.SERVICE_UNAVAILABLE, "the body is slow, and other webhooks need its memory"
)


class BodyLimits(Struct, frozen=True, kw_only=True):
    """How large a body may be, and the times in which it must arrive or get memory.

    A body may take ``timeout_s``, and a second more for each 256 KiB. A large body that is slow has
    only ``contested_timeout_s`` instead while others wait for memory. One body waits for memory for
    ``memory_timeout_s``.
    """

    max_bytes: int
    timeout_s: float = 15.0
    contested_timeout_s: float = 2.0
    memory_timeout_s: float = 15.0


class _Arrival:
    """One body while it arrives: its bytes so far, and how long the receiver waited (s)."""

    __slots__ = ("content", "reading", "size", "waited_s")

    def __init__(self, content: StreamReader, reading: Reading) -> None:
        self.content = content
        self.reading = reading
        self.size = 0
        self.waited_s = 0.0


class BodyReader:
    """Reads the bodies of one receiver, which share its memory."""

    def __init__(self, limits: BodyLimits, memory: BufferMemory) -> None:
        self._limits = limits
        self._memory = memory

    def open_hold(self) -> MemoryHold:
        """Return the hold of one webhook on the memory; the webhook must release it."""
        return self._memory.open_hold()

    def take_arrived(self, request: web.Request) -> bytes | BodyRefusal | None:
        """Return a body that came along with its headers, or why it was refused; else None.

        It takes no coroutine and no timer, since most webhooks are like this.
        """
        if not request.content.is_eof():
            return None
        try:
            body = request.content.read_nowait()
        except web.RequestPayloadError:
            return _WRONGLY_ENCODED
        except OSError:
            return _DISCONNECTED
        return body if len(body) <= self._limits.max_bytes else _TOO_LARGE

    async def read(self, request: web.Request, hold: MemoryHold) -> bytes | BodyRefusal:
        """Return the body of a request, decompressed, or why it was refused."""
        declared = request.content_length or 0
        if declared > self._limits.max_bytes and "Content-Encoding" not in request.headers:
            return _TOO_LARGE
        try:
            return await self._read(_Arrival(request.content, Reading(hold)))
        except web.RequestPayloadError:
            return _WRONGLY_ENCODED
        except OSError:
            return _DISCONNECTED

    async def _read(self, arrival: _Arrival) -> bytes | BodyRefusal:
        """Collect the chunks, and reserve memory for each before the next one is read."""
        buffer = BytesIO()  # unlike a list of chunks, it gives the body without a copy
        while chunk := await self._next_chunk(arrival):
            if isinstance(chunk, BodyRefusal):
                return chunk
            arrival.size += len(chunk)
            if arrival.size > self._limits.max_bytes:
                return _TOO_LARGE
            buffer.write(chunk)
            if arrival.size > FREE_BYTES:
                try:
                    await arrival.reading.reserve(
                        2 * arrival.size, timeout_s=self._limits.memory_timeout_s
                    )
                except TimeoutError:
                    return _FULL
        return buffer.getvalue()

    async def _next_chunk(self, arrival: _Arrival) -> bytes | BodyRefusal:
        """Return what has arrived, at least a byte; empty at the end of the body."""
        content = arrival.content
        if content.is_eof():  # the rest has arrived: no timer is needed
            return await content.readany()
        clock = asyncio.get_running_loop().time
        while (left_s := self._allowed_s(arrival) - arrival.waited_s) > 0:
            started = clock()
            try:
                async with asyncio.timeout(min(left_s, _CHECK_INTERVAL_S)):
                    return await content.readany()
            except TimeoutError:
                continue
            finally:
                arrival.waited_s += clock() - started
        if self._is_in_the_way(arrival):
            return _IN_THE_WAY
        reason = f"the body did not arrive within {self._allowed_s(arrival):.3g} s"
        return BodyRefusal(HTTPStatus.REQUEST_TIMEOUT, reason)

    def _allowed_s(self, arrival: _Arrival) -> float:
        """Return for how long the receiver waits for a body in all, given what has arrived."""
        limits = self._limits
        base_s = limits.contested_timeout_s if self._is_in_the_way(arrival) else limits.timeout_s
        return base_s + arrival.size / _MIN_BYTES_PER_S

    def _is_in_the_way(self, arrival: _Arrival) -> bool:
        """Return whether a body holds memory that another one waits for."""
        return arrival.reading.reserved > 0 and self._memory.is_short
