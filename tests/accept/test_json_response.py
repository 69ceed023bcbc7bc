"""Tests of the responses that are written in one piece: to a client they are aiohttp's own."""

import asyncio
from email.utils import parsedate_to_datetime
from http import HTTPStatus

import pytest
from aiohttp import web
from aiohttp.http import SERVER_SOFTWARE

from service.accept.json_response import JsonResponses
from service.metrics.http import serve_app
from tests.accept.receiver_harness import (
    FINISHED,
    MAX_BODY_BYTES,
    NOW_S,
    PostWebhook,
    ReceiverAddress,
    encode_body,
    native_headers,
)

Response = tuple[int, dict[str, str], bytes]


def encode_request(
    body: bytes, *lines: str, delivery: str = "msg_1", version: str = "1.1"
) -> bytes:
    """Return the bytes of one signed webhook."""
    headers = [
        f"{name}: {value}" for name, value in native_headers(body, delivery=delivery).items()
    ]
    head = [f"POST /webhooks/native HTTP/{version}", "Host: x", f"Content-Length: {len(body)}"]
    return "\r\n".join([*head, *headers, *lines, "", ""]).encode() + body


async def read_response(reader: asyncio.StreamReader) -> Response:
    """Return status, headers and body of the next response of a connection."""
    async with asyncio.timeout(10):
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        status_line, *lines = head.split("\r\n")[:-2]
        headers = dict(line.split(": ", 1) for line in lines)
        body = await reader.readexactly(int(headers["Content-Length"]))
    protocol, status, phrase = status_line.split(" ", 2)
    assert (protocol[:5], phrase) == ("HTTP/", HTTPStatus(int(status)).phrase)
    return int(status), headers, body


async def test_pipelined_webhooks_are_answered_in_order(receiver_address: ReceiverAddress) -> None:
    """A connection stays open, and its responses follow each other without a gap."""
    reader, writer = await asyncio.open_connection(*receiver_address)
    body = encode_body(FINISHED)
    deliveries = ["a", "b", "a", "c"]
    writer.write(b"".join(encode_request(body, delivery=delivery) for delivery in deliveries))
    responses = [await read_response(reader) for _ in deliveries]
    writer.close()
    assert [status for status, _, _ in responses] == [202, 202, 200, 202]
    for delivery, (_, _, response_body) in zip(deliveries, responses, strict=True):
        assert f'"delivery":"{delivery}"'.encode() in response_body


@pytest.mark.parametrize(
    ("version", "line", "connection"),
    [("1.1", "Connection: close", "close"), ("1.0", "X: y", None), ("1.1", "X: y", None)],
)
async def test_connection_ends_where_the_client_wants_it(
    receiver_address: ReceiverAddress, version: str, line: str, connection: str | None
) -> None:
    """The headers are those of aiohttp's responses, on a connection of either kind."""
    reader, writer = await asyncio.open_connection(*receiver_address)
    writer.write(encode_request(encode_body(FINISHED), line, version=version))
    status, headers, _ = await read_response(reader)
    assert status == 202
    assert headers.pop("Connection", None) == connection
    assert headers.pop("Content-Length").isdigit()
    assert parsedate_to_datetime(headers.pop("Date")).timestamp() > 0
    assert headers == {"Content-Type": "application/json", "Server": SERVER_SOFTWARE}
    if version == "1.0" or connection:
        assert await reader.read() == b""
    writer.close()


async def test_date_follows_the_clock() -> None:
    """The head is made again in each second, for each status."""
    times_s = iter([NOW_S, NOW_S + 0.9, NOW_S + 1])
    responses = JsonResponses(lambda: next(times_s))

    async def answer(request: web.Request) -> web.StreamResponse:
        return responses.build(request, int(request.query["status"]), b"{}")

    app = web.Application()
    app.router.add_get("/", answer)
    async with serve_app(app, host="127.0.0.1", port=0) as url:
        reader, writer = await asyncio.open_connection("127.0.0.1", int(url.rpartition(":")[2]))
        seen = []
        for status in (200, 202, 202):
            writer.write(f"GET /?status={status} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
            read_status, headers, _ = await read_response(reader)
            seen.append((read_status, parsedate_to_datetime(headers["Date"]).timestamp()))
        writer.close()
    assert seen == [(200, NOW_S), (202, NOW_S), (202, NOW_S + 1)]


@pytest.mark.parametrize(("excess", "status"), [(0, 202), (1, 413)])
async def test_body_that_arrives_with_its_head_has_the_same_limit(
    receiver_address: ReceiverAddress, post: PostWebhook, excess: int, status: int
) -> None:
    """A body that is complete when the handler starts is not read in steps."""
    body = encode_body(FINISHED).ljust(MAX_BODY_BYTES + excess)
    assert (await post("native", body, native_headers(body)))[0] == status
    reader, writer = await asyncio.open_connection(*receiver_address)
    writer.write(encode_request(body, delivery="msg_2"))
    assert (await read_response(reader))[0] == status
    writer.close()
