"""Is nothing lost and nothing twice when another server becomes the master under load?"""

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
from tests.faults.in_process_senders import NAMESPACE, InProcessSenders, open_story
from tests.faults.topology import SENTINEL_SERVICE, ClusterSet, SentinelSet

_WEBHOOKS_PER_PHASE = 30  # webhooks taken before, between and after


@pytest.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[ClusterSet]:
    """Start three masters, and a replica of the one that has our slot."""
    nodes = ClusterSet(tmp_path, namespace=NAMESPACE)
    try:
        await nodes.start()
        yield nodes
    finally:
        nodes.kill()


@pytest.fixture
async def shell(tmp_path: Path) -> AsyncIterator[CommandRunner]:
    """Open a shell; whatever was started in it ends with it."""
    opened = CommandRunner(tmp_path)
    yield opened
    await asyncio.gather(*(program.stop(signal.SIGKILL) for program in opened.started))


@asynccontextmanager
async def running_sentinels(folder: Path, *, sentinels: int) -> AsyncIterator[SentinelSet]:
    """Start a master and its replica, and so many who watch them."""
    servers = SentinelSet(folder, sentinels=sentinels)
    try:
        await servers.start()
        yield servers
    finally:
        servers.kill()


@asynccontextmanager
async def following_stream(story: ServiceHarness) -> AsyncIterator[set[str]]:
    """Follow the stream all the while; gives the deployments that were seen."""
    seen: set[str] = set()

    async def follow() -> None:
        async with open_client(story.runtime.redis_url, namespace=NAMESPACE) as client:  # type: ignore[union-attr] # it is open
            async for appended in follow_stream(client, story.keys.enriched, since="0"):
                seen.add(appended.fields["subject"])

    following = asyncio.create_task(follow())
    try:
        yield seen
    finally:
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)


async def wait_until_seen(seen: set[str], senders: InProcessSenders) -> None:
    """Wait until whoever follows the stream has seen all that was taken."""
    async with asyncio.timeout(20):
        while not seen >= set(senders.accepted):
            await asyncio.sleep(0.02)


def print_duration(label: str, took_s: float) -> None:
    """Show a figure to whoever wants to read it (pytest -s); it is no part of a promise."""
    print(f"{label}: {took_s:.2f} s")  # noqa: T201 - for a person


@pytest.mark.parametrize("sentinels", [1, pytest.param(3, marks=pytest.mark.long)])
async def test_a_master_that_was_killed_is_followed_by_its_replica(
    tmp_path: Path, sentinels: int
) -> None:
    """Sentinel fails over; what was taken is there once, and nobody has to be started again."""
    async with (
        running_sentinels(tmp_path, sentinels=sentinels) as servers,
        open_story(servers.url, durability="fsync+replica") as story,
        following_stream(story) as seen,
    ):
        first, second = servers.servers
        senders = InProcessSenders(story)
        await senders.wait_until_accepted(_WEBHOOKS_PER_PHASE)
        first.kill()
        await servers.wait_until_master(second)
        await first.start("--replicaof", "127.0.0.1", str(second.port))
        print_duration("taken again after the replica came", await senders.wait_until_accepted(1))
        await senders.wait_until_accepted(_WEBHOOKS_PER_PHASE)
        await senders.stop()
        await senders.check()
        await wait_until_seen(seen, senders)
        assert story.log_events("redis_reconnected")


async def test_a_master_that_was_demoted_is_left(tmp_path: Path) -> None:
    """It is alive and answers, but READONLY: receiver, workers and tail go on with the new one."""
    async with (
        running_sentinels(tmp_path, sentinels=1) as servers,
        open_story(servers.url, durability="fsync+replica") as story,
        following_stream(story) as seen,
    ):
        senders = InProcessSenders(story)
        await senders.wait_until_accepted(_WEBHOOKS_PER_PHASE)
        first, second = servers.servers
        await servers.sentinels[0].execute("SENTINEL", "FAILOVER", SENTINEL_SERVICE)
        await servers.wait_until_master(second)
        await first.execute(
            "REPLICAOF", "127.0.0.1", second.port
        )  # as Sentinel does, ten seconds later
        print_duration("taken again after the failover", await senders.wait_until_accepted(1))
        await senders.wait_until_accepted(_WEBHOOKS_PER_PHASE)
        await senders.stop()
        await senders.check()
        await wait_until_seen(seen, senders)


@pytest.mark.long
async def test_a_master_that_hangs_is_left(tmp_path: Path) -> None:
    """It comes round as one who takes itself for the master, and nobody listens to it any more."""
    async with (
        running_sentinels(tmp_path, sentinels=3) as servers,
        open_story(servers.url, durability="fsync+replica") as story,
        following_stream(story) as seen,
    ):
        first, second = servers.servers
        senders = InProcessSenders(story)
        await senders.wait_until_accepted(_WEBHOOKS_PER_PHASE)
        first.signal(signal.SIGSTOP)
        await servers.wait_until_master(second)
        first.signal(signal.SIGCONT)
        while not story.log_events("redis_disconnected"):
            await asyncio.sleep(0.02)
        await first.execute(
            "REPLICAOF", "127.0.0.1", second.port
        )  # as Sentinel does, ten seconds later
        print_duration("taken again after the replica came", await senders.wait_until_accepted(1))
        await senders.wait_until_accepted(_WEBHOOKS_PER_PHASE)
        await senders.stop()
        await senders.check()
        await wait_until_seen(seen, senders)


async def test_a_slot_that_moves_is_followed(cluster: ClusterSet) -> None:
    """Key by key to another master and on, under load: MOVED, ASK and TRYAGAIN are waited out."""
    first_target, second_target = cluster.others
    async with open_story(cluster.url) as story, following_stream(story) as seen:
        senders = InProcessSenders(story)
        await senders.wait_until_accepted(_WEBHOOKS_PER_PHASE)
        for source, target in ((cluster.owner, first_target), (first_target, second_target)):
            await cluster.move_slot(source, target, pause_s=0.02)
            print_duration("taken again after the slot moved", await senders.wait_until_accepted(1))
            await senders.wait_until_accepted(_WEBHOOKS_PER_PHASE)
        await senders.stop()
        await senders.check()
        await wait_until_seen(seen, senders)
        reasons = {
            fact["reason"].partition(":")[0] for fact in story.log_events("redis_disconnected")
        }
        assert reasons & {"TryAgainError", "AskError", "MovedError"}


async def test_a_master_of_a_cluster_is_followed_by_its_replica(cluster: ClusterSet) -> None:
    """Killed under load, CLUSTERDOWN for a while, and back as the replica of its replica."""
    async with (
        open_story(cluster.url, durability="fsync+replica") as story,
        following_stream(story) as seen,
    ):
        senders = InProcessSenders(story)
        await senders.wait_until_accepted(_WEBHOOKS_PER_PHASE)
        cluster.owner.kill()
        await cluster.wait_until_master(cluster.replica)
        await cluster.owner.start()
        print_duration("taken again after the replica came", await senders.wait_until_accepted(1))
        await senders.wait_until_accepted(_WEBHOOKS_PER_PHASE)
        await senders.stop()
        await senders.check()
        await wait_until_seen(seen, senders)


async def test_what_a_person_types_works_on_a_cluster(
    cluster: ClusterSet, shell: CommandRunner
) -> None:
    """The demo plays on it, tells nothing that would not work there, and tail shows what came."""
    shell.env["ENRICHER_REDIS_URL"] = cluster.url
    ended = await shell.run("demo --events 2 --per-second 20")
    assert (ended.code, ended.err) == (0, "")
    assert "2 deployments came out" in ended.out
    assert " tail --from-start" in ended.out
    assert "redis-cli" not in ended.out
    shell.env["ENRICHER_NAMESPACE"] = "deployments-demo"
    await shell.start("tail --from-start --json", ready_pattern="deployment.enriched.v1")
