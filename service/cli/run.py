"""The commands that run the service or one end of it: run, serve, work, simulate and send."""

import asyncio
import gc
import os
import random
import time
import uuid
from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from functools import partial

import aiohttp
import click
from aiohttp import web

from service.accept.source_files import ReloadableSources
from service.app import (
    Runtime,
    add_console,
    open_receiver,
    open_reconciler,
    open_runtime,
    open_worker,
)
from service.cli.healthcheck import SIMULATOR_PORT, WORKER_HEALTH_PORT
from service.cli.parameters import (
    DEFAULT_WEBHOOK_URL,
    parse_header_value,
    parse_host,
    parse_url,
)
from service.cli.preconditions import (
    configure_log,
    require_access_token,
    require_redis,
    require_webhook_secret,
)
from service.cli.reload import (
    Reloads,
    handle_sighup,
    open_sources,
    reload_console_token,
    reload_token,
    warn_of_other_redis,
)
from service.cli.signals import run_async, run_service
from service.cli.terminal import EXIT_CODES, EXIT_FAILURE
from service.log import Log, escape_unprintable
from service.metrics.http import serve_app, serve_exposition
from service.settings import Settings, SettingsError, read_settings
from service.simulate.options import Options, apply_changes
from service.simulate.send import SendResult, send_event
from service.simulate.server import Simulator
from service.store.keys import Keys
from service.tracing.setup import open_tracing

_GC_THRESHOLDS = (10_000, 50, 50)  # objects, then collections: few of our objects form cycles
_SPAN_FLUSH_TIMEOUT_S = 2.0
_FIRST_HTTP_REDIRECT = 300
_LOOPBACK = "127.0.0.1"


@click.command("run", epilog=EXIT_CODES)
@run_service
async def run_command() -> None:
    """Receive webhooks and work on them, in one process."""
    reloads, settings = handle_sighup(), read_settings(os.environ)
    require_access_token(settings)
    log = configure_log(settings)
    await run(settings, open_sources(reloads, log), log, reloads)


@click.command("serve", epilog=EXIT_CODES)
@run_service
async def serve_command() -> None:
    """Receive webhooks only (needs ENRICHER_REDIS_URL)."""
    reloads, settings = handle_sighup(), read_settings(os.environ)
    require_redis(settings, "serve")
    log = configure_log(settings)
    await serve(settings, open_sources(reloads, log), log, reloads)


@click.command("work", epilog=EXIT_CODES)
@run_service
async def work_command() -> None:
    """Work on the backlog only (needs ENRICHER_REDIS_URL)."""
    reloads, settings = handle_sighup(), read_settings(os.environ)
    require_redis(settings, "work")
    require_access_token(settings)
    await work(settings, configure_log(settings), reloads)


@click.command("simulate", epilog=EXIT_CODES)
@click.option(
    "--host",
    type=parse_host,
    default=_LOOPBACK,
    metavar="ADDRESS",
    help="Address to listen on.",
)
@click.option(
    "--port",
    type=click.IntRange(0, 65_535),
    metavar="N",
    default=SIMULATOR_PORT,
    help="Port to listen on; 0: any free one.",
)
@click.option(
    "--options",
    default="{}",
    metavar="JSON",
    help='Changed options: \'{"quota":{"global_limit":20}}\'.',
)
@run_async
async def simulate_command(*, host: str, port: int, options: str) -> None:
    """Run a simulated LaunchDarkly, for tests and CI."""
    simulator_options = apply_changes(Options(), os.fsencode(options))
    if isinstance(simulator_options, str):
        raise SettingsError(f"--options: {simulator_options}")
    handle_sighup()  # nothing is read again, and nothing ends
    log = configure_log(read_settings(os.environ))
    await simulate(simulator_options, host=host, port=port, log=log)


@click.command("send", epilog=EXIT_CODES)
@click.option(
    "--url", type=parse_url, metavar="URL", default=DEFAULT_WEBHOOK_URL, help="Webhook endpoint."
)
@click.option(
    "--delivery",
    type=parse_header_value,
    metavar="ID",
    help="Idempotency key; default: a new one.",
)
@click.option("--id", "deployment_id", metavar="ID", help="LaunchDarkly's deployment id, if known.")
@click.option("--project", metavar="KEY", help="LaunchDarkly's project key.")
@click.option("--environment", metavar="KEY", help="LaunchDarkly's environment key.")
@click.option("--application", metavar="KEY", help="LaunchDarkly's application key.")
@click.option("--version", metavar="TEXT", help="Version that was deployed, such as a SHA.")
@click.option(
    "--event-type",
    type=click.Choice(["finished", "failed"]),
    default="finished",
    help="How the deployment ended.",
)
@run_async
async def send_command(
    *,
    url: str,
    delivery: str | None,
    deployment_id: str | None,
    project: str | None,
    environment: str | None,
    application: str | None,
    version: str | None,
    event_type: str,
) -> int:
    """Sign one event and post it; exit with 1 if it is refused."""
    secret = require_webhook_secret(read_settings(os.environ))
    fields = {
        "deploymentId": deployment_id,
        "projectKey": project,
        "environmentKey": environment,
        "applicationKey": application,
        "version": version,
    }
    event = {key: value for key, value in fields.items() if value is not None}
    result = await send(
        {**event, "eventType": event_type},
        url=url,
        secret=secret,
        delivery=delivery or str(uuid.uuid4()),
    )
    click.echo(f"{result.status} {escape_unprintable(result.body)}")
    return 0 if result.status < _FIRST_HTTP_REDIRECT else EXIT_FAILURE


async def serve(settings: Settings, sources: ReloadableSources, log: Log, reloads: Reloads) -> None:
    """Receive webhooks until cancelled."""
    async with (
        _open_traced_runtime(settings, log) as runtime,
        _open_receiver_with_console(runtime, sources, reloads),
        _reload_other_settings(runtime, reloads),
    ):
        await _wait_until_cancelled()


async def work(settings: Settings, log: Log, reloads: Reloads) -> None:
    """Work on the backlog until cancelled."""
    async with (
        _open_traced_runtime(settings, log) as runtime,
        serve_worker_health(runtime),
        open_worker(runtime),
        open_reconciler(runtime),
        _reload_other_settings(runtime, reloads),
    ):
        reloads.add(partial(reload_token, runtime.access_token, log))
        await _wait_until_cancelled()


async def run(settings: Settings, sources: ReloadableSources, log: Log, reloads: Reloads) -> None:
    """Receive webhooks and work on them, in one process, until cancelled."""
    async with _open_traced_runtime(settings, log) as runtime, AsyncExitStack() as stack:
        await stack.enter_async_context(open_worker(runtime))
        await stack.enter_async_context(open_reconciler(runtime))
        await stack.enter_async_context(_open_receiver_with_console(runtime, sources, reloads))
        reloads.add(partial(reload_token, runtime.access_token, log))
        await stack.enter_async_context(_reload_other_settings(runtime, reloads))
        await _wait_until_cancelled()


async def simulate(options: Options, *, host: str, port: int, log: Log) -> None:
    """Serve a simulated LaunchDarkly until cancelled."""
    simulator = Simulator(options, clock=time.time, rng=random.Random(options.seed))
    async with serve_app(simulator.app(), host=host, port=port) as url:
        log.info("simulator_started", url=url, token=options.token)
        await _wait_until_cancelled()


async def send(event: Mapping[str, object], *, url: str, secret: str, delivery: str) -> SendResult:
    """Sign and post one event; raises aiohttp.ClientError when nobody answers."""
    async with aiohttp.ClientSession() as session:
        return await send_event(
            session, url, event, secret=secret, delivery=delivery, timestamp_s=int(time.time())
        )


@asynccontextmanager
async def serve_worker_health(
    runtime: Runtime, *, port: int = WORKER_HEALTH_PORT
) -> AsyncIterator[None]:
    """Answer ``/healthz`` of a worker on a loopback port, for the image's health check.

    A worker in a container has the loopback to itself. Where another worker of the machine has the
    port already, this one works without the endpoint.
    """
    async with AsyncExitStack() as stack:
        try:
            await stack.enter_async_context(
                serve_exposition(runtime.exposition, host=_LOOPBACK, port=port)
            )
        except OSError as error:
            runtime.log.info("worker_health_skipped", port=port, reason=str(error))
        yield


@asynccontextmanager
async def _open_traced_runtime(settings: Settings, log: Log) -> AsyncIterator[Runtime]:
    """Open the runtime, traced if the environment asks for it."""
    keys = Keys(settings.namespace)
    flush_timeout_s = min(_SPAN_FLUSH_TIMEOUT_S, settings.shutdown_timeout)
    async with (
        open_tracing(os.environ, keys=keys, flush_timeout_s=flush_timeout_s, log=log) as tracing,
        open_runtime(settings, log, tracing=tracing) as runtime,
    ):
        yield runtime


def _open_receiver_with_console(
    runtime: Runtime, sources: ReloadableSources, reloads: Reloads
) -> AbstractAsyncContextManager[str]:
    """Open the receiver, with the console unless the settings turn it off."""

    def add_pages(app: web.Application) -> None:
        auth = add_console(runtime, sources, app)
        if auth is not None and auth.asks_for_token:
            reloads.add(partial(reload_console_token, auth, runtime.log))

    return open_receiver(
        runtime, sources, list_warnings=sources.list_warnings, add_routes=add_pages
    )


def _reload_other_settings(runtime: Runtime, reloads: Reloads) -> AbstractAsyncContextManager[None]:
    """Watch the secret files; warn of a change that no process can make while it runs."""
    reloads.add(partial(warn_of_other_redis, runtime.settings, runtime.log))
    return reloads.watch()


async def _wait_until_cancelled() -> None:
    """Wait, with what exists now exempt from garbage collection: scanning it costs a tenth."""
    gc.freeze()
    gc.set_threshold(*_GC_THRESHOLDS)
    await asyncio.Event().wait()
