"""What stands between a client and a server? A proxy that passes on what comes, both ways.

What spoils that says how: a bad network in tests/faults/weather.py, single mishaps in
tests/store/proxy.py.
"""

import asyncio
import ssl
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

CHUNK = 65536

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]
Connect = Callable[[], Awaitable[Streams]]
Way = Coroutine[Any, Any, None]


class Wire:
    """Forwards both ways; ``place`` is where it listens, ``joined`` counts who came.

    With ``tls`` it ends TLS before a server that speaks none.
    """

    def __init__(self, connect: Connect, *, tls: ssl.SSLContext | None = None) -> None:
        self.place = ""
        self.joined = 0
        self._connect = connect
        self._tls = tls
        self._listener: asyncio.Server | None = None
        self._links: set[asyncio.Task[None]] = set()
        self._writers: set[asyncio.StreamWriter] = set()

    async def __aenter__(self) -> Self:
        self._listener = await asyncio.start_server(self._join, "127.0.0.1", 0, ssl=self._tls)
        host, port = self._listener.sockets[0].getsockname()
        self.place = f"{host}:{port}"
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._listener is not None
        self._listener.close()
        for link in self._links:
            link.cancel()
        await asyncio.gather(*self._links, return_exceptions=True)

    def hang_up(self) -> None:
        """Close every connection that there is."""
        for writer in self._writers:
            writer.close()

    def is_open(self) -> bool:
        """Say whether a connection is let in now."""
        return True

    def pass_on(self, ours: Streams, theirs: Streams) -> tuple[Way, Way]:
        """Give the two ways of a connection, the way there first; when one ends, both do."""
        return _copy(ours[0], theirs[1]), _copy(theirs[0], ours[1])

    async def _join(self, near: asyncio.StreamReader, answer: asyncio.StreamWriter) -> None:
        self.joined += 1
        link = asyncio.current_task()
        assert link is not None
        self._links.add(link)
        link.add_done_callback(self._links.discard)
        with suppress(OSError, asyncio.CancelledError):
            if self.is_open():
                far, request = await self._connect()
                self._writers |= {answer, request}
                try:
                    await self._forward((near, answer), (far, request))
                finally:
                    self._writers -= {answer, request}
                    request.close()
        answer.close()

    async def _forward(self, ours: Streams, theirs: Streams) -> None:
        ways = {asyncio.ensure_future(way) for way in self.pass_on(ours, theirs)}
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)


def connect_to_socket(path: Path) -> Connect:
    """Reach a server on a unix socket."""
    return lambda: asyncio.open_unix_connection(str(path))


def connect_to_place(host: str, port: int) -> Connect:
    """Reach a server on a TCP port."""
    return lambda: asyncio.open_connection(host, port)


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while chunk := await reader.read(CHUNK):
        writer.write(chunk)
        await writer.drain()
