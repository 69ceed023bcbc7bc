"""HTTP responses with a JSON body, written in one piece under a head that is made once a second.

aiohttp builds the headers of each response from a dictionary of its own, which is a tenth of what a
webhook costs. The responses here have the same headers, in another order.
"""

from collections.abc import Callable
from email.utils import formatdate
from http import HTTPStatus

from aiohttp import HttpVersion11, web
from aiohttp.abc import AbstractStreamWriter
from aiohttp.http import SERVER_SOFTWARE
from aiohttp.web_request import BaseRequest

JSON_HEADERS = {"Content-Type": "application/json"}


class EncodedResponse(web.StreamResponse):
    """A response that is encoded already, with its head. Its connection stays open."""

    def __init__(self, status: int, encoded: bytes, *, writer: AbstractStreamWriter) -> None:
        super().__init__(status=status)
        self._encoded = encoded
        self._writer = writer

    @property
    def keep_alive(self) -> bool:
        """Whether the connection stays open."""
        return True

    async def prepare(self, _: BaseRequest) -> AbstractStreamWriter:
        """Write nothing yet: the head is written with the body."""
        return self._writer

    async def write_eof(self, data: bytes = b"") -> None:
        """Write head and body. aiohttp calls it once, without data."""
        await self._writer.write_eof(self._encoded + data)


class JsonResponses:
    """Builds JSON responses. ``clock`` returns seconds since 1970, for the header ``Date``."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._made_at_s = 0
        self._heads: dict[int, bytes] = {}

    def build(self, request: web.Request, status: int, body: bytes) -> web.StreamResponse:
        """Return the response to a request; aiohttp's own if the connection closes afterwards."""
        if request.version != HttpVersion11 or not request.keep_alive:
            return web.Response(status=status, body=body, headers=JSON_HEADERS)
        now_s = int(self._clock())
        if now_s != self._made_at_s:
            self._made_at_s = now_s
            self._heads.clear()
        head = self._heads.get(status)
        if head is None:
            head = self._heads[status] = _encode_head(status, now_s)
        encoded = b"%b%d\r\n\r\n%b" % (head, len(body), body)
        return EncodedResponse(status, encoded, writer=request.writer)


def _encode_head(status: int, now_s: int) -> bytes:
    """Return the head of a response, up to the number of the bytes of its body."""
    lines = [
        f"HTTP/1.1 {status} {HTTPStatus(status).phrase}",
        f"Content-Type: {JSON_HEADERS['Content-Type']}",
        f"Date: {formatdate(now_s, usegmt=True)}",
        f"Server: {SERVER_SOFTWARE}",
        "Content-Length: ",
    ]
    return "\r\n".join(lines).encode()
