"""A TCP proxy that plays a bad network; equal seeds give equal faults."""

import asyncio
import random
import socket
import struct
from contextlib import suppress
from typing import Literal, get_args

from tests.tcp_proxy import CHUNK_BYTES, Connect, Copying, ForwardingProxy, Streams

NetworkFault = Literal["clear", "cut", "reset", "lossy", "refusing", "slow", "dripping", "silent"]
"""clear: no fault. cut: closed at the next byte. reset: RST in the middle of a reply.
lossy: the request is executed and its reply is lost. refusing: no connection is accepted or kept.
slow: each chunk is delayed. dripping: replies in small pieces. silent: open, but nothing passes.
"""

NETWORK_FAULTS: tuple[NetworkFault, ...] = get_args(NetworkFault)[1:]
_DELAY_S = 0.05
_DRIP_BYTES = 11
_LINGER_RESET = struct.pack("ii", 1, 0)  # a linger time of zero: close sends RST


class FaultyProxy(ForwardingProxy):
    """Forwards both ways, changed by the current network fault."""

    def __init__(self, connect: Connect) -> None:
        super().__init__(connect)
        self._fault: NetworkFault = "clear"
        self._last_dropped = 0

    def drop_open_connections(self) -> None:
        """Forward nothing more on the connections of now, without closing them.

        So a load balancer drops an idle connection: neither side hears of it.
        """
        self._last_dropped = self.connection_count

    def set_fault(self, fault: NetworkFault) -> None:
        """Set the network fault, for open connections too."""
        self._fault = fault
        if fault == "refusing":
            self.disconnect_all()

    async def alternate_faults(self, *, seed: int, duration_s: float) -> None:
        """Alternate between random faults and no fault for the given time, then stay clear."""
        rng = random.Random(seed)
        with suppress(TimeoutError):
            async with asyncio.timeout(duration_s):
                while True:
                    self.set_fault(rng.choice(NETWORK_FAULTS))
                    await asyncio.sleep(rng.uniform(0.02, 0.3))
                    self.set_fault("clear")
                    await asyncio.sleep(rng.uniform(0.02, 0.3))
        self.set_fault("clear")

    def accepts_connections(self) -> bool:
        """Accept no connection during the fault "refusing"."""
        return self._fault != "refusing"

    def copy_both_ways(self, client: Streams, server: Streams) -> tuple[Copying, Copying]:
        """Forward both ways as the current fault allows."""
        number = self.connection_count
        return (
            self._forward_request(client[0], server[1], number=number),
            self._forward_response(server[0], client[1]),
        )

    async def _forward_request(
        self, client: asyncio.StreamReader, upstream: asyncio.StreamWriter, *, number: int
    ) -> None:
        while chunk := await client.read(CHUNK_BYTES):
            if number <= self._last_dropped:
                continue
            match self._fault:
                case "cut":
                    return
                case "slow":
                    await asyncio.sleep(_DELAY_S)
                case "silent":
                    while await client.read(CHUNK_BYTES):  # read and dropped
                        pass
                    return
                case _:
                    pass
            upstream.write(chunk)
            await upstream.drain()

    async def _forward_response(
        self, upstream: asyncio.StreamReader, client: asyncio.StreamWriter
    ) -> None:
        while chunk := await upstream.read(CHUNK_BYTES):
            match self._fault:
                case "cut" | "lossy":
                    return
                case "reset":
                    client.write(chunk[: len(chunk) // 2])
                    await client.drain()
                    client.get_extra_info("socket").setsockopt(
                        socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_RESET
                    )
                    client.transport.abort()
                    return
                case "slow":
                    await asyncio.sleep(_DELAY_S)
                case "dripping":
                    for offset in range(0, len(chunk) - _DRIP_BYTES, _DRIP_BYTES):
                        client.write(chunk[offset : offset + _DRIP_BYTES])
                        await client.drain()
                        await asyncio.sleep(0)
                    chunk = chunk[max(0, (len(chunk) - 1) // _DRIP_BYTES) * _DRIP_BYTES :]
                case "silent":
                    await asyncio.Event().wait()
                case _:
                    pass
            client.write(chunk)
            await client.drain()
