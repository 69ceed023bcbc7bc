"""Tests of a hostile upstream and of a replayed webhook."""

import tracemalloc
import zlib
from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiohttp import web
from msgspec.structs import replace

from service.metrics.http import serve_app
from tests.conftest import Eventually
from tests.end_to_end.harness import ServiceHarness
from tests.factories import deployment_id

ID = deployment_id(7)
BY_ID = {"deploymentId": ID, "eventType": "finished"}
BOMB_BYTES = 256 << 20
MAX_RESPONSE_BYTES = 1 << 20
MAX_MEMORY = 24 << 20
OUTCOME_EVENTS = {"deployment_published", "deployment_failed", "deployment_postponed"}


class HostileServer:
    """Sends one configured response to every call and records the request headers."""

    def __init__(self) -> None:
        self.status = 200
        self.body = b""
        self.headers: dict[str, str] = {}
        self.calls: list[Any] = []

    async def respond(self, request: web.Request) -> web.Response:
        """Respond to one call."""
        self.calls.append(request.headers.copy())
        return web.Response(status=self.status, body=self.body, headers=self.headers)

    def app(self) -> web.Application:
        """Return the aiohttp application."""
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self.respond)
        return app


@pytest.fixture
async def hostile_upstream(
    service: ServiceHarness,
    quick_repeats: None,  # noqa: ARG001 - a fixture without a value
) -> AsyncIterator[HostileServer]:
    """Put a hostile upstream in front of the service."""
    server = HostileServer()
    async with serve_app(server.app(), host="127.0.0.1", port=0) as url:
        service.settings = replace(service.settings, launchdarkly_url=url, outage_timeout=0.2)
        yield server


@pytest.fixture
async def lure_server() -> AsyncIterator[tuple[str, HostileServer]]:
    """Start a server that the service must never call."""
    server = HostileServer()
    async with serve_app(server.app(), host="127.0.0.1", port=0) as url:
        yield url, server


async def fail_webhook(service: ServiceHarness, eventually: Eventually) -> None:
    """Post a webhook and wait until its ticket has failed."""
    assert (await service.post(BY_ID))[0] == 202

    async def is_failed() -> bool:
        return await service.failed_jobs() == [f"id:{ID}"]

    await eventually(is_failed)
    assert await service.is_done()
    assert await service.records() == []
    assert not service.log_events("attempt_error")


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
async def test_compressed_bomb_stops_at_the_byte_limit(
    service: ServiceHarness, hostile_upstream: HostileServer, eventually: Eventually, encoding: str
) -> None:
    """256 MB in about 260 KB stop at the limit and never fill the memory."""
    compressor = zlib.compressobj(9, zlib.DEFLATED, 31 if encoding == "gzip" else 15)
    chunk = bytes(1 << 20)
    hostile_upstream.body = b"".join(
        [*(compressor.compress(chunk) for _ in range(BOMB_BYTES >> 20)), compressor.flush()]
    )
    hostile_upstream.headers = {"Content-Encoding": encoding}
    await service.open(max_response_bytes=MAX_RESPONSE_BYTES)
    tracemalloc.start()
    try:
        await fail_webhook(service, eventually)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < MAX_MEMORY


@pytest.mark.parametrize(
    "body",
    [
        b"[" * 100_000,
        b'{"id":"%s","x":' % ID.encode() + b"[" * 50_000 + b"]" * 50_000 + b"}",
        b'{"id":"%s","pullRequests":{"items":' % ID.encode() + b'{"a":' * 5000 + b"1" + b"}" * 5002,
        b'{"id":"%s","startedAt":1%s}' % (ID.encode(), b"0" * 5000),
    ],
    ids=["deep list", "deep field", "deep items", "long number"],
)
async def test_deeply_nested_json_does_not_stop_the_worker(
    service: ServiceHarness, hostile_upstream: HostileServer, eventually: Eventually, body: bytes
) -> None:
    """JSON deeper or longer than a parser's stack is decoded or fails; the worker continues."""
    hostile_upstream.body = body
    await service.open()
    for webhook in (BY_ID, {**BY_ID, "deploymentId": deployment_id(8)}):
        assert (await service.post(webhook))[0] == 202

    async def are_tried() -> bool:
        lines = [line for line in service.log_events() if line["event"] in OUTCOME_EVENTS]
        return len({line["job"] for line in lines}) == 2

    await eventually(are_tried)
    assert not service.log_events("attempt_error")
    await service.close()
    await service.redis.unlink(service.keys.backlog, service.keys.tickets)  # they wait for a retry


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_redirect_is_not_followed(
    service: ServiceHarness,
    hostile_upstream: HostileServer,
    lure_server: tuple[str, HostileServer],
    eventually: Eventually,
    status: int,
) -> None:
    """The token goes only to LaunchDarkly's own host."""
    lure_url, lure = lure_server
    hostile_upstream.status, hostile_upstream.headers = (
        status,
        {"Location": f"{lure_url}/api/v2/deployments/{ID}"},
    )
    await service.open()
    await fail_webhook(service, eventually)
    assert hostile_upstream.calls
    assert lure.calls == []


async def test_proxy_of_the_environment_gets_no_token_of_a_loopback_address(
    service: ServiceHarness,
    hostile_upstream: HostileServer,
    lure_server: tuple[str, HostileServer],
    eventually: Eventually,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A loopback address never has a proxy; nor does .netrc change the credentials of a call."""
    lure_url, lure = lure_server
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(name, lure_url)
    hostile_upstream.status = 418
    await service.open()
    await fail_webhook(service, eventually)
    token = service.settings.access_token.reveal()
    assert {call["Authorization"] for call in hostile_upstream.calls} == {token}
    assert lure.calls == []


async def test_cookie_is_not_kept(
    service: ServiceHarness, hostile_upstream: HostileServer, eventually: Eventually
) -> None:
    """A cookie of one response is not sent with the next call."""
    hostile_upstream.status, hostile_upstream.headers = 503, {"Set-Cookie": "session=1; Path=/"}
    await service.open()
    await fail_webhook(service, eventually)
    assert hostile_upstream.calls
    assert not [call for call in hostile_upstream.calls if "Cookie" in call]


async def test_replayed_webhook_makes_no_second_record(
    service: ServiceHarness, eventually: Eventually
) -> None:
    """It is a duplicate; after its delivery mark has expired, its content is unchanged."""
    await service.open()
    assert (await service.post(BY_ID, delivery="recorded"))[0] == 202
    await eventually(service.is_done)
    status, reply = await service.post(BY_ID, delivery="recorded")
    assert (status, reply["status"]) == (200, "duplicate")
    marks = [key async for key in service.redis.scan_iter(match=service.keys.delivery("*", "*"))]
    await service.redis.unlink(*marks)
    assert (await service.post(BY_ID, delivery="recorded"))[0] == 202

    async def is_unchanged() -> bool:
        return bool(service.log_events("deployment_unchanged"))

    await eventually(is_unchanged)
    assert len(await service.records()) == 1
