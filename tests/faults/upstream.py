"""The LaunchDarkly of a storm: the simulator, which can be closed, stalled and changed."""

import asyncio
import itertools
import logging
from collections.abc import Awaitable, Callable

from aiohttp import web
from msgspec.structs import replace

from service.simulate.flag_events import NewFlagEvent
from service.simulate.generator import FLAG_KEYS, generate_deployment
from service.simulate.rates import Rates
from service.simulate.server import Simulator
from service.simulate.world import NewDeployment
from tests.faults.strike_schedule import Strike
from tests.faults.traffic import ENVIRONMENTS, PROJECTS

_FORBIDDEN_PROJECTS = ("shop",)
_CUT_SHARE = 0.3
_FLAGS = tuple(itertools.product(PROJECTS, ENVIRONMENTS, FLAG_KEYS))

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class FaultyLaunchDarkly:
    """Serves a simulator on one port. The port and all deployments survive every strike.

    An *epoch* is the time between two changes. Each change gives every deployment other content, so
    the next fetch of a deployment makes a new revision.
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
        """The number of the current epoch."""
        return len(self._seeds) - 1

    def advance_epoch(self) -> None:
        """Start an epoch in which every deployment has other content."""
        self._seeds.append(self._seeds[0] + len(self._seeds))
        options = self.simulator.options
        self.simulator.options = replace(options, seed=self._seeds[-1])

    def find_epoch(self, deployment: str, started_at: int | str) -> int | None:
        """Return the newest epoch in which the deployment started at this time, or None."""
        shape = self.simulator.options.shape
        for epoch in range(self.epoch, -1, -1):
            if generate_deployment(self._seeds[epoch], deployment, shape).started_at == started_at:
                return epoch
        return None

    def add_deployment(self, new: NewDeployment) -> None:
        """Add a deployment, as if its pipeline had reported it."""
        self.simulator.add_deployment(new)

    def change_flag(self, number: int) -> None:
        """Change one flag after the other, in one environment after the other."""
        project, environment, flag_key = _FLAGS[number % len(_FLAGS)]
        self.simulator.add_flag_event(
            NewFlagEvent(project_key=project, environment_key=environment, flag_key=flag_key)
        )

    async def open(self) -> None:
        """Start the server, on its previous port if it had one."""
        app = self.simulator.app()
        app.middlewares.append(self._wait_while_stalled)
        silent_logger = logging.Logger("silent")  # noqa: LOG001 - outside the logger tree
        silent_logger.addHandler(logging.NullHandler())
        runner = web.AppRunner(app, access_log=None, logger=silent_logger, shutdown_timeout=0.1)
        self._runner = runner
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", self._port).start()
        self._port = self._runner.addresses[0][1]
        self.url = f"http://127.0.0.1:{self._port}"

    async def close(self) -> None:
        """Abort every connection and stop the server."""
        runner, self._runner = self._runner, None
        if runner is None:
            return
        for connection in runner.server.connections if runner.server else ():
            if connection.transport is not None:
                connection.transport.abort()
        await runner.cleanup()

    def stall(self) -> None:
        """Hold all connections without a response."""
        self._is_answering.clear()

    def resume(self) -> None:
        """Respond to the held calls and to new ones."""
        self._is_answering.set()

    async def strike(self, strike: Strike) -> None:
        """Close, stall or change the server for the duration of the strike."""
        self.is_struck = True
        try:
            match strike.action:
                case "freeze":
                    self.stall()
                    await asyncio.sleep(strike.duration_s)
                    self.resume()
                case "forbid":
                    self._change_options(forbidden_projects=_FORBIDDEN_PROJECTS)
                    await asyncio.sleep(strike.duration_s)
                    self._change_options(forbidden_projects=())
                case "cut":
                    self._change_options(faults=Rates(truncated=_CUT_SHARE))
                    await asyncio.sleep(strike.duration_s)
                    self._change_options(faults=Rates())
                case _:
                    await self.close()
                    await asyncio.sleep(strike.duration_s)
                    await self.open()
        finally:
            self.is_struck = False

    def _change_options(self, **changes: object) -> None:
        """Change the simulator; an epoch may have changed other options meanwhile."""
        self.simulator.options = replace(self.simulator.options, **changes)

    @web.middleware
    async def _wait_while_stalled(
        self, request: web.Request, handler: Handler
    ) -> web.StreamResponse:
        await self._is_answering.wait()
        return await handler(request)
