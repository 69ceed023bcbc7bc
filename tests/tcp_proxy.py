"""A TCP proxy that forwards both ways.

Subclasses add faults: a bad network in tests/faults/bad_network.py, single faults in
tests/store/single_fault_proxy.py.
"""

import asyncio
import ssl
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

CHUNK_BYTES = 65536

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]
Connect = Callable[[], Awaitable[Streams]]
Copying = Coroutine[Any, Any, None]


class ForwardingProxy:
    """Forwards both ways. ``address`` is where it listens; ``connection_count`` counts connections.

    With ``tls`` it terminates TLS in front of a server without TLS.
    """

    def __init__(self, connect: Connect, *, tls: ssl.SSLContext | None = None) -> None:
        self.address = ""
        self.connection_count = 0
        self._connect = connect
        self._tls = tls
        self._listener: asyncio.Server | None = None
        self._links: set[asyncio.Task[None]] = set()
        self._writers: set[asyncio.StreamWriter] = set()

    async def __aenter__(self) -> Self:
        self._listener = await asyncio.start_server(self._accept, "127.0.0.1", 0, ssl=self._tls)
        host, port = self._listener.sockets[0].getsockname()
        self.address = f"{host}:{port}"
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._listener is not None
        self._listener.close()
        for link in self._links:
            link.cancel()
        await asyncio.gather(*self._links, return_exceptions=True)

    def disconnect_all(self) -> None:
        """Close every open connection."""
        for writer in self._writers:
            writer.close()

    def accepts_connections(self) -> bool:
        """Return whether a new connection is accepted now."""
        return True

    def copy_both_ways(self, client: Streams, server: Streams) -> tuple[Copying, Copying]:
        """Return the copiers to the server and to the client; when one ends, both end."""
        return _copy(client[0], server[1]), _copy(server[0], client[1])

    async def _accept(
        self, client_reader: asyncio.StreamReader, client_writer: asyncio.StreamWriter
    ) -> None:
        self.connection_count += 1
        link = asyncio.current_task()
        assert link is not None
        self._links.add(link)
        link.add_done_callback(self._links.discard)
        with suppress(OSError, asyncio.CancelledError):
            if self.accepts_connections():
                server_reader, server_writer = await self._connect()
                self._writers |= {client_writer, server_writer}
                try:
                    await self._forward(
                        (client_reader, client_writer), (server_reader, server_writer)
                    )
                finally:
                    self._writers -= {client_writer, server_writer}
                    server_writer.close()
        client_writer.close()

    async def _forward(self, client: Streams, server: Streams) -> None:
        directions = {
            asyncio.ensure_future(direction) for direction in self.copy_both_ways(client, server)
        }
        try:
            await asyncio.wait(directions, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for direction in directions:
                direction.cancel()
            await asyncio.gather(*directions, return_exceptions=True)


def connect_to_socket(path: Path) -> Connect:
    """Return a function that connects to a Unix socket."""
    return lambda: asyncio.open_unix_connection(str(path))


def connect_to_address(host: str, port: int) -> Connect:
    """Return a function that connects to a TCP port."""
    return lambda: asyncio.open_connection(host, port)


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while chunk := await reader.read(CHUNK_BYTES):
        writer.write(chunk)
        await writer.drain()
