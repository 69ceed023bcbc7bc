"""Who does the job of one record? Each starts idle, is filled while it is paused, and works."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from pathlib import Path

from msgspec import Raw, Struct

from service.accept.events import DeploymentCompleted
from service.house import House, open_house
from service.log import open_log
from service.settings import Secret, Settings
from service.store import Unavailable
from service.store.keys import Keys
from tests.bench.bodies import ENDED_AT, name_application, name_deployment, name_version
from tests.bench.job import GOT, SECRET, STREAM
from tests.bench.places import OURS
from tests.bench.processes import Process
from tests.bench.stand import Stand

Fill = Callable[[Stand, Process, range], Awaitable[None]]


class Contestant(Struct, frozen=True, kw_only=True):
    """One way to do the job: how it starts, how it is filled, and by which key it is done."""

    name: str
    words: tuple[str, ...]
    ready: str
    fill: Fill
    done: str = STREAM
    python: Path = OURS
    environ: Mapping[str, str] = {}


def make_ours(*, listed: bool = False) -> Contestant:
    """Give the real worker; ``listed``: its tickets name no deployment, but say what to seek."""

    async def fill(stand: Stand, _: Process, numbers: range) -> None:
        project = f"project-{numbers.start}-{len(numbers)}" if listed else "default"
        await add_tickets(stand, numbers, project=project, with_id=not listed)

    return Contestant(
        name="ours, listed" if listed else "ours",
        words=("-m", "service", "work"),
        ready="worker_started",
        fill=fill,
        done=Keys("deployments").enriched,
    )


def make_bare(act: str) -> Contestant:
    """Give the loop without a queue: it is told the numbers on its stdin."""

    async def fill(_: Stand, process: Process, numbers: range) -> None:
        process.say(f"{numbers.start} {len(numbers)}")

    return Contestant(
        name={"record": "bare loop", "get": "GET alone"}[act],
        words=("-m", "tests.bench.straight", act),
        ready="ready",
        fill=fill,
        done=STREAM if act == "record" else GOT,
    )


async def add_tickets(stand: Stand, numbers: range, *, project: str, with_id: bool) -> None:
    """Remember so many deployments as the door does."""
    settings = Settings(redis_url=Secret(stand.redis_url))
    async with open_house(settings, open_log(level="error")) as house:
        for start in range(numbers.start, numbers.stop, 1000):
            chunk = range(start, min(start + 1000, numbers.stop))
            events = [make_event(number, project, with_id=with_id) for number in chunk]
            await asyncio.gather(*(keep_event(house, event) for event in events))


async def keep_event(house: House, event: DeploymentCompleted) -> None:
    """Add one, again and again while a busy server does not say that it is kept."""
    while True:
        with suppress(Unavailable):
            await house.backlog.add(event)
            return


def make_event(number: int, project: str, *, with_id: bool) -> DeploymentCompleted:
    """Make what the door would read of a webhook."""
    return DeploymentCompleted(
        source="native",
        delivery=f"delivery-{number}",
        project=project,
        environment="production",
        application=name_application(number),
        version=name_version(number),
        deployment_id=name_deployment(number) if with_id else None,
        outcome="succeeded",
        event_time=ENDED_AT,
        metadata=Raw(b'{"event":{"pipeline":"main","build":%d},"deployment":null}' % number),
        metadata_dropped=False,
        traceparent=None,
    )


def configure_ours(stand: Stand) -> dict[str, str]:
    """Give the environment of our own commands; all that is not said here is the default."""
    return {
        "ENRICHER_REDIS_URL": stand.redis_url,
        "ENRICHER_LAUNCHDARKLY_URL": stand.upstream_url,
        "ENRICHER_WEBHOOK_SECRET": SECRET,
        "ENRICHER_CONCURRENCY": str(stand.concurrency),
        "ENRICHER_PORT": "0",
        "ENRICHER_LOG_FORMAT": "json",
        "LAUNCHDARKLY_ACCESS_TOKEN": "api-token",
    }
