"""Tests of docker-compose.yml on a real engine: killed, scaled and upgraded.

    python3 run.py test -m compose

They need a Docker engine with Compose v2. Without one they fail, because a skip would prove
nothing.
"""

import asyncio
import json
import os
import random
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from service import __version__
from service.simulate.server import Simulator
from service.store.connect import open_client
from service.store.keys import Keys
from tests.deploy.compose_stack import (
    IMAGE,
    SECRET,
    Composition,
    CompositionConfig,
    build_redis_image,
    engine_problem,
    open_composition,
    receiver_urls,
    run_command,
)
from tests.faults.oracle import OracleReport, check_deliveries
from tests.faults.record_reader import keys_allowed_without_ttl, read_leftover_state, read_records
from tests.faults.senders import WebhookSenders
from tests.faults.system import CALM_OPTIONS
from tests.faults.traffic import TrafficConfig, draw_webhooks
from tests.faults.upstream import FaultyLaunchDarkly

pytestmark = [pytest.mark.compose, pytest.mark.timeout(600)]
KEYS = Keys("deployments")
PER_S = 40.0


@pytest.fixture
async def composition(tmp_path: Path) -> AsyncIterator[Composition]:
    """Start Redis, two receivers, a worker and a simulator, healthy within a minute."""
    if problem := engine_problem():
        pytest.fail(problem)
    config = CompositionConfig(redis_image=await build_redis_image(tmp_path), receivers=4)
    services = ("redis", "receiver", "worker", "simulator")
    async with open_composition(
        tmp_path, os.environ, config, "--scale", "receiver=2", *services
    ) as running:
        yield running


async def test_image_runs_unprivileged_and_minimal(composition: Composition) -> None:
    """The image runs as an unprivileged user on a read-only disk, without compiler or pip."""
    (image,) = json.loads(await run_command("docker", "inspect", f"{IMAGE}:{composition.version}"))
    labels = image["Config"]["Labels"]
    assert labels["org.opencontainers.image.version"] == __version__
    assert image["Config"]["User"] == "10001:10001"
    assert image["Config"]["Healthcheck"]["Test"][-1] == "service.cli.healthcheck"
    script = (
        "import os, shutil, sys, importlib.util as i; "
        "print(os.getuid(), *map(shutil.which, ('gcc', 'cc', 'make')), i.find_spec('pip'),"
        " os.access('/opt/enricher', os.W_OK), os.access('/', os.W_OK))"
    )
    output = await composition.compose("exec", "-T", "worker", "python", "-c", script)
    assert output.split() == ["10001", "None", "None", "None", "None", "False", "False"]


async def test_containers_are_limited_and_locked_down(composition: Composition) -> None:
    """Memory, processes and CPU are limited; no capability, no new privilege, a read-only disk."""
    for service in ("redis", "receiver", "worker", "simulator"):
        for container in await composition.list_containers(service):
            host: dict[str, Any] = container["HostConfig"]
            assert host["Memory"] >= 256 << 20
            assert (host["PidsLimit"], host["NanoCpus"]) == (64, 10**9)
            assert (host["CapDrop"], host["ReadonlyRootfs"]) == (["ALL"], True)
            assert "no-new-privileges:true" in host["SecurityOpt"]
            assert host["RestartPolicy"]["Name"] == "unless-stopped"
            assert container["State"]["Health"]["Status"] == "healthy"


async def test_readme_curl_makes_the_first_record(composition: Composition) -> None:
    """The command posts a native body with a bearer token; doctor then finds no error."""
    address = (await composition.compose("port", "receiver", "8080")).strip()  # of a range
    curl = ("curl", "-sS", f"http://{address}/webhooks/native")
    event = {"deploymentId": "a0eebc99-9c0b-4ef8-bb6d-000000000042", "eventType": "finished"}
    reply = json.loads(
        await run_command(*curl, "-H", f"Authorization: Bearer {SECRET}", "-d", json.dumps(event))
    )
    assert reply["status"] == "queued"
    async with open_client(f"redis://127.0.0.1:{composition.redis_port}") as redis:
        async with asyncio.timeout(20):
            while not await redis.xlen(KEYS.enriched):
                await asyncio.sleep(0.05)
    output = await composition.compose("exec", "-T", "receiver", "deployment-enricher", "doctor")
    assert output.splitlines()[-1].startswith("0 errors")


async def test_kills_scaling_and_upgrade_lose_nothing(
    composition: Composition,
) -> None:
    """The oracle counts the webhooks that arrive meanwhile.

    A worker is killed, Redis is killed and restarted, workers are scaled, and all is upgraded.
    """
    receivers = receiver_urls(composition.ports)
    upstream = FaultyLaunchDarkly(Simulator(CALM_OPTIONS, clock=time.time, rng=random.Random(1)))
    async with aiohttp.ClientSession() as session:
        senders = WebhookSenders(session, receivers, secret=SECRET, upstream=upstream, seed=1)
        webhooks = draw_webhooks(1, TrafficConfig(without_id_share=0.0, repeated_share=0.1))
        send_task = asyncio.create_task(senders.send_all(webhooks, per_s=PER_S, concurrency=16))
        try:
            await _kill_and_restart(composition)
            await _upgrade(composition)
        finally:
            senders.stop()
            await asyncio.wait_for(send_task, 60)
    report = await _compare_results(composition, senders)
    assert report.is_clean, report
    assert report.accepted == report.deliveries > 200
    assert not report.failed
    assert set(senders.statuses) <= {0, 200, 202, 503}


async def _kill_and_restart(composition: Composition) -> None:
    """Kill a worker, kill Redis, restart Redis, and scale to four workers."""
    (worker,) = await composition.list_containers("worker")
    await composition.kill_process_in(worker["Id"])
    await composition.wait_until_healthy("worker", count=1)  # restarted by its restart policy
    (worker,) = await composition.list_containers("worker")
    assert worker["RestartCount"] == 1
    await composition.compose("kill", "-s", "KILL", "redis")
    await composition.compose("up", "-d", "--wait", "--no-deps", "redis")
    await composition.compose("restart", "redis")
    arguments = ("--no-deps", "--no-recreate", "--scale", "worker=4", "worker")
    await composition.compose("up", "-d", "--wait", *arguments)
    await composition.wait_until_healthy("worker", count=4)


async def _upgrade(composition: Composition) -> None:
    """Upgrade as deploy/README.md says: start new receivers, stop the old ones, replace workers."""
    new_version = f"{composition.version}-new"
    await run_command("docker", "tag", f"{IMAGE}:{composition.version}", f"{IMAGE}:{new_version}")
    old = await composition.list_containers("receiver")
    scale_up = ("--no-deps", "--no-recreate", "--scale", "receiver=4", "receiver")
    await composition.compose("up", "-d", "--wait", *scale_up, ENRICHER_VERSION=new_version)
    await composition.wait_until_healthy("receiver", count=4)
    for container in old:
        await run_command("docker", "stop", container["Id"])
        await run_command("docker", "rm", container["Id"])
    recreate = ("--no-deps", "--scale", "worker=4", "worker")
    await composition.compose("up", "-d", "--wait", *recreate, ENRICHER_VERSION=new_version)
    for service in ("receiver", "worker"):
        images = {
            container["Config"]["Image"] for container in await composition.list_containers(service)
        }
        assert images == {f"{IMAGE}:{new_version}"}


async def _compare_results(composition: Composition, senders: WebhookSenders) -> OracleReport:
    """Wait until the backlog is empty, then compare the deliveries with the records."""
    async with open_client(f"redis://127.0.0.1:{composition.redis_port}") as redis:
        async with asyncio.timeout(120):
            while await redis.exists(KEYS.backlog):
                await asyncio.sleep(0.1)
        records = await read_records(redis, KEYS)
        remaining = await read_leftover_state(redis, KEYS)
    return check_deliveries(
        senders.deliveries, records, remaining, allowed_without_ttl=keys_allowed_without_ttl(KEYS)
    )
