"""Encoded commands: lists of buffers, so that large arguments are neither joined nor copied."""

from collections.abc import Sequence

from hiredis import pack_command
from msgspec import Struct

from service.store.exchange import Buffer

EncodedCommand = tuple[Buffer, ...]
"""The bytes of one command, one buffer after the other."""


_MAX_COPIED_BYTES = 1 << 16


class Chunks(Struct, frozen=True):
    """One argument whose bytes lie in several buffers."""

    buffers: tuple[Buffer, ...]

    @property
    def size(self) -> int:
        """The bytes of all buffers."""
        return sum(map(buffer_size, self.buffers))


Argument = str | bytes | int | float | Chunks
"""What a command may hold. Numbers and texts become bytes."""


def pack_chunks(buffers: tuple[Buffer, ...]) -> bytes | Chunks:
    """Return the argument of these buffers, in one piece if they are small."""
    chunks = Chunks(buffers)
    return chunks if chunks.size > _MAX_COPIED_BYTES else b"".join(buffers)


def encode_command(arguments: Sequence[Argument]) -> EncodedCommand:
    """Return the bytes of a command. Raises TypeError for an argument of another type."""
    try:
        return (_pack(arguments),)
    except TypeError:
        if not any(isinstance(argument, Chunks) for argument in arguments):
            raise
    buffers: list[Buffer] = [b"*%d\r\n" % len(arguments)]
    for argument in arguments:
        if isinstance(argument, Chunks):
            buffers += [b"$%d\r\n" % argument.size, *argument.buffers, b"\r\n"]
        else:
            buffers.append(_pack((argument,)).removeprefix(b"*1\r\n"))
    return tuple(buffers)


def join_chunks(argument: Argument) -> str | bytes | int | float:
    """Return an argument in one piece."""
    return b"".join(argument.buffers) if isinstance(argument, Chunks) else argument


def _pack(arguments: Sequence[Argument]) -> bytes:
    encoded: bytes = pack_command(tuple(arguments))  # type: ignore[arg-type] # its stub knows too few
    return encoded


def buffer_size(buffer: Buffer) -> int:
    """Return the bytes of a buffer."""
    return len(buffer) if isinstance(buffer, bytes) else memoryview(buffer).nbytes


def command_size(command: EncodedCommand) -> int:
    """Return the bytes of a command."""
    return sum(map(buffer_size, command))


def replace_in_head(command: EncodedCommand, old: bytes, *, by: bytes) -> EncodedCommand:
    """Return a command with the first ``old`` replaced, which lies within one buffer."""
    for index, buffer in enumerate(command):
        if isinstance(buffer, bytes) and old in buffer:
            return (*command[:index], buffer.replace(old, by, 1), *command[index + 1 :])
    return command
