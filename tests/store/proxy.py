"""What stands between a client and a server, and spoils what passes? A proxy on a unix socket."""

import asyncio
import contextlib
from pathlib import Path
from typing import Self

_CHUNK = 65536


class Proxy:
    """Forwards both ways; once told to, loses a reply, cuts a request, or holds replies back."""

    def __init__(self, server: Path, listen: Path) -> None:
        self.url = f"unix://{listen}"
        self.connections = 0
        self.open = asyncio.Event()
        self.open.set()
        self._server = server
        self._listen = listen
        self._losing = b""
        self._cut_after: int | None = None
        self._listener: asyncio.Server | None = None
        self._links: set[asyncio.Task[None]] = set()

    def lose_a_reply(self, to: bytes) -> None:
        """Let the server do what the next request with these bytes asks, and lose its answer."""
        self._losing = to

    def cut_after(self, count: int) -> None:
        """Cut the connection when so many more bytes of requests have passed."""
        self._cut_after = count

    async def __aenter__(self) -> Self:
        self._listener = await asyncio.start_unix_server(self._join, str(self._listen))
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._listener is not None
        self._listener.close()
        for link in self._links:
            link.cancel()
        await asyncio.gather(*self._links, return_exceptions=True)

    async def _join(self, near: asyncio.StreamReader, answer: asyncio.StreamWriter) -> None:
        self.connections += 1
        link = asyncio.current_task()
        assert link is not None
        self._links.add(link)
        link.add_done_callback(self._links.discard)
        with contextlib.closing(answer), contextlib.suppress(OSError, asyncio.CancelledError):
            far, request = await asyncio.open_unix_connection(str(self._server))
            with contextlib.closing(request):
                lost = asyncio.Event()
                ways = {
                    asyncio.ensure_future(self._send(near, request, lost)),
                    asyncio.ensure_future(self._give_back(far, answer, lost)),
                }
                try:
                    await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
                finally:
                    for way in ways:
                        way.cancel()
                    await asyncio.gather(*ways, return_exceptions=True)

    async def _send(
        self, near: asyncio.StreamReader, request: asyncio.StreamWriter, lost: asyncio.Event
    ) -> None:
        while chunk := await near.read(_CHUNK):
            if self._losing and self._losing in chunk:
                self._losing = b""
                lost.set()
            if self._cut_after is not None and len(chunk) > self._cut_after:
                request.write(chunk[: self._cut_after])
                await request.drain()
                self._cut_after = None
                return
            if self._cut_after is not None:
                self._cut_after -= len(chunk)
            request.write(chunk)
            await request.drain()

    async def _give_back(
        self, far: asyncio.StreamReader, answer: asyncio.StreamWriter, lost: asyncio.Event
    ) -> None:
        while chunk := await far.read(_CHUNK):
            if lost.is_set():
                return
            await self.open.wait()
            answer.write(chunk)
            await answer.drain()
