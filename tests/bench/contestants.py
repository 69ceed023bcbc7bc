"""The contestants of one record. Each starts idle, is filled while paused, and then works."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path

from msgspec import Raw, Struct
from msgspec.structs import replace

from service.accept.mapping import DeploymentEvent
from service.app import Runtime, open_runtime
from service.log import build_log
from service.settings import Secret, Settings
from service.store import RedisUnavailable
from service.store.keys import Keys
from tests.bench.bench_env import BenchEnvironment
from tests.bench.paths import SERVICE_PYTHON
from tests.bench.peer_task import GET_COUNT_KEY, SECRET, STREAM
from tests.bench.processes import MeasuredProcess
from tests.bench.response_bodies import (
    application_for,
    deployment_id_for,
    ended_at_for,
    version_for,
)
from tests.factories import make_event

CONTENT_FLOOR = "content floor"

FillQueue = Callable[[BenchEnvironment, MeasuredProcess, range], Awaitable[None]]


class Contestant(Struct, frozen=True, kw_only=True):
    """One implementation: its command, how its queue is filled, and where its output appears."""

    name: str
    command: tuple[str, ...]
    ready_text: str
    fill: FillQueue
    output_key: str = STREAM
    python: Path = SERVICE_PYTHON
    environ: Mapping[str, str] = {}


def build_service(*, without_ids: bool = False) -> Contestant:
    """Return the real worker. With ``without_ids`` it must match deployments in lists."""
    return Contestant(
        name="service, no ids" if without_ids else "service",
        command=("-m", "service", "work"),
        ready_text="worker_started",
        fill=partial(_fill_backlog, without_ids=without_ids),
        output_key=Keys("deployments").enriched,
    )


def build_content_floor(*, without_ids: bool = False) -> Contestant:
    """Return what cannot be left out of the worker: see :mod:`tests.bench.content_floor`."""
    return replace(
        build_service(without_ids=without_ids),
        name=CONTENT_FLOOR,
        command=("-m", "tests.bench.content_floor", "worker"),
        ready_text="ready",
    )


async def _fill_backlog(
    env: BenchEnvironment, _: MeasuredProcess, numbers: range, *, without_ids: bool
) -> None:
    project = f"project-{numbers.start}-{len(numbers)}" if without_ids else "default"
    await add_tickets(env, numbers, project=project, with_id=not without_ids)


def build_baseline(mode: str) -> Contestant:
    """Return the baseline without a queue; it reads the numbers from stdin."""

    async def fill(_: BenchEnvironment, process: MeasuredProcess, numbers: range) -> None:
        process.write_line(f"{numbers.start} {len(numbers)}")

    return Contestant(
        name={"record": "bare loop", "get": "GET alone"}[mode],
        command=("-m", "tests.bench.baseline", mode),
        ready_text="ready",
        fill=fill,
        output_key=STREAM if mode == "record" else GET_COUNT_KEY,
    )


def build_floor() -> Contestant:
    """Return the least record that loses nothing: see :mod:`tests.bench.floor`."""
    return replace(
        build_baseline("record"), name="floor", command=("-m", "tests.bench.floor", "record")
    )


async def add_tickets(
    env: BenchEnvironment, numbers: range, *, project: str, with_id: bool
) -> None:
    """Add a ticket for each number, as the receiver does."""
    settings = Settings(redis_url=Secret(env.redis_url))
    async with open_runtime(settings, build_log(level="error")) as runtime:
        for start in range(numbers.start, numbers.stop, 1000):
            chunk = range(start, min(start + 1000, numbers.stop))
            events = [bench_event(number, project, with_id=with_id) for number in chunk]
            await asyncio.gather(*(enqueue_event(runtime, event) for event in events))


async def enqueue_event(runtime: Runtime, event: DeploymentEvent) -> None:
    """Add one event, and repeat while Redis is too busy to confirm it."""
    while True:
        with suppress(RedisUnavailable):
            await runtime.backlog.add(event)
            return


def bench_event(number: int, project: str, *, with_id: bool) -> DeploymentEvent:
    """Return the event of the webhook with this number."""
    return make_event(
        number,
        project=project,
        application=application_for(number),
        version=version_for(number),
        deployment_id=deployment_id_for(number) if with_id else None,
        event_time=ended_at_for(number),
        metadata=Raw(b'{"event":{"pipeline":"main","build":%d},"deployment":null}' % number),
    )


def service_environ(env: BenchEnvironment) -> dict[str, str]:
    """Return the environment of the service's commands; all other settings keep their defaults."""
    return {
        "ENRICHER_REDIS_URL": env.redis_url,
        "ENRICHER_LAUNCHDARKLY_URL": env.upstream_url,
        "ENRICHER_WEBHOOK_SECRET": SECRET,
        "ENRICHER_CONCURRENCY": str(env.concurrency),
        "ENRICHER_PORT": "0",
        "ENRICHER_LOG_FORMAT": "json",
        "LAUNCHDARKLY_ACCESS_TOKEN": "api-token",
    }
