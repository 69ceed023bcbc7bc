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

from service.accept.live import LiveSources
from service.app import open_door, open_worker
from service.house import House, open_house
from service.log import Log, make_printable
from service.operate.listening import listen
from service.operate.send import Sent, send_event
from service.operate.table import measure_columns, write_header, write_record
from service.operate.tail import follow_stream, write_json
from service.outlook import add_console
from service.reconciling import open_reconciler
from service.settings import Settings, find_data_dir
from service.simulate.options import Options
from service.simulate.server import Simulator
from service.store.connect import open_client
from service.store.embedded import socket_path
from service.store.keys import Keys
from service.tracing.switch import open_tracing

_COLLECT_RARELY = (10_000, 50, 50)  # objects, then rounds: few of ours form circles
_LAST_SPANS_S = 2.0


async def serve(settings: Settings, sources: LiveSources, log: Log) -> None:
    """Take webhooks."""
    async with (
        _open_house(settings, log) as house,
        _open_door(house, sources),
    ):
        await _for_ever()


async def work(settings: Settings, log: Log) -> None:
    """Work on the backlog."""
    async with _open_house(settings, log) as house, open_worker(house), open_reconciler(house):
        await _for_ever()


async def run(settings: Settings, sources: LiveSources, log: Log) -> None:
    """Take webhooks and work on them, in one process."""
    async with _open_house(settings, log) as house, AsyncExitStack() as stack:
        await stack.enter_async_context(open_worker(house))
        await stack.enter_async_context(open_reconciler(house))
        await stack.enter_async_context(_open_door(house, sources))
        await _for_ever()


async def simulate(options: Options, *, host: str, port: int, log: Log) -> None:
    """Play LaunchDarkly."""
    simulator = Simulator(options, clock=time.time, chance=random.Random(options.seed))
    async with listen(simulator.app(), host=host, port=port) as url:
        log.info("simulator_opened", url=url, token=options.token)
        await _for_ever()


async def tail(settings: Settings, *, since: str, as_json: bool) -> None:
    """Print every record as it is appended; raises redis's errors when there is no server."""
    stream, url = Keys(settings.namespace).enriched, find_redis(settings)
    async with open_client(url, namespace=settings.namespace, reply_timeout_s=10) as client:
        await client.ping()
        if not as_json:
            _print_line(write_header(columns=measure_columns(sys.stdout)))
        async for appended in follow_stream(client, stream, since=since, tell=_tell_person):
            columns = measure_columns(sys.stdout)
            _print_line(
                write_json(appended) if as_json else write_record(appended, columns=columns)
            )


async def send(event: Mapping[str, object], *, url: str, secret: str, delivery: str) -> Sent:
    """Sign and post one event; raises aiohttp.ClientError when nobody answers."""
    async with aiohttp.ClientSession() as session:
        return await send_event(
            session, url, event, secret=secret, delivery=delivery, timestamp_s=int(time.time())
        )


def find_redis(settings: Settings) -> str:
    """Give the address of the Redis named, or of our own server where none is."""
    own = f"unix://{socket_path(find_data_dir(settings))}"
    return settings.redis_url.reveal() or own


@asynccontextmanager
async def _open_house(settings: Settings, log: Log) -> AsyncIterator[House]:
    """Open the house, traced if the environment says so."""
    keys, longest_s = Keys(settings.namespace), min(_LAST_SPANS_S, settings.grace)
    async with (
        open_tracing(os.environ, keys=keys, longest_s=longest_s, log=log) as tracing,
        open_house(settings, log, tracing=tracing) as house,
    ):
        yield house


def _open_door(house: House, sources: LiveSources) -> AbstractAsyncContextManager[str]:
    """Open the door with the console, if there is to be one."""
    return open_door(
        house,
        sources,
        list_warnings=sources.list_warnings,
        add_pages=partial(add_console, house, sources),
    )


def _print_line(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def _tell_person(text: str) -> None:
    sys.stderr.write(f"{make_printable(text)}\n")


async def _for_ever() -> None:
    """Go on. What was made until now stays: looking it over again and again costs a tenth."""
    gc.freeze()
    gc.set_threshold(*_COLLECT_RARELY)
    await asyncio.Event().wait()
