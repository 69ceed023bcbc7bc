"""Tests of one sent webhook: any Standard Webhooks library accepts its signature."""

import socket
from collections.abc import AsyncIterator
from datetime import UTC, datetime

import aiohttp
import msgspec
import pytest
from aiohttp import web
from standardwebhooks import Webhook

from service.metrics.http import serve_app
from service.simulate.send import SendResult, send_event

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"


class ReceiverStub:
    """A receiver that stores requests and responds with a configured status."""

    def __init__(self) -> None:
        self.requests: list[tuple[dict[str, str], bytes]] = []
        self.status = 202
        self.url = ""

    async def receive(self, request: web.Request) -> web.Response:
        """Store one request."""
        headers = {name.lower(): value for name, value in request.headers.items()}
        self.requests.append((headers, await request.read()))
        headers = {"Location": self.url} if self.status == 307 else {}
        return web.Response(status=self.status, text="said", headers=headers)


@pytest.fixture
async def receiver_stub() -> AsyncIterator[ReceiverStub]:
    """Start a receiver stub."""
    stub = ReceiverStub()
    app = web.Application()
    app.router.add_post("/", stub.receive)
    async with serve_app(app, host="127.0.0.1", port=0) as url:
        stub.url = f"{url}/"
        yield stub


async def send_one(url: str) -> SendResult:
    """Send the event of these tests."""
    async with aiohttp.ClientSession() as session:
        return await send_event(
            session,
            url,
            {"version": "1é", "eventType": "finished"},
            secret=SECRET,
            delivery="delivery-1",
            timestamp_s=1_800_000_000,
        )


async def test_signature_is_accepted_by_the_reference_library(receiver_stub: ReceiverStub) -> None:
    """The reference implementation of Standard Webhooks signs the received bytes equally."""
    assert await send_one(receiver_stub.url) == SendResult(status=202, body="said")
    ((headers, body),) = receiver_stub.requests
    assert headers["content-type"] == "application/json"
    assert headers["webhook-id"] == "delivery-1"
    assert msgspec.json.decode(body) == {"version": "1é", "eventType": "finished"}
    sent_at = datetime.fromtimestamp(int(headers["webhook-timestamp"]), UTC)
    expected = Webhook(SECRET).sign("delivery-1", sent_at, body.decode())
    assert headers["webhook-signature"] == expected


@pytest.mark.parametrize("status", [401, 503, 307])
async def test_response_of_receiver_is_returned(receiver_stub: ReceiverStub, status: int) -> None:
    """A refusal is returned. A redirect is not followed, since it could lead anywhere."""
    receiver_stub.status = status
    assert await send_one(receiver_stub.url) == SendResult(status=status, body="said")
    assert len(receiver_stub.requests) == 1


async def test_unreachable_receiver_raises_client_error() -> None:
    """The caller of `send_event` handles the connection error."""
    with socket.socket() as unused_port:
        unused_port.bind(("127.0.0.1", 0))  # bound, but not listening
        with pytest.raises(aiohttp.ClientConnectorError):
            await send_one(f"http://127.0.0.1:{unused_port.getsockname()[1]}/")
