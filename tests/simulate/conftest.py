"""The fixtures of the simulator tests: a simulator behind real HTTP and a manual clock."""

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
BETA_HEADERS = {"LD-API-Version": "beta"}
VALID_HEADERS = {"Authorization": "api-simulator", **BETA_HEADERS}


class ManualClock:
    """A clock that only moves when a test sets it."""

    def __init__(self) -> None:
        self.now = 1_800_000_000.0

    def __call__(self) -> float:
        """Return the seconds since the epoch."""
        return self.now

    @property
    def ms(self) -> int:
        """The milliseconds since the epoch."""
        return int(self.now * 1000)


class HttpReply(msgspec.Struct, frozen=True):
    """One response, read to the end."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        """The body decoded as JSON."""
        return msgspec.json.decode(self.body)


class SimulatedApi:
    """A running simulator and an HTTP client for it."""

    def __init__(self, simulator: Simulator, session: aiohttp.ClientSession, url: str) -> None:
        self.simulator = simulator
        self.session = session
        self.url = url

    async def call(
        self,
        path: str,
        *,
        method: str = "GET",
        headers: Mapping[str, str] = VALID_HEADERS,
        json: object = None,
    ) -> HttpReply:
        """Call a path without following redirects, and read the whole response."""
        async with self.session.request(
            method, self.url + path, headers=headers, json=json, allow_redirects=False
        ) as response:
            return HttpReply(response.status, response.headers, await response.read())

    async def get(self, path: str, **query: object) -> HttpReply:
        """Get a path below the base path of the API."""
        pairs = "&".join(f"{name.rstrip('_')}={value}" for name, value in query.items())
        return await self.call(f"{BASE}{path}" + (f"?{pairs}" if pairs else ""))

    async def post_event(self, event_type: str, **fields: object) -> HttpReply:
        """Post an event of the deployment that most tests use."""
        event = {
            "projectKey": "default",
            "environmentKey": "production",
            "applicationKey": "billing-service",
            "version": "a90a8a2",
            "eventType": event_type,
        }
        return await self.call(f"{BASE}/deployment-events", method="POST", json=event | fields)


StartSimulator = Callable[[Options], Awaitable[SimulatedApi]]


@pytest.fixture
def clock() -> ManualClock:
    """Return a clock that only moves when a test sets it."""
    return ManualClock()


@pytest.fixture
async def start_simulator(clock: ManualClock) -> AsyncIterator[StartSimulator]:
    """Return a function that starts simulators on free ports."""
    runners: list[web.AppRunner] = []
    session = aiohttp.ClientSession()

    async def start(options: Options) -> SimulatedApi:
        simulator = Simulator(options, clock=clock, rng=random.Random(7))
        runner = web.AppRunner(simulator.app(), shutdown_timeout=0.1)
        await runner.setup()
        runners.append(runner)
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        host, port = runner.addresses[0][:2]
        return SimulatedApi(simulator, session, f"http://{host}:{port}")

    yield start
    await session.close()
    for runner in runners:
        await runner.cleanup()


@pytest.fixture
async def simulated_api(start_simulator: StartSimulator) -> SimulatedApi:
    """Start a simulator with the default options."""
    return await start_simulator(Options())
