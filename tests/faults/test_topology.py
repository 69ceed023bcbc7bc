"""Tests of failover under load: a new master or a moved slot loses and duplicates nothing."""

import asyncio
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from service.cli.tail import follow_stream
from service.store.connect import open_client
from tests.cli.shell import CommandRunner
from tests.end_to_end.harness import ServiceHarness
from tests.faults.in_process_senders import (
    NAMESPACE,
    InProcessSenders,
    open_service,
    print_duration,
)
from tests.faults.topology import SENTINEL_SERVICE, ClusterSet, SentinelSet

_WEBHOOKS_PER_PHASE = 30  # webhooks accepted before, between and after the faults


@pytest.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[ClusterSet]:
    """Start three masters, and a replica of the master with the slot of the namespace."""
    nodes = ClusterSet(tmp_path, namespace=NAMESPACE)
    try:
        await nodes.start()
        yield nodes
    finally:
        nodes.kill()


@pytest.fixture
async def shell(tmp_path: Path) -> AsyncIterator[CommandRunner]:
    """Open a command runner, and end every command that the test started."""
    runner = CommandRunner(tmp_path)
    yield runner
    await asyncio.gather(*(program.stop(signal.SIGKILL) for program in runner.started))


@asynccontextmanager
async def running_sentinels(folder: Path, *, sentinels: int) -> AsyncIterator[SentinelSet]:
    """Start a master, its replica and the given number of sentinels."""
    servers = SentinelSet(folder, sentinels=sentinels)
    try:
        await servers.start()
        yield servers
    finally:
        servers.kill()


@asynccontextmanager
async def following_stream(service: ServiceHarness) -> AsyncIterator[set[str]]:
    """Follow the stream while the context is open; yield the deployments that were seen."""
    seen: set[str] = set()

    async def follow() -> None:
        async with open_client(service.runtime.redis_url, namespace=NAMESPACE) as client:  # type: ignore[union-attr] # the runtime is open
            async for entry in follow_stream(client, service.keys.enriched, since="0"):
                seen.add(entry.fields["subject"])

    follow_task = asyncio.create_task(follow())
    try:
        yield seen
    finally:
        follow_task.cancel()
        await asyncio.gather(follow_task, return_exceptions=True)


async def wait_until_seen(seen: set[str], senders: InProcessSenders) -> None:
    """Wait until the follower has seen every accepted deployment."""
    async with asyncio.timeout(20):
        while not seen >= set(senders.accepted):
            await asyncio.sleep(0.02)


@pytest.mark.parametrize("sentinels", [1, pytest.param(3, marks=pytest.mark.long)])
async def test_sentinel_replica_replaces_killed_master(tmp_path: Path, sentinels: int) -> None:
    """After the failover every accepted webhook has one record, without any restart."""
    async with (
        running_sentinels(tmp_path, sentinels=sentinels) as servers,
        open_service(servers.url, durability="fsync+replica") as service,
        following_stream(service) as seen,
    ):
        first, second = servers.servers
        senders = InProcessSenders(service)
        await senders.wait_until_accepted(_WEBHOOKS_PER_PHASE)
        first.kill()
        await servers.wait_until_master(second)
        await first.start("--replicaof", "127.0.0.1", str(second.port))
        print_duration("accepted again after the takeover", await senders.wait_until_accepted(1))
        await senders.wait_until_accepted(_WEBHOOKS_PER_PHASE)
        await senders.stop()
        await senders.check()
        await wait_until_seen(seen, senders)
        assert service.log_events("redis_reconnected")


async def test_demoted_sentinel_master_is_left(tmp_path: Path) -> None:
    """The old master is alive but READONLY; receiver, workers and tail use the new one."""
    async with (
        running_sentinels(tmp_path, sentinels=1) as servers,
        open_service(servers.url, durability="fsync+replica") as service,
        following_stream(service) as seen,
    ):
        senders = InProcessSenders(service)
        await senders.wait_until_accepted(_WEBHOOKS_PER_PHASE)
        first, second = servers.servers
        await servers.sentinels[0].execute("SENTINEL", "FAILOVER", SENTINEL_SERVICE)
        await servers.wait_until_master(second)
        # Sentinel would do the same ten seconds later.
        await first.execute("REPLICAOF", "127.0.0.1", second.port)
        print_duration("accepted again after the failover", await senders.wait_until_accepted(1))
        await senders.wait_until_accepted(_WEBHOOKS_PER_PHASE)
        await senders.stop()
        await senders.check()
        await wait_until_seen(seen, senders)


@pytest.mark.long
async def test_frozen_sentinel_master_is_left(tmp_path: Path) -> None:
    """The old master wakes up as a master, and nobody uses it."""
    async with (
        running_sentinels(tmp_path, sentinels=3) as servers,
        open_service(servers.url, durability="fsync+replica") as service,
        following_stream(service) as seen,
    ):
        first, second = servers.servers
        senders = InProcessSenders(service)
        await senders.wait_until_accepted(_WEBHOOKS_PER_PHASE)
        first.signal(signal.SIGSTOP)
        await servers.wait_until_master(second)
        first.signal(signal.SIGCONT)
        while not service.log_events("redis_disconnected"):
            await asyncio.sleep(0.02)
        # Sentinel would do the same ten seconds later.
        await first.execute("REPLICAOF", "127.0.0.1", second.port)
        print_duration("accepted again after the takeover", await senders.wait_until_accepted(1))
        await senders.wait_until_accepted(_WEBHOOKS_PER_PHASE)
        await senders.stop()
        await senders.check()
        await wait_until_seen(seen, senders)


async def test_moving_cluster_slot_is_followed(cluster: ClusterSet) -> None:
    """The slot moves twice, key by key, under load, with MOVED, ASK and TRYAGAIN replies."""
    first_target, second_target = cluster.others
    async with open_service(cluster.url) as service, following_stream(service) as seen:
        senders = InProcessSenders(service)
        await senders.wait_until_accepted(_WEBHOOKS_PER_PHASE)
        for source, target in ((cluster.owner, first_target), (first_target, second_target)):
            await cluster.move_slot(source, target, pause_s=0.02)
            print_duration(
                "accepted again after the slot moved", await senders.wait_until_accepted(1)
            )
            await senders.wait_until_accepted(_WEBHOOKS_PER_PHASE)
        await senders.stop()
        await senders.check()
        await wait_until_seen(seen, senders)
        reasons = {
            line["reason"].partition(":")[0] for line in service.log_events("redis_disconnected")
        }
        assert reasons & {"TryAgainError", "AskError", "MovedError"}


async def test_cluster_replica_replaces_killed_master(cluster: ClusterSet) -> None:
    """The cluster is down for a while, and the old master returns as a replica."""
    async with (
        open_service(cluster.url, durability="fsync+replica") as service,
        following_stream(service) as seen,
    ):
        senders = InProcessSenders(service)
        await senders.wait_until_accepted(_WEBHOOKS_PER_PHASE)
        cluster.owner.kill()
        await cluster.wait_until_master(cluster.replica)
        await cluster.owner.start()
        print_duration("accepted again after the takeover", await senders.wait_until_accepted(1))
        await senders.wait_until_accepted(_WEBHOOKS_PER_PHASE)
        await senders.stop()
        await senders.check()
        await wait_until_seen(seen, senders)


async def test_demo_and_tail_work_on_a_cluster(cluster: ClusterSet, shell: CommandRunner) -> None:
    """The demo suggests no command that fails on a cluster, and tail shows the records."""
    shell.env["ENRICHER_REDIS_URL"] = cluster.url
    result = await shell.run("demo --events 2 --per-second 20")
    assert (result.code, result.err) == (0, "")
    assert "2 deployments were published" in " ".join(result.out.split())
    assert " tail --from-start" in result.out
    assert "redis-cli" not in result.out
    shell.env["ENRICHER_NAMESPACE"] = "deployments-demo"
    await shell.start("tail --from-start --json", ready_pattern="deployment.enriched.v1")
