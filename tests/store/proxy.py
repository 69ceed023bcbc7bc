"""Which single mishap befalls a connection? A lost reply, a cut request, replies held back."""

import asyncio
from pathlib import Path

from tests.wire import CHUNK, Streams, Way, Wire, connect_to_socket


class Proxy(Wire):
    """Forwards both ways; once told to, loses a reply, cuts a request, or holds replies back."""

    def __init__(self, server: Path) -> None:
        super().__init__(connect_to_socket(server))
        self.open = asyncio.Event()
        self.open.set()
        self._losing = b""
        self._cut_after: int | None = None

    @property
    def url(self) -> str:
        """The address to give to a Redis client."""
        return f"redis://{self.place}"

    def lose_a_reply(self, to: bytes) -> None:
        """Let the server do what the next request with these bytes asks, and lose its answer."""
        self._losing = to

    def cut_after(self, count: int) -> None:
        """Cut the connection when so many more bytes of requests have passed."""
        self._cut_after = count

    def pass_on(self, ours: Streams, theirs: Streams) -> tuple[Way, Way]:
        """Let through what is not to be spoiled."""
        lost = asyncio.Event()
        return self._send(ours[0], theirs[1], lost), self._give_back(theirs[0], ours[1], lost)

    async def _send(
        self, near: asyncio.StreamReader, request: asyncio.StreamWriter, lost: asyncio.Event
    ) -> None:
        while chunk := await near.read(CHUNK):
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
        while chunk := await far.read(CHUNK):
            if lost.is_set():
                return
            await self.open.wait()
            answer.write(chunk)
            await answer.drain()
