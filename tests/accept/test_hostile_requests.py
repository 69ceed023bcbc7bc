"""Hostile requests to the receiver: bombs, smuggling, slow bodies and response splitting."""

import asyncio
import gzip
import tracemalloc
import zlib
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager

import pytest

from tests.accept.receiver_harness import (
    FINISHED,
    MAX_BODY_BYTES,
    BacklogStub,
    PostWebhook,
    ReceiverAddress,
    encode_body,
    native_headers,
)

BOMB_BYTES = 256 << 20
MOST_MEMORY = 16 << 20
HEAD = b"POST /webhooks/native HTTP/1.1\r\nHost: x\r\n"
SLOW = 200


@asynccontextmanager
async def open_raw_connection(
    address: ReceiverAddress,
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """Yield a raw connection."""
    reader, writer = await asyncio.open_connection(*address)
    yield reader, writer
    writer.close()


async def send_raw(address: ReceiverAddress, request: bytes) -> bytes:
    """Send bytes; return all that is received until the receiver closes the connection."""
    async with open_raw_connection(address) as (reader, writer):
        writer.write(request)
        async with asyncio.timeout(10):
            return await reader.read()


def encode_headers(headers: Mapping[str, str]) -> bytes:
    """Return headers as the bytes of a request."""
    return b"".join(f"{name}: {value}\r\n".encode() for name, value in headers.items())


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"\xff\xfe",
        b"[" * 50_000,
        b'{"eventType":' * 5000,
        b"<xml/>",
        encode_body(FINISHED),
    ],
    ids=["empty", "cut off", "no text", "deep list", "deep object", "other", "good"],
)
async def test_body_is_not_parsed_before_it_is_verified(
    post: PostWebhook, backlog_stub: BacklogStub, body: bytes
) -> None:
    """401 for any body: no parser of ours runs for an unknown sender."""
    for headers in ({}, native_headers(b"something else"), {"Authorization": "Bearer guessed"}):
        assert (await post("native", body, headers))[0] == 401
    assert not backlog_stub.events
    assert not backlog_stub.parked


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
async def test_decompression_bomb_is_413_without_using_memory(
    post: PostWebhook, backlog_stub: BacklogStub, encoding: str
) -> None:
    """A quarter of a gigabyte in some 260 KB is refused at the limit."""
    pack = zlib.compressobj(9, zlib.DEFLATED, 31 if encoding == "gzip" else 15)
    chunk = bytes(1 << 20)
    bomb = b"".join([*(pack.compress(chunk) for _ in range(BOMB_BYTES >> 20)), pack.flush()])
    tracemalloc.start()
    try:
        status, _, _ = await post("native", bomb, {"Content-Encoding": encoding})
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert status == 413
    assert peak < MOST_MEMORY
    assert not backlog_stub.events


async def test_body_compressed_twice_is_decompressed_once(post: PostWebhook) -> None:
    """What remains is not JSON."""
    body = gzip.compress(gzip.compress(encode_body(FINISHED)))
    headers = {
        **native_headers(gzip.compress(encode_body(FINISHED), mtime=0)),
        "Content-Encoding": "gzip",
    }
    assert (await post("native", body, headers))[0] in {400, 401}


@pytest.mark.parametrize(
    "lines",
    [
        b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
        b"Content-Length: 5\r\nContent-Length: 6\r\n",
        b"Content-Length: +5\r\n",
        b"Content-Length: 5\r\n 6\r\n",
        b"Transfer-Encoding: chunked, identity\r\n",
        b"Transfer-Encoding : chunked\r\n",
        b"X: a\rb\r\nContent-Length: 5\r\n",
        b"X: a\x00b\r\nContent-Length: 5\r\n",
    ],
)
async def test_ambiguous_request_framing_is_400(
    receiver_address: ReceiverAddress, backlog_stub: BacklogStub, lines: bytes
) -> None:
    """A request that a proxy could split differently hides no second webhook."""
    hidden = HEAD + encode_headers(native_headers(FINISHED))
    hidden += b"Content-Length: %d\r\n\r\n" % len(encode_body(FINISHED)) + encode_body(FINISHED)
    response = await send_raw(receiver_address, HEAD + lines + b"\r\n0\r\n\r\n" + hidden)
    assert response.split(b" ")[1:2] == [b"400"]
    assert response.count(b"HTTP/1.") == 1
    assert not backlog_stub.events


@pytest.mark.parametrize(
    "request_",
    [
        b"POST /" + b"a" * 100_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
        HEAD + b"X: " + b"a" * 100_000 + b"\r\n\r\n",
        HEAD + b"".join(b"X%d: a\r\n" % number for number in range(20_000)) + b"\r\n",
    ],
    ids=["long path", "long header", "many headers"],
)
async def test_endless_request_head_is_refused(
    receiver_address: ReceiverAddress, backlog_stub: BacklogStub, request_: bytes
) -> None:
    """It is refused before it is complete."""
    response = await send_raw(receiver_address, request_)
    assert response.split(b" ")[1:2] in ([b"400"], [b"431"], [b"401"])
    assert not backlog_stub.events


async def test_malformed_request_is_logged_without_what_it_holds(
    receiver_address: ReceiverAddress, backlog_stub: BacklogStub
) -> None:
    """A line is too long, and it may be a token."""
    await send_raw(receiver_address, HEAD + b"Authorization: Bearer " + b"a" * 20_000 + b"\r\n\r\n")
    ((event, fields),) = backlog_stub.log_events
    assert (event, fields["source"], fields["status"]) == ("webhook_rejected", "other", 400)
    assert "aaaa" not in str(fields)


@pytest.mark.parametrize(
    ("encoding", "source", "reason"),
    [
        ("gzip", "native", "the body is not encoded as its headers say"),
        ("br", "other", "the receiver does not know the encoding of the body"),
        ("zstd", "other", "the receiver does not know the encoding of the body"),
    ],
)
async def test_body_of_another_encoding_is_the_fault_of_its_sender(
    receiver_address: ReceiverAddress,
    backlog_stub: BacklogStub,
    encoding: str,
    source: str,
    reason: str,
) -> None:
    """One line says so, and no error of our own is counted: anybody may send it."""
    request = HEAD + f"Content-Encoding: {encoding}\r\nContent-Length: 8\r\n".encode()
    response = await send_raw(receiver_address, request + b"Connection: close\r\n\r\nnot gzip")
    assert response.split(b" ")[1:2] == [b"400"]
    fields = {"source": source, "status": 400, "reason": reason}
    assert backlog_stub.log_events == [("webhook_rejected", fields)]


async def test_header_of_16_kib_is_accepted(post: PostWebhook) -> None:
    """Proxies in front add long headers, such as the claims of an identity."""
    body = encode_body(FINISHED)
    headers = native_headers(body) | {"X-Claims": "a" * ((1 << 14) - 20)}
    assert (await post("native", body, headers))[0] == 202


async def test_slow_senders_do_not_block_others(
    receiver_address: ReceiverAddress, post: PostWebhook
) -> None:
    """A hundred never finish their headers, a hundred their bodies; the next one is served."""
    starts = (HEAD, HEAD + b"Content-Length: 99\r\n\r\n{")
    async with AsyncExitStack() as stack:
        for number in range(SLOW):
            _, writer = await stack.enter_async_context(open_raw_connection(receiver_address))
            writer.write(starts[number % 2])
        async with asyncio.timeout(10):
            assert (await post("native", encode_body(FINISHED), native_headers(FINISHED)))[0] == 202


@pytest.mark.parametrize("escape", ["%0d%0aX-Evil:%201", "%0aX-Evil:1", "%00", "%E2%80%A8"])
async def test_request_cannot_inject_headers_or_log_lines(
    post: PostWebhook, backlog_stub: BacklogStub, escape: str
) -> None:
    """Neither the name of a source nor of a delivery splits a response or a log line."""
    status, _, headers = await post(f"nobody{escape}", b"{}", {})
    assert status == 404
    assert "X-Evil" not in headers
    named = native_headers(FINISHED, delivery=f"msg{escape}")
    status, answer, headers = await post("native", encode_body(FINISHED), named)
    assert "X-Evil" not in headers
    assert status in {202, 401}
    shown = [str(value) for _, fields in backlog_stub.log_events for value in fields.values()]
    assert not [text for text in shown if any(character in text for character in "\r\n\0\u2028")]
    assert answer


async def test_body_just_below_the_limit_is_accepted(post: PostWebhook) -> None:
    """The limit is not lower than configured."""
    filler = {"eventMetadata": {"a": "x" * (MAX_BODY_BYTES - 300)}}
    body = encode_body(FINISHED | filler)
    assert (await post("native", body, native_headers(body)))[0] == 202
