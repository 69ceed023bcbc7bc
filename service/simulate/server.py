"""The HTTP server of the simulator, its clock and its control routes."""

import asyncio
import math
from collections.abc import Callable
from typing import Any, Protocol

import msgspec
from aiohttp import web

from service.simulate.api import Api, Route, check_credentials, match_route, parse_deployment_id
from service.simulate.faults import (
    FaultContext,
    SlowBody,
    abort_connection,
    apply_fault,
    full_response,
    is_from_gateway,
    send_oversized,
    send_slowly,
)
from service.simulate.flag_events import FlagEventConfig, FlagEventLog, NewFlagEvent
from service.simulate.options import (
    DEFAULT_PROJECT,
    Options,
    SimulatedDeployment,
    apply_changes,
)
from service.simulate.pages import BASE, PageRenderer, RenderConfig
from service.simulate.quota import Caller, QuotaWindow, decide_call, rate_limit_headers
from service.simulate.rates import Fault, choose_fault
from service.simulate.responses import (
    Call,
    Canned,
    SimulatedResponse,
    json_response,
    rate_limited,
    with_headers,
)
from service.simulate.stats import CallStats, SimulatorStats
from service.simulate.world import NewDeployment, World, WorldConfig

_INDEX_TEXT = """\
This is a simulator of LaunchDarkly's Engineering Insights API, for demos and tests.

  GET  {base}/deployments/{{id}}
  GET  {base}/deployments
  GET  {base}/pull-requests
  GET  {base}/flag-events
  POST {base}/deployment-events
  GET  /simulator/stats        counts of calls, responses, faults and rate-limit windows
  POST /simulator/reset        reset the counts
  POST /simulator/options      change the behaviour: a JSON object of the changed fields
  POST /simulator/flag-events  add a flag event: a JSON object with flagKey, and what differs
"""


class RandomSource(Protocol):
    """A source of random numbers, such as `random.Random(seed)`."""

    def random(self) -> float:
        """Return a number from 0 to 1."""
        ...


class Simulator:
    """The simulated API with its options, stats and canned responses.

    `clock` returns the seconds since the epoch. It drives the windows, the visibility and the
    default times. Latency and slow bodies wait in real time.
    """

    def __init__(self, options: Options, *, clock: Callable[[], float], rng: RandomSource) -> None:
        self._clock = clock
        self._rng = rng
        self._stats = CallStats()
        self._windows: dict[str, QuotaWindow] = {}
        self._canned: dict[str, Canned] = {}
        self._canned_left: dict[str, float] = {}
        self._options = options
        self._world = World(_world_config(options))
        self._pages = PageRenderer(_render_config(options))
        self._flag_events = FlagEventLog(_flag_event_config(options))
        self._api = self._build_api()
        self._reported_twice_before = 0

    def app(self) -> web.Application:
        """Return the aiohttp application. It starts nothing and needs no cleanup."""
        app = web.Application()
        app.router.add_get("/", self._show_index)
        app.router.add_get("/healthz", self._show_health)
        app.router.add_get("/simulator/stats", self._show_stats)
        app.router.add_post("/simulator/reset", self._reset_stats)
        app.router.add_post("/simulator/options", self._change_options)
        app.router.add_post("/simulator/flag-events", self._add_flag_event)
        app.router.add_route("*", "/{path:.*}", self._serve)
        return app

    @property
    def options(self) -> Options:
        """The current options."""
        return self._options

    @options.setter
    def options(self, options: Options) -> None:
        self._options = options
        self._world.config = _world_config(options)
        self._pages.config = _render_config(options)
        self._flag_events.config = _flag_event_config(options)
        self._api = self._build_api()

    @property
    def stats(self) -> SimulatorStats:
        """The counts since the last reset."""
        reported_twice = self._world.reported_events.reported_twice - self._reported_twice_before
        return msgspec.structs.replace(self._stats.snapshot(), reported_twice=reported_twice)

    def set_response(self, path_suffix: str, canned: Canned, *, times: float = math.inf) -> None:
        """Respond with `canned` to every path that ends with the suffix, with or without its query.

        After so many `times` the calls are answered as usual. The token, the beta header and the
        quota are checked first. Faults do not apply.
        """
        self._canned[path_suffix] = canned
        self._canned_left[path_suffix] = times

    def add_raw_deployment(self, raw: dict[str, Any], project: str = DEFAULT_PROJECT) -> str:
        """Add a deployment with an exact response, and return its id."""
        return self._world.add_raw(raw, project, self._now()).id

    def add_deployment(self, new_deployment: NewDeployment) -> str:
        """Add a deployment that is visible at once, and return its id."""
        return self._world.add(new_deployment, self._now()).id

    def add_flag_event(self, new_event: NewFlagEvent) -> str:
        """Add a flag event, and return its id."""
        return self._flag_events.add(new_event, self._now())

    def list_deployments(self) -> list[SimulatedDeployment]:
        """Return the last state of each deployment that was added or reported, visible or not."""
        return self._world.list_all()

    def _now(self) -> int:
        return int(self._clock() * 1000)

    def _build_api(self) -> Api:
        return Api(
            self._world,
            self._pages,
            flag_events=self._flag_events,
            full_links=self._options.list_links == "full",
            forbidden_projects=frozenset(self._options.forbidden_projects),
        )

    async def _serve(self, request: web.Request) -> web.StreamResponse:
        route = match_route(request.method, request.path)
        if route is Route.GET_DEPLOYMENT:
            self._stats.record_requested_id(parse_deployment_id(request.path))
        self._stats.start_call(route)
        status = "cut"
        try:
            response = await self._respond(request, route)
            if request.transport is not None and not request.transport.is_closing():
                status = str(response.status)
            return response
        finally:
            self._stats.end_call(status)

    async def _respond(self, request: web.Request, route: Route) -> web.StreamResponse:
        error = check_credentials(route, request.headers, self._options)
        if error is not None:
            return full_response(error)
        limits, now = self._options.quota, self._now()
        caller = Caller(route=route, address=request.remote or "")
        decision = decide_call(self._windows, caller, limits, now)
        self._windows |= {usage.key: usage.window for usage in decision.usages}
        self._stats.record_decision(decision, now, self._options.notice_ms)
        headers = rate_limit_headers(decision, limits, now)
        if not decision.granted:
            return full_response(rate_limited(headers))
        canned = self._get_canned(request)
        if canned is not None:
            response = SimulatedResponse(
                status=canned.status, headers=canned.headers, body=canned.body
            )
            return full_response(with_headers(response, headers))
        fault = choose_fault(self._options.faults, self._rng.random())
        fault_context = FaultContext(
            href=request.path_qs, lure_url=self._options.lure_url, roll=self._rng.random()
        )
        await self._simulate_latency()
        response = self._api.handle(await _read_call(request), self._now())
        if fault is not None:
            self._stats.record_fault(fault)
            response = apply_fault(response, fault, fault_context)
        if not is_from_gateway(fault):
            response = with_headers(response, headers)
        return await self._send(request, response, fault)

    async def _simulate_latency(self) -> None:
        shortest, longest = self._options.latency_ms
        roll = self._rng.random()
        if longest:
            await asyncio.sleep((shortest + (longest - shortest) * roll) / 1000)

    async def _send(
        self, request: web.Request, response: SimulatedResponse, fault: Fault | None
    ) -> web.StreamResponse:
        options = self._options
        match fault:
            case Fault.RESET:
                return abort_connection(request)
            case Fault.DRIP:
                slow_body = SlowBody(
                    chunk_bytes=options.drip_bytes, interval_s=options.drip_every_ms / 1000
                )
                return await send_slowly(request, response, slow_body)
            case Fault.OVERSIZED:
                return await send_oversized(request, response, options.oversized_bytes)
            case _:
                return full_response(response)

    def _get_canned(self, request: web.Request) -> Canned | None:
        for suffix, canned in self._canned.items():
            is_match = request.path_qs.endswith(suffix) or request.path.endswith(suffix)
            if is_match and self._canned_left[suffix] > 0:
                self._canned_left[suffix] -= 1
                return canned
        return None

    async def _show_index(self, _: web.Request) -> web.Response:
        return web.Response(text=_INDEX_TEXT.format(base=BASE))

    async def _show_health(self, _: web.Request) -> web.Response:
        return web.json_response({"status": "ok"})

    async def _show_stats(self, _: web.Request) -> web.Response:
        return full_response(json_response(self.stats))

    async def _reset_stats(self, _: web.Request) -> web.Response:
        self._stats = self._stats.reset()
        self._reported_twice_before = self._world.reported_events.reported_twice
        return web.Response(status=204)

    async def _change_options(self, request: web.Request) -> web.Response:
        changed = apply_changes(self._options, await request.read())
        if isinstance(changed, str):
            return full_response(json_response({"message": changed}, status=400))
        self.options = changed
        return web.Response(status=204)

    async def _add_flag_event(self, request: web.Request) -> web.Response:
        return full_response(self._flag_events.add_from_json(await request.read(), self._now()))


def _world_config(options: Options) -> WorldConfig:
    return WorldConfig(
        seed=options.seed,
        shape=options.shape,
        auto_create=options.auto_create,
        visible_after_ms=options.visible_after_ms,
        events_visible_after_ms=options.events_visible_after_ms,
        grow_every_ms=options.grow_every_ms,
    )


def _flag_event_config(options: Options) -> FlagEventConfig:
    return FlagEventConfig(
        seed=options.seed,
        visible_after_ms=options.visible_after_ms,
        impact_after_ms=options.flag_impact_after_ms,
        novelties=options.shape.novelties,
    )


def _render_config(options: Options) -> RenderConfig:
    return RenderConfig(
        seed=options.seed,
        shape=options.shape,
        page_size=options.nested_page_size,
        nested_details=options.nested_details,
    )


async def _read_call(request: web.Request) -> Call:
    return Call(
        method=request.method,
        path=request.path,
        query={name: request.query[name] for name in request.query},
        body=await request.read(),
    )
