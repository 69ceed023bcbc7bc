"""The CPU cost of one enriched record, compared with a bare loop and other queues."""

import asyncio
from collections.abc import Iterable, Sequence
from typing import Any, cast

import msgspec
from msgspec import Struct

from tests.bench.bench_env import BenchEnvironment
from tests.bench.contestants import Contestant, service_environ
from tests.bench.peer_task import GET_COUNT_KEY
from tests.bench.response_bodies import deployment_id_for, encode_deployment

WARM_UP = 300
_ACKNOWLEDGE_WAIT_S = 0.4  # the measurement includes late acknowledgements
_BATCH = 500


class EntryData(Struct):
    """The data that every contestant appends."""

    deployment: msgspec.Raw


class DeploymentId(Struct):
    """The id of a deployment."""

    id: str


class WrongOutput(Exception):
    """A contestant did not do the measured work."""


async def measure_record(env: BenchEnvironment, contestant: Contestant, *, items: int) -> float:
    """Return the CPU ms of one record.

    The contestant starts, is warmed up, is filled while paused, and its output is checked.
    """
    await env.clear()
    process = env.start(
        contestant.python,
        contestant.command,
        name=contestant.name.replace(" ", "-"),
        environ={**service_environ(env), **contestant.environ},
    )
    try:
        await process.wait_for_log(contestant.ready_text)
        await contestant.fill(env, process, range(WARM_UP))
        await env.wait_for_count(contestant.output_key, WARM_UP, watch=process)
        await asyncio.sleep(_ACKNOWLEDGE_WAIT_S)
        process.pause()
        await contestant.fill(env, process, range(WARM_UP, WARM_UP + items))
        cpu_before_s = process.read_cpu_s()
        async with env.server_costs.measure(contestant.name, items=items):
            process.resume()
            await env.wait_for_count(contestant.output_key, WARM_UP + items, watch=process)
            await asyncio.sleep(_ACKNOWLEDGE_WAIT_S)
        cpu_s = process.read_cpu_s() - cpu_before_s
    finally:
        env.stop(process)
    await check_output(env, contestant, WARM_UP + items)
    return cpu_s / items * 1000


async def check_output(env: BenchEnvironment, contestant: Contestant, count: int) -> None:
    """Raise WrongOutput unless each deployment is in the stream exactly once and unchanged."""
    if contestant.output_key == GET_COUNT_KEY:
        return
    expected = {deployment_id_for(number): number for number in range(count)}
    min_id, redis = b"-", cast("Any", env.redis)
    while entries := await redis.xrange(contestant.output_key, min=min_id, count=_BATCH):
        for _, fields in entries:
            deployment = bytes(msgspec.json.decode(fields[b"data"], type=EntryData).deployment)
            deployment_id = msgspec.json.decode(deployment, type=DeploymentId).id
            if deployment_id not in expected or not is_same_json(
                deployment, encode_deployment(expected.pop(deployment_id))
            ):
                raise WrongOutput(f"{contestant.name} appended {deployment_id} twice or changed")
        min_id = b"(" + entries[-1][0]
    if expected:
        raise WrongOutput(f"{contestant.name} appended {len(expected)} records too few")


def is_same_json(left: bytes, right: bytes) -> bool:
    """Return whether two JSON texts have equal values."""
    return left == right or msgspec.json.decode(left) == msgspec.json.decode(right)


async def measure_rounds(
    env: BenchEnvironment, contestants: Sequence[Contestant], rounds: Iterable[int], *, items: int
) -> tuple[dict[str, list[float]], dict[str, str]]:
    """Measure all contestants alternately; return the samples and the errors by name."""
    samples: dict[str, list[float]] = {contestant.name: [] for contestant in contestants}
    errors: dict[str, str] = {}
    for _ in rounds:
        for contestant in contestants:
            if contestant.name not in errors:
                try:
                    cpu_ms = await measure_record(env, contestant, items=items)
                    samples[contestant.name].append(cpu_ms)
                except Exception as error:  # noqa: BLE001 - the table reports the error
                    errors[contestant.name] = f"{type(error).__name__}: {error}"
    return samples, errors
