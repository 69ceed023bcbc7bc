"""A LaunchDarkly on the table: quota windows, pages, faults."""

import asyncio
from collections.abc import Callable
from typing import Any, Protocol

from aiohttp import web

from service.simulate.answers import (
    Answer,
    Call,
    Planted,
    add_headers,
    answer_json,
    answer_rate_limited,
)
from service.simulate.api import Api, Route, find_route, read_identifier, refuse_stranger
from service.simulate.delivery import Drip, cut_connection, send_drops, send_flood, send_whole
from service.simulate.deployment import PROJECT
from service.simulate.faults import Fault, draw_fault
from service.simulate.options import Options, change_options
from service.simulate.pages import BASE, Pages, Style
from service.simulate.quota import Caller, Window, decide_call, write_headers
from service.simulate.spoil import Scene, comes_from_gateway, spoil
from service.simulate.tally import Stats, Tally
from service.simulate.world import NewDeployment, Rules, World

_GREETING = """\
This is a simulator of LaunchDarkly's Engineering Insights API, for demos and tests.

  GET  {base}/deployments/{{id}}
  GET  {base}/deployments
  GET  {base}/pull-requests
  POST {base}/deployment-events
  GET  /simulator/stats      what was called, and was it within the quota
  POST /simulator/reset      count anew
  POST /simulator/options    change the behaviour: a JSON object of the changed fields
"""


class Chance(Protocol):
    """Where chance comes from; `random.Random(seed)` makes a run repeatable in its order."""

    def random(self) -> float:
        """Give a number from 0 to 1."""
        ...


class Simulator:
    """The simulated API and the hands on its knobs.

    `clock` gives the seconds since the epoch and drives windows, visibility and defaults of time;
    latency and drops are waited for in real time.
    """

    def __init__(self, options: Options, *, clock: Callable[[], float], chance: Chance) -> None:
        self._clock = clock
        self._chance = chance
        self._tally = Tally()
        self._windows: dict[str, Window] = {}
        self._planted: dict[str, Planted] = {}
        self._options = options
        self._world = World(_read_rules(options))
        self._pages = Pages(_read_style(options))
        self._api = self._make_api()

    def app(self) -> web.Application:
        """Make the application; it starts nothing and needs no closing."""
        app = web.Application()
        app.router.add_get("/", self._greet)
        app.router.add_get("/healthz", self._say_healthy)
        app.router.add_get("/simulator/stats", self._tell_stats)
        app.router.add_post("/simulator/reset", self._reset)
        app.router.add_post("/simulator/options", self._change)
        app.router.add_route("*", "/{path:.*}", self._serve)
        return app

    @property
    def options(self) -> Options:
        """The options as they stand."""
        return self._options

    @options.setter
    def options(self, options: Options) -> None:
        self._options = options
        self._world.rules = _read_rules(options)
        self._pages.style = _read_style(options)
        self._api = self._make_api()

    @property
    def stats(self) -> Stats:
        """What was counted since the last reset."""
        return self._tally.read()

    def plant_answer(self, path_suffix: str, planted: Planted) -> None:
        """Answer word by word where a path, with or without its query, ends so.

        Token, beta header and quota come first; faults do not touch it.
        """
        self._planted[path_suffix] = planted

    def plant_deployment(self, given: dict[str, Any], project: str = PROJECT) -> str:
        """Add a deployment given word by word, and say its id."""
        return self._world.plant(given, project, self._now()).id

    def add_deployment(self, new: NewDeployment) -> str:
        """Add a deployment that can be seen at once, and say its id."""
        return self._world.add(new, self._now()).id

    def _now(self) -> int:
        return int(self._clock() * 1000)

    def _make_api(self) -> Api:
        return Api(self._world, self._pages, full_links=self._options.list_links == "full")

    async def _serve(self, request: web.Request) -> web.StreamResponse:
        route = find_route(request.method, request.path)
        if route is Route.GET_DEPLOYMENT:
            self._tally.ask(read_identifier(request.path))
        self._tally.begin(route)
        status = "cut"
        try:
            response = await self._answer(request, route)
            if request.transport is not None and not request.transport.is_closing():
                status = str(response.status)
            return response
        finally:
            self._tally.finish(status)

    async def _answer(self, request: web.Request, route: Route) -> web.StreamResponse:
        refusal = refuse_stranger(route, request.headers, self._options.token)
        if refusal is not None:
            return send_whole(refusal)
        limits, now = self._options.quota, self._now()
        caller = Caller(route=route, address=request.remote or "")
        decision = decide_call(self._windows, caller, limits, now)
        self._windows |= {count.key: count.window for count in decision.counts}
        self._tally.weigh(decision, now, self._options.notice_ms)
        headers = write_headers(decision, limits, now)
        if not decision.granted:
            return send_whole(answer_rate_limited(headers))
        planted = self._find_planted(request)
        if planted is not None:
            answer = Answer(status=planted.status, headers=planted.headers, body=planted.body)
            return send_whole(add_headers(answer, headers))
        fault = draw_fault(self._options.faults, self._chance.random())
        scene = Scene(href=request.path_qs, lure=self._options.lure_url, roll=self._chance.random())
        await self._take_time()
        answer = self._api.answer(await _read_call(request), self._now())
        if fault is not None:
            self._tally.strike(fault)
            answer = spoil(answer, fault, scene)
        if not comes_from_gateway(fault):
            answer = add_headers(answer, headers)
        return await self._deliver(request, answer, fault)

    async def _take_time(self) -> None:
        shortest, longest = self._options.latency_ms
        roll = self._chance.random()
        if longest:
            await asyncio.sleep((shortest + (longest - shortest) * roll) / 1000)

    async def _deliver(
        self, request: web.Request, answer: Answer, fault: Fault | None
    ) -> web.StreamResponse:
        options = self._options
        match fault:
            case Fault.RESET:
                return cut_connection(request)
            case Fault.DRIP:
                drip = Drip(size=options.drip_bytes, every_s=options.drip_every_ms / 1000)
                return await send_drops(request, answer, drip)
            case Fault.OVERSIZED:
                return await send_flood(request, answer, options.oversized_bytes)
            case _:
                return send_whole(answer)

    def _find_planted(self, request: web.Request) -> Planted | None:
        for suffix, planted in self._planted.items():
            if request.path_qs.endswith(suffix) or request.path.endswith(suffix):
                return planted
        return None

    async def _greet(self, _: web.Request) -> web.Response:
        return web.Response(text=_GREETING.format(base=BASE))

    async def _say_healthy(self, _: web.Request) -> web.Response:
        return web.json_response({"status": "ok"})

    async def _tell_stats(self, _: web.Request) -> web.Response:
        return send_whole(answer_json(self.stats))

    async def _reset(self, _: web.Request) -> web.Response:
        self._tally = self._tally.start_anew()
        return web.Response(status=204)

    async def _change(self, request: web.Request) -> web.Response:
        changed = change_options(self._options, await request.read())
        if isinstance(changed, str):
            return send_whole(answer_json({"message": changed}, status=400))
        self.options = changed
        return web.Response(status=204)


def _read_rules(options: Options) -> Rules:
    return Rules(
        seed=options.seed,
        shape=options.shape,
        conjure=options.conjure,
        visible_after_ms=options.visible_after_ms,
        grow_every_ms=options.grow_every_ms,
    )


def _read_style(options: Options) -> Style:
    return Style(
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
