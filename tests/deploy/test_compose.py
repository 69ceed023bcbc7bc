"""Tests of docker-compose.yml on a real engine: killed, scaled and upgraded.

    python3 run.py test -m compose

They need a Docker engine with Compose v2, and are skipped without one.
"""

import asyncio
import json
import os
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Coroutine
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from service.simulate.server import Simulator
from service.store.connect import open_client
from service.store.keys import Keys
from tests.deploy.compose_stack import (
    IMAGE,
    SECRET,
    Composition,
    CompositionConfig,
    build_images,
    engine_problem,
    open_composition,
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
    """Start Redis, two receivers, a proxy, a worker and a simulator, healthy within a minute."""
    if problem := engine_problem():
        pytest.skip(problem)
    config = CompositionConfig(images=await build_images(tmp_path), receivers=2)
    services = ("redis", "receiver", "proxy", "worker", "simulator")
    async with open_composition(tmp_path, os.environ, config, *services) as running:
        yield running


async def test_image_runs_unprivileged_and_minimal(composition: Composition) -> None:
    """The image runs as an unprivileged user on a read-only disk, without compiler or pip."""
    (image,) = json.loads(await run_command("docker", "inspect", f"{IMAGE}:{composition.version}"))
    labels = image["Config"]["Labels"]
    assert labels["org.opencontainers.image.version"] == composition.version
    printed = await composition.compose("exec", "-T", "worker", "deployment-enricher", "--version")
    assert printed.strip() == composition.version
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
    for service in ("redis", "receiver", "proxy", "worker", "simulator"):
        for container in await composition.list_containers(service):
            host: dict[str, Any] = container["HostConfig"]
            assert host["Memory"] >= 64 << 20
            assert (host["PidsLimit"], host["NanoCpus"]) == (64, 10**9)
            assert (host["CapDrop"], host["ReadonlyRootfs"]) == (["ALL"], True)
            assert "no-new-privileges:true" in host["SecurityOpt"]
            assert host["RestartPolicy"]["Name"] == "unless-stopped"
            assert container["State"]["Health"]["Status"] == "healthy"


async def test_readme_curl_makes_the_first_record(composition: Composition) -> None:
    """The command posts a native body with a bearer token; doctor then finds no error."""
    curl = ("curl", "-sS", f"{composition.url}/webhooks/native")
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

    A worker is killed, Redis is killed and restarted, and workers are scaled. Then all is upgraded,
    and no webhook is refused meanwhile. What runs then is what the next shell starts.
    """
    upstream = FaultyLaunchDarkly(Simulator(CALM_OPTIONS, clock=time.time, rng=random.Random(1)))
    async with aiohttp.ClientSession() as session:
        senders = WebhookSenders(
            session, [composition.url], secret=SECRET, upstream=upstream, seed=1
        )
        webhooks = draw_webhooks(1, TrafficConfig(without_id_share=0.0, repeated_share=0.1))
        send_task = asyncio.create_task(senders.send_all(webhooks, per_s=PER_S, concurrency=16))
        try:
            await _kill_and_restart(composition)
            refused = await _count_refused(senders, _upgrade(composition))
        finally:
            senders.stop()
            await asyncio.wait_for(send_task, 60)
    assert refused == {}
    report = await _compare_results(composition, senders)
    assert report.is_clean, report
    assert report.accepted == report.deliveries > 200
    assert not report.failed
    assert set(senders.statuses) <= {0, 200, 202, 502, 503, 504}  # the proxy has its own two


async def _count_refused(
    senders: WebhookSenders, action: Coroutine[Any, Any, None]
) -> dict[int, int]:
    """Return how often each status other than 200 and 202 came while something was done."""
    before = Counter(senders.statuses)
    await action
    return {
        status: count
        for status, count in (Counter(senders.statuses) - before).items()
        if status not in {200, 202}
    }


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
    composition.set_variable("ENRICHER_WORKERS", "4")
    await composition.compose("up", "-d", "--wait")
    await composition.wait_until_healthy("worker", count=4)


async def _upgrade(composition: Composition) -> None:
    """Upgrade as docs/operating.md says, then start again in a fresh shell."""
    version = f"{composition.version}-new"
    printed = await composition.run("deploy/upgrade", version)
    assert printed.endswith(f"{version} runs\n")
    upgraded = await _list_images(composition)
    assert upgraded == {
        "receiver": [f"{IMAGE}:{version}"] * 2,
        "worker": [f"{IMAGE}:{version}"] * 4,
    }
    containers = await composition.list_containers("receiver")
    await composition.compose("up", "-d", "--wait")
    assert await _list_images(composition) == upgraded
    unchanged = await composition.list_containers("receiver")
    assert [container["Id"] for container in unchanged] == [
        container["Id"] for container in containers
    ]


async def _list_images(composition: Composition) -> dict[str, list[str]]:
    """Return the image of each receiver and worker."""
    return {
        service: [
            container["Config"]["Image"] for container in await composition.list_containers(service)
        ]
        for service in ("receiver", "worker")
    }


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
