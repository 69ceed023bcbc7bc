"""The CPU cost of one accepted webhook, compared with a minimal handler and FastAPI."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from pathlib import Path

from msgspec import Struct

from service.store.keys import Keys
from tests.bench.bench_env import BenchEnvironment
from tests.bench.contestants import CONTENT_FLOOR, service_environ
from tests.bench.floor import KEPT
from tests.bench.paths import SERVICE_PYTHON
from tests.bench.records import WrongOutput

WARM_UP = 500
CONNECTIONS = 32
_ACKNOWLEDGE_WAIT_S = 0.2

CountAccepted = Callable[[BenchEnvironment], Awaitable[int]]


class ReceiverContestant(Struct, frozen=True, kw_only=True):
    """One receiver implementation. ``count_accepted`` counts the stored webhooks."""

    name: str
    command: tuple[str, ...]
    url_prefix: str = "ready "
    path: str = "/webhooks/native"
    count_accepted: CountAccepted | None = None
    python: Path = SERVICE_PYTHON
    environ: Mapping[str, str] = {}


async def _count_tickets(env: BenchEnvironment) -> int:
    return int(await env.redis.hlen(Keys("deployments").tickets))


async def _count_kept(env: BenchEnvironment) -> int:
    return int(await env.redis.hlen(KEPT))


def own_receivers() -> tuple[ReceiverContestant, ...]:
    """Return the real receiver, the handler that only reads the body, and the two floors."""
    return (
        ReceiverContestant(
            name="service",
            command=("-m", "service", "serve"),
            url_prefix='"url":',
            count_accepted=_count_tickets,
        ),
        ReceiverContestant(name="only reads", command=("-m", "tests.bench.baseline", "receiver")),
        ReceiverContestant(
            name="floor",
            command=("-m", "tests.bench.floor", "receiver"),
            count_accepted=_count_kept,
        ),
        ReceiverContestant(
            name=CONTENT_FLOOR,
            command=("-m", "tests.bench.content_floor", "receiver"),
            count_accepted=_count_tickets,
        ),
    )


async def measure_receiver(
    env: BenchEnvironment, receiver: ReceiverContestant, *, items: int
) -> float:
    """Return the CPU ms of one accepted webhook, after a start and a warm-up."""
    await env.clear()
    process = env.start(
        receiver.python,
        receiver.command,
        name=receiver.name.replace(" ", "-"),
        environ={**service_environ(env), **receiver.environ},
    )
    try:
        line = await process.wait_for_log(receiver.url_prefix)
        url = (
            line.partition(receiver.url_prefix)[2].strip().strip('"').split('"')[0].split()[0]
            + receiver.path
        )
        await post_webhooks(env, url, range(WARM_UP))
        cpu_before_s = process.read_cpu_s()
        async with env.server_costs.measure(receiver.name, items=items):
            await post_webhooks(env, url, range(WARM_UP, WARM_UP + items))
            await asyncio.sleep(_ACKNOWLEDGE_WAIT_S)
        cpu_s = process.read_cpu_s() - cpu_before_s
    finally:
        env.stop(process)
    if (
        receiver.count_accepted is not None
        and await receiver.count_accepted(env) != WARM_UP + items
    ):
        raise WrongOutput(
            f"{receiver.name} stored {await receiver.count_accepted(env)} of {WARM_UP + items}"
        )
    return cpu_s / items * 1000


async def measure_receivers(
    env: BenchEnvironment,
    receivers: Sequence[ReceiverContestant],
    rounds: Iterable[int],
    *,
    items: int,
) -> tuple[dict[str, list[float]], dict[str, str]]:
    """Measure every receiver alternately; return the samples and the errors by name."""
    samples: dict[str, list[float]] = {receiver.name: [] for receiver in receivers}
    errors: dict[str, str] = {}
    for _ in rounds:
        for receiver in receivers:
            if receiver.name not in errors:
                try:
                    samples[receiver.name].append(
                        await measure_receiver(env, receiver, items=items)
                    )
                except Exception as error:  # noqa: BLE001 - the table reports the error
                    errors[receiver.name] = f"{type(error).__name__}: {error}"
    return samples, errors


async def post_webhooks(env: BenchEnvironment, url: str, numbers: range) -> None:
    """Post the webhooks from a process of its own, and require 202 for each."""
    command = (
        "-m",
        "tests.bench.webhook_load",
        url,
        *map(str, (numbers.start, len(numbers), CONNECTIONS)),
    )
    process = env.start(SERVICE_PYTHON, command, name="webhook-load")
    try:
        await process.wait_for_log("all accepted")
    finally:
        env.stop(process)
