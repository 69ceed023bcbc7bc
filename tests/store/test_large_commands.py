"""Tests of large commands: sent in pieces, never copied, and never in the way of small ones."""

import asyncio
from collections.abc import Sequence
from functools import partial
from hashlib import sha1
from unittest.mock import patch

import pytest
from hiredis import pack_command
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Raw
from redis.asyncio import Redis

from service.store import encoded_command, exchange
from service.store.connect import REPLY_TIMEOUT_S
from service.store.embedded import EmbeddedServer
from service.store.encoded_command import Argument, Chunks, command_size, encode_command
from service.store.exchange import Buffer, cut_pieces
from service.store.group_commit import GroupCommit
from service.store.script import Script
from tests.store.conftest import OpenGroup

TEXT = b"redis.call('SET', KEYS[1], ARGV[1]) return #ARGV[1]"
STORE = Script("store", TEXT, sha1(TEXT, usedforsecurity=False).hexdigest().encode())
BUFFERS = st.lists(st.binary(max_size=40), max_size=6)
ARGUMENTS = st.lists(
    st.text() | st.binary() | st.integers() | BUFFERS.map(tuple).map(Chunks), min_size=1, max_size=6
)


def join(buffers: Sequence[Buffer]) -> bytes:
    """Return all buffers in one piece."""
    return b"".join(bytes(buffer) for buffer in buffers)


@given(ARGUMENTS)
def test_encode_command_equals_the_packed_command(arguments: list[Argument]) -> None:
    """The server cannot tell whether an argument was in chunks."""
    joined = [join(arg.buffers) if isinstance(arg, Chunks) else arg for arg in arguments]
    with patch.object(encoded_command, "_MAX_COPIED_BYTES", 3):
        command = encode_command(arguments)
    assert join(command) == pack_command(tuple(joined))  # type: ignore[arg-type]
    assert command_size(command) == len(join(command))


def test_encode_command_does_not_copy_a_large_argument() -> None:
    """The command holds the buffers themselves."""
    body = bytes(1 << 20)
    command = encode_command(("EVALSHA", Chunks((b"[", body, Raw(b"]")))))
    assert any(buffer is body for buffer in command)


@given(BUFFERS, st.integers(1, 50))
def test_cut_pieces_keeps_the_bytes_in_order(buffers: list[bytes], piece_bytes: int) -> None:
    """No piece is larger than the limit."""
    pieces = [*cut_pieces(buffers, piece_bytes)]
    assert b"".join(map(join, pieces)) == b"".join(buffers)
    assert max(len(join(piece)) for piece in pieces) <= piece_bytes


async def test_large_call_is_sent_in_pieces_after_the_small_ones(
    open_group: OpenGroup, direct_client: Redis, server: EmbeddedServer
) -> None:
    """Each piece is bounded, and a small call does not wait behind a second large one."""
    sent: list[int] = []
    write = asyncio.StreamWriter.write

    def count(self: asyncio.StreamWriter, piece: bytes) -> None:
        sent.append(len(piece))
        write(self, piece)

    body = bytes(3 << 20)
    order: list[str] = []
    async with open_group(server.url) as group_commit:
        await submit(group_commit, "warm", b"")
        with patch.object(asyncio.StreamWriter, "write", count):
            calls = {
                name: submit(group_commit, name, *chunks)
                for name, chunks in {"a": (b"x", body), "b": (body, body), "c": (b"small",)}.items()
            }
            for name, call in calls.items():
                call.add_done_callback(partial(append_name, order, name))
            assert await asyncio.gather(*calls.values()) == [len(body) + 1, 2 * len(body), 5]
    assert order == ["a", "c", "b"]
    assert max(sent) <= exchange._PIECE_BYTES
    assert await direct_client.get("b") == body + body


def append_name(order: list[str], name: str, _: asyncio.Future[object]) -> None:
    """Remember that a call has its reply."""
    order.append(name)


def submit(group_commit: GroupCommit, key: str, *chunks: bytes) -> asyncio.Future[object]:
    """Submit the write of a value in chunks."""
    return group_commit.submit(STORE, keys=(key,), args=(Chunks(chunks),), durable=True)


async def test_large_batch_gets_more_time_to_be_answered(
    open_group: OpenGroup, server: EmbeddedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The deadline grows by a second for each MB; that of a small batch stays."""
    deadlines: list[float | None] = []
    timeout = asyncio.timeout

    def record(delay_s: float | None) -> asyncio.Timeout:
        deadlines.append(delay_s)
        return timeout(delay_s)

    async with open_group(server.url) as group_commit:
        await submit(group_commit, "warm", b"")
        monkeypatch.setattr("service.store.group_commit.asyncio.timeout", record)
        await submit(group_commit, "a", bytes(2_000_000))
        await submit(group_commit, "b", b"")
    large, small = [delay_s for delay_s in deadlines if delay_s][:2]
    assert REPLY_TIMEOUT_S + 2 < large < REPLY_TIMEOUT_S + 2.1
    assert REPLY_TIMEOUT_S < small < REPLY_TIMEOUT_S + 0.1
