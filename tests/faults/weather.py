"""What is a bad network? A TCP proxy with weather that comes and goes, the same for one seed."""

import asyncio
import random
import socket
import struct
from contextlib import suppress
from typing import Literal, get_args

from tests.wire import CHUNK, Connect, Streams, Way, Wire

Weather = Literal["clear", "cut", "reset", "lossy", "refusing", "slow", "dripping", "silent"]
"""clear: all passes. cut: closed at the next byte. reset: RST in the middle of an answer.
lossy: the request is done and its answer lost. refusing: no connection is let in, none stays.
slow: each chunk comes late. dripping: answers in small pieces. silent: open, and nothing is said.
"""

BAD: tuple[Weather, ...] = get_args(Weather)[1:]
_LATE_S = 0.05
_DROP = 11
_RESET = struct.pack("ii", 1, 0)  # SO_LINGER of no time: close says RST


class BadWire(Wire):
    """Forwards both ways, as the weather lets it."""

    def __init__(self, connect: Connect) -> None:
        super().__init__(connect)
        self._weather: Weather = "clear"

    def turn(self, weather: Weather) -> None:
        """Let the weather change, for what is under way too."""
        self._weather = weather
        if weather == "refusing":
            self.hang_up()

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

    def is_open(self) -> bool:
        """Let nobody in while refusing."""
        return self._weather != "refusing"

    def pass_on(self, ours: Streams, theirs: Streams) -> tuple[Way, Way]:
        """Let through what the weather lets."""
        return self._ask(ours[0], theirs[1]), self._answer(theirs[0], ours[1])

    async def _ask(self, near: asyncio.StreamReader, request: asyncio.StreamWriter) -> None:
        while chunk := await near.read(CHUNK):
            match self._weather:
                case "cut":
                    return
                case "slow":
                    await asyncio.sleep(_LATE_S)
                case "silent":
                    while await near.read(CHUNK):  # taken, and never heard of again
                        pass
                    return
                case _:
                    pass
            request.write(chunk)
            await request.drain()

    async def _answer(self, far: asyncio.StreamReader, answer: asyncio.StreamWriter) -> None:
        while chunk := await far.read(CHUNK):
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
