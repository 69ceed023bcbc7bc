"""How is the demo put together? A pipeline, LaunchDarkly and ourselves, on one table."""

import random
import shutil
import sys
import time
from collections.abc import Callable
from contextlib import AsyncExitStack

import aiohttp
from msgspec.structs import replace
from redis.asyncio import Redis

from service.accept.sources import Source
from service.app import House, find_data_dir, open_door, open_house, open_worker
from service.log import Log
from service.operate.demo import Demo, Event, Pace, Stage
from service.operate.listening import listen
from service.operate.send import Sent, send_event
from service.operate.tail import follow_stream
from service.settings import Secret, Settings
from service.simulate.deployment import Shape
from service.simulate.faults import Rates
from service.simulate.options import Options
from service.simulate.quota import Limits
from service.simulate.server import Simulator
from service.store.connect import open_client

_EVENTS_PATH = "/api/v2/engineering-insights/deployment-events"
_WINDOW_MS = 5_000

MakeSources = Callable[[str], dict[str, Source]]
"""Give the sources of webhooks that are signed with a secret."""


def set_up_upstream(*, seed: int, calls_per_window: int) -> Options:
    """Give a LaunchDarkly with a small quota, some latency, faults now and then, and pages."""
    return Options(
        seed=seed,
        visible_after_ms=1_500,
        nested_page_size=4,
        latency_ms=(20, 120),
        quota=Limits(global_limit=calls_per_window, window_ms=_WINDOW_MS),
        faults=Rates(error=0.03, truncated=0.01),
        shape=Shape(pull_requests=(1, 6), novelties=True),
    )


async def rehearse(
    settings: Settings, options: Options, *, pace: Pace, log: Log, make_sources: MakeSources
) -> None:
    """Play a pipeline, LaunchDarkly and ourselves, and show the records, until cancelled."""
    secret = f"whsec_{random.Random(options.seed).randbytes(24).hex()}"
    simulator = Simulator(options, clock=time.time, chance=random.Random(options.seed))
    async with AsyncExitStack() as stack:
        enter = stack.enter_async_context
        upstream = await enter(listen(simulator.app(), host="127.0.0.1", port=0))
        played = replace(
            _clear_table(settings),
            access_token=Secret(options.token),
            launchdarkly_url=upstream,
            rate_share=1.0,
        )
        house = await enter(open_house(played, log))
        await enter(open_worker(house))
        door = await enter(open_door(house, make_sources(secret)))
        viewer = await enter(open_client(house.redis_url, reply_timeout_s=10))
        pipeline = _Pipeline(
            await enter(aiohttp.ClientSession()),
            door=door,
            upstream=upstream,
            secret=secret,
            token=options.token,
        )
        _introduce(house, door=door, upstream=upstream, options=options)
        stage = _set_stage(house, viewer, pipeline)
        await Demo(stage, pace=pace, chance=random.Random()).play()


def _clear_table(settings: Settings) -> Settings:
    """Keep the demo's data apart, and begin it empty."""
    data_dir = find_data_dir(settings) / "demo"
    if not settings.redis_url:
        shutil.rmtree(data_dir, ignore_errors=True)
    return replace(settings, data_dir=str(data_dir), namespace=f"{settings.namespace}-demo")


class _Pipeline:
    """A CD system that tells LaunchDarkly and us of the same deployment: one body, two posts."""

    def __init__(
        self, session: aiohttp.ClientSession, *, door: str, upstream: str, secret: str, token: str
    ) -> None:
        self._session = session
        self._door = f"{door}/webhooks/native"
        self._upstream = upstream + _EVENTS_PATH
        self._secret = secret
        self._token = token

    async def report(self, event: Event) -> None:
        headers = {"Authorization": self._token}
        async with self._session.post(self._upstream, json=event, headers=headers) as response:
            await response.read()

    async def post(self, event: Event, delivery: str) -> Sent:
        return await send_event(
            self._session,
            self._door,
            event,
            secret=self._secret,
            delivery=delivery,
            timestamp_s=int(time.time()),
        )


def _set_stage(house: House, viewer: Redis, pipeline: _Pipeline) -> Stage:
    return Stage(
        report=pipeline.report,
        post=pipeline.post,
        look=house.lookout.look,
        records=follow_stream(viewer, house.keys.enriched, since="$"),
        out=sys.stdout,
    )


def _introduce(house: House, *, door: str, upstream: str, options: Options) -> None:
    """Say what is where, and how to look at the stream oneself."""
    redis, stream = house.redis_url, house.keys.enriched
    address = f"-s {redis.removeprefix('unix://')}" if redis.startswith("unix:") else f"-u {redis}"
    follow = (
        f"ENRICHER_REDIS_URL={redis} ENRICHER_NAMESPACE={house.keys.namespace} python3 run.py tail"
    )
    window_s = options.quota.window_ms / 1000
    lines = (
        f"webhooks    {door}/webhooks/native",
        f"upstream    {upstream}  (simulated; {options.quota.global_limit} calls / {window_s:g} s)",
        f"redis       {redis}",
        f"look        redis-cli {address} XRANGE '{stream}' - + COUNT 1",
        f"follow      {follow}",
        "Ctrl-C ends everything.",
    )
    sys.stdout.write("\n".join(lines) + "\n\n")
    sys.stdout.flush()
