"""Tests of metrics of several processes: equal for the namespace, separate for each process."""

import asyncio
import socket

from service.store.embedded import EmbeddedServer
from tests.cli.shell import CommandRunner
from tests.metrics.prometheus_text import MetricsPage, scrape

NAMESPACE_METRICS = ("backlog_", "failed_", "budget_", "token_", "stream_", "reader_", "redis_up")
CHANGING_SUFFIXES = ("_seconds",)  # ages go on between two scrapes


def namespace_samples(page: MetricsPage) -> dict[str, dict[tuple[str, ...], float]]:
    """Return the samples of the namespace, without ages, which change between scrapes."""
    prefixes = tuple(f"enricher_{name}" for name in NAMESPACE_METRICS)
    return {
        name: samples
        for name, samples in page.samples.items()
        if name.startswith(prefixes)
        and not name.endswith(CHANGING_SUFFIXES)
        and "limit" not in name
    }


def free_port() -> int:
    """Find a port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


async def test_processes_report_equal_namespace_metrics(
    command_runner: CommandRunner, server: EmbeddedServer
) -> None:
    """Two receivers and a worker: equal namespace gauges, webhooks counted where they came in."""
    port = free_port()
    upstream = await command_runner.start("simulate --port 0", ready_pattern="simulator_started")
    shared = {
        "ENRICHER_REDIS_URL": server.url,
        "ENRICHER_LAUNCHDARKLY_URL": (await upstream.wait_for(r"http://[\d.:]+"))[0],
    }
    first_receiver, second_receiver, _ = await asyncio.gather(
        command_runner.start("serve", ready_pattern="receiver_started", **shared),
        command_runner.start("serve", ready_pattern="receiver_started", **shared),
        command_runner.start(
            "work", ready_pattern="worker_started", ENRICHER_METRICS_PORT=str(port), **shared
        ),
    )
    receivers = [
        (await receiver.wait_for(r"http://[\d.:]+"))[0]
        for receiver in (first_receiver, second_receiver)
    ]
    addresses = [*receivers, f"http://127.0.0.1:{port}"]
    for number in range(3):
        sent = f"send --url {receivers[0]}/webhooks/native --id a0eebc99-9c0b-4ef8-bb6d-00000000000"
        assert (await command_runner.run(f"{sent}{number}")).code == 0

    async with asyncio.timeout(20):
        while (await scrape(addresses[2])).value("records_published_total") < 3:
            await asyncio.sleep(0.05)
    first, second, worker = await asyncio.gather(*(scrape(address) for address in addresses))
    assert len(namespace_samples(first)) >= 10
    assert first.value("stream_records") == 3
    assert namespace_samples(first) == namespace_samples(second) == namespace_samples(worker)
    queued = [
        page.samples.get("enricher_webhooks_total", {}).get(("queued", "native"), 0)
        for page in (first, second, worker)
    ]
    assert queued == [3, 0, 0]
    assert first.value("records_published_total") == 0
    assert "enricher_worker_tickets_in_progress" not in first.samples
    assert worker.value("worker_tickets_in_progress") == 0
