"""Is an event posted so that our own receiver, and any Standard Webhooks library, takes it?"""

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
    """A receiver that keeps what came and says what it is told to."""

    def __init__(self) -> None:
        self.requests: list[tuple[dict[str, str], bytes]] = []
        self.status = 202
        self.url = ""

    async def receive(self, request: web.Request) -> web.Response:
        """Keep one request."""
        headers = {name.lower(): value for name, value in request.headers.items()}
        self.requests.append((headers, await request.read()))
        headers = {"Location": self.url} if self.status == 307 else {}
        return web.Response(status=self.status, text="said", headers=headers)


@pytest.fixture
async def receiver_stub() -> AsyncIterator[ReceiverStub]:
    """Open a receiver."""
    stub = ReceiverStub()
    app = web.Application()
    app.router.add_post("/", stub.receive)
    async with serve_app(app, host="127.0.0.1", port=0) as url:
        stub.url = f"{url}/"
        yield stub


async def send_one(url: str) -> SendResult:
    """Send the one event of these tests."""
    async with aiohttp.ClientSession() as session:
        return await send_event(
            session,
            url,
            {"version": "1é", "eventType": "finished"},
            secret=SECRET,
            delivery="delivery-1",
            timestamp_s=1_800_000_000,
        )


async def test_somebody_elses_library_takes_the_signature(receiver_stub: ReceiverStub) -> None:
    """The reference verifier of Standard Webhooks agrees, on the bytes as they came."""
    assert await send_one(receiver_stub.url) == SendResult(status=202, body="said")
    ((headers, body),) = receiver_stub.requests
    assert headers["content-type"] == "application/json"
    assert headers["webhook-id"] == "delivery-1"
    assert msgspec.json.decode(body) == {"version": "1é", "eventType": "finished"}
    moment = datetime.fromtimestamp(int(headers["webhook-timestamp"]), UTC)
    theirs = Webhook(SECRET).sign("delivery-1", moment, body.decode())
    assert headers["webhook-signature"] == theirs


@pytest.mark.parametrize("status", [401, 503, 307])
async def test_what_the_receiver_says_is_handed_back(
    receiver_stub: ReceiverStub, status: int
) -> None:
    """A refusal is an answer; a redirection is not followed, since it could lead anywhere."""
    receiver_stub.status = status
    assert await send_one(receiver_stub.url) == SendResult(status=status, body="said")
    assert len(receiver_stub.requests) == 1


async def test_nobody_there_is_an_error_of_the_client() -> None:
    """The caller says so to the person."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and not listening
        with pytest.raises(aiohttp.ClientConnectorError):
            await send_one(f"http://127.0.0.1:{taken.getsockname()[1]}/")
