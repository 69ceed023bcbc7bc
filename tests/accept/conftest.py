"""Fixtures of the receiver's tests: shipped presets, a source of each kind, and a receiver."""

from collections.abc import AsyncIterator, Mapping
from typing import Any

import pytest
from aiohttp import ClientSession

from service.accept.source_files import read_presets
from service.accept.sources import Source, load_sources, native_source
from tests.accept.receiver_harness import (
    BacklogStub,
    PostWebhook,
    ReceiverAddress,
    parse_response,
    serve_receiver,
)

SECRET = "whsec_c2VjcmV0IG9mIHRoZSB0ZXN0cyE="
GITHUB_SOURCE = """
[[source]]
name = "github"
preset = "github"
secrets = ["env:GITHUB_SECRET"]
project = "default"
environments = { "Production (EU)" = "prod-eu" }
applications = { "web-frontend" = "web" }
"""


@pytest.fixture(scope="session")
def presets() -> str:
    """Return the text of the shipped presets."""
    return read_presets()


@pytest.fixture(scope="session")
def native(presets: str) -> Source:
    """Return the source that exists without a file."""
    return native_source([SECRET], presets=presets)


@pytest.fixture(scope="session")
def github(presets: str) -> Source:
    """Return a source of GitHub whose secret is "secret"."""
    sources = load_sources(GITHUB_SOURCE, presets=presets, read_secret=lambda _: "secret\n")
    return sources["github"]


@pytest.fixture
def backlog_stub() -> BacklogStub:
    """Return an empty backlog stub."""
    return BacklogStub()


@pytest.fixture
async def receiver_address(
    backlog_stub: BacklogStub, native: Source, github: Source
) -> AsyncIterator[ReceiverAddress]:
    """Yield the address of a receiver with one source of each kind."""
    async with serve_receiver(backlog_stub, native, github) as address:
        yield address


@pytest.fixture
async def post(receiver_address: ReceiverAddress) -> AsyncIterator[PostWebhook]:
    """Yield a function that posts a webhook and returns status, decoded body and headers."""
    async with ClientSession() as session:

        async def send_request(
            path: str, body: Any, headers: Mapping[str, str]
        ) -> tuple[int, dict[str, Any], Mapping[str, str]]:
            url = f"http://{receiver_address[0]}:{receiver_address[1]}/webhooks/{path}"
            async with session.post(
                url, data=body, headers=headers, allow_redirects=False
            ) as response:
                return response.status, await parse_response(response), response.headers

        yield send_request
