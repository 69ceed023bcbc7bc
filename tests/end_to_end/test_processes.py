"""Tests that kill real receivers, workers and Redis: nothing is lost, nothing is duplicated."""

import asyncio
import itertools
import json
import os
import random
import signal
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest
from redis.asyncio import Redis

from service.accept.signatures import sign_standard_webhook
from service.metrics.http import serve_app
from service.simulate.options import Options
from service.simulate.quota import Limits
from service.simulate.server import Simulator
from service.store.connect import open_client
from service.store.embedded import EmbeddedServer
from service.store.keys import Keys
from tests.end_to_end.harness import SECRET, read_stream
from tests.factories import deployment_id

NAMESPACE = "deployments"
KEYS = Keys(NAMESPACE)


class LoggedProcess:
    """A process of the service with its log lines."""

    def __init__(self, child: asyncio.subprocess.Process) -> None:
        self.child = child
        self.lines: list[dict[str, Any]] = []
        self._reading = asyncio.create_task(self._read())

    async def _read(self) -> None:
        assert self.child.stderr is not None
        async for line in self.child.stderr:
            try:
                self.lines.append(json.loads(line))
            except ValueError:
                self.lines.append({"event": "not json", "line": line.decode()})

    async def wait_for(self, event: str) -> dict[str, Any]:
        """Wait for a log event and return it."""
        async with asyncio.timeout(30):
            while True:
                for line in self.lines:
                    if line["event"] == event:
                        return line
                assert not self._reading.done(), self.lines
                await asyncio.sleep(0.02)

    async def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Send a signal, wait for the end, and return the exit code."""
        if self.child.returncode is None:
            self.child.send_signal(number)
        code = await self.child.wait()
        await self._reading
        return code


class ProcessGroup:
    """Receivers and workers, with an upstream and a Redis that may be killed."""

    def __init__(self, server: EmbeddedServer, upstream: str) -> None:
        self.server = server
        self._launchdarkly_url = upstream
        self.processes: list[LoggedProcess] = []

    async def start(self, command: str) -> LoggedProcess:
        """Start one process and wait until it has started."""
        environment = {
            **os.environ,
            "ENRICHER_REDIS_URL": self.server.url,
            "ENRICHER_NAMESPACE": NAMESPACE,
            "ENRICHER_WEBHOOK_SECRET": SECRET,
            "ENRICHER_PORT": "0",
            "ENRICHER_LEASE": "2",
            "ENRICHER_ENQUEUE_TIMEOUT": "2",
            "ENRICHER_RATE_LIMIT_SHARE": "1",
            "LAUNCHDARKLY_ACCESS_TOKEN": Options().token,
            "ENRICHER_LAUNCHDARKLY_URL": self._launchdarkly_url,
        }
        child = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "service", command),
            env=environment,
            stderr=asyncio.subprocess.PIPE,
        )
        process = LoggedProcess(child)
        self.processes.append(process)
        await process.wait_for("receiver_started" if command == "serve" else "worker_started")
        return process

    def log_events(self, event: str) -> list[dict[str, Any]]:
        """Return the log events of this name from any process."""
        return [
            line for process in self.processes for line in process.lines if line["event"] == event
        ]


@pytest.fixture
async def redis_client(server: EmbeddedServer) -> AsyncIterator[Redis]:
    """Return an observing client."""
    async with open_client(server.url) as client:
        yield client


@pytest.fixture
def simulator() -> Simulator:
    """Start the upstream with a quota of 20 calls in 2 s."""
    options = Options(quota=Limits(global_limit=20, window_ms=2000), latency_ms=(5, 60))
    return Simulator(options, clock=time.time, rng=random.Random(1))


@pytest.fixture
async def process_group(
    server: EmbeddedServer, simulator: Simulator
) -> AsyncIterator[ProcessGroup]:
    """Return a process group, and end every process afterwards."""
    async with serve_app(simulator.app(), host="127.0.0.1", port=0) as upstream:
        process_group = ProcessGroup(server, upstream)
        yield process_group
        await asyncio.gather(*(process.stop(signal.SIGKILL) for process in process_group.processes))


async def post_webhook(
    session: aiohttp.ClientSession, receiver_url: str, number: int
) -> tuple[int, str | None]:
    """Post the webhook of one deployment; return status and Retry-After, 0 without a response."""
    body = json.dumps({"deploymentId": deployment_id(number), "eventType": "finished"}).encode()
    headers = sign_standard_webhook(
        SECRET, delivery=f"delivery-{number}", timestamp_s=int(time.time()), body=body
    )
    try:
        async with session.post(
            f"{receiver_url}/webhooks/native", data=body, headers=headers
        ) as response:
            await response.read()
            return response.status, response.headers.get("Retry-After")
    except aiohttp.ClientError:
        return 0, None


async def count_records(viewer: Redis) -> Counter[str]:
    """Count the records of the stream by deployment."""
    return Counter(fields["subject"] for fields in await read_stream(viewer, KEYS.enriched))


async def wait_until_empty(viewer: Redis, *, within_s: float) -> None:
    """Wait until the backlog is empty."""
    async with asyncio.timeout(within_s):
        while await viewer.exists(KEYS.backlog):
            await asyncio.sleep(0.05)


@pytest.mark.timeout(120)
async def test_repeated_webhooks_and_killed_worker_make_one_record_each(
    process_group: ProcessGroup, redis_client: Redis, simulator: Simulator
) -> None:
    """200 webhooks, each sent three times, two receivers, four workers of which one is killed."""
    receivers = [(await process_group.start("serve")).lines for _ in range(2)]
    urls = [
        line["url"] for lines in receivers for line in lines if line["event"] == "receiver_started"
    ]
    workers = await asyncio.gather(*(process_group.start("work") for _ in range(4)))
    async with aiohttp.ClientSession() as session:
        sent = [post_webhook(session, urls[n % 2], n // 3) for n in range(600)]
        replies = Counter(status for status, _ in await asyncio.gather(*sent))
    assert replies == {202: 200, 200: 400}

    async with asyncio.timeout(60):  # the killed worker must hold leases
        while (
            not await redis_client.zcard(KEYS.budget_calls)
            or await redis_client.xlen(KEYS.enriched) < 30
        ):
            await asyncio.sleep(0.01)
    await workers[0].stop(signal.SIGKILL)
    await wait_until_empty(redis_client, within_s=60)

    records = await count_records(redis_client)
    assert len(records) == 200
    assert set(records.values()) == {1}
    assert simulator.stats.rate_limited <= 2
    assert simulator.stats.rate_limited_while_closed == 0
    codes = [await process.stop() for process in process_group.processes[:2] + list(workers[1:])]
    assert codes == [0] * 5
    assert not process_group.log_events("not json")
    without_ttl = [key async for key in redis_client.scan_iter() if await redis_client.ttl(key) < 0]
    kept = {KEYS.enriched, KEYS.milestones, KEYS.counts, KEYS.clock}
    assert {key.decode() for key in without_ttl} == kept


class OneAttemptSenders:
    """CD systems that post one webhook after the other and never repeat an accepted one."""

    def __init__(self, session: aiohttp.ClientSession, receiver_url: str) -> None:
        self.accepted: set[int] = set()
        self.refused: list[tuple[int, str | None]] = []
        self._session = session
        self._receiver_url = receiver_url
        self._stop = False
        self._tasks = [asyncio.create_task(self._send(sender * 100_000)) for sender in range(8)]

    async def _send(self, first: int) -> None:
        for number in itertools.count(first):
            status, retry_after = await post_webhook(self._session, self._receiver_url, number)
            if status in {200, 202}:
                self.accepted.add(number)
            else:
                self.refused.append((status, retry_after))
                await asyncio.sleep(0.05)
            if self._stop:
                return

    async def wait_until_accepted(self, count: int) -> None:
        """Wait until this many more webhooks are accepted."""
        target = len(self.accepted) + count
        while len(self.accepted) < target:
            await asyncio.sleep(0.01)

    async def wait_until_refused(self, count: int) -> None:
        """Wait until this many more webhooks are refused."""
        target = len(self.refused) + count
        while len(self.refused) < target:
            await asyncio.sleep(0.01)

    async def stop(self) -> None:
        """Stop sending."""
        self._stop = True
        await asyncio.gather(*self._tasks)


@pytest.mark.timeout(120)
async def test_killed_redis_loses_nothing_that_was_accepted(
    process_group: ProcessGroup, redis_client: Redis, simulator: Simulator
) -> None:
    """Every 202 has its record; without Redis the receiver responds 503 with Retry-After."""
    simulator.options = Options()
    receiver = (await (await process_group.start("serve")).wait_for("receiver_started"))["url"]
    await process_group.start("work")
    async with aiohttp.ClientSession() as session:
        senders = OneAttemptSenders(session, receiver)
        for _ in range(3):
            await senders.wait_until_accepted(50)
            assert process_group.server.pid is not None
            os.kill(process_group.server.pid, signal.SIGKILL)
            await senders.wait_until_refused(4)
            process_group.server.stop()
            process_group.server.start()
        await senders.wait_until_accepted(50)
        await senders.stop()
    assert {status for status, _ in senders.refused} == {503}
    assert all(retry_after for _, retry_after in senders.refused)

    await wait_until_empty(redis_client, within_s=60)
    records = await count_records(redis_client)
    assert {deployment_id(number) for number in senders.accepted} <= set(records)
    assert set(records.values()) == {1}
    assert not process_group.log_events("not json")
    assert not [
        line for process in process_group.processes for line in process.lines if "exception" in line
    ]
