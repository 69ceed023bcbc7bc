"""Is nothing lost and nothing twice when another server becomes the master under load?"""

import asyncio
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from service.operate.tail import follow_stream
from service.store.connect import open_client
from tests.command_line.shell import Shell
from tests.faults.insisting import NAMESPACE, Senders, open_story
from tests.faults.topology import SERVICE, ClusterSet, SentinelSet
from tests.story.stage import Story

_EACH = 30  # webhooks taken before, between and after


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
async def shell(tmp_path: Path) -> AsyncIterator[Shell]:
    """Open a shell; whatever was started in it ends with it."""
    opened = Shell(tmp_path)
    yield opened
    await asyncio.gather(*(program.end(signal.SIGKILL) for program in opened.started))


@asynccontextmanager
async def watched(folder: Path, *, sentinels: int) -> AsyncIterator[SentinelSet]:
    """Start a master and its replica, and so many who watch them."""
    servers = SentinelSet(folder, sentinels=sentinels)
    try:
        await servers.start()
        yield servers
    finally:
        servers.kill()


@asynccontextmanager
async def tailed(story: Story) -> AsyncIterator[set[str]]:
    """Follow the stream all the while; gives the deployments that were seen."""
    seen: set[str] = set()

    async def follow() -> None:
        async with open_client(story.house.redis_url, namespace=NAMESPACE) as client:  # type: ignore[union-attr] # it is open
            async for appended in follow_stream(client, story.keys.enriched, since="0"):
                seen.add(appended.fields["subject"])

    following = asyncio.create_task(follow())
    try:
        yield seen
    finally:
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)


async def until_seen(seen: set[str], senders: Senders) -> None:
    """Wait until whoever follows the stream has seen all that was taken."""
    async with asyncio.timeout(20):
        while not seen >= set(senders.taken):
            await asyncio.sleep(0.02)


def tell(what: str, took_s: float) -> None:
    """Show a figure to whoever wants to read it (pytest -s); it is no part of a promise."""
    print(f"{what}: {took_s:.2f} s")  # noqa: T201 - for a person


@pytest.mark.parametrize("sentinels", [1, pytest.param(3, marks=pytest.mark.long)])
async def test_a_master_that_was_killed_is_followed_by_its_replica(
    tmp_path: Path, sentinels: int
) -> None:
    """Sentinel fails over; what was taken is there once, and nobody has to be started again."""
    async with (
        watched(tmp_path, sentinels=sentinels) as servers,
        open_story(servers.url, durability="fsync+replica") as story,
        tailed(story) as seen,
    ):
        first, second = servers.servers
        senders = Senders(story)
        await senders.until_taken(_EACH)
        first.kill()
        await servers.until_master(second)
        await first.start("--replicaof", "127.0.0.1", str(second.port))
        tell("taken again after the replica came", await senders.until_taken(1))
        await senders.until_taken(_EACH)
        await senders.end()
        await senders.check()
        await until_seen(seen, senders)
        assert story.facts("redis_reached")


async def test_a_master_that_was_demoted_is_left(tmp_path: Path) -> None:
    """It is alive and answers, but READONLY: door, workers and tail go on with the new one."""
    async with (
        watched(tmp_path, sentinels=1) as servers,
        open_story(servers.url, durability="fsync+replica") as story,
        tailed(story) as seen,
    ):
        senders = Senders(story)
        await senders.until_taken(_EACH)
        first, second = servers.servers
        await servers.sentinels[0].ask("SENTINEL", "FAILOVER", SERVICE)
        await servers.until_master(second)
        await first.ask(
            "REPLICAOF", "127.0.0.1", second.port
        )  # as Sentinel does, ten seconds later
        tell("taken again after the failover", await senders.until_taken(1))
        await senders.until_taken(_EACH)
        await senders.end()
        await senders.check()
        await until_seen(seen, senders)


@pytest.mark.long
async def test_a_master_that_hangs_is_left(tmp_path: Path) -> None:
    """It comes round as one who takes itself for the master, and nobody listens to it any more."""
    async with (
        watched(tmp_path, sentinels=3) as servers,
        open_story(servers.url, durability="fsync+replica") as story,
        tailed(story) as seen,
    ):
        first, second = servers.servers
        senders = Senders(story)
        await senders.until_taken(_EACH)
        first.signal(signal.SIGSTOP)
        await servers.until_master(second)
        first.signal(signal.SIGCONT)
        while not story.facts("redis_lost"):
            await asyncio.sleep(0.02)
        await first.ask(
            "REPLICAOF", "127.0.0.1", second.port
        )  # as Sentinel does, ten seconds later
        tell("taken again after the replica came", await senders.until_taken(1))
        await senders.until_taken(_EACH)
        await senders.end()
        await senders.check()
        await until_seen(seen, senders)


async def test_a_slot_that_moves_is_followed(cluster: ClusterSet) -> None:
    """Key by key to another master and on, under load: MOVED, ASK and TRYAGAIN are waited out."""
    one, other = cluster.others
    async with open_story(cluster.url) as story, tailed(story) as seen:
        senders = Senders(story)
        await senders.until_taken(_EACH)
        for source, target in ((cluster.owner, one), (one, other)):
            await cluster.move_slot(source, target, pause_s=0.02)
            tell("taken again after the slot moved", await senders.until_taken(1))
            await senders.until_taken(_EACH)
        await senders.end()
        await senders.check()
        await until_seen(seen, senders)
        met = {fact["reason"].partition(":")[0] for fact in story.facts("redis_lost")}
        assert met & {"TryAgainError", "AskError", "MovedError"}


async def test_a_master_of_a_cluster_is_followed_by_its_replica(cluster: ClusterSet) -> None:
    """Killed under load, CLUSTERDOWN for a while, and back as the replica of its replica."""
    async with (
        open_story(cluster.url, durability="fsync+replica") as story,
        tailed(story) as seen,
    ):
        senders = Senders(story)
        await senders.until_taken(_EACH)
        cluster.owner.kill()
        await cluster.until_master(cluster.replica)
        await cluster.owner.start()
        tell("taken again after the replica came", await senders.until_taken(1))
        await senders.until_taken(_EACH)
        await senders.end()
        await senders.check()
        await until_seen(seen, senders)


async def test_what_a_person_types_works_on_a_cluster(cluster: ClusterSet, shell: Shell) -> None:
    """The demo plays on it, tells nothing that would not work there, and tail shows what came."""
    shell.environ["ENRICHER_REDIS_URL"] = cluster.url
    ended = await shell.run("demo --events 2 --per-second 20")
    assert (ended.code, ended.err) == (0, "")
    assert "2 deployments came out" in ended.out
    assert " tail --from-start" in ended.out
    assert "redis-cli" not in ended.out
    shell.environ["ENRICHER_NAMESPACE"] = "deployments-demo"
    await shell.start("tail --from-start --json", until="deployment.enriched.v1")
