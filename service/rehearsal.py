"""How is the demo put together? A pipeline, LaunchDarkly and ourselves, on one table."""

import os
import random
import shlex
import sys
import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

import aiohttp
from msgspec.structs import replace
from redis.asyncio import Redis

from service.accept.sources import Source
from service.app import open_door, open_worker
from service.house import House, open_house
from service.log import Log
from service.operate.demo import Demo, Stage, Traffic
from service.operate.health import Lookout
from service.operate.listening import listen
from service.operate.pipeline import Event, Pace, Pipeline, report_event
from service.operate.send import Sent, send_event
from service.operate.table import measure_columns
from service.operate.tail import follow_stream
from service.outlook import add_console, has_console
from service.settings import Secret, Settings, find_data_dir
from service.simulate.deployment import Shape
from service.simulate.faults import Rates
from service.simulate.options import Options
from service.simulate.quota import Limits
from service.simulate.server import Simulator
from service.store.connect import open_client

_WINDOW_MS = 5_000
_SHARE = 0.8  # the pipeline's own posts live on the same quota
_GRACE_S = 1.0
_KEYS_AT_ONCE = 1000

MakeSources = Callable[[str], dict[str, Source]]
"""Give the sources of webhooks that are signed with a secret."""


def set_up_upstream(*, seed: int, calls_per_window: int) -> Options:
    """Give a LaunchDarkly with a small quota, some latency, faults now and then, and pages."""
    return Options(
        seed=seed,
        visible_after_ms=800,
        nested_page_size=4,
        latency_ms=(20, 120),
        quota=Limits(global_limit=calls_per_window, window_ms=_WINDOW_MS),
        faults=Rates(error=0.03, truncated=0.01),
        shape=Shape(pull_requests=(1, 6), novelties=True),
    )


async def rehearse(
    settings: Settings, options: Options, *, pace: Pace, log: Log, make_sources: MakeSources
) -> None:
    """Play a pipeline, LaunchDarkly and ourselves, and show the records, until cancelled.

    Raises redis's errors when the user's own Redis is away.
    """
    chance = random.Random(options.seed)
    secret = f"whsec_{chance.randbytes(24).hex()}"
    simulator = Simulator(options, clock=time.time, chance=chance)
    async with AsyncExitStack() as stack:
        enter = stack.enter_async_context
        upstream = await enter(listen(simulator.app(), host="127.0.0.1", port=0))
        played = replace(
            _lay_table(settings),
            access_token=Secret(options.token),
            launchdarkly_url=upstream,
            rate_share=_SHARE,
            grace=min(settings.grace, _GRACE_S),
        )
        house = await enter(open_house(played, log))
        viewer = await enter(
            open_client(house.redis_url, namespace=house.keys.namespace, reply_timeout_s=10)
        )
        await _clear_table(viewer, house)
        await enter(open_worker(house))
        sources = make_sources(secret)
        add_pages = partial(add_console, house, sources)
        door = await enter(open_door(house, sources, add_pages=add_pages))
        messenger = _Messenger(
            await enter(aiohttp.ClientSession()),
            door=f"{door}/webhooks/native",
            upstream=upstream,
            secret=secret,
            token=options.token,
        )
        _introduce(house, door=door, upstream=upstream, options=options)
        stage = _set_stage(house, viewer, messenger, simulator)
        await Demo(stage, pace=pace, chance=random.Random()).play()


async def deploy(settings: Settings, *, door: str, secret: str, pace: Pace, log: Log) -> None:
    """Play a pipeline alone: tell a simulated LaunchDarkly and a door, until cancelled."""
    chance = random.Random()
    async with aiohttp.ClientSession() as session:
        messenger = _Messenger(
            session,
            door=door,
            upstream=settings.launchdarkly_url,
            secret=secret,
            token=settings.access_token.reveal(),
        )
        pipeline = Pipeline(messenger.report, messenger.post, pace=pace, chance=chance)
        log.info("pipeline_started", door=door, per_second=pace.per_second)
        try:
            await pipeline.deploy()
        finally:
            log.info("pipeline_ended", queued=pipeline.queued, repeated=pipeline.repeated)


def _lay_table(settings: Settings) -> Settings:
    """Keep the demo's data apart."""
    data_dir = find_data_dir(settings) / "demo"
    return replace(settings, data_dir=str(data_dir), namespace=f"{settings.namespace}-demo")


async def _clear_table(viewer: Redis, house: House) -> None:
    """Take away all that an earlier demo left: its LaunchDarkly, and what waits for it, is gone."""
    ours = f"{{{house.keys.namespace}}}:*"
    left = [key async for key in viewer.scan_iter(match=ours, count=_KEYS_AT_ONCE)]
    if left:
        await viewer.unlink(*left)


class _Messenger:
    """Tells LaunchDarkly and our door of the same deployment: one body, two posts."""

    def __init__(
        self, session: aiohttp.ClientSession, *, door: str, upstream: str, secret: str, token: str
    ) -> None:
        self._session = session
        self._door = door
        self._upstream = upstream
        self._secret = secret
        self._token = token

    async def report(self, event: Event) -> None:
        """Tell LaunchDarkly."""
        await report_event(self._session, self._upstream, event, token=self._token)

    async def post(self, event: Event, delivery: str) -> Sent:
        """Tell our door."""
        return await send_event(
            self._session,
            self._door,
            event,
            secret=self._secret,
            delivery=delivery,
            timestamp_s=int(time.time()),
        )


def _set_stage(house: House, viewer: Redis, messenger: _Messenger, simulator: Simulator) -> Stage:
    def count_calls() -> Traffic:
        stats = simulator.stats
        return Traffic(calls=sum(stats.calls.values()), refused=stats.rate_limited)

    return Stage(
        report=messenger.report,
        post=messenger.post,
        look=Lookout(house.group, keys=house.keys, share=_SHARE).look,
        count_calls=count_calls,
        records=follow_stream(viewer, house.keys.enriched, since="$"),
        out=sys.stdout,
        columns=partial(measure_columns, sys.stdout),
    )


def _introduce(house: House, *, door: str, upstream: str, options: Options) -> None:
    """Say what is where, and how to look at the stream oneself."""
    quota, window_s = options.quota.global_limit, options.quota.window_ms / 1000
    where = f"on {house.settings.data_dir}" if not house.settings.redis_url else "yours"
    lines = (
        "A pipeline deploys, signs a webhook for each deployment and posts it here; we ask",
        "LaunchDarkly for the rest and append one enriched record to a Redis stream.",
        "",
        f"webhooks      {door}/webhooks/native",
        *([f"console       {door}/"] if has_console(house.settings) else []),
        f"LaunchDarkly  {upstream}  simulated, {quota} calls in {window_s:g} s,",
        f"              of which {_SHARE:.0%} are ours and the rest the pipeline's",
        f"Redis         {where}",
        "",
        "See for yourself, in another terminal:",
        *(f"  {command}" for command in _write_commands(house)),
        "",
        "Ctrl-C ends everything.",
    )
    sys.stdout.write("\n".join(lines) + "\n\n")
    sys.stdout.flush()


def _write_commands(house: House) -> list[str]:
    """Write what can be pasted to look at the stream; no secret of a Redis URL is shown."""
    address = urlsplit(house.redis_url)
    is_open = not (address.query or address.netloc)
    reach, named = '-u "$ENRICHER_REDIS_URL"', '"$ENRICHER_REDIS_URL"'
    if address.scheme == "unix":
        reach = f"-s {shlex.quote(address.path)}{'' if is_open else ' --askpass'}"
        named = shlex.quote(house.redis_url) if is_open else named
    variables = f"ENRICHER_REDIS_URL={named} ENRICHER_NAMESPACE={house.keys.namespace}"
    follow = f"{variables} {_name_program()} tail --from-start"
    if "+" in address.scheme:  # no URL tells redis-cli of Sentinel or of a Cluster
        return [follow]
    return [follow, f"redis-cli {reach} XRANGE '{house.keys.enriched}' - + COUNT 1"]


def _name_program() -> str:
    """Say how we are started: from a checkout, or installed."""
    checkout = Path(__file__).resolve().parent.parent / "run.py"
    if checkout.is_file():
        return f"python3 {shlex.quote(os.path.relpath(checkout))}"
    return "deployment-enricher"
