"""A proxy with one fault at a chosen moment: a lost reply, a cut request, replies held back."""

import asyncio
from pathlib import Path

from tests.tcp_proxy import CHUNK_BYTES, Copying, ForwardingProxy, Streams, connect_to_socket


class SingleFaultProxy(ForwardingProxy):
    """Forwards both ways; on demand it loses a reply, cuts a request, or holds replies back."""

    def __init__(self, server: Path) -> None:
        super().__init__(connect_to_socket(server))
        self.replies_allowed = asyncio.Event()
        self.replies_allowed.set()
        self._lose_reply_to = b""
        self._cut_after: int | None = None

    @property
    def url(self) -> str:
        """The URL for a Redis client."""
        return f"redis://{self.address}"

    def lose_reply(self, request_bytes: bytes) -> None:
        """Forward the next request with these bytes, and drop its reply."""
        self._lose_reply_to = request_bytes

    def cut_after(self, count: int) -> None:
        """Cut the connection after ``count`` more bytes of requests."""
        self._cut_after = count

    def copy_both_ways(self, client: Streams, server: Streams) -> tuple[Copying, Copying]:
        """Return the two directions of a connection, with the chosen fault."""
        reply_lost = asyncio.Event()
        return self._copy_requests(client[0], server[1], reply_lost), self._copy_replies(
            server[0], client[1], reply_lost
        )

    async def _copy_requests(
        self,
        client_reader: asyncio.StreamReader,
        server_writer: asyncio.StreamWriter,
        reply_lost: asyncio.Event,
    ) -> None:
        while chunk := await client_reader.read(CHUNK_BYTES):
            if self._lose_reply_to and self._lose_reply_to in chunk:
                self._lose_reply_to = b""
                reply_lost.set()
            if self._cut_after is not None and len(chunk) > self._cut_after:
                server_writer.write(chunk[: self._cut_after])
                await server_writer.drain()
                self._cut_after = None
                return
            if self._cut_after is not None:
                self._cut_after -= len(chunk)
            server_writer.write(chunk)
            await server_writer.drain()

    async def _copy_replies(
        self,
        server_reader: asyncio.StreamReader,
        client_writer: asyncio.StreamWriter,
        reply_lost: asyncio.Event,
    ) -> None:
        while chunk := await server_reader.read(CHUNK_BYTES):
            if reply_lost.is_set():
                return
            await self.replies_allowed.wait()
            client_writer.write(chunk)
            await client_writer.drain()
