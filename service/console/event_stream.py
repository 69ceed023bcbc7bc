"""A stream of server-sent events to one viewer, compressed if the viewer's browser accepts it."""

import asyncio
import re
import zlib

from aiohttp import web

from service.console.responses import IO_TIMEOUT_S, SECURITY_HEADERS

_GZIP_WBITS = 31  # the largest window: an event often repeats what an earlier one held
_GZIP_PATTERN = re.compile(r"(?:^|,)gzip(?:;q=([0-9.]+))?(?:,|$)")


class EventStream:
    """Writes events; each is sent at once.

    The stream holds no secret of the viewer, so its length tells nothing about one.
    """

    def __init__(self, request: web.Request) -> None:
        self._request = request
        headers = SECURITY_HEADERS | {
            "Content-Type": "text/event-stream",
            "X-Accel-Buffering": "no",
        }
        self._compressor = None
        if accepts_gzip(request.headers.get("Accept-Encoding", "")):
            self._compressor = zlib.compressobj(wbits=_GZIP_WBITS)
            headers |= {"Content-Encoding": "gzip"}
        self.response = web.StreamResponse(headers=headers)

    async def send(self, data: bytes) -> None:
        """Send one event; raises OSError or TimeoutError when the viewer is gone."""
        await self._write(b"data: %b\n\n" % data)

    async def send_comment(self) -> None:
        """Send what browsers ignore, so that no proxy takes a silent stream for a dead one."""
        await self._write(b":\n\n")

    async def _write(self, chunk: bytes) -> None:
        if self._compressor is not None:
            chunk = self._compressor.compress(chunk) + self._compressor.flush(zlib.Z_SYNC_FLUSH)
        async with asyncio.timeout(IO_TIMEOUT_S):
            if not self.response.prepared:
                await self.response.prepare(self._request)
            await self.response.write(chunk)


def accepts_gzip(accept_encoding: str) -> bool:
    """Return whether a header Accept-Encoding names gzip, and does not exclude it by ``q=0``."""
    found = _GZIP_PATTERN.search(re.sub("[ \t]", "", accept_encoding.lower()))
    return found is not None and (found[1] is None or found[1].strip("0.") != "")
