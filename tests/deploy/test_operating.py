"""Tests of docs/operating.md: each recipe runs on a real engine while webhooks arrive.

    python3 run.py test -m compose -s tests/deploy/test_operating.py

It needs a Docker engine with Compose v2, and is skipped without one. It prints a row per recipe.
"""

import asyncio
import json
import os
import random
import re
import tarfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import aiohttp
import pytest

from service.simulate.server import Simulator
from service.store.connect import open_client
from service.store.embedded import EmbeddedServer
from service.store.keys import Keys
from tests.deploy.compose_stack import (
    ROOT,
    SECRET,
    Composition,
    CompositionConfig,
    build_images,
    build_redis_image,
    engine_problem,
    open_composition,
)
from tests.doc_blocks import read_blocks, split_commands
from tests.faults.oracle import SentDelivery, check_deliveries
from tests.faults.record_reader import keys_allowed_without_ttl, read_leftover_state, read_records
from tests.faults.senders import WebhookSenders
from tests.faults.system import CALM_OPTIONS
from tests.faults.traffic import TrafficConfig, draw_webhooks
from tests.faults.upstream import FaultyLaunchDarkly

pytestmark = [pytest.mark.compose, pytest.mark.timeout(1500)]
KEYS = Keys("deployments")
PAGE = ROOT / "docs" / "operating.md"
PER_S = 20.0
DISK_SIZE = "512m"
NEW_TOKEN = "api-second"
OPTIONS = json.dumps({"latency_ms": [5, 60], "token": f"api-simulator {NEW_TOKEN}"})

Recipe = Callable[[], Awaitable[object]]


@pytest.fixture
async def composition(tmp_path: Path) -> AsyncIterator[Composition]:
    """Start Redis, two receivers, a proxy, two workers and a simulator."""
    if problem := engine_problem():
        pytest.skip(problem)
    config = CompositionConfig(
        images=await build_images(tmp_path),
        receivers=2,
        workers=2,
        simulator_options=OPTIONS,
        disk_size=DISK_SIZE,
    )
    services = ("disk", "redis", "receiver", "proxy", "worker", "simulator")
    async with open_composition(tmp_path, os.environ, config, *services) as running:
        yield running


class Page:
    """The blocks of the page; each is run once, in a fresh shell in the checkout."""

    def __init__(self, composition: Composition) -> None:
        self._composition = composition
        blocks = [block for block in read_blocks(PAGE) if block.language == "console"]
        self._scripts = [
            "\n".join(command.text for command in split_commands(block.source)) for block in blocks
        ]

    async def run(self, text: str, *, machine: Composition | None = None) -> str:
        """Run the first block left that contains a text; return what it printed.

        ``machine`` is the composition of another machine, if the block is for it.
        """
        script = next(script for script in self._scripts if text in script)
        self._scripts.remove(script)
        return await (machine or self._composition).run(
            "env", f"TOKEN={NEW_TOKEN}", "bash", "-euc", f"exec 2>&1\n{script}"
        )

    def assert_all_ran(self) -> None:
        """Fail if a block is left."""
        assert self._scripts == []


class Traffic:
    """Sends webhooks during a recipe, then counts what became of all that were sent so far."""

    def __init__(self, composition: Composition, session: aiohttp.ClientSession) -> None:
        self._composition = composition
        self._session = session
        self._deliveries: list[SentDelivery] = []
        self._records = 0
        self._senders: WebhookSenders | None = None
        self.secret = SECRET

    @property
    def accepted(self) -> list[SentDelivery]:
        """The webhooks of this recipe that were accepted until now."""
        return [*self._senders.deliveries] if self._senders else []

    @property
    def statuses(self) -> dict[int, int]:
        """How often each status was answered in this recipe; 0 is no answer."""
        return self._senders.statuses if self._senders else {}

    async def during(self, name: str, recipe: Recipe) -> list[SentDelivery]:
        """Run a recipe under traffic, print its row, and fail unless nothing is lost or doubled."""
        number = len(self._deliveries)
        options = Simulator(CALM_OPTIONS, clock=time.time, rng=random.Random(1))
        self._senders = senders = WebhookSenders(
            self._session,
            [self._composition.url],
            secret=self.secret,
            upstream=FaultyLaunchDarkly(options),
            seed=number + 1,
        )
        webhooks = draw_webhooks(
            number + 1, TrafficConfig(without_id_share=0.0, repeated_share=0.0)
        )
        task = asyncio.create_task(senders.send_all(webhooks, per_s=PER_S, concurrency=8))
        try:
            while senders.accepted < 5:
                await asyncio.sleep(0.05)
            await recipe()
            enough = senders.accepted + 5
            while senders.accepted < enough:
                await asyncio.sleep(0.05)
        finally:
            senders.stop()
            await asyncio.wait_for(task, 120)
        await self._count(name, senders)
        return senders.deliveries

    async def _count(self, name: str, senders: WebhookSenders) -> None:
        self._deliveries += senders.deliveries
        async with open_client(f"redis://127.0.0.1:{self._composition.redis_port}") as redis:
            async with asyncio.timeout(180):
                while await redis.exists(KEYS.backlog):
                    await asyncio.sleep(0.1)
            records = await read_records(redis, KEYS)
            leftover = await read_leftover_state(redis, KEYS)
        allowed = keys_allowed_without_ttl(KEYS)
        report = check_deliveries(self._deliveries, records, leftover, allowed_without_ttl=allowed)
        doubled = len(report.duplicated) + len(report.queued_twice)
        print(  # noqa: T201 - the table is what a person runs this for
            f"{name:30} accepted {senders.accepted:4} published {report.records - self._records:4}"
            f" lost {len(report.lost)} doubled {doubled} answers {senders.statuses}"
        )
        assert report.records - self._records == senders.accepted
        self._records = report.records
        assert report.is_clean, report
        assert not report.failed
        assert 401 not in senders.statuses


async def wait_for_log(composition: Composition, service: str, pattern: str) -> None:
    """Wait until each container of a service has logged a line, or any if it is one of several."""
    names = (await composition.compose("ps", "-q", service)).split()
    async with asyncio.timeout(120):
        for name in names:
            while not re.search(
                pattern, await composition.run("bash", "-c", f"docker logs {name} 2>&1")
            ):
                await asyncio.sleep(0.2)


async def test_each_recipe_loses_and_doubles_nothing(
    composition: Composition, tmp_path: Path
) -> None:
    """In the order of the page. Afterwards each of its blocks has run once."""
    page = Page(composition)
    async with aiohttp.ClientSession() as session:
        traffic = Traffic(composition, session)
        await traffic.during("up in a fresh shell", lambda: page.run("up -d --wait"))
        await _check_explanation_of_a_mistake(composition, page)
        await _change_secrets(composition, page, traffic)
        await traffic.during("SIGHUP of every role", lambda: _send_sighup(composition, page))
        await traffic.during("upgrade", lambda: _upgrade(composition, page))
        await _check_failing_upgrade(composition, traffic)
        await _back_up_and_restore(composition, page, traffic, tmp_path)
        await _upgrade_redis_twice(composition, page, traffic, tmp_path)
        await traffic.during("full disk", lambda: _fill_disk(composition, page, traffic))
        assert re.fullmatch(r"\d+ MB\n", await page.run("per_day"))
        await _work_on_another_machine(composition, page, traffic, tmp_path)
    page.assert_all_ran()


async def _check_explanation_of_a_mistake(composition: Composition, page: Page) -> None:
    """Check that a role that cannot start says why, and starts when its file is corrected."""
    secret = composition.checkout / "deploy" / "secrets" / "webhook_secret"
    secret.write_text("short")
    await composition.compose("restart", "--timeout", "5", "receiver")
    problem = "ENRICHER_WEBHOOK_SECRET: its secret 1 has fewer than 16 characters"
    await wait_for_log(composition, "receiver", f"Error: {problem}")
    inspect = "docker inspect -f '{{json .State.Health.Log}}' $(docker compose ps -aq receiver)"
    async with asyncio.timeout(60):
        while problem not in await composition.run("bash", "-c", inspect):
            await asyncio.sleep(0.5)
    printed = await page.run("docker compose logs")
    assert printed.count(problem) >= 3  # the last lines of two logs, and a health check
    secret.write_text(SECRET)
    await composition.wait_until_healthy("receiver", count=2)


async def _change_secrets(composition: Composition, page: Page, traffic: Traffic) -> None:
    secret = composition.checkout / "deploy" / "secrets" / "webhook_secret"

    async def accept_both() -> None:
        await page.run("new=$(openssl")
        await wait_for_log(composition, "receiver", '"secrets_changed":."native"')

    async def accept_new_only() -> None:
        await page.run("cut -d")
        pattern = r'(?s)"secrets_changed":\["native"\].*"secrets_changed":\["native"\]'
        await wait_for_log(composition, "receiver", pattern)

    async def change_token() -> None:
        await page.run("printf %s")
        await wait_for_log(composition, "worker", '"changed":true')

    await traffic.during("new webhook secret", accept_both)
    traffic.secret = secret.read_text().split()[0]
    await traffic.during("old webhook secret removed", accept_new_only)
    await traffic.during("new access token", change_token)


async def _send_sighup(composition: Composition, page: Page) -> None:
    """Only the first receiver and worker get it from the page; the simulator gets it here."""
    before = await composition.compose("ps", "-q")
    await page.run("kill -HUP 1")
    await composition.compose("exec", "-T", "simulator", "sh", "-c", "kill -HUP 1")
    await wait_for_log(composition, "worker", '"changed":false')
    assert await composition.compose("ps", "-q") == before


async def _upgrade(composition: Composition, page: Page) -> None:
    version = f"{composition.version}1"  # a version of Python too: the package has it
    init = composition.checkout / "service" / "__init__.py"
    init.write_text(re.sub('__version__ = ".*"', f'__version__ = "{version}"', init.read_text()))
    assert (await page.run("deploy/upgrade")).endswith(f"{version} runs\n")
    before = await composition.compose("ps", "-q")
    await page.run("up -d --wait")
    assert await composition.compose("ps", "-q") == before
    printed = await composition.compose("exec", "-T", "worker", "deployment-enricher", "--version")
    assert printed == f"{version}\n"


async def _check_failing_upgrade(composition: Composition, traffic: Traffic) -> None:
    """Check that new receivers that do not start are removed, and the version in .env stays."""
    settings = composition.checkout / "deploy" / "enricher.env"
    variables = (composition.checkout / ".env").read_text()
    before = (await composition.compose("ps", "-q", "receiver")).split()

    async def upgrade() -> None:
        settings.write_text("ENRICHER_PROT=1\n")
        await composition.run("bash", "-c", f"! deploy/upgrade {composition.version}")
        settings.unlink()

    await traffic.during("upgrade that fails", upgrade)
    assert (composition.checkout / ".env").read_text().split() == variables.split()
    assert sorted((await composition.compose("ps", "-aq", "receiver")).split()) == sorted(before)


async def _back_up_and_restore(
    composition: Composition, page: Page, traffic: Traffic, home: Path
) -> None:
    await traffic.during("backup, Redis stopped", lambda: page.run("stop redis"))
    # The restored state is that of the copy, so nothing may have been accepted after it.
    await composition.compose("stop", "receiver")
    await composition.run("bash", "-euc", _COPY)
    await traffic_free_restore(composition, page)
    await traffic.during("after the restore", lambda: asyncio.sleep(0))
    before: list[SentDelivery] = []

    async def copy() -> None:
        before.extend(traffic.accepted)
        await page.run("valkey-cli config set")

    after = await traffic.during("hot backup", copy)
    found = await asyncio.to_thread(_list_jobs_in_backup, composition.checkout / "hot.tar", home)
    print(  # noqa: T201 - a row of the table
        f"{'':30} in the copy: {_count_in(found, before)} of {len(before)} accepted before it,"
        f" {_count_in(found, after)} of {len(after)} in all"
    )
    assert _count_in(found, before) == len(before)


def _count_in(jobs: set[str], deliveries: list[SentDelivery]) -> int:
    return sum(delivery.job in jobs for delivery in deliveries)


_COPY = """docker compose stop redis
docker compose run --rm --no-deps -T --entrypoint tar redis -C /data -c . > backup.tar"""


async def traffic_free_restore(composition: Composition, page: Page) -> None:
    """Restore the copy into an empty volume, as after the loss of a disk."""
    await composition.compose(
        *("run", "--rm", "--no-deps", "-T", "--entrypoint", "sh", "redis"),
        *("-c", "rm -rf -- /data/*"),
    )
    await page.run("backup.tar")


def _list_jobs_in_backup(backup: Path, home: Path) -> set[str]:
    """Return the jobs that a backup has: published once each, or waiting."""
    folder = home / "hot"
    with tarfile.open(backup) as archive:
        archive.extractall(folder, filter="data")
    with EmbeddedServer(folder) as server:
        return asyncio.run(_read_jobs(server.url))


async def _read_jobs(url: str) -> set[str]:
    async with open_client(url) as redis:
        records = await read_records(redis, KEYS)
        leftover = await read_leftover_state(redis, KEYS)
    assert len({record.id for record in records}) == len(records)
    return {record.job for record in records} | leftover.tickets


async def _upgrade_redis_twice(
    composition: Composition, page: Page, traffic: Traffic, home: Path
) -> None:
    """Valkey 8 becomes 9.0, and then 9.1 by the same command."""
    (redis,) = await composition.list_containers("redis")
    home, image = home / "valkey", redis["Config"]["Image"]
    home.mkdir()
    command = ("docker", "compose", "up", "-d", "--wait", "redis")
    for version, upgrade in {
        "9.0": lambda: page.run("--wait redis"),
        "9.1": lambda: composition.run(*command),
    }.items():
        newer_image = await build_redis_image(home / version, version, image)
        composition.set_variable("ENRICHER_REDIS_IMAGE", newer_image)
        await traffic.during(f"Valkey {version}", upgrade)
        printed = await composition.compose("exec", "-T", "redis", "valkey-cli", "info", "server")
        assert f"valkey_version:{version}." in printed


async def _fill_disk(composition: Composition, page: Page, traffic: Traffic) -> None:
    """Fill the disk until webhooks are refused, look what everyone says, and free it again."""
    disk = ("exec", "-T", "disk", "sh", "-c")
    await composition.compose(*disk, "dd if=/dev/zero of=/data/ballast bs=4k || true")
    async with asyncio.timeout(120):
        while 503 not in traffic.statuses:
            await asyncio.sleep(0.1)
    assert "writing to the AOF file" in await page.run("grep 'AOF file'")
    doctor = ("exec", "-T", "receiver", "deployment-enricher", "doctor")
    printed = await composition.run("bash", "-c", f"docker compose {' '.join(doctor)} || true")
    assert "the disk of Redis may be full" in " ".join(printed.split())
    await wait_for_log(composition, "worker", "redis_disconnected")
    await composition.compose(*disk, "rm /data/ballast")
    await page.run("restart redis")


async def _work_on_another_machine(
    composition: Composition, page: Page, traffic: Traffic, home: Path
) -> None:
    """Receivers and Redis are here, and another machine has the only workers."""
    folder = home / "machine"
    folder.mkdir()
    machine = Composition(folder, os.environ, composition.config)
    machine.join(composition)

    async def move_workers() -> None:
        await page.run("--no-deps worker", machine=machine)
        await composition.compose("stop", "worker")

    try:
        await traffic.during("workers elsewhere", move_workers)
        assert "deployment_published" in await machine.compose("logs", "worker")
    finally:
        await machine.down()
