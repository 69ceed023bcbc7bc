"""Tests of refreshes and reconciliation: every deployment is published in its final form."""

import asyncio
import json
import random
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import aiohttp

from service.simulate.options import Options, Shape
from service.simulate.responses import Canned
from service.simulate.world import NewDeployment
from tests.conftest import Eventually
from tests.end_to_end.harness import ServiceHarness

Json = dict[str, Any]

DEPLOYMENTS = 24
LOST_SHARE = 0.2
HANG_AT = 5
MINUTE_MS = 60_000


async def fetch_deployment(service: ServiceHarness, identifier: str) -> Json:
    """Fetch a deployment directly from the simulator."""
    headers = {"Authorization": Options().token, "LD-API-Version": "beta"}
    url = (
        f"{service.settings.launchdarkly_url}/api/v2/engineering-insights/deployments/{identifier}"
    )
    expand = {"expand": "pullRequests,flagReferences"}
    async with (
        aiohttp.ClientSession() as session,
        session.get(url, params=expand, headers=headers) as response,
    ):
        body: Json = await response.json()
        return body


async def latest_records(service: ServiceHarness) -> dict[str, Json]:
    """Return the last record of each deployment, and assert that no revision appears twice."""
    records = await service.records()
    counts = Counter(record["id"] for record in records)
    assert set(counts.values()) <= {1}, counts
    return {record["subject"]: record["data"] for record in records}


def add_deployment(
    service: ServiceHarness, number: int, *, started_ms_ago: int = 50 * MINUTE_MS
) -> str:
    """Add a deployment that ended recently."""
    return service.simulator.add_deployment(
        NewDeployment(version=f"1.0.{number}", started_at=int(time.time() * 1000) - started_ms_ago)
    )


class ConsumerProcess:
    """A consumer group with one reader in a process of its own.

    ``runs`` holds the record ids that the process printed, for each of its runs.
    """

    def __init__(self, service: ServiceHarness, group: str) -> None:
        url, namespace = service.settings.redis_url.reveal(), service.keys.namespace
        self._command = ("-m", "tests.client.killable_consumer", url, namespace, group)
        self.runs: list[list[str]] = []

    @asynccontextmanager
    async def running(self, *, hang_at: int = 0) -> AsyncIterator[None]:
        """Run the reader until the context ends, then kill it; it hangs at record ``hang_at``."""
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, *self._command, str(hang_at)), stdout=asyncio.subprocess.PIPE
        )
        assert process.stdout is not None
        self.runs.append([])
        read_task = asyncio.create_task(self._read_lines(process.stdout, self.runs[-1]))
        try:
            yield
        finally:
            process.kill()
            await process.wait()
            await read_task

    async def _read_lines(self, lines: asyncio.StreamReader, ids: list[str]) -> None:
        async for line in lines:
            ids.append(line.decode().strip())  # noqa: PERF401 - the test reads the list meanwhile

    async def is_hanging(self) -> bool:
        """Return whether the first run hangs in its record."""
        return len(self.runs[0]) == HANG_AT

    def has_read(self, ids: set[str]) -> bool:
        """Return whether all these records were read in any run."""
        return ids <= {record_id for run in self.runs for record_id in run}


async def deploy_and_lose_webhooks(
    service: ServiceHarness, event: Json
) -> tuple[list[str], set[str]]:
    """Add deployments and drop a fifth of the webhooks; return all ids and the dropped ones."""
    rng = random.Random(7)
    lost: set[str] = set()
    names: list[str] = []
    for number in range(DEPLOYMENTS):
        names.append(add_deployment(service, number))
        if rng.random() < LOST_SHARE:
            lost.add(names[-1])
            continue
        identification = {"deploymentId": names[-1]} if number % 2 else {"version": f"1.0.{number}"}
        ended_at = (await fetch_deployment(service, names[-1]))["endedAt"]
        assert (await service.post({**event, **identification, "eventTime": ended_at}))[0] == 202
    assert lost
    return names, lost


async def test_every_deployment_is_published_in_its_final_form(
    service: ServiceHarness, event: Json, eventually: Eventually
) -> None:
    """A fifth of the webhooks is lost and pull requests join late, yet every record is final.

    Two consumer groups read all of it, although one was killed in the middle of a record.
    """
    service.simulator.options = Options(
        grow_every_ms=300, visible_after_ms=50, shape=Shape(pull_requests=(1, 4)), list_links="bare"
    )
    await service.open(
        workers=2,
        refresh_after="0.4 0.9 1.8 3",
        reconcile_scopes="default/production",
        reconcile_interval=0.3,
    )
    for _ in range(2):
        await service.add_reconciler()
    steady, killed = ConsumerProcess(service, "steady"), ConsumerProcess(service, "killed")
    async with steady.running():
        async with killed.running(hang_at=HANG_AT):
            names, lost = await deploy_and_lose_webhooks(service, event)
            await eventually(killed.is_hanging)
        async with killed.running():
            await eventually(lambda: is_final(service, names))
            ids = {record["id"] for record in await service.records()}
            await eventually(lambda: all_have_read(ids, steady, killed))
    last = await latest_records(service)
    for name in names:
        assert last[name]["deployment"] == await fetch_deployment(service, name)
    sources = {name: last[name]["event"]["source"] for name in names}
    assert {sources[name] for name in lost} == {"reconcile"}
    assert "native" in sources.values()  # reconciliation may list a deployment before its webhook
    assert any(data["revision"] > 1 for data in last.values())
    assert await service.failed_jobs() == []
    assert all(len(run) == len(set(run)) for run in (*steady.runs, *killed.runs))
    before, after = killed.runs
    # Only the record in which the reader hung is read twice.
    assert set(before) & set(after) <= set(before[-1:])


async def is_final(service: ServiceHarness, names: Sequence[str]) -> bool:
    """Return whether every deployment is published and no refresh will follow."""
    waits = await service.redis.exists(service.keys.refreshes, service.keys.backlog)
    return not waits and set(await latest_records(service)) == set(names)


async def all_have_read(ids: set[str], *readers: ConsumerProcess) -> bool:
    """Return whether each reader has read all these records."""
    return all(reader.has_read(ids) for reader in readers)


async def test_record_says_whether_refreshes_will_follow(
    service: ServiceHarness, event: Json, eventually: Eventually
) -> None:
    """The first record says until when; the last one says that no refresh follows."""
    service.simulator.options = Options(grow_every_ms=1, shape=Shape(pull_requests=(5, 5)))
    name = add_deployment(service, 1)
    await service.open(refresh_after="0.1 0.5 1 2 4 8")
    service.simulator.set_response(
        f"{name}?expand=pullRequests,flagReferences", canned_deployment(name, 1)
    )
    await service.post({**event, "deploymentId": name})
    await eventually(lambda: has_records(service, 1))
    service.simulator.set_response(
        f"{name}?expand=pullRequests,flagReferences", canned_deployment(name, 2)
    )
    await eventually(lambda: has_records(service, 2))

    async def is_over() -> bool:
        return not await service.redis.exists(service.keys.refreshes, service.keys.backlog)

    await eventually(is_over)
    first, second = [record["data"] for record in await service.records()]
    assert first["refreshes"]["done"] == 0
    assert first["refreshes"]["until"] > first["enrichedAt"]
    assert second["refreshes"]["until"] in {first["refreshes"]["until"], None}
    assert second["event"] == first["event"]


def canned_deployment(name: str, number: int) -> Canned:
    """Return a response that differs by a number."""
    fields = {"id": name, "pullRequests": {"totalCount": 0, "items": []}, "linesAdded": number}
    return Canned(status=200, body=json.dumps(fields).encode())


async def has_records(service: ServiceHarness, count: int) -> bool:
    """Return whether at least this many records exist."""
    return len(await service.records()) >= count


async def test_refresh_of_deleted_deployment_is_dropped(
    service: ServiceHarness, event: Json, eventually: Eventually
) -> None:
    """A deployment that LaunchDarkly no longer knows is not refreshed and does not fail."""
    name = add_deployment(service, 1)
    await service.open(refresh_after="0.1 0.5 1 2 4 8 3000")
    await service.post({**event, "deploymentId": name})
    await eventually(lambda: has_records(service, 1))
    service.simulator.set_response(
        f"{name}?expand=pullRequests,flagReferences", Canned(status=404, body=b"{}")
    )

    async def is_dropped() -> bool:
        waits = await service.redis.exists(service.keys.refreshes, service.keys.backlog)
        return not waits and bool(service.log_events("refresh_skipped"))

    await eventually(is_dropped)
    assert [line["reason"] for line in service.log_events("refresh_skipped")] == ["not_found"]
    assert await service.failed_jobs() == []
    assert len(await service.records()) == 1


async def test_deployment_in_progress_is_queued_after_its_end(
    service: ServiceHarness, eventually: Eventually
) -> None:
    """Without a webhook, reconciliation lists it until it has ended and then queues it."""
    started_at = int(time.time() * 1000) - 60 * MINUTE_MS
    new = NewDeployment(started_at=started_at, status="started", version="2.0")
    name = service.simulator.add_deployment(new)
    await service.open(
        refresh_after="never", reconcile_scopes="default/production", reconcile_interval=0.05
    )
    await service.add_reconciler()
    await eventually(lambda: has_reconciled(service, 2))
    assert await service.records() == []
    ended = NewDeployment(started_at=started_at + 60_000, version="2.0")
    service.simulator._world.end(ended, {}, int(time.time() * 1000))
    await eventually(lambda: has_records(service, 1))
    assert (await service.records())[0]["subject"] == name


async def has_reconciled(service: ServiceHarness, times: int) -> bool:
    """Return whether reconciliation has run this often."""
    return len(service.log_events("deployments_reconciled")) >= times


async def test_reconciliation_reads_every_page_and_keeps_its_checkpoint(
    service: ServiceHarness, eventually: Eventually
) -> None:
    """More than one page is queued, and another process continues after the checkpoint."""
    names = {
        add_deployment(service, number, started_ms_ago=120 * MINUTE_MS) for number in range(120)
    }
    await service.open(
        refresh_after="never", reconcile_scopes="default/production", reconcile_interval=1000.0
    )
    await service.add_reconciler()

    async def are_all_out() -> bool:
        return set(await latest_records(service)) == names

    await eventually(are_all_out)
    await eventually(lambda: has_reconciled(service, 1))
    await service.redis.hdel(
        service.keys.reconcile("default/production"), "ran"
    )  # the next run is due
    await service.add_reconciler()
    await eventually(lambda: has_reconciled(service, 2))
    lines = service.log_events("deployments_reconciled")
    assert [line["listed"] for line in lines[:2]] == [120, 0]
    assert service.runtime is not None
    get_sample = service.runtime.metrics.registry.get_sample_value
    assert get_sample("enricher_reconcile_missed_deployments_total") == 120
    assert get_sample("enricher_reconcile_runs_total", {"outcome": "ended"}) == len(lines)
