"""What does each command do? From settings to a running thing, until it is cancelled."""

import asyncio
import gc
import os
import random
import sys
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from functools import partial

import aiohttp

from service.accept.source_files import ReloadableSources
from service.app import (
    Runtime,
    add_console,
    open_receiver,
    open_reconciler,
    open_runtime,
    open_worker,
)
from service.cli.tail import (
    follow_stream,
    measure_terminal_width,
    render_entry_json,
    render_record_header,
    render_record_row,
)
from service.log import Log, escape_unprintable
from service.metrics.http import serve_app
from service.settings import Settings, data_directory
from service.simulate.options import Options
from service.simulate.send import SendResult, send_event
from service.simulate.server import Simulator
from service.store.connect import open_client
from service.store.embedded import socket_path
from service.store.keys import Keys
from service.tracing.setup import open_tracing

_GC_THRESHOLDS = (10_000, 50, 50)  # objects, then rounds: few of ours form circles
_SPAN_FLUSH_TIMEOUT_S = 2.0


async def serve(settings: Settings, sources: ReloadableSources, log: Log) -> None:
    """Take webhooks."""
    async with (
        _open_traced_runtime(settings, log) as runtime,
        _open_receiver_with_console(runtime, sources),
    ):
        await _wait_until_cancelled()


async def work(settings: Settings, log: Log) -> None:
    """Work on the backlog."""
    async with (
        _open_traced_runtime(settings, log) as runtime,
        open_worker(runtime),
        open_reconciler(runtime),
    ):
        await _wait_until_cancelled()


async def run(settings: Settings, sources: ReloadableSources, log: Log) -> None:
    """Take webhooks and work on them, in one process."""
    async with _open_traced_runtime(settings, log) as runtime, AsyncExitStack() as stack:
        await stack.enter_async_context(open_worker(runtime))
        await stack.enter_async_context(open_reconciler(runtime))
        await stack.enter_async_context(_open_receiver_with_console(runtime, sources))
        await _wait_until_cancelled()


async def simulate(options: Options, *, host: str, port: int, log: Log) -> None:
    """Play LaunchDarkly."""
    simulator = Simulator(options, clock=time.time, rng=random.Random(options.seed))
    async with serve_app(simulator.app(), host=host, port=port) as url:
        log.info("simulator_started", url=url, token=options.token)
        await _wait_until_cancelled()


async def tail(settings: Settings, *, since: str, as_json: bool) -> None:
    """Print every record as it is appended; raises redis's errors when there is no server."""
    stream, url = Keys(settings.namespace).enriched, resolve_redis_url(settings)
    async with open_client(url, namespace=settings.namespace, reply_timeout_s=10) as client:
        await client.ping()
        if not as_json:
            _print_line(render_record_header(columns=measure_terminal_width(sys.stdout)))
        async for entry in follow_stream(client, stream, since=since, on_unavailable=_print_notice):
            columns = measure_terminal_width(sys.stdout)
            _print_line(
                render_entry_json(entry) if as_json else render_record_row(entry, columns=columns)
            )


async def send(event: Mapping[str, object], *, url: str, secret: str, delivery: str) -> SendResult:
    """Sign and post one event; raises aiohttp.ClientError when nobody answers."""
    async with aiohttp.ClientSession() as session:
        return await send_event(
            session, url, event, secret=secret, delivery=delivery, timestamp_s=int(time.time())
        )


def resolve_redis_url(settings: Settings) -> str:
    """Give the address of the Redis named, or of our own server where none is."""
    embedded_url = f"unix://{socket_path(data_directory(settings))}"
    return settings.redis_url.reveal() or embedded_url


@asynccontextmanager
async def _open_traced_runtime(settings: Settings, log: Log) -> AsyncIterator[Runtime]:
    """Open the house, traced if the environment says so."""
    keys, flush_timeout_s = (
        Keys(settings.namespace),
        min(_SPAN_FLUSH_TIMEOUT_S, settings.shutdown_timeout),
    )
    async with (
        open_tracing(os.environ, keys=keys, flush_timeout_s=flush_timeout_s, log=log) as tracing,
        open_runtime(settings, log, tracing=tracing) as runtime,
    ):
        yield runtime


def _open_receiver_with_console(
    runtime: Runtime, sources: ReloadableSources
) -> AbstractAsyncContextManager[str]:
    """Open the receiver with the console, if there is to be one."""
    return open_receiver(
        runtime,
        sources,
        list_warnings=sources.list_warnings,
        add_routes=partial(add_console, runtime, sources),
    )


def _print_line(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def _print_notice(text: str) -> None:
    sys.stderr.write(f"{escape_unprintable(text)}\n")


async def _wait_until_cancelled() -> None:
    """Go on. What was made until now stays: looking it over again and again costs a tenth."""
    gc.freeze()
    gc.set_threshold(*_GC_THRESHOLDS)
    await asyncio.Event().wait()
