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
from service.app import open_receiver, open_worker
from service.house import Runtime, open_runtime
from service.log import Log
from service.operate.demo import CallCounts, Demo, DemoInputs
from service.operate.health import HealthReader
from service.operate.listening import serve_app
from service.operate.pipeline import EventBody, Pipeline, SendRate, report_event
from service.operate.send import SendResult, send_event
from service.operate.table import measure_terminal_width
from service.operate.tail import follow_stream
from service.outlook import add_console, is_console_enabled
from service.settings import Secret, Settings, data_directory
from service.simulate.deployment import Shape
from service.simulate.faults import Rates
from service.simulate.options import Options
from service.simulate.quota import Limits
from service.simulate.server import Simulator
from service.store.connect import open_client

_WINDOW_MS = 5_000
_RATE_LIMIT_SHARE = 0.8  # the pipeline's own posts live on the same quota
_MAX_SHUTDOWN_S = 1.0
_SCAN_COUNT = 1000

BuildSources = Callable[[str], dict[str, Source]]
"""Give the sources of webhooks that are signed with a secret."""


def build_simulator_options(*, seed: int, calls_per_window: int) -> Options:
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


async def run_demo(
    settings: Settings, options: Options, *, rate: SendRate, log: Log, build_sources: BuildSources
) -> None:
    """Play a pipeline, LaunchDarkly and ourselves, and show the records, until cancelled.

    Raises redis's errors when the user's own Redis is away.
    """
    rng = random.Random(options.seed)
    secret = f"whsec_{rng.randbytes(24).hex()}"
    simulator = Simulator(options, clock=time.time, rng=rng)
    async with AsyncExitStack() as stack:
        enter_context = stack.enter_async_context
        upstream = await enter_context(serve_app(simulator.app(), host="127.0.0.1", port=0))
        run_settings = replace(
            _demo_settings(settings),
            access_token=Secret(options.token),
            launchdarkly_url=upstream,
            rate_limit_share=_RATE_LIMIT_SHARE,
            shutdown_timeout=min(settings.shutdown_timeout, _MAX_SHUTDOWN_S),
        )
        runtime = await enter_context(open_runtime(run_settings, log))
        client = await enter_context(
            open_client(runtime.redis_url, namespace=runtime.keys.namespace, reply_timeout_s=10)
        )
        await _delete_previous_demo(client, runtime)
        await enter_context(open_worker(runtime))
        sources = build_sources(secret)
        add_pages = partial(add_console, runtime, sources)
        receiver_url = await enter_context(open_receiver(runtime, sources, add_routes=add_pages))
        event_sender = _EventSender(
            await enter_context(aiohttp.ClientSession()),
            webhook_url=f"{receiver_url}/webhooks/native",
            upstream=upstream,
            secret=secret,
            token=options.token,
        )
        _print_introduction(runtime, receiver_url=receiver_url, upstream=upstream, options=options)
        inputs = _demo_inputs(runtime, client, event_sender, simulator)
        await Demo(inputs, rate=rate, rng=random.Random()).run()


async def run_pipeline(
    settings: Settings, *, webhook_url: str, secret: str, rate: SendRate, log: Log
) -> None:
    """Play a pipeline alone: tell a simulated LaunchDarkly and a door, until cancelled."""
    rng = random.Random()
    async with aiohttp.ClientSession() as session:
        event_sender = _EventSender(
            session,
            webhook_url=webhook_url,
            upstream=settings.launchdarkly_url,
            secret=secret,
            token=settings.access_token.reveal(),
        )
        pipeline = Pipeline(event_sender.report, event_sender.post, rate=rate, rng=rng)
        log.info("pipeline_started", door=webhook_url, per_second=rate.per_second)
        try:
            await pipeline.deploy()
        finally:
            log.info("pipeline_ended", queued=pipeline.queued, repeated=pipeline.repeated)


def _demo_settings(settings: Settings) -> Settings:
    """Keep the demo's data apart."""
    data_dir = data_directory(settings) / "demo"
    return replace(settings, data_dir=str(data_dir), namespace=f"{settings.namespace}-demo")


async def _delete_previous_demo(client: Redis, runtime: Runtime) -> None:
    """Take away all that an earlier demo left: its LaunchDarkly, and what waits for it, is gone."""
    key_pattern = f"{{{runtime.keys.namespace}}}:*"
    leftover_keys = [key async for key in client.scan_iter(match=key_pattern, count=_SCAN_COUNT)]
    if leftover_keys:
        await client.unlink(*leftover_keys)


class _EventSender:
    """Tells LaunchDarkly and our door of the same deployment: one body, two posts."""

    def __init__(
        self,
        session: aiohttp.ClientSession,
        *,
        webhook_url: str,
        upstream: str,
        secret: str,
        token: str,
    ) -> None:
        self._session = session
        self._webhook_url = webhook_url
        self._upstream = upstream
        self._secret = secret
        self._token = token

    async def report(self, event: EventBody) -> None:
        """Tell LaunchDarkly."""
        await report_event(self._session, self._upstream, event, token=self._token)

    async def post(self, event: EventBody, delivery: str) -> SendResult:
        """Tell our door."""
        return await send_event(
            self._session,
            self._webhook_url,
            event,
            secret=self._secret,
            delivery=delivery,
            timestamp_s=int(time.time()),
        )


def _demo_inputs(
    runtime: Runtime, client: Redis, event_sender: _EventSender, simulator: Simulator
) -> DemoInputs:
    def count_calls() -> CallCounts:
        stats = simulator.stats
        return CallCounts(calls=sum(stats.calls.values()), rate_limited=stats.rate_limited)

    return DemoInputs(
        report=event_sender.report,
        post=event_sender.post,
        read_stats=HealthReader(
            runtime.group_commit, keys=runtime.keys, share=_RATE_LIMIT_SHARE
        ).read_stats,
        count_calls=count_calls,
        records=follow_stream(client, runtime.keys.enriched, since="$"),
        out=sys.stdout,
        columns=partial(measure_terminal_width, sys.stdout),
    )


def _print_introduction(
    runtime: Runtime, *, receiver_url: str, upstream: str, options: Options
) -> None:
    """Say what is where, and how to look at the stream oneself."""
    quota, window_s = options.quota.global_limit, options.quota.window_ms / 1000
    redis_label = f"on {runtime.settings.data_dir}" if not runtime.settings.redis_url else "yours"
    lines = (
        "A pipeline deploys, signs a webhook for each deployment and posts it here; we ask",
        "LaunchDarkly for the rest and append one enriched record to a Redis stream.",
        "",
        f"webhooks      {receiver_url}/webhooks/native",
        *([f"console       {receiver_url}/"] if is_console_enabled(runtime.settings) else []),
        f"LaunchDarkly  {upstream}  simulated, {quota} calls in {window_s:g} s,",
        f"              of which {_RATE_LIMIT_SHARE:.0%} are ours and the rest the pipeline's",
        f"Redis         {redis_label}",
        "",
        "See for yourself, in another terminal:",
        *(f"  {command}" for command in _example_commands(runtime)),
        "",
        "Ctrl-C ends everything.",
    )
    sys.stdout.write("\n".join(lines) + "\n\n")
    sys.stdout.flush()


def _example_commands(runtime: Runtime) -> list[str]:
    """Write what can be pasted to look at the stream; no secret of a Redis URL is shown."""
    address = urlsplit(runtime.redis_url)
    is_public = not (address.query or address.netloc)
    connection_option, url_text = '-u "$ENRICHER_REDIS_URL"', '"$ENRICHER_REDIS_URL"'
    if address.scheme == "unix":
        connection_option = f"-s {shlex.quote(address.path)}{'' if is_public else ' --askpass'}"
        url_text = shlex.quote(runtime.redis_url) if is_public else url_text
    variables = f"ENRICHER_REDIS_URL={url_text} ENRICHER_NAMESPACE={runtime.keys.namespace}"
    tail_command = f"{variables} {_program_command()} tail --from-start"
    if "+" in address.scheme:  # no URL tells redis-cli of Sentinel or of a Cluster
        return [tail_command]
    return [
        tail_command,
        f"redis-cli {connection_option} XRANGE '{runtime.keys.enriched}' - + COUNT 1",
    ]


def _program_command() -> str:
    """Say how we are started: from a checkout, or installed."""
    checkout = Path(__file__).resolve().parent.parent / "run.py"
    if checkout.is_file():
        return f"python3 {shlex.quote(os.path.relpath(checkout))}"
    return "deployment-enricher"
