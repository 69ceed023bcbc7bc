"""The commands `demo` and `pipeline`: the whole service against a simulated LaunchDarkly."""

import asyncio
import os
import random
import shlex
import sys
import textwrap
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from random import Random
from typing import TextIO
from urllib.parse import urlsplit

import aiohttp
import click
from msgspec import Struct
from msgspec.structs import replace
from redis.asyncio import Redis

from service.accept.sources import Source
from service.app import (
    Runtime,
    add_console,
    is_console_enabled,
    open_receiver,
    open_runtime,
    open_worker,
)
from service.cli.dora_page import serve_dora_page
from service.cli.parameters import DEFAULT_WEBHOOK_URL, MAX_NUMBER, parse_url
from service.cli.preconditions import (
    configure_log,
    read_sources,
    require_access_token,
    require_simulator,
    require_webhook_secret,
)
from service.cli.reload import Reloads, handle_sighup
from service.cli.signals import run_async
from service.cli.tail import (
    StreamEntryText,
    follow_stream,
    measure_terminal_width,
    render_record_header,
    render_record_row,
)
from service.cli.terminal import EXIT_CODES
from service.log import Log, build_log
from service.metrics.http import serve_app
from service.metrics.namespace import NamespaceReader, NamespaceStats
from service.settings import Secret, Settings, SettingsError, data_directory, read_settings
from service.simulate.options import Options, Shape
from service.simulate.pipeline import (
    EventBody,
    Pipeline,
    PipelineTargets,
    SendRate,
    find_first_error,
    report_event,
    report_flag_event,
)
from service.simulate.quota import Limits
from service.simulate.rates import Rates
from service.simulate.send import SendResult, send_event
from service.simulate.server import Simulator
from service.store import RedisUnavailable
from service.store.connect import open_client

_STATUS_INTERVAL_S = 0.25
_READS_PER_STATUS_LINE = 12  # where no terminal can update the counts in place
_MAX_SEED = 1_000_000

_EVENTS_OPTION = click.option(
    "--events",
    type=click.IntRange(0, MAX_NUMBER),
    metavar="N",
    default=0,
    help="End after this many deployments; 0: never.",
)
_PER_SECOND_OPTION = click.option(
    "--per-second",
    type=click.FloatRange(0.1, MAX_NUMBER),
    metavar="N",
    default=2.0,
    help="Deployments a second.",
)
_SEED_OPTION = click.option(
    "--seed",
    type=click.IntRange(0, MAX_NUMBER),
    metavar="N",
    help="Generate the same deployments for the same number.",
)


@click.command("demo", epilog=EXIT_CODES)
@_EVENTS_OPTION
@_PER_SECOND_OPTION
@click.option(
    "--quota",
    type=click.IntRange(10, MAX_NUMBER),
    metavar="N",
    default=60,
    help="Calls that LaunchDarkly allows in 5 s.",
)
@_SEED_OPTION
@run_async
async def demo_command(*, events: int, per_second: float, quota: int, seed: int | None) -> None:
    """Show the service at work, with everything else simulated."""
    settings = read_settings(os.environ)
    # A Redis of the user's own may know the deployments of an earlier demo.
    default_seed = random.randrange(_MAX_SEED) if settings.redis_url else 1
    await run_demo(
        replace(settings, port=0, sources=""),
        build_simulator_options(
            seed=default_seed if seed is None else seed, calls_per_window=quota
        ),
        rate=SendRate(per_second=per_second, max_events=events),
        log=build_log(level="error"),
        build_sources=lambda secret: read_sources(
            replace(settings, sources="", webhook_secret=Secret(secret)), os.environ
        ),
    )


@click.command("pipeline", epilog=EXIT_CODES)
@click.option(
    "--url", type=parse_url, metavar="URL", default=DEFAULT_WEBHOOK_URL, help="Webhook endpoint."
)
@_EVENTS_OPTION
@_PER_SECOND_OPTION
@_SEED_OPTION
@run_async
async def pipeline_command(*, url: str, events: int, per_second: float, seed: int | None) -> None:
    """Simulate a CD pipeline that deploys until it is stopped."""
    reloads, settings = handle_sighup(), read_settings(os.environ)
    require_webhook_secret(settings)
    require_access_token(settings)
    require_simulator(settings)
    rate = SendRate(per_second=per_second, max_events=events)
    log = configure_log(settings)
    await run_pipeline(
        settings,
        webhook_url=url,
        rate=rate,
        rng=random.Random(seed),
        log=log,
        reloads=reloads,
    )


class CallCounts(Struct, frozen=True):
    """What the simulated LaunchDarkly counted: calls, and those it answered with 429."""

    calls: int
    rate_limited: int


class DemoInputs(Struct, frozen=True, kw_only=True):
    """What the demo is given: the other sides as functions, and the stream it writes to."""

    targets: PipelineTargets
    read_stats: Callable[[], Awaitable[NamespaceStats]]
    count_calls: Callable[[], CallCounts]
    records: AsyncIterator[StreamEntryText]
    out: TextIO
    columns: Callable[[], int]
    log: Log


class Demo:
    """Sends deployments as a pipeline does, and shows the records and the counts."""

    def __init__(self, inputs: DemoInputs, *, rate: SendRate, rng: Random) -> None:
        self._inputs = inputs
        self._max_records = rate.max_events
        self._pipeline = Pipeline(
            inputs.targets, rate=rate, rng=rng, clock=time.time, log=inputs.log
        )
        self._published = 0
        self._limit_reached_count = 0
        self._stats: NamespaceStats | None = None
        self._status_line = ""
        self._is_terminal = inputs.out.isatty()

    async def run(self) -> None:
        """Run until cancelled, or until the requested number of records is published.

        Raises the error that ended the pipeline, such as PostRefused.
        """
        try:
            async with asyncio.TaskGroup() as task_group:
                send_task = task_group.create_task(self._pipeline.deploy(), name="demo-send")
                status_task = task_group.create_task(self._update_status(), name="demo-status")
                await self._print_records()
                send_task.cancel()
                status_task.cancel()
        except ExceptionGroup as group:
            raise find_first_error(group) from None
        finally:
            await self._read_stats()
            self._print_summary()

    async def _print_records(self) -> None:
        """Print the records until the requested number is published."""
        self._print_above_status(render_record_header(columns=self._inputs.columns()))
        async for entry in self._inputs.records:
            self._published += entry.fields.get("revision", "1") == "1"
            self._print_above_status(render_record_row(entry, columns=self._inputs.columns()))
            if self._max_records and self._published >= self._max_records:
                break

    async def _update_status(self) -> None:
        """Update the counts, and print a line when the rate limit is reached."""
        read_count = 0
        while True:
            previous_stats = self._stats
            await self._read_stats()
            if _is_limit_reached(self._stats) and not _is_limit_reached(previous_stats):
                self._print_limit_reached()
            self._show_status(in_place_only=read_count % _READS_PER_STATUS_LINE != 0)
            read_count += 1
            await asyncio.sleep(_STATUS_INTERVAL_S)

    async def _read_stats(self) -> None:
        try:
            self._stats = await self._inputs.read_stats()
        except RedisUnavailable:
            self._stats = None

    def _print_limit_reached(self) -> None:
        if self._stats is not None and self._stats.backlog:
            self._limit_reached_count += 1
            self._print_above_status(
                f"-- rate limit reached: no call for {self._stats.next_call_in_s:.1f} s; "
                f"{self._stats.backlog} deployments wait, webhooks are still accepted"
            )

    def _format_counts(self) -> str:
        stats = self._stats
        counts = {
            "received": self._pipeline.received,
            "queued": self._pipeline.queued,
            "published": self._published,
            "waiting": "?" if stats is None else stats.backlog,
            "failed": "?" if stats is None else stats.failed_total,
        }
        line = "  ".join(f"{name} {count}" for name, count in counts.items())
        if stats is None:
            return f"{line}  Redis is away"
        if _is_limit_reached(stats):
            return f"{line}  rate limit {stats.next_call_in_s:.1f} s"
        return f"{line}  calls left {stats.calls_left['list']}"

    def _print_summary(self) -> None:
        call_counts = self._inputs.count_calls()
        limit_reached_times = (
            "once" if self._limit_reached_count == 1 else f"{self._limit_reached_count} times"
        )
        self._status_line, counts_line = "", self._format_counts().rpartition("  ")[0]
        summary = (
            f"What you saw: the receiver accepted {self._pipeline.received} signed webhooks and "
            f"recognized {self._pipeline.repeated} of them as repeats. The simulated LaunchDarkly "
            f"answered {call_counts.calls} calls and refused {call_counts.rate_limited}; the rate "
            f"limit was reached {limit_reached_times}. {self._published} deployments were "
            "published, each as one enriched record on a Redis stream."
        )
        width = max(40, min(self._inputs.columns(), 100))
        self._print_above_status("\n".join(("", counts_line, *textwrap.wrap(summary, width))))

    def _print_above_status(self, text: str) -> None:
        """Write text that stays; on a terminal the counts stay below it."""
        self._write(f"\r\x1b[K{text}\n{self._status_line}" if self._is_terminal else f"{text}\n")

    def _show_status(self, *, in_place_only: bool) -> None:
        """Show the counts in one line, cut so that it does not wrap and can be overwritten."""
        line = self._format_counts()[: self._inputs.columns() - 1]
        if self._is_terminal:
            self._status_line = line
            self._write(f"\r\x1b[K{line}")
        elif not in_place_only and self._pipeline.received:
            self._write(f"-- {line}\n")

    def _write(self, text: str) -> None:
        self._inputs.out.write(text)
        self._inputs.out.flush()


def _is_limit_reached(stats: NamespaceStats | None) -> bool:
    return stats is not None and stats.next_call_in_s > 0


_WINDOW_MS = 5_000
_RATE_LIMIT_SHARE = 0.8  # the pipeline's own posts use the rest of the limit
_MAX_SHUTDOWN_S = 1.0
_REFRESH_AFTER = "20 60"  # so that late corrections are seen while one watches
_SCAN_COUNT = 1000

BuildSources = Callable[[str], dict[str, Source]]
"""Returns the sources of webhooks that are signed with a secret."""


def build_simulator_options(*, seed: int, calls_per_window: int) -> Options:
    """Return a LaunchDarkly with a low rate limit, some latency, a few faults, and pages."""
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
    """Run pipeline, LaunchDarkly and service, and show the records until cancelled.

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
            refresh_after=_REFRESH_AFTER,
            flag_events="on",
            flag_event_members="on",
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
            log=log,
        )
        dora_url = await enter_context(
            serve_dora_page(
                runtime.redis_url, namespace=runtime.keys.namespace, period="15m", log=log
            )
        )
        addresses = _Addresses(receiver=receiver_url, upstream=upstream, dora=dora_url)
        _print_introduction(runtime, addresses, options)
        inputs = _demo_inputs(runtime, client, event_sender, simulator)
        await Demo(inputs, rate=rate, rng=random.Random(f"pipeline {options.seed}")).run()


async def run_pipeline(
    settings: Settings,
    *,
    webhook_url: str,
    rate: SendRate,
    rng: Random,
    log: Log,
    reloads: Reloads,
) -> None:
    """Run a pipeline that reports to a simulated LaunchDarkly and a receiver until cancelled."""
    async with aiohttp.ClientSession() as session, reloads.watch():
        event_sender = _EventSender(
            session,
            webhook_url=webhook_url,
            upstream=settings.launchdarkly_url,
            secret=require_webhook_secret(settings),
            token=settings.access_token.reveal(),
            log=log,
        )
        reloads.add(partial(_reload_secrets, event_sender, log))
        pipeline = Pipeline(event_sender.targets(), rate=rate, rng=rng, clock=time.time, log=log)
        log.info("pipeline_started", receiver=webhook_url, per_second=rate.per_second)
        try:
            await pipeline.deploy()
        finally:
            log.info("pipeline_ended", queued=pipeline.queued, repeated=pipeline.repeated)


def _reload_secrets(event_sender: "_EventSender", log: Log) -> str | None:
    """Read both secrets of a pipeline again; keep the present ones if they cannot be used."""
    try:
        settings = read_settings(os.environ)
        require_access_token(settings)
        secret = require_webhook_secret(settings)
    except SettingsError as error:
        log.warning("secrets_reload_failed", reason=str(error))
        return str(error)
    event_sender.replace_secrets(secret=secret, token=settings.access_token.reveal())
    log.info("secrets_reloaded")
    return None


def _demo_settings(settings: Settings) -> Settings:
    """Return settings whose data is apart from the user's own."""
    data_dir = data_directory(settings) / "demo"
    return replace(settings, data_dir=str(data_dir), namespace=f"{settings.namespace}-demo")


async def _delete_previous_demo(client: Redis, runtime: Runtime) -> None:
    """Delete the keys of an earlier demo, whose simulated LaunchDarkly no longer exists."""
    key_pattern = f"{{{runtime.keys.namespace}}}:*"
    leftover_keys = [key async for key in client.scan_iter(match=key_pattern, count=_SCAN_COUNT)]
    if leftover_keys:
        await client.unlink(*leftover_keys)


class _EventSender:
    """Posts the same body to LaunchDarkly and to the receiver."""

    def __init__(
        self,
        session: aiohttp.ClientSession,
        *,
        webhook_url: str,
        upstream: str,
        secret: str,
        token: str,
        log: Log,
    ) -> None:
        self._session = session
        self._webhook_url = webhook_url
        self._upstream = upstream
        self._secret = secret
        self._token = token
        self._log = log

    def replace_secrets(self, *, secret: str, token: str) -> None:
        """Use other secrets from the next event on."""
        self._secret, self._token = secret, token

    def targets(self) -> PipelineTargets:
        """Return both sides as a pipeline takes them."""
        return PipelineTargets(report=self.report, post=self.post, report_flag=self.report_flag)

    async def report(self, event: EventBody) -> None:
        """Post a deployment event to LaunchDarkly."""
        await report_event(self._session, self._upstream, event, token=self._token, log=self._log)

    async def report_flag(self, event: EventBody) -> None:
        """Add a flag event to the simulated LaunchDarkly."""
        await report_flag_event(self._session, self._upstream, event)

    async def post(self, event: EventBody, delivery: str) -> SendResult:
        """Post a signed webhook to the receiver."""
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
        targets=event_sender.targets(),
        read_stats=NamespaceReader(
            runtime.group_commit, keys=runtime.keys, share=_RATE_LIMIT_SHARE
        ).read_stats,
        count_calls=count_calls,
        records=follow_stream(client, runtime.keys.enriched, since="$"),
        out=sys.stdout,
        columns=partial(measure_terminal_width, sys.stdout),
        log=runtime.log,
    )


class _Addresses(Struct, frozen=True, kw_only=True):
    """The URLs of what runs; ``dora`` is empty without the page of the example."""

    receiver: str
    upstream: str
    dora: str


def _print_introduction(runtime: Runtime, addresses: _Addresses, options: Options) -> None:
    """Print the addresses of everything, and commands that read the stream."""
    quota, window_s = options.quota.global_limit, options.quota.window_ms / 1000
    redis_label = f"on {runtime.settings.data_dir}" if not runtime.settings.redis_url else "yours"
    lines = (
        "A pipeline deploys, signs a webhook for each deployment and posts it here. The service",
        "fetches the rest from LaunchDarkly and appends one enriched record to a Redis stream.",
        "",
        f"webhooks      {addresses.receiver}/webhooks/native",
        *([f"console       {addresses.receiver}/"] if is_console_enabled(runtime.settings) else []),
        *([f"four measures {addresses.dora}/"] if addresses.dora else []),
        f"LaunchDarkly  {addresses.upstream}  simulated, {quota} calls in {window_s:g} s,",
        f"              {_RATE_LIMIT_SHARE:.0%} for the service, the rest for the pipeline",
        f"Redis         {redis_label}",
        "",
        "To read the stream, in another terminal:",
        *(f"  {command}" for command in _example_commands(runtime)),
        "",
        "Ctrl-C stops everything.",
    )
    click.echo("\n".join(lines) + "\n")


def _example_commands(runtime: Runtime) -> list[str]:
    """Return commands to paste that read the stream; they show no secret of a Redis URL."""
    address = urlsplit(runtime.redis_url)
    is_public = not (address.query or address.netloc)
    connection_option, url_text = '-u "$ENRICHER_REDIS_URL"', '"$ENRICHER_REDIS_URL"'
    if address.scheme == "unix":
        connection_option = f"-s {shlex.quote(address.path)}{'' if is_public else ' --askpass'}"
        url_text = shlex.quote(runtime.redis_url) if is_public else url_text
    variables = f"ENRICHER_REDIS_URL={url_text} ENRICHER_NAMESPACE={runtime.keys.namespace}"
    tail_command = f"{variables} {_program_command()} tail --from-start"
    if "+" in address.scheme:  # redis-cli has no URL for Sentinel or a Cluster
        return [tail_command]
    return [
        tail_command,
        f"redis-cli {connection_option} XRANGE '{runtime.keys.enriched}' - + COUNT 1",
    ]


def _program_command() -> str:
    """Return how the program is started: from a checkout, or installed."""
    checkout = Path(__file__).resolve().parents[2] / "run.py"
    if checkout.is_file():
        return f"python3 {shlex.quote(os.path.relpath(checkout))}"
    return "deployment-enricher"
