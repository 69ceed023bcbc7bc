"""A proxy in front of Redis that answers chosen commands itself, as a managed service does."""

import asyncio
from collections.abc import Mapping

from tests.tcp_proxy import Connect, Copying, ForwardingProxy, Streams

_LINE_TYPES = b"+-:,#_("
_BULK_TYPES = b"$=!"
_ITEMS_PER_LENGTH = {b"*": 1, b"~": 1, b">": 1, b"%": 2}


class RestrictedProxy(ForwardingProxy):
    """Answers the commands in ``replies`` itself, and forwards the others one by one.

    A key of ``replies`` is a command, or a command and its subcommand ("CONFIG GET"). Its value is
    the reply in RESP. ``rejected_script`` is a text, and ``script_reply`` the reply to the SCRIPT
    LOAD of a script that contains it. ``info`` is added to the reply to INFO. ``seen`` collects the
    commands that arrived.
    """

    def __init__(
        self,
        connect: Connect,
        replies: Mapping[str, bytes],
        *,
        rejected_script: bytes = b"",
        script_reply: bytes = b"",
        info: str = "",
    ) -> None:
        super().__init__(connect)
        self.seen: set[str] = set()
        self._replies = replies
        self._rejected_script = rejected_script
        self._script_reply = script_reply
        self._info = info.encode()

    def copy_both_ways(self, client: Streams, server: Streams) -> tuple[Copying, Copying]:
        """Return one direction that does the work of both, and one that only waits."""
        return self._answer(client, server), _wait_forever()

    async def _answer(self, client: Streams, server: Streams) -> None:
        while True:
            raw, arguments = await _read_command(client[0])
            reply = self._choose_reply(arguments)
            if reply is None:
                server[1].write(raw)
                reply = await _read_reply(server[0])
                if self._info and arguments[0].upper() == b"INFO":
                    reply = _append(reply, b"\r\n" + self._info)
            client[1].write(reply)
            await client[1].drain()

    def _choose_reply(self, arguments: list[bytes]) -> bytes | None:
        names = [part[:32].decode("utf-8", "replace").upper() for part in arguments[:2]]
        self.seen.add(names[0])
        if names == ["SCRIPT", "LOAD"] and self._rejected_script:
            return self._script_reply if self._rejected_script in arguments[2] else None
        return self._replies.get(" ".join(names), self._replies.get(names[0]))


def _append(bulk_reply: bytes, text: bytes) -> bytes:
    header, _, body = bulk_reply.partition(b"\r\n")
    body = body[:-2] + text + b"\r\n"
    return header[:1] + str(len(body)).encode() + b"\r\n" + body + b"\r\n"


async def _wait_forever() -> None:
    await asyncio.Event().wait()


async def _read_command(reader: asyncio.StreamReader) -> tuple[bytes, list[bytes]]:
    raw = await reader.readuntil(b"\r\n")
    arguments = []
    for _ in range(int(raw[1:])):
        header = await reader.readuntil(b"\r\n")
        body = await reader.readexactly(int(header[1:]) + 2)
        raw += header + body
        arguments.append(body[:-2])
    return raw, arguments


async def _read_reply(reader: asyncio.StreamReader) -> bytes:
    """Return the bytes of one whole reply, in RESP2 or RESP3."""
    header = await reader.readuntil(b"\r\n")
    kind, length = header[:1], header[1:-2]
    if kind in _LINE_TYPES or length == b"-1":
        return header
    if kind in _BULK_TYPES:
        return header + await reader.readexactly(int(length) + 2)
    items = int(length) * _ITEMS_PER_LENGTH[kind]
    return header + b"".join([await _read_reply(reader) for _ in range(items)])
