"""Tests of the `failed` commands: list, show, retry and drop."""

import asyncio
import hmac
import itertools
import json
import os
import pwd
import signal
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import pytest
import structlog

from service.accept.mapping import Unmappable
from service.backlog.backlog import Backlog, BacklogConfig
from service.backlog.failures import FailureRecord
from service.backlog.ticket import Lease
from service.enrich.budget import load_budget_prelude
from service.store.connect import open_client
from service.store.embedded import EmbeddedServer
from service.store.group_commit import GroupCommit
from service.store.keys import Keys
from tests.cli.shell import PASSWORD, BackgroundCommand, CommandRunner
from tests.factories import make_event

KEYS = Keys("deployments")
DAY_MS = 86_400_000
NATIVE = "--project default --environment production --application shop --version 1.2.3"
JOB = "find:default/production/shop/1.2.3"


class FailedTicketsHarness:
    """Makes failed tickets in the namespace of the commands."""

    def __init__(self, url: str) -> None:
        self.client = open_client(url)
        self.group = GroupCommit(
            self.client, durability="memory", clock=time.monotonic, log=structlog.get_logger()
        )
        terms = BacklogConfig(
            lease_ms=DAY_MS,
            delivery_ttl_ms=DAY_MS,
            failed_ttl_ms=DAY_MS * 90,
            call_ttl_ms=1,
            max_tickets=99,
            rate_limit_share=1.0,
        )
        tokens = itertools.count()
        self.backlog = Backlog(
            self.group,
            keys=KEYS,
            config=terms,
            budget_lua=load_budget_prelude(),
            new_token=lambda: f"{next(tokens):016d}",
        )

    async def add_failed(self, name: str, *, days_ago: float = 0, raw: bytes = b"") -> str:
        """Fail the ticket of one deployment; return its job."""
        event = make_event(
            delivery=f"delivery-{name}",
            application=f"shop-{name}",
            version="1",
            deployment_id=name,
            event_time=1_795_428_000_000,
            metadata=msgspec.Raw(b'{"pipeline":"main"}'),
        )
        await self.backlog.add(event)
        (lease,) = (await self.backlog.claim(1)).leases
        assert isinstance(lease, Lease)
        ticket = msgspec.structs.replace(lease.ticket, attempts=4)
        failure = FailureRecord(reason="rejected", detail="HTTP 400", raw=raw, ticket=ticket)
        assert await self.backlog.fail(lease, failure) == "failed"
        return await self.make_older(lease.job, days_ago)

    async def add_parked(self, delivery: str, body: bytes) -> str:
        """Park one event; return its job."""
        event = Unmappable("missing: version", ("version",), delivery, body)
        assert await self.backlog.park("native", event)
        return f"unmappable:native/{delivery}"

    async def make_older(self, job: str, days: float) -> str:
        """Make a failure older; return its job."""
        await self.client.zincrby(KEYS.failed, -days * DAY_MS, job)
        return job

    async def count_tickets(self) -> tuple[int, int]:
        """Return the number of tickets in the backlog and of failed tickets."""
        return await self.client.zcard(KEYS.backlog), await self.client.zcard(KEYS.failed)


@pytest.fixture
async def failed_harness(
    command_runner: CommandRunner, server: EmbeddedServer
) -> AsyncIterator[FailedTicketsHarness]:
    """Build a harness on the server that the commands use."""
    command_runner.env["ENRICHER_REDIS_URL"] = server.url
    harness = FailedTicketsHarness(server.url)
    yield harness
    await harness.group.aclose()
    await harness.client.aclose()


async def test_failed_list_filters_and_prints_json(
    command_runner: CommandRunner, failed_harness: FailedTicketsHarness
) -> None:
    """By reason, source, application, age and number; the newest first, hostile names escaped."""
    old, new = (
        await failed_harness.add_failed("one", days_ago=3),
        await failed_harness.add_failed("two"),
    )
    aside = await failed_harness.add_parked("d1", b"{}")
    await failed_harness.client.zadd(KEYS.failed, {"id:\x1b[2J": 1})
    everything = await command_runner.run("failed list")
    header, *rows = everything.out.splitlines()
    assert header == " failed  reason            tries  source        application      job"
    assert [row.split()[-1] for row in rows] == [aside, new, old, r"id:\x1b[2J"]
    assert rows[2] == f"    3 d  rejected              5  native        shop-one         {old}"
    for arguments, jobs in (
        ("--reason rejected", [new, old]),
        ("--source native --limit 1", [aside]),
        ("--application shop-one", [old]),
        ("--older-than 2d --newer-than 1w", [old]),
        ("--newer-than 120m --reason rejected", [new]),
        ("--source nobody", []),
    ):
        listed = await command_runner.run(f"failed list --json {arguments}")
        tickets = [json.loads(line) for line in listed.out.splitlines()]
        assert [ticket["job"] for ticket in tickets] == jobs, arguments
        assert listed.code == 0


async def test_failed_show_prints_everything_known(
    command_runner: CommandRunner, failed_harness: FailedTicketsHarness
) -> None:
    """Why, when, what the webhook said, the answer escaped and cut, and how to retry."""
    job = await failed_harness.add_failed("one", raw=b'{"message":"\x1b[2J"}\n' + b"x" * 5000)
    shown = await command_runner.run(f"failed show {job}")
    assert shown.code == 0
    for line in (
        "reason       rejected",
        "detail       HTTP 400",
        "attempts     5",
        "delivery     delivery-one",
        "application  shop-one",
        "eventTime    2026-11-23T10:00:00+00:00",
        'metadata     {"pipeline":"main"}',
        "response     5019 bytes",
        r'  {"message":"\x1b[2J"}',
        "  .. cut here: `failed show --json` prints all 5019 characters",
        f"  deployment-enricher failed retry {job}",
    ):
        assert line in shown.out.splitlines(), line
    whole = json.loads((await command_runner.run(f"failed show --json {job}")).out)
    assert (whole["raw"][-1], len(whole["raw"]), whole["rawCut"]) == ("x", 5019, False)
    stranger = await command_runner.run("failed show id:nobody")
    assert (stranger.code, stranger.err) == (1, "id:nobody has not failed\n")


async def test_failed_show_lists_all_webhooks_of_a_version(
    command_runner: CommandRunner, failed_harness: FailedTicketsHarness
) -> None:
    """Two deployments of one version failed: a line or an object for each, the newest first."""
    for number in (1, 2):
        await failed_harness.backlog.add(
            make_event(
                delivery=f"d{number}", deployment_id=None, event_time=number * 1_000_000_000_000
            )
        )
        (lease,) = (await failed_harness.backlog.claim(1)).leases
        assert isinstance(lease, Lease)
        failure = FailureRecord(reason="not_found", ticket=lease.ticket)
        assert await failed_harness.backlog.fail(lease, failure) == "failed"
    job = "find:default/production/shop/1.1"
    shown = (await command_runner.run(f"failed show {job}")).out
    assert "webhooks     2 of this version; a retry queues all\n" in shown
    first, second = shown.find("delivery d2, outcome"), shown.find("delivery d1, outcome")
    assert 0 < first < second
    whole = json.loads((await command_runner.run(f"failed show --json {job}")).out)
    assert [event["delivery"] for event in whole["events"]] == ["d2", "d1"]


async def test_retried_ticket_is_published_once_the_deployment_exists(
    command_runner: CommandRunner,
) -> None:
    """From a webhook over `failed list` and `failed retry` to a record, against a real `run`."""
    simulate = await command_runner.start("simulate --port 0", ready_pattern="simulator_started")
    upstream = (await simulate.wait_for(r"http://[\d.:]+"))[0]
    command_runner.env["ENRICHER_LAUNCHDARKLY_URL"] = upstream
    command_runner.env["ENRICHER_NOT_FOUND_TIMEOUT"] = "0.001"
    run = await command_runner.start("run", ready_pattern="receiver_started")
    receiver = f"{(await run.wait_for(r'http://[0-9.:]+'))[0]}/webhooks/native"
    await command_runner.run(f"send --url {receiver} {NATIVE}")
    await run.wait_for("deployment_failed")
    listed = await command_runner.run("failed list --reason not_found")
    assert listed.out.splitlines()[1].endswith(f"  {JOB}")

    event = {
        "projectKey": "default",
        "environmentKey": "production",
        "applicationKey": "shop",
        "version": "1.2.3",
        "eventType": "finished",
    }
    headers = {"Authorization": command_runner.env["LAUNCHDARKLY_ACCESS_TOKEN"]}
    path = "/api/v2/engineering-insights/deployment-events"
    async with (
        aiohttp.ClientSession() as session,
        session.post(upstream + path, json=event, headers=headers) as answer,
    ):
        assert answer.status == 201
    again = await command_runner.run(f"failed retry {JOB}")
    assert (again.code, again.out) == (0, f"{JOB}: is due now\n")
    published = json.loads((await run.wait_for(".*deployment_published.*"))[0])
    assert (published["job"], published["attempt"]) == (JOB, 1)
    assert (await command_runner.run("failed list")).err == "no failed tickets\n"


class UnmappableSource:
    """A GitHub whose events our source cannot map yet: it names no project."""

    SOURCE = '[[source]]\nname = "web"\npreset = "github"\nsecrets = ["env:GITHUB"]\n'

    def __init__(self, file: Path) -> None:
        self.file = file
        self.webhook_url = ""
        self.receiver: BackgroundCommand
        self.body = json.dumps(
            {
                "deployment_status": {"state": "success", "environment": "production"},
                "deployment": {"sha": "7fd1a60"},
                "repository": {"name": "shop"},
            }
        ).encode()

    def write_sources(self, extra_toml: str = "") -> None:
        """Write the file of sources."""
        self.file.write_text(self.SOURCE + extra_toml)

    async def post(self) -> dict[str, Any]:
        """Sign and post the event; return the response body."""
        digest = hmac.digest(PASSWORD.encode(), self.body, "sha256").hex()
        headers = {
            "X-GitHub-Event": "deployment_status",
            "X-GitHub-Delivery": "d1",
            "X-Hub-Signature-256": f"sha256={digest}",
        }
        async with (
            aiohttp.ClientSession() as session,
            session.post(self.webhook_url, data=self.body, headers=headers) as response,
        ):
            body: dict[str, Any] = await response.json()
            return body


@pytest.fixture
async def unmappable_source(
    command_runner: CommandRunner, server: EmbeddedServer, tmp_path: Path
) -> UnmappableSource:
    """Run a receiver that has parked an event of a source."""
    source = UnmappableSource(tmp_path / "sources.toml")
    source.write_sources()
    command_runner.env |= {"ENRICHER_SOURCES": str(source.file), "GITHUB": PASSWORD}
    command_runner.env["ENRICHER_REDIS_URL"] = server.url
    source.receiver = await command_runner.start("serve", ready_pattern="receiver_started")
    source.webhook_url = f"{(await source.receiver.wait_for(r'http://[0-9.:]+'))[0]}/webhooks/web"
    assert (await source.post())["status"] == "parked"
    return source


async def test_parked_event_that_stays_unmappable_gets_the_new_reason(
    command_runner: CommandRunner, unmappable_source: UnmappableSource
) -> None:
    """While its source is not mended; a source that is gone says so."""
    unmappable_source.write_sources('when = { "body.x" = "y" }\n')
    skipped = await command_runner.run("failed retry unmappable:web/d1")
    reason = "it no longer is an event: body.x is not what this source waits for"
    assert (skipped.code, skipped.out) == (1, f"unmappable:web/d1: skipped: {reason}\n")
    shown = await command_runner.run("failed show unmappable:web/d1")
    assert f"detail       {reason}\n" in shown.out
    assert "  deployment-enricher failed retry unmappable:web/d1\n" in shown.out
    gone = await command_runner.run("failed retry --all", ENRICHER_SOURCES="")
    assert gone.out == "unmappable:web/d1: skipped: there is no source 'web' here\n"
    assert PASSWORD not in skipped.out + shown.out + gone.out + gone.err


async def test_parked_event_is_mapped_by_the_current_source(
    command_runner: CommandRunner, unmappable_source: UnmappableSource
) -> None:
    """By what was kept of its headers; then its sender's repeats are those of the new job."""
    unmappable_source.write_sources('project = "default"\n')
    planned = await command_runner.run("failed retry --all --dry-run")
    done = await command_runner.run("failed retry --all")
    job = "find:default/production/shop/7fd1a60"
    assert planned.out == f"unmappable:web/d1: would be due now as {job}\n"
    assert (done.code, done.out) == (0, f"unmappable:web/d1: is due now as {job}\n")
    unmappable_source.receiver.child.send_signal(signal.SIGHUP)
    await unmappable_source.receiver.wait_for("sources_reloaded")
    assert await unmappable_source.post() == {"status": "duplicate", "job": job, "delivery": "d1"}
    assert PASSWORD not in planned.out + done.out + done.err


async def test_retry_and_drop_of_many_log_user_and_jobs(
    command_runner: CommandRunner, failed_harness: FailedTicketsHarness
) -> None:
    """A dry run does nothing; one line tells who did it, how many, and which."""
    jobs = [await failed_harness.add_failed(f"n{number}") for number in range(3)]
    dry = await command_runner.run("failed drop --all --dry-run")
    assert (dry.code, dry.out.count("would be dropped")) == (0, 3)
    assert "failed_dropped" not in dry.err
    assert await failed_harness.count_tickets() == (0, 3)

    retried = await command_runner.run(f"failed retry {jobs[0]} {jobs[1]} id:nobody")
    dropped = await command_runner.run("failed drop --all --reason rejected")
    assert await failed_harness.count_tickets() == (2, 0)
    assert (retried.code, dropped.code) == (1, 0)
    assert "id:nobody has not failed\n" in retried.err
    user = pwd.getpwuid(os.getuid()).pw_name
    for ended, event, expected in (
        (retried, "failed_retried", jobs[:2]),
        (dropped, "failed_dropped", jobs[2:]),
    ):
        (line,) = [json.loads(line) for line in ended.err.splitlines() if line.startswith("{")]
        assert (line["event"], line["user"], line["count"]) == (event, user, len(expected))
        assert line["jobs"] == expected


@pytest.mark.parametrize(
    ("answer", "words", "left"),
    [("y", "", (1, 0)), ("n", "", (0, 1)), ("", "", (0, 1)), (None, "--yes", (1, 0))],
)
async def test_retry_all_asks_for_confirmation_on_a_terminal(
    command_runner: CommandRunner,
    failed_harness: FailedTicketsHarness,
    answer: str | None,
    words: str,
    left: tuple[int, int],
) -> None:
    """Nothing is done without a yes; --yes asks nothing."""
    await failed_harness.add_failed("one")
    ours, theirs = os.openpty()
    child = await command_runner.spawn(f"failed retry --all {words}", {}, stdin=theirs)
    os.close(theirs)
    assert child.stderr is not None
    async with asyncio.timeout(30):
        if answer is not None:
            asked = await child.stderr.readuntil(b"[y/N]: ")
            assert asked.endswith(b"retry 1 failed tickets? [y/N]: ")
            os.write(ours, f"{answer}\n".encode())
        await child.communicate()
    os.close(ours)
    assert await failed_harness.count_tickets() == left
    assert child.returncode == (0 if left[0] else 1)


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        ("failed", "Usage: deployment-enricher failed [OPTIONS] COMMAND"),
        ("failed retry", "name the jobs, or give --all"),
        ("failed drop --all id:x", "name the jobs, or give --all"),
        ("failed list --older-than soon", "'soon' is not an age such as 90s, 30m, 2h or 7d"),
        ("failed list --limit 0", "'--limit': 0 is not in the range 1<=x<=1000000"),
    ],
)
async def test_failed_with_a_wrong_argument_is_a_usage_error(
    command_runner: CommandRunner, failed_harness: FailedTicketsHarness, words: str, complaint: str
) -> None:
    """And ends with 2."""
    ended = await command_runner.run(words)
    assert ended.code == 2
    assert complaint in ended.error_text
    assert await failed_harness.count_tickets() == (0, 0)


async def test_failed_list_without_redis_is_reported(command_runner: CommandRunner) -> None:
    """Exit code 1, as everywhere."""
    ended = await command_runner.run("failed list")
    assert ended.code == 1
    assert "Redis is away" in ended.error_text
