"""The command `python3 run.py soak`: hours of traffic and kills in Docker Compose.

It needs Docker with Compose, as root of the same machine, because it reads /proc of the containers.
It writes `deploy/soak/soak.svg` and `soak.csv` and prints a table. The exit code is 1 when a
resource grows, or when a webhook was lost or duplicated.
"""

import argparse
import asyncio
import csv
import random
import sys
import tempfile
import time
from collections import Counter
from contextlib import suppress
from itertools import count
from pathlib import Path

import aiohttp
from redis.asyncio import Redis
from redis.exceptions import RedisError

from service.store.connect import UNAVAILABLE_ERRORS, open_client
from service.store.keys import Keys
from tests.deploy.compose_stack import ROOT, SECRET, Composition
from tests.faults.oracle import OracleReport, check_deliveries
from tests.faults.record_reader import RecordReader, keys_allowed_without_ttl, read_leftover_state
from tests.faults.senders import WebhookSenders
from tests.faults.storm import log_progress
from tests.faults.traffic import TrafficConfig, draw_webhooks
from tests.soak.compose_stack import kill_random_container, open_soak_stack
from tests.soak.graph import draw_graph
from tests.soak.report import format_table, list_panels, list_trends
from tests.soak.sampler import ResourceSampler
from tests.soak.trends import ResourceSample

OUTPUT_FOLDER = ROOT / "deploy" / "soak"
KEYS = Keys("deployments")
_DRAIN_TIMEOUT_S = 400.0


class NoUpstreamState:
    """An upstream without state: the simulator of the composition creates deployments itself."""

    epoch = 0

    def add_deployment(self, new: object) -> None:
        """Do nothing: the simulator creates every requested deployment."""


def main() -> int:
    """Run for the configured time; return the exit code."""
    parser = argparse.ArgumentParser(prog="run.py soak", description=__doc__)
    add = parser.add_argument
    add("--minutes", type=float, default=60.0, help="duration of the soak")
    add("--seed", type=int, default=1, help="seed of webhooks and kills")
    add("--per-s", type=float, default=4.0, help="webhooks per second, each sent 2 or 3 times")
    add("--every", type=float, default=45.0, help="mean seconds between two kills")
    add("--sample-every", type=float, default=10.0, help="seconds between two samples")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="soak-") as folder:
        return asyncio.run(_soak(options, Path(folder)))


async def _soak(options: argparse.Namespace, folder: Path) -> int:
    async with open_soak_stack(folder) as composition, aiohttp.ClientSession() as http:
        async with open_client(f"redis://127.0.0.1:{composition.redis_port}") as redis:
            senders = WebhookSenders(
                http,
                [composition.url],
                secret=SECRET,
                upstream=NoUpstreamState(),
                seed=options.seed,
            )
            reader = RecordReader(redis, KEYS, lambda *_: None)
            sampler = ResourceSampler(composition, redis, KEYS, clock=time.monotonic)
            strikes: list[tuple[float, str]] = []
            async with asyncio.TaskGroup() as group:
                group.create_task(reader.run())
                webhooks = draw_webhooks(
                    options.seed, TrafficConfig(without_id_share=0.0, repeated_share=0.0)
                )
                sender_task = group.create_task(
                    senders.send_all(webhooks, per_s=options.per_s, concurrency=16)
                )
                sampler_task = group.create_task(sampler.run(interval_s=options.sample_every))
                strike_task = group.create_task(_kill_repeatedly(composition, options, strikes))
                await _log_progress_until_end(options.minutes, senders, reader)
                strike_task.cancel()
                sampler_task.cancel()
                senders.stop()
                await sender_task  # after this no webhook can arrive
                await _drain(redis)
                reader.stop()
            leftover = await read_leftover_state(redis, KEYS)
        oracle_report = check_deliveries(
            senders.deliveries,
            reader.records.values(),
            leftover,
            allowed_without_ttl=keys_allowed_without_ttl(KEYS),
        )
    return _write_results(options, sampler.samples, strikes, oracle_report)


async def _kill_repeatedly(
    composition: Composition, options: argparse.Namespace, strikes: list[tuple[float, str]]
) -> None:
    rng, started_s = random.Random(f"soak {options.seed}"), time.monotonic()
    while True:
        await asyncio.sleep(options.every * rng.uniform(0.6, 1.4))
        service = rng.choice(["receiver", "worker", "worker", "redis"])
        if await kill_random_container(composition, service, rng.random()):
            strikes.append((time.monotonic() - started_s, service))


async def _log_progress_until_end(
    minutes: float, senders: WebhookSenders, reader: RecordReader
) -> None:
    started_s = time.monotonic()
    for minute in count():
        left_s = minutes * 60 - (time.monotonic() - started_s)
        log_progress(f"{minute} min: {senders.accepted} accepted, {len(reader.records)} records")
        if left_s <= 60:
            await asyncio.sleep(max(0.0, left_s))
            return
        await asyncio.sleep(60)


async def _drain(redis: Redis) -> None:
    is_pending = True
    async with asyncio.timeout(_DRAIN_TIMEOUT_S):
        while is_pending:
            await asyncio.sleep(0.5)
            with suppress(*UNAVAILABLE_ERRORS, RedisError):
                is_pending = await redis.zcard(KEYS.backlog) > 0
    await asyncio.sleep(2)  # the reader needs time for the last records


def _write_results(
    options: argparse.Namespace,
    samples: list[ResourceSample],
    strikes: list[tuple[float, str]],
    oracle_report: OracleReport,
) -> int:
    names = sorted({name for sample in samples for name in sample.values})
    trends = list_trends(samples, names)
    killed = Counter(service for _, service in strikes)
    title = f"{options.minutes:.0f} minutes of webhooks, {killed.total()} SIGKILLs"
    OUTPUT_FOLDER.mkdir(exist_ok=True)
    strikes_s = [at_s for at_s, _ in strikes]
    graph = draw_graph(samples, list_panels(names), title=title, strikes_s=strikes_s)
    (OUTPUT_FOLDER / "soak.svg").write_text(graph)
    with (OUTPUT_FOLDER / "soak.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["at_s", *names])
        writer.writerows([f"{s.at_s:.0f}", *(s.values.get(n, "") for n in names)] for s in samples)
    sys.stdout.write(format_table(trends, oracle_report, killed, title=title))
    return 0 if oracle_report.is_clean and not any(trend.grows for trend in trends) else 1


if __name__ == "__main__":
    sys.exit(main())
