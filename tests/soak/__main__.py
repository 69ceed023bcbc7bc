"""Does it stay the same for hours? `python3 run.py soak`: traffic and kills in the composition.

Needs Docker with Compose, as root of the same machine: it reads /proc of the containers. Writes
`deploy/soak/soak.svg` and `soak.csv`, prints a table, and is 1 when anything grows, was lost or
came twice.
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

from service.store.connect import AWAY, open_client
from service.store.keys import Keys
from tests.deploy.composition import ROOT, SECRET, Composition, list_urls
from tests.faults.oracle import Judgement, judge
from tests.faults.reader import Reader, name_lasting, read_left
from tests.faults.senders import Senders
from tests.faults.storm import say
from tests.faults.traffic import Habits, draw_webhooks
from tests.soak.composition import kill_one, open_soaked
from tests.soak.graph import draw_graph
from tests.soak.look import Onlooker
from tests.soak.report import list_courses, list_panels, write_table
from tests.soak.samples import Sample

OUT = ROOT / "deploy" / "soak"
KEYS = Keys("deployments")
_DRAIN_S = 400.0


class NoWorld:
    """The simulator is in the composition: it invents what it is asked for."""

    epoch = 0

    def add_deployment(self, new: object) -> None:
        """Leave it to the simulator."""


def main() -> int:
    """Run for as long as was asked for."""
    parser = argparse.ArgumentParser(prog="run.py soak", description=__doc__)
    add = parser.add_argument
    add("--minutes", type=float, default=60.0)
    add("--seed", type=int, default=1, help="what traffic and kills are drawn from")
    add("--per-s", type=float, default=4.0, help="webhooks a second, each sent twice or thrice")
    add("--every", type=float, default=45.0, help="seconds between two kills")
    add("--look", type=float, default=10.0, help="seconds between two looks")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="soak-") as folder:
        return asyncio.run(_soak(asked, Path(folder)))


async def _soak(asked: argparse.Namespace, folder: Path) -> int:
    async with open_soaked(folder) as composition, aiohttp.ClientSession() as http:
        async with open_client(f"redis://127.0.0.1:{composition.redis_port}") as redis:
            senders = Senders(
                http,
                list_urls(composition.ports),
                secret=SECRET,
                upstream=NoWorld(),
                seed=asked.seed,
            )
            reader = Reader(redis, KEYS, lambda *_: None)
            onlooker = Onlooker(composition, redis, KEYS, clock=time.monotonic)
            strikes: list[tuple[float, str]] = []
            async with asyncio.TaskGroup() as group:
                group.create_task(reader.read_on())
                webhooks = draw_webhooks(asked.seed, Habits(to_find=0.0, again=0.0))
                sending = group.create_task(senders.send_all(webhooks, per_s=asked.per_s, lanes=16))
                looking = group.create_task(onlooker.look_on(every_s=asked.look))
                striking = group.create_task(_strike_on(composition, asked, strikes))
                await _tell(asked.minutes, senders, reader)
                striking.cancel()
                looking.cancel()
                senders.stop()
                await sending  # what was begun is ended: only then nothing more can come
                await _drain(redis)
                reader.stop()
            left = await read_left(redis, KEYS)
        told = judge(senders.deliveries, reader.records.values(), left, may_last=name_lasting(KEYS))
    return _report(asked, onlooker.samples, strikes, told)


async def _strike_on(
    composition: Composition, asked: argparse.Namespace, strikes: list[tuple[float, str]]
) -> None:
    dice, begun = random.Random(f"soak {asked.seed}"), time.monotonic()
    while True:
        await asyncio.sleep(asked.every * dice.uniform(0.6, 1.4))
        service = dice.choice(["door", "worker", "worker", "redis"])
        if await kill_one(composition, service, dice.random()):
            strikes.append((time.monotonic() - begun, service))


async def _tell(minutes: float, senders: Senders, reader: Reader) -> None:
    begun = time.monotonic()
    for minute in count():
        left_s = minutes * 60 - (time.monotonic() - begun)
        say(f"{minute} min: {senders.accepted} accepted, {len(reader.records)} records")
        if left_s <= 60:
            await asyncio.sleep(max(0.0, left_s))
            return
        await asyncio.sleep(60)


async def _drain(redis: Redis) -> None:
    waits = True
    async with asyncio.timeout(_DRAIN_S):
        while waits:
            await asyncio.sleep(0.5)
            with suppress(*AWAY, RedisError):
                waits = await redis.zcard(KEYS.backlog) > 0
    await asyncio.sleep(2)  # and what was appended last is read


def _report(
    asked: argparse.Namespace,
    samples: list[Sample],
    strikes: list[tuple[float, str]],
    told: Judgement,
) -> int:
    names = sorted({name for each in samples for name in each.values})
    courses = list_courses(samples, names)
    killed = Counter(service for _, service in strikes)
    title = f"{asked.minutes:.0f} minutes of webhooks, {killed.total()} SIGKILLs"
    OUT.mkdir(exist_ok=True)
    moments = [at for at, _ in strikes]
    graph = draw_graph(samples, list_panels(names), title=title, strikes_s=moments)
    (OUT / "soak.svg").write_text(graph)
    with (OUT / "soak.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["at_s", *names])
        writer.writerows([f"{s.at_s:.0f}", *(s.values.get(n, "") for n in names)] for s in samples)
    sys.stdout.write(write_table(courses, told, killed, title=title))
    return 0 if told.is_clean and not any(course.grows for course in courses) else 1


if __name__ == "__main__":
    sys.exit(main())
