"""What do the tests of the door share? The presets that ship, and a source of each kind."""

from collections.abc import AsyncIterator, Mapping
from typing import Any

import pytest
from aiohttp import ClientSession

from service.accept.sources import Source, load_sources, native_source
from service.configured import read_presets
from tests.accept.desk import Address, Desk, Post, read_answer, serve

SECRET = "whsec_c2VjcmV0IG9mIHRoZSB0ZXN0cyE="
GITHUB = """
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
    """Give the text of the presets that ship."""
    return read_presets()


@pytest.fixture(scope="session")
def native(presets: str) -> Source:
    """Give the source that there is without a file."""
    return native_source([SECRET], presets=presets)


@pytest.fixture(scope="session")
def github(presets: str) -> Source:
    """Give a source of GitHub's, whose secret is "secret"."""
    sources = load_sources(GITHUB, presets=presets, read_secret=lambda _: "secret\n")
    return sources["github"]


@pytest.fixture
def desk() -> Desk:
    """Give a desk with nothing on it."""
    return Desk()


@pytest.fixture
async def door(desk: Desk, native: Source, github: Source) -> AsyncIterator[Address]:
    """Give the address of a door with one source of each kind."""
    async with serve(desk, native, github) as address:
        yield address


@pytest.fixture
async def post(door: Address) -> AsyncIterator[Post]:
    """Post to the door; give status, decoded body and headers."""
    async with ClientSession() as session:

        async def send(
            path: str, body: Any, headers: Mapping[str, str]
        ) -> tuple[int, dict[str, Any], Mapping[str, str]]:
            url = f"http://{door[0]}:{door[1]}/webhooks/{path}"
            async with session.post(
                url, data=body, headers=headers, allow_redirects=False
            ) as heard:
                return heard.status, await read_answer(heard), heard.headers

        yield send
