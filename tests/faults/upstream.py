"""What is the LaunchDarkly of a storm? The simulator, which can be cut, stalled and changed."""

import asyncio
import logging
from collections.abc import Awaitable, Callable

from aiohttp import web
from msgspec.structs import replace

from service.simulate.generator import generate_deployment
from service.simulate.server import Simulator
from service.simulate.world import NewDeployment
from tests.faults.strike_schedule import Strike

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class FaultyLaunchDarkly:
    """Serves a simulator on one address, which outlives every stroke, as does what it knows.

    An *epoch* is what it tells between two changes: each change gives every deployment other
    content, which makes a next revision of whatever is asked for again.
    """

    def __init__(self, simulator: Simulator) -> None:
        self.simulator = simulator
        self.url = ""
        self._port = 0
        self._seeds = [simulator.options.seed]
        self._runner: web.AppRunner | None = None
        self._is_answering = asyncio.Event()
        self._is_answering.set()
        self.is_struck = False

    @property
    def epoch(self) -> int:
        """The number of the present epoch."""
        return len(self._seeds) - 1

    def advance_epoch(self) -> None:
        """Tell something else of every deployment from now on."""
        self._seeds.append(self._seeds[0] + len(self._seeds))
        options = self.simulator.options
        self.simulator.options = replace(options, seed=self._seeds[-1])

    def find_epoch(self, deployment: str, started_at: int) -> int | None:
        """Find the newest epoch in which a deployment asked for by id began at that moment."""
        shape = self.simulator.options.shape
        for epoch in range(self.epoch, -1, -1):
            if generate_deployment(self._seeds[epoch], deployment, shape).started_at == started_at:
                return epoch
        return None

    def add_deployment(self, new: NewDeployment) -> None:
        """Let a deployment be known, as if its pipeline had told of it."""
        self.simulator.add_deployment(new)

    async def open(self) -> None:
        """Listen, on the port of the first time."""
        app = self.simulator.app()
        app.middlewares.append(self._wait_while_stalled)
        silent_logger = logging.Logger("silent")  # noqa: LOG001 - no part of the tree
        silent_logger.addHandler(logging.NullHandler())
        runner = web.AppRunner(app, access_log=None, logger=silent_logger, shutdown_timeout=0.1)
        self._runner = runner
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", self._port).start()
        self._port = self._runner.addresses[0][1]
        self.url = f"http://127.0.0.1:{self._port}"

    async def close(self) -> None:
        """Cut every connection in the middle, and listen no more."""
        runner, self._runner = self._runner, None
        if runner is None:
            return
        for connection in runner.server.connections if runner.server else ():
            if connection.transport is not None:
                connection.transport.abort()
        await runner.cleanup()

    def stall(self) -> None:
        """Answer nobody, but hold the connections."""
        self._is_answering.clear()

    def resume(self) -> None:
        """Answer again, those who waited first."""
        self._is_answering.set()

    async def strike(self, strike: Strike) -> None:
        """Be away, or silent, for as long as the stroke says."""
        self.is_struck = True
        try:
            if strike.action == "freeze":
                self.stall()
                await asyncio.sleep(strike.duration_s)
                self.resume()
            else:
                await self.close()
                await asyncio.sleep(strike.duration_s)
                await self.open()
        finally:
            self.is_struck = False

    @web.middleware
    async def _wait_while_stalled(
        self, request: web.Request, handler: Handler
    ) -> web.StreamResponse:
        await self._is_answering.wait()
        return await handler(request)
