"""The outgoing proxy: which one the environment names, and that calls go through it."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from aiohttp import web

from service.enrich.client import LaunchDarkly, open_session
from service.enrich.proxy import ProxyError, find_proxy, hide_login
from service.enrich.verdict import ApiResponse

ORIGIN = "https://app.launchdarkly.com"
PROXY = "http://proxy.example:3128"


@pytest.mark.parametrize(
    ("environ", "proxy"),
    [
        ({}, None),
        ({"HTTPS_PROXY": PROXY}, PROXY),
        ({"https_proxy": PROXY, "HTTPS_PROXY": "http://other:1"}, PROXY),
        ({"https_proxy": "", "HTTPS_PROXY": PROXY}, None),
        ({"HTTP_PROXY": PROXY}, None),
        ({"ALL_PROXY": "proxy.example:3128"}, PROXY),
        ({"HTTPS_PROXY": PROXY, "NO_PROXY": "example.com,launchdarkly.com"}, None),
        ({"HTTPS_PROXY": PROXY, "NO_PROXY": "*"}, None),
        ({"HTTPS_PROXY": PROXY, "no_proxy": "launchdarkly.org"}, PROXY),
        ({"HTTPS_PROXY": "http://user:pass@proxy:1"}, "http://user:pass@proxy:1"),
    ],
)
def test_environment_names_the_proxy(environ: dict[str, str], proxy: str | None) -> None:
    """The rules of curl: the scheme of the origin decides, and NO_PROXY holds hosts."""
    assert find_proxy(ORIGIN, environ) == proxy


@pytest.mark.parametrize("origin", ["http://127.0.0.1:9090", "http://[::1]:1", "http://localhost"])
def test_loopback_address_has_no_proxy(origin: str) -> None:
    """The simulator of a demo is on this machine."""
    assert find_proxy(origin, {"http_proxy": PROXY, "ALL_PROXY": PROXY}) is None


@pytest.mark.parametrize("proxy", ["socks5://user:secret@proxy:1080", "http://"])
def test_proxy_of_another_kind_is_refused_without_its_login(proxy: str) -> None:
    """The message may go to a log."""
    with pytest.raises(ProxyError) as error:
        find_proxy(ORIGIN, {"HTTPS_PROXY": proxy})
    assert "secret" not in str(error.value)
    assert hide_login(proxy) in str(error.value)


@pytest.fixture
async def proxied() -> AsyncIterator[tuple[str, list[web.BaseRequest]]]:
    """Run a proxy that answers by itself; yield its address and the requests it got."""
    requests: list[web.BaseRequest] = []

    async def answer(request: web.BaseRequest) -> web.Response:
        requests.append(request)
        return web.json_response({"id": "from the proxy"})

    runner = web.ServerRunner(web.Server(answer))
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    yield f"127.0.0.1:{runner.addresses[0][1]}", requests
    await runner.cleanup()


async def test_calls_go_through_the_proxy_with_its_login(
    proxied: tuple[str, list[web.BaseRequest]],
) -> None:
    """The request line holds the whole URL, and the login goes to the proxy alone."""
    address, requests = proxied
    async with open_session("token", max_connections=1, proxy=f"http://u:p@{address}") as session:
        upstream = LaunchDarkly(
            session, origin="http://launchdarkly.example", max_bytes=1000, clock=lambda: 0.0
        )
        async with asyncio.timeout(10):
            response = await upstream.get("/api/v2/x", route="get")
    assert isinstance(response, ApiResponse)
    assert response.body == b'{"id": "from the proxy"}'
    (request,) = requests
    assert str(request.url) == "http://launchdarkly.example/api/v2/x"
    assert request.headers["Proxy-Authorization"] == "Basic dTpw"
    assert request.headers["Authorization"] == "token"
