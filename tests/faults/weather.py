"""What is a bad network? A TCP proxy with weather that comes and goes, the same for one seed."""

import asyncio
import random
import socket
import struct
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Literal, Self, get_args

Weather = Literal["clear", "cut", "reset", "lossy", "refusing", "slow", "dripping", "silent"]
"""clear: all passes. cut: closed at the next byte. reset: RST in the middle of an answer.
lossy: the request is done and its answer lost. refusing: no connection is let in, none stays.
slow: each chunk comes late. dripping: answers in small pieces. silent: open, and nothing is said.
"""

BAD: tuple[Weather, ...] = get_args(Weather)[1:]
_CHUNK = 65536
_LATE_S = 0.05
_DROP = 11
_RESET = struct.pack("ii", 1, 0)  # SO_LINGER of no time: close says RST

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Wire:
    """Forwards both ways, as the weather lets it; ``place`` is where it listens."""

    def __init__(self, connect: Callable[[], Awaitable[Streams]]) -> None:
        self.place = ""
        self.joined = 0
        self._connect = connect
        self._weather: Weather = "clear"
        self._listener: asyncio.Server | None = None
        self._links: set[asyncio.Task[None]] = set()
        self._writers: set[asyncio.StreamWriter] = set()

    async def __aenter__(self) -> Self:
        self._listener = await asyncio.start_server(self._join, "127.0.0.1", 0)
        host, port = self._listener.sockets[0].getsockname()
        self.place = f"{host}:{port}"
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._listener is not None
        self._listener.close()
        for link in self._links:
            link.cancel()
        await asyncio.gather(*self._links, return_exceptions=True)

    def turn(self, weather: Weather) -> None:
        """Let the weather change, for what is under way too."""
        self._weather = weather
        if weather == "refusing":
            for writer in self._writers:
                writer.close()

    async def storm(self, *, seed: int, lasts_s: float) -> None:
        """Be bad and clear by turns for so long, then clear."""
        chance = random.Random(seed)
        with suppress(TimeoutError):
            async with asyncio.timeout(lasts_s):
                while True:
                    self.turn(chance.choice(BAD))
                    await asyncio.sleep(chance.uniform(0.02, 0.3))
                    self.turn("clear")
                    await asyncio.sleep(chance.uniform(0.02, 0.3))
        self.turn("clear")

    async def _join(self, near: asyncio.StreamReader, answer: asyncio.StreamWriter) -> None:
        self.joined += 1
        link = asyncio.current_task()
        assert link is not None
        self._links.add(link)
        link.add_done_callback(self._links.discard)
        with suppress(OSError, asyncio.CancelledError):
            if self._weather != "refusing":
                far, request = await self._connect()
                self._writers |= {answer, request}
                try:
                    await self._forward((near, answer), (far, request))
                finally:
                    self._writers -= {answer, request}
                    request.close()
        answer.close()

    async def _forward(self, ours: Streams, theirs: Streams) -> None:
        ways = {
            asyncio.ensure_future(self._ask(ours[0], theirs[1])),
            asyncio.ensure_future(self._answer(theirs[0], ours[1])),
        }
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)

    async def _ask(self, near: asyncio.StreamReader, request: asyncio.StreamWriter) -> None:
        while chunk := await near.read(_CHUNK):
            match self._weather:
                case "cut":
                    return
                case "slow":
                    await asyncio.sleep(_LATE_S)
                case "silent":
                    while await near.read(_CHUNK):  # taken, and never heard of again
                        pass
                    return
                case _:
                    pass
            request.write(chunk)
            await request.drain()

    async def _answer(self, far: asyncio.StreamReader, answer: asyncio.StreamWriter) -> None:
        while chunk := await far.read(_CHUNK):
            match self._weather:
                case "cut" | "lossy":
                    return
                case "reset":
                    answer.write(chunk[: len(chunk) // 2])
                    await answer.drain()
                    answer.get_extra_info("socket").setsockopt(
                        socket.SOL_SOCKET, socket.SO_LINGER, _RESET
                    )
                    answer.transport.abort()
                    return
                case "slow":
                    await asyncio.sleep(_LATE_S)
                case "dripping":
                    for at in range(0, len(chunk) - _DROP, _DROP):
                        answer.write(chunk[at : at + _DROP])
                        await answer.drain()
                        await asyncio.sleep(0)
                    chunk = chunk[max(0, (len(chunk) - 1) // _DROP) * _DROP :]
                case "silent":
                    await asyncio.Event().wait()
                case _:
                    pass
            answer.write(chunk)
            await answer.drain()


def wire_to_socket(path: Path) -> Wire:
    """Put a wire before a server on a unix socket."""
    return Wire(lambda: asyncio.open_unix_connection(str(path)))


def wire_to_place(host: str, port: int) -> Wire:
    """Put a wire before a server on a TCP port."""
    return Wire(lambda: asyncio.open_connection(host, port))
