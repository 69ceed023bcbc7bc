"""A fast stand-in for LaunchDarkly: canned bytes on a raw socket.

    python -m tests.bench.upstream    prints its URL; ends when its stdin is closed

Every id exists. The project of a list call names its deployments: ``project-FIRST-COUNT``. The list
of any other project is empty, so that its deployments are fetched by id. Every response has the
real rate-limit headers, with limits that are never reached.
"""

import asyncio
import sys
import time
from urllib.parse import parse_qs, urlsplit

from tests.bench.response_bodies import application_for, deployment_id_for, encode_deployment

_ROOT = "/api/v2/engineering-insights/deployments"
_UNLIMITED = 10_000_000
_WINDOW_MS = 10_000


class UpstreamConnection(asyncio.Protocol):
    """One kept-alive connection without pipelining."""

    def __init__(self) -> None:
        self._buffer = b""
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Store the transport."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        """Respond to every complete request."""
        self._buffer += data
        while (end := self._buffer.find(b"\r\n\r\n")) >= 0:
            target = self._buffer[: self._buffer.index(b"\r\n")].split(b" ")[1].decode()
            self._buffer = self._buffer[end + 4 :]
            assert self._transport is not None
            self._transport.write(render_response(target))


def render_response(target: str) -> bytes:
    """Return the whole response to a GET."""
    url = urlsplit(target)
    deployment_id = url.path.removeprefix(_ROOT).lstrip("/")
    body = (
        encode_deployment(int(deployment_id[-12:]))
        if deployment_id
        else render_list_page(parse_qs(url.query))
    )
    now = time.time()
    reset = (int(now * 1000) // _WINDOW_MS + 1) * _WINDOW_MS
    headers = (
        "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\n"
        f"Date: {time.strftime('%a, %d %b %Y %H:%M:%S GMT', time.gmtime(now))}\r\n"
        f"X-Ratelimit-Global-Remaining: {_UNLIMITED}\r\n"
        f"X-Ratelimit-Route-Remaining: {_UNLIMITED}\r\n"
        f"X-Ratelimit-Reset: {reset}\r\n\r\n"
    )
    return headers.encode() + body


def render_list_page(query: dict[str, list[str]]) -> bytes:
    """Return one page of the deployments of a project, highest number first."""
    first, count = map(int, query["projectKey"][0].split("-")[1:] or (0, 0))
    applications = set(query.get("applicationKey", [""])[0].split(","))
    numbers = [
        number
        for number in range(first + count - 1, first - 1, -1)
        if applications == {""} or application_for(number) in applications
    ]
    total = len(numbers)
    if "after" in query:
        numbers = numbers[numbers.index(int(query["after"][0][-12:])) + 1 :]
    page = numbers[: int(query["limit"][0])]
    items = b",".join(encode_deployment(number, expanded="expand" in query) for number in page)
    href = f"{_ROOT}?after={deployment_id_for(page[-1])}" if len(page) < len(numbers) else None
    links = f'{{"next":{{"href":"{href}","type":"application/json"}}}}' if href else "{}"
    return b'{"totalCount":%d,"items":[%b],"_links":%b}' % (total, items, links.encode())


async def serve() -> None:
    """Serve on a free port, print the URL, and end when stdin is closed."""
    loop = asyncio.get_running_loop()
    server = await loop.create_server(UpstreamConnection, "127.0.0.1", 0)
    print(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", flush=True)
    await loop.run_in_executor(None, sys.stdin.read)
    server.close()


if __name__ == "__main__":
    asyncio.run(serve())
