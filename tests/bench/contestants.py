"""Who does the job of one record? Each starts idle, is filled while it is paused, and works."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from pathlib import Path

from msgspec import Raw, Struct

from service.accept.mapping import DeploymentCompleted
from service.app import Runtime, open_runtime
from service.log import build_log
from service.settings import Secret, Settings
from service.store import RedisUnavailable
from service.store.keys import Keys
from tests.bench.bench_env import BenchEnvironment
from tests.bench.paths import SERVICE_PYTHON
from tests.bench.peer_task import GET_COUNT_KEY, SECRET, STREAM
from tests.bench.processes import MeasuredProcess
from tests.bench.response_bodies import ENDED_AT, application_for, deployment_id_for, version_for

FillQueue = Callable[[BenchEnvironment, MeasuredProcess, range], Awaitable[None]]


class Contestant(Struct, frozen=True, kw_only=True):
    """One way to do the job: how it starts, how it is filled, and by which key it is done."""

    name: str
    command: tuple[str, ...]
    ready_text: str
    fill: FillQueue
    output_key: str = STREAM
    python: Path = SERVICE_PYTHON
    environ: Mapping[str, str] = {}


def build_ours(*, without_ids: bool = False) -> Contestant:
    """Give the real worker; ``listed``: its tickets name no deployment, but say what to seek."""

    async def fill(env: BenchEnvironment, _: MeasuredProcess, numbers: range) -> None:
        project = f"project-{numbers.start}-{len(numbers)}" if without_ids else "default"
        await add_tickets(env, numbers, project=project, with_id=not without_ids)

    return Contestant(
        name="ours, listed" if without_ids else "ours",
        command=("-m", "service", "work"),
        ready_text="worker_started",
        fill=fill,
        output_key=Keys("deployments").enriched,
    )


def build_baseline(mode: str) -> Contestant:
    """Give the loop without a queue: it is told the numbers on its stdin."""

    async def fill(_: BenchEnvironment, process: MeasuredProcess, numbers: range) -> None:
        process.write_line(f"{numbers.start} {len(numbers)}")

    return Contestant(
        name={"record": "bare loop", "get": "GET alone"}[mode],
        command=("-m", "tests.bench.baseline", mode),
        ready_text="ready",
        fill=fill,
        output_key=STREAM if mode == "record" else GET_COUNT_KEY,
    )


async def add_tickets(
    env: BenchEnvironment, numbers: range, *, project: str, with_id: bool
) -> None:
    """Remember so many deployments as the receiver does."""
    settings = Settings(redis_url=Secret(env.redis_url))
    async with open_runtime(settings, build_log(level="error")) as runtime:
        for start in range(numbers.start, numbers.stop, 1000):
            chunk = range(start, min(start + 1000, numbers.stop))
            events = [make_event(number, project, with_id=with_id) for number in chunk]
            await asyncio.gather(*(enqueue_event(runtime, event) for event in events))


async def enqueue_event(runtime: Runtime, event: DeploymentCompleted) -> None:
    """Add one, again and again while a busy server does not say that it is kept."""
    while True:
        with suppress(RedisUnavailable):
            await runtime.backlog.add(event)
            return


def make_event(number: int, project: str, *, with_id: bool) -> DeploymentCompleted:
    """Make what the receiver would read of a webhook."""
    return DeploymentCompleted(
        source="native",
        delivery=f"delivery-{number}",
        project=project,
        environment="production",
        application=application_for(number),
        version=version_for(number),
        deployment_id=deployment_id_for(number) if with_id else None,
        outcome="succeeded",
        event_time=ENDED_AT,
        metadata=Raw(b'{"event":{"pipeline":"main","build":%d},"deployment":null}' % number),
        metadata_dropped=False,
        traceparent=None,
    )


def service_environ(env: BenchEnvironment) -> dict[str, str]:
    """Give the environment of our own commands; all that is not said here is the default."""
    return {
        "ENRICHER_REDIS_URL": env.redis_url,
        "ENRICHER_LAUNCHDARKLY_URL": env.upstream_url,
        "ENRICHER_WEBHOOK_SECRET": SECRET,
        "ENRICHER_CONCURRENCY": str(env.concurrency),
        "ENRICHER_PORT": "0",
        "ENRICHER_LOG_FORMAT": "json",
        "LAUNCHDARKLY_ACCESS_TOKEN": "api-token",
    }
