"""How does a test talk to the simulator? Over real HTTP, with a clock in its hand."""

import random
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any

import aiohttp
import msgspec
import pytest
from aiohttp import web

from service.simulate.options import Options
from service.simulate.server import Simulator

BASE = "/api/v2/engineering-insights"
BETA = {"LD-API-Version": "beta"}
GOOD = {"Authorization": "api-simulator", **BETA}


class Clock:
    """A clock that stands still until it is set."""

    def __init__(self) -> None:
        self.now = 1_800_000_000.0

    def __call__(self) -> float:
        """Give the seconds since the epoch."""
        return self.now

    @property
    def ms(self) -> int:
        """The same in milliseconds."""
        return int(self.now * 1000)


class Reply(msgspec.Struct, frozen=True):
    """What came back."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        """The body read as JSON."""
        return msgspec.json.decode(self.body)


class Table:
    """A running simulator and a caller of it."""

    def __init__(self, simulator: Simulator, session: aiohttp.ClientSession, url: str) -> None:
        self.simulator = simulator
        self.session = session
        self.url = url

    async def call(
        self,
        path: str,
        *,
        method: str = "GET",
        headers: Mapping[str, str] = GOOD,
        json: object = None,
    ) -> Reply:
        """Call a path, following no redirects, and read the whole answer."""
        async with self.session.request(
            method, self.url + path, headers=headers, json=json, allow_redirects=False
        ) as response:
            return Reply(response.status, response.headers, await response.read())

    async def get(self, path: str, **query: object) -> Reply:
        """Get a path below the API's base."""
        pairs = "&".join(f"{name.rstrip('_')}={value}" for name, value in query.items())
        return await self.call(f"{BASE}{path}" + (f"?{pairs}" if pairs else ""))

    async def post_event(self, event_type: str, **more: object) -> Reply:
        """Post an event of the one deployment that most tests need."""
        event = {
            "projectKey": "default",
            "environmentKey": "production",
            "applicationKey": "billing-service",
            "version": "a90a8a2",
            "eventType": event_type,
        }
        return await self.call(f"{BASE}/deployment-events", method="POST", json=event | more)


Laid = Callable[[Options], Awaitable[Table]]


@pytest.fixture
def clock() -> Clock:
    """Give a clock that stands still."""
    return Clock()


@pytest.fixture
async def lay(clock: Clock) -> AsyncIterator[Laid]:
    """Start simulators on free ports."""
    runners: list[web.AppRunner] = []
    session = aiohttp.ClientSession()

    async def start(options: Options) -> Table:
        simulator = Simulator(options, clock=clock, chance=random.Random(7))
        runner = web.AppRunner(simulator.app(), shutdown_timeout=0.1)
        await runner.setup()
        runners.append(runner)
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        host, port = runner.addresses[0][:2]
        return Table(simulator, session, f"http://{host}:{port}")

    yield start
    await session.close()
    for runner in runners:
        await runner.cleanup()


@pytest.fixture
async def table(lay: Laid) -> Table:
    """Start a friendly simulator."""
    return await lay(Options())
