"""Tests of a bad network to Redis and to LaunchDarkly: nothing is lost, nothing is duplicated."""

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator
from functools import partial
from urllib.parse import urlsplit

import pytest

from service import app
from service.enrich import client
from service.enrich.verdict import Backoff, RepeatPolicy, RetryPolicy
from service.settings import Secret
from service.store import group_commit
from service.store.connect import open_client
from service.store.embedded import EmbeddedServer
from tests.end_to_end.harness import ServiceHarness, open_harness, open_simulator
from tests.factories import deployment_id
from tests.faults.bad_network import NETWORK_FAULTS, FaultyProxy, NetworkFault
from tests.faults.in_process_senders import InProcessSenders, open_service, print_duration
from tests.tcp_proxy import connect_to_address, connect_to_socket

_WEBHOOKS_PER_PHASE = 20  # webhooks accepted before and after the fault
_IDLE_S = 0.1


@pytest.fixture
async def faulty_proxy(server: EmbeddedServer) -> AsyncIterator[FaultyProxy]:
    """Start a proxy with network faults in front of Redis."""
    async with FaultyProxy(connect_to_socket(server.socket)) as proxy:
        yield proxy


@pytest.fixture
def short_timeouts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shorten the timeouts and the backoff of LaunchDarkly calls."""
    monkeypatch.setattr(group_commit, "REPLY_TIMEOUT_S", 0.5)
    monkeypatch.setattr(client, "REQUEST_TIMEOUT_S", 0.5)
    quick_policy = partial(
        RetryPolicy,
        backoff=Backoff(base_s=0.05, cap_s=0.3),
        repeats=RepeatPolicy(min_wait_s=0.005, max_wait_s=0.05),
    )
    monkeypatch.setattr(app, "RetryPolicy", quick_policy)


async def send_during_faults(
    service: ServiceHarness, proxy: FaultyProxy, *, seed: int, duration_s: float
) -> InProcessSenders:
    """Send webhooks while the network faults of the proxy change; return the senders."""
    senders = InProcessSenders(service)
    await senders.wait_until_accepted(_WEBHOOKS_PER_PHASE)
    await proxy.alternate_faults(seed=seed, duration_s=duration_s)
    return senders


with_changing_faults = pytest.mark.parametrize(
    ("seed", "duration_s"),
    [(1, 2.0), *(pytest.param(seed, 8.0, marks=pytest.mark.long) for seed in range(2, 12))],
)


@pytest.mark.usefixtures("short_timeouts")
@pytest.mark.parametrize("fault", NETWORK_FAULTS)
async def test_redis_network_fault_loses_and_duplicates_nothing(
    faulty_proxy: FaultyProxy, fault: NetworkFault
) -> None:
    """Each accepted webhook has one record, whatever the network does."""
    async with open_service(f"redis://{faulty_proxy.address}") as service:
        senders = InProcessSenders(service)
        await senders.wait_until_accepted(_WEBHOOKS_PER_PHASE)
        faulty_proxy.set_fault(fault)
        await asyncio.sleep(0.3)
        faulty_proxy.set_fault("clear")
        print_duration(f"accepted again after {fault}", await senders.wait_until_accepted(1))
        await senders.wait_until_accepted(_WEBHOOKS_PER_PHASE)
        await senders.stop()
        await senders.check()


@pytest.mark.usefixtures("short_timeouts")
@with_changing_faults
async def test_changing_redis_network_faults_lose_and_duplicate_nothing(
    faulty_proxy: FaultyProxy, seed: int, duration_s: float
) -> None:
    """All network faults occur in turn, at random times."""
    async with open_service(f"redis://{faulty_proxy.address}") as service:
        senders = await send_during_faults(service, faulty_proxy, seed=seed, duration_s=duration_s)
        print_duration("accepted again after the faults", await senders.wait_until_accepted(1))
        await senders.stop()
        await senders.check()


@pytest.mark.usefixtures("short_timeouts")
@with_changing_faults
async def test_changing_launchdarkly_network_faults_lose_and_duplicate_nothing(
    server: EmbeddedServer, seed: int, duration_s: float
) -> None:
    """Every webhook is accepted meanwhile, and each has its complete record in the end."""
    async with (
        open_simulator() as (simulator, url),
        FaultyProxy(connect_to_address("127.0.0.1", urlsplit(url).port or 0)) as proxy,
        open_service(server.url, launchdarkly_url=f"http://{proxy.address}") as service,
    ):
        senders = await send_during_faults(service, proxy, seed=seed, duration_s=duration_s)
        await senders.stop()
        started_s = time.monotonic()
        await senders.check()
        print_duration("all published after the faults", time.monotonic() - started_s)
        call_count = sum(simulator.stats.calls.values())
        assert call_count > len(senders.accepted), "no call was repeated"
        assert not senders.refused
        assert all(record["complete"] == "true" for record in await service.records())


async def test_webhook_after_a_load_balancer_dropped_the_idle_connection_is_accepted(
    faulty_proxy: FaultyProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The receiver notices that its connection is dead, and sends the webhook on another one."""
    monkeypatch.setattr(app, "open_client", partial(open_client, idle_check_s=_IDLE_S))
    async with (
        open_client(f"redis://{faulty_proxy.address}") as viewer,
        open_harness(
            viewer, "faults", redis_url=Secret(f"redis://{faulty_proxy.address}")
        ) as service,
    ):
        await service.open(workers=0)
        event = {"deploymentId": deployment_id(1), "eventType": "finished"}
        assert (await service.post(event, delivery="before"))[0] == 202
        faulty_proxy.drop_open_connections()
        await asyncio.sleep(2 * _IDLE_S)
        assert (await service.post(event, delivery="after"))[0] == 202
        assert not service.log_events("redis_disconnected")
        assert service.log_events("redis_connection_replaced")


@pytest.mark.parametrize("times", [1, pytest.param(15, marks=pytest.mark.long)])
async def test_redis_restart_is_noticed_by_receiver_and_workers(
    server: EmbeddedServer, times: int
) -> None:
    """Redis is killed and restarted; receiver and workers reconnect by themselves."""
    async with open_service(server.url) as service:
        senders = InProcessSenders(service)
        for _ in range(times):
            await senders.wait_until_accepted(_WEBHOOKS_PER_PHASE)
            assert server.pid is not None
            os.kill(server.pid, signal.SIGKILL)
            refused = senders.refused.total()
            while senders.refused.total() == refused:
                await asyncio.sleep(0.01)
            server.stop()
            server.start()
            restarted_s = time.monotonic()
            await senders.wait_until_accepted(1)
            print_duration("accepted again after the restart", time.monotonic() - restarted_s)
            await senders.wait_until_published(1)
            print_duration("published again after the restart", time.monotonic() - restarted_s)
        await senders.stop()
        await senders.check()
