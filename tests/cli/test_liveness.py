"""Tests of the worker's liveness probe in deploy/kubernetes/worker.yaml.

The tests probe a worker as Kubernetes does: one that is stuck fails, a healthy one passes.
"""

import asyncio
import signal
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import yaml
from redis.asyncio import Redis

from service.settings import Secret
from service.store.embedded import EmbeddedServer
from service.store.keys import Keys
from tests.cli.shell import BackgroundCommand, CommandRunner
from tests.cli.test_metrics import free_port
from tests.end_to_end.harness import open_harness

FILE = Path(__file__).resolve().parents[2] / "deploy" / "kubernetes" / "worker.yaml"


def read_liveness_probe() -> dict[str, Any]:
    """Read what Kubernetes would ask."""
    deployment, _ = yaml.safe_load_all(FILE.read_text())
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    probe: dict[str, Any] = container["livenessProbe"]
    return probe


async def probe_passes(port: int) -> bool:
    """Ask once, as patient as the manifest is."""
    probe = read_liveness_probe()
    url = f"http://127.0.0.1:{port}{probe['httpGet']['path']}"
    timeout = aiohttp.ClientTimeout(total=probe["timeoutSeconds"])
    try:
        async with aiohttp.ClientSession(timeout=timeout) as session, session.get(url) as response:
            return 200 <= response.status < 400
    except (aiohttp.ClientError, TimeoutError):
        return False


async def start_worker(
    shell: CommandRunner, server: EmbeddedServer, port: int
) -> BackgroundCommand:
    """Start a worker whose metrics have a port."""
    return await shell.start(
        "work",
        ready_pattern="worker_started",
        ENRICHER_METRICS_PORT=str(port),
        ENRICHER_REDIS_URL=server.url,
        ENRICHER_LAUNCHDARKLY_URL="http://127.0.0.1:9",
    )


async def test_stuck_worker_fails_the_liveness_probe(
    command_runner: CommandRunner, server: EmbeddedServer
) -> None:
    """An idle one is well; one that does nothing any more, though its port is open, is not."""
    port = free_port()
    worker = await start_worker(command_runner, server, port)
    assert await probe_passes(port)
    worker.child.send_signal(signal.SIGSTOP)
    assert not await probe_passes(port)
    worker.child.send_signal(signal.SIGCONT)
    assert await probe_passes(port)


async def test_worker_without_redis_passes_the_liveness_probe(
    command_runner: CommandRunner, server: EmbeddedServer
) -> None:
    """It waits for it: a restart would mend nothing."""
    port = free_port()
    worker = await start_worker(command_runner, server, port)
    server.stop()
    await worker.wait_for("redis_disconnected|claim_failed")
    assert await probe_passes(port)


async def test_worker_whose_task_ended_fails_the_liveness_probe(
    redis: Redis, redis_url: str, keys: Keys, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a mistake of our own: the process is there, answers, and claims nothing any more."""
    port = free_port()

    def fail(_: object) -> bool:
        raise AssertionError

    monkeypatch.setattr("service.backlog.leases.LeaseKeeper.has_capacity", fail)
    async with open_harness(redis, keys.namespace, redis_url=Secret(redis_url)) as story:
        await story.open(workers=1, metrics_port=port)
        async with asyncio.timeout(10):
            while await probe_passes(port):
                await asyncio.sleep(0.01)
