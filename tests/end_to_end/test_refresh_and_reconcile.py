"""Does every deployment get out in its final form, though webhooks are lost and it grows late?"""

import asyncio
import json
import random
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import aiohttp

from service.simulate.options import Options, Shape
from service.simulate.responses import Canned
from service.simulate.world import NewDeployment
from tests.end_to_end.harness import ServiceHarness

Eventually = Callable[[Callable[[], Awaitable[bool]]], Awaitable[None]]
Json = dict[str, Any]

DEPLOYMENTS = 24
LOST_SHARE = 0.2
HANGS_AT = 5
MINUTE_MS = 60_000


async def fetch_deployment(story: ServiceHarness, identifier: str) -> Json:
    """Ask LaunchDarkly itself for a deployment."""
    headers = {"Authorization": Options().token, "LD-API-Version": "beta"}
    url = f"{story.settings.launchdarkly_url}/api/v2/engineering-insights/deployments/{identifier}"
    expand = {"expand": "pullRequests,flagReferences"}
    async with (
        aiohttp.ClientSession() as session,
        session.get(url, params=expand, headers=headers) as response,
    ):
        body: Json = await response.json()
        return body


async def latest_records(story: ServiceHarness) -> dict[str, Json]:
    """Read the last record of each deployment; no (deployment, revision) may be there twice."""
    records = await story.records()
    counts = Counter(record["id"] for record in records)
    assert set(counts.values()) <= {1}, counts
    return {record["subject"]: record["data"] for record in records}


def add_deployment(
    story: ServiceHarness, number: int, *, started_ms_ago: int = 50 * MINUTE_MS
) -> str:
    """Add a deployment that ended not long ago."""
    return story.simulator.add_deployment(
        NewDeployment(version=f"1.0.{number}", started_at=int(time.time() * 1000) - started_ms_ago)
    )


class ConsumerProcess:
    """A group of one reader, a process of its own: what it printed in each of its lives."""

    def __init__(self, story: ServiceHarness, group: str) -> None:
        url, namespace = story.settings.redis_url.reveal(), story.keys.namespace
        self._command = ("-m", "tests.client.killable_consumer", url, namespace, group)
        self.runs: list[list[str]] = []

    @asynccontextmanager
    async def running(self, *, hang_at: int = 0) -> AsyncIterator[None]:
        """Read meanwhile, until it hangs in the body of one record; on leaving it is killed."""
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, *self._command, str(hang_at)), stdout=asyncio.subprocess.PIPE
        )
        assert process.stdout is not None
        self.runs.append([])
        reading = asyncio.create_task(self._read_lines(process.stdout, self.runs[-1]))
        try:
            yield
        finally:
            process.kill()
            await process.wait()
            await reading

    async def _read_lines(self, lines: asyncio.StreamReader, ids: list[str]) -> None:
        async for line in lines:
            ids.append(line.decode().strip())  # noqa: PERF401 - it is looked at meanwhile

    async def is_hanging(self) -> bool:
        """Tell whether its first life has come to the record it is to hang in."""
        return len(self.runs[0]) == HANGS_AT

    def has_read(self, ids: set[str]) -> bool:
        """Tell whether it has heard of all these, in whatever life."""
        return ids <= {record_id for run in self.runs for record_id in run}


async def deploy_and_lose_webhooks(
    story: ServiceHarness, event: Json
) -> tuple[list[str], set[str]]:
    """Deploy, and lose a fifth of the webhooks; gives all deployments, and those nobody told of."""
    rng = random.Random(7)
    lost: set[str] = set()
    names: list[str] = []
    for number in range(DEPLOYMENTS):
        names.append(add_deployment(story, number))
        if rng.random() < LOST_SHARE:
            lost.add(names[-1])
            continue
        identification = {"deploymentId": names[-1]} if number % 2 else {"version": f"1.0.{number}"}
        ended_at = (await fetch_deployment(story, names[-1]))["endedAt"]
        assert (await story.post({**event, **identification, "eventTime": ended_at}))[0] == 202
    assert lost
    return names, lost


async def test_every_deployment_gets_out_in_its_final_form(
    story: ServiceHarness, event: Json, eventually: Eventually
) -> None:
    """A fifth of the webhooks is lost, pull requests join late: in the end all is there, once.

    Two groups of readers know all of it, though one was killed in the middle of a record.
    """
    story.simulator.options = Options(
        grow_every_ms=300, visible_after_ms=50, shape=Shape(pull_requests=(1, 4)), list_links="bare"
    )
    looking: Json = {"revisions": "0.4 0.9 1.8 3", "reconcile": "default/production"}
    await story.open(workers=2, reconcile_interval=0.3, **looking)
    for _ in range(2):
        await story.add_reconciler()
    steady, mortal = ConsumerProcess(story, "steady"), ConsumerProcess(story, "mortal")
    async with steady.running():
        async with mortal.running(hang_at=HANGS_AT):
            names, lost = await deploy_and_lose_webhooks(story, event)
            await eventually(mortal.is_hanging)
        async with mortal.running():
            await eventually(lambda: is_final(story, names))
            ids = {record["id"] for record in await story.records()}
            await eventually(lambda: all_have_read(ids, steady, mortal))
    last = await latest_records(story)
    for name in names:
        assert last[name]["deployment"] == await fetch_deployment(story, name)
    sources = {name: last[name]["event"]["source"] for name in names}
    assert {sources[name] for name in lost} == {"reconcile"}
    assert "native" in sources.values()  # the list may be read before a webhook is sent
    assert any(data["revision"] > 1 for data in last.values())
    assert await story.failed_jobs() == []
    assert all(len(life) == len(set(life)) for life in (*steady.runs, *mortal.runs))
    before, after = mortal.runs
    assert set(before) & set(after) <= set(before[-1:])  # only what it hung in comes again


async def is_final(story: ServiceHarness, names: Sequence[str]) -> bool:
    """Tell whether all is out, and no look will follow."""
    waits = await story.redis.exists(story.keys.refreshes, story.keys.backlog)
    return not waits and set(await latest_records(story)) == set(names)


async def all_have_read(ids: set[str], *readers: ConsumerProcess) -> bool:
    """Tell whether each of the readers has heard of all these."""
    return all(reader.has_read(ids) for reader in readers)


async def test_a_record_says_whether_more_looks_will_follow(
    story: ServiceHarness, event: Json, eventually: Eventually
) -> None:
    """Until when is known from the first record on; the last one says that none follows."""
    story.simulator.options = Options(grow_every_ms=1, shape=Shape(pull_requests=(5, 5)))
    name = add_deployment(story, 1)
    await story.open(refresh_after="0.1 0.5 1 2 4 8")
    story.simulator.set_response(
        f"{name}?expand=pullRequests,flagReferences", canned_deployment(name, 1)
    )
    await story.post({**event, "deploymentId": name})
    await eventually(lambda: has_records(story, 1))
    story.simulator.set_response(
        f"{name}?expand=pullRequests,flagReferences", canned_deployment(name, 2)
    )
    await eventually(lambda: has_records(story, 2))

    async def is_over() -> bool:
        return not await story.redis.exists(story.keys.refreshes, story.keys.backlog)

    await eventually(is_over)
    first, second = [record["data"] for record in await story.records()]
    assert first["refreshes"]["done"] == 0
    assert first["refreshes"]["until"] > first["enrichedAt"]
    assert second["refreshes"]["until"] in {first["refreshes"]["until"], None}
    assert second["event"] == first["event"]


def canned_deployment(name: str, number: int) -> Canned:
    """Give an answer that differs by a number."""
    fields = {"id": name, "pullRequests": {"totalCount": 0, "items": []}, "linesAdded": number}
    return Canned(status=200, body=json.dumps(fields).encode())


async def has_records(story: ServiceHarness, count: int) -> bool:
    """Tell whether there are so many records."""
    return len(await story.records()) >= count


async def test_what_is_gone_is_dropped_and_not_failed(
    story: ServiceHarness, event: Json, eventually: Eventually
) -> None:
    """A deployment that LaunchDarkly no longer knows is not looked at any more."""
    name = add_deployment(story, 1)
    await story.open(refresh_after="0.1 0.5 1 2 4 8 3000")
    await story.post({**event, "deploymentId": name})
    await eventually(lambda: has_records(story, 1))
    story.simulator.set_response(
        f"{name}?expand=pullRequests,flagReferences", Canned(status=404, body=b"{}")
    )

    async def is_dropped() -> bool:
        waits = await story.redis.exists(story.keys.refreshes, story.keys.backlog)
        return not waits and bool(story.log_events("refresh_skipped"))

    await eventually(is_dropped)
    assert [fact["reason"] for fact in story.log_events("refresh_skipped")] == ["not_found"]
    assert await story.failed_jobs() == []
    assert len(await story.records()) == 1


async def test_what_is_in_progress_is_taken_once_it_has_ended(
    story: ServiceHarness, eventually: Eventually
) -> None:
    """No webhook told of it: it is listed until it has ended, and then queued."""
    started_at = int(time.time() * 1000) - 60 * MINUTE_MS
    new = NewDeployment(started_at=started_at, status="started", version="2.0")
    name = story.simulator.add_deployment(new)
    await story.open(
        refresh_after="never", reconcile_scopes="default/production", reconcile_interval=0.05
    )
    await story.add_reconciler()
    await eventually(lambda: has_reconciled(story, 2))
    assert await story.records() == []
    ended = NewDeployment(started_at=started_at + 60_000, version="2.0")
    story.simulator._world.end(ended, {}, int(time.time() * 1000))
    await eventually(lambda: has_records(story, 1))
    assert (await story.records())[0]["subject"] == name


async def has_reconciled(story: ServiceHarness, times: int) -> bool:
    """Tell whether it was reconciled so often."""
    return len(story.log_events("deployments_reconciled")) >= times


async def test_every_page_is_read_and_the_checkpoint_survives(
    story: ServiceHarness, eventually: Eventually
) -> None:
    """More than a page is queued; another process goes on where the last one was."""
    names = {add_deployment(story, number, started_ms_ago=120 * MINUTE_MS) for number in range(120)}
    await story.open(
        refresh_after="never", reconcile_scopes="default/production", reconcile_interval=1000.0
    )
    await story.add_reconciler()

    async def are_all_out() -> bool:
        return set(await latest_records(story)) == names

    await eventually(are_all_out)
    await eventually(lambda: has_reconciled(story, 1))
    await story.redis.hdel(story.keys.reconcile("default/production"), "ran")  # it is time again
    await story.add_reconciler()
    await eventually(lambda: has_reconciled(story, 2))
    facts = story.log_events("deployments_reconciled")
    assert [fact["listed"] for fact in facts[:2]] == [120, 0]
    assert story.runtime is not None
    tell = story.runtime.metrics.registry.get_sample_value
    assert tell("enricher_reconcile_missed_deployments_total") == 120
    assert tell("enricher_reconcile_runs_total", {"outcome": "ended"}) == len(facts)
