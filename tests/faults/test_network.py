"""Is nothing lost and nothing twice when the network between us and the others is bad?"""

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator, Iterator
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from service import app
from service.enrich import client
from service.enrich.verdict import Backoff, RetryPolicy
from service.store import group_commit
from service.store.embedded import EmbeddedServer
from tests.end_to_end.harness import open_simulator
from tests.faults.bad_network import NETWORK_FAULTS, FaultyProxy, NetworkFault
from tests.faults.in_process_senders import InProcessSenders, open_story
from tests.tcp_proxy import connect_to_address, connect_to_socket

_WEBHOOKS_PER_PHASE = 20  # webhooks taken before and after


@pytest.fixture
def server(tmp_path: Path) -> Iterator[EmbeddedServer]:
    """Start a Redis that this test may kill."""
    with EmbeddedServer(tmp_path / "redis") as running:
        yield running


@pytest.fixture
async def wire(server: EmbeddedServer) -> AsyncIterator[FaultyProxy]:
    """Put a bad network before it."""
    async with FaultyProxy(connect_to_socket(server.socket)) as between:
        yield between


@pytest.fixture
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give up on the silent sooner than in life, and try LaunchDarkly again sooner."""
    monkeypatch.setattr(group_commit, "REPLY_TIMEOUT_S", 0.5)
    monkeypatch.setattr(client, "REQUEST_TIMEOUT_S", 0.5)
    quick = partial(RetryPolicy, backoff=Backoff(base_s=0.05, cap_s=0.3))
    monkeypatch.setattr(app, "RetryPolicy", quick)


def print_duration(label: str, took_s: float) -> None:
    """Show a figure to whoever wants to read it (pytest -s); it is no part of a promise."""
    print(f"{label}: {took_s:.2f} s")  # noqa: T201 - for a person


@pytest.mark.usefixtures("hurried")
@pytest.mark.parametrize("weather", NETWORK_FAULTS)
async def test_redis_behind_a_bad_network_loses_and_doubles_nothing(
    wire: FaultyProxy, weather: NetworkFault
) -> None:
    """Whatever becomes of requests and answers, each webhook that is taken makes one record."""
    async with open_story(f"redis://{wire.address}") as story:
        senders = InProcessSenders(story)
        await senders.wait_until_accepted(_WEBHOOKS_PER_PHASE)
        wire.set_fault(weather)
        await asyncio.sleep(0.3)
        wire.set_fault("clear")
        print_duration(f"taken again after {weather}", await senders.wait_until_accepted(1))
        await senders.wait_until_accepted(_WEBHOOKS_PER_PHASE)
        await senders.stop()
        await senders.check()


@pytest.mark.usefixtures("hurried")
@pytest.mark.parametrize(
    ("seed", "lasts_s"),
    [(1, 2.0), *(pytest.param(seed, 8.0, marks=pytest.mark.long) for seed in range(2, 12))],
)
async def test_redis_in_a_storm_loses_and_doubles_nothing(
    wire: FaultyProxy, seed: int, lasts_s: float
) -> None:
    """All weathers by turns, at moments that nobody chose."""
    async with open_story(f"redis://{wire.address}") as story:
        senders = InProcessSenders(story)
        await senders.wait_until_accepted(_WEBHOOKS_PER_PHASE)
        await wire.alternate_faults(seed=seed, duration_s=lasts_s)
        print_duration("taken again after the storm", await senders.wait_until_accepted(1))
        await senders.stop()
        await senders.check()


@pytest.mark.usefixtures("hurried")
@pytest.mark.parametrize(
    ("seed", "lasts_s"),
    [(1, 2.0), *(pytest.param(seed, 8.0, marks=pytest.mark.long) for seed in range(2, 12))],
)
async def test_launchdarkly_in_a_storm_loses_and_doubles_nothing(
    server: EmbeddedServer, seed: int, lasts_s: float
) -> None:
    """Webhooks are taken all the while, and each has its whole record in the end."""
    async with (
        open_simulator() as (simulator, url),
        FaultyProxy(connect_to_address("127.0.0.1", urlsplit(url).port or 0)) as wire,
        open_story(server.url, launchdarkly_url=f"http://{wire.address}") as story,
    ):
        senders = InProcessSenders(story)
        await senders.wait_until_accepted(_WEBHOOKS_PER_PHASE)
        await wire.alternate_faults(seed=seed, duration_s=lasts_s)
        await senders.stop()
        started_s = time.monotonic()
        await senders.check()
        print_duration("all published after the storm", time.monotonic() - started_s)
        assert sum(simulator.stats.calls.values()) > len(
            senders.accepted
        )  # some had to be asked again
        assert not senders.refused
        assert all(record["complete"] == "true" for record in await story.records())


@pytest.mark.parametrize("times", [1, pytest.param(15, marks=pytest.mark.long)])
async def test_work_goes_on_when_redis_is_back(server: EmbeddedServer, times: int) -> None:
    """Killed and started again: receiver and workers find it by themselves."""
    async with open_story(server.url) as story:
        senders = InProcessSenders(story)
        for _ in range(times):
            await senders.wait_until_accepted(_WEBHOOKS_PER_PHASE)
            assert server.pid is not None
            os.kill(server.pid, signal.SIGKILL)
            refused = senders.refused.total()
            while senders.refused.total() == refused:
                await asyncio.sleep(0.01)
            server.stop()
            server.start()
            back = time.monotonic()
            await senders.wait_until_accepted(1)
            print_duration("taken again after Redis came back", time.monotonic() - back)
            await senders.wait_until_published(1)
            print_duration("published again after Redis came back", time.monotonic() - back)
        await senders.stop()
        await senders.check()
