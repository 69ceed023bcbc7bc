"""May a person look at what has failed, take it up again, or drop it? By commands alone."""

import asyncio
import hmac
import itertools
import json
import os
import pwd
import signal
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import pytest
import structlog

from service.accept.events import DeploymentCompleted, Unmappable
from service.backlog.backlog import Backlog, Terms
from service.backlog.failure import record_failure
from service.backlog.ticket import Lease
from service.enrich.budget import load_room
from service.store.connect import open_client
from service.store.embedded import EmbeddedServer
from service.store.group import GroupCommit
from service.store.keys import Keys
from tests.command_line.shell import PASSWORD, Program, Shell

KEYS = Keys("deployments")
DAY_MS = 86_400_000
NATIVE = "--project default --environment production --application shop --version 1.2.3"
JOB = "find:default/production/shop/1.2.3"


class Yard:
    """Where failures are made: a backlog of the namespace that the commands look at."""

    def __init__(self, url: str) -> None:
        self.client = open_client(url)
        self.group = GroupCommit(
            self.client, durability="memory", clock=time.monotonic, log=structlog.get_logger()
        )
        terms = Terms(
            lease_ms=DAY_MS, mark_ms=DAY_MS, failed_ms=DAY_MS * 90, call_ms=1, limit=99, share=1.0
        )
        tokens = itertools.count()
        self.backlog = Backlog(
            self.group,
            keys=KEYS,
            terms=terms,
            room=load_room(),
            new_token=lambda: f"{next(tokens):016d}",
        )

    async def fail(self, name: str, *, days_ago: float = 0, raw: bytes = b"") -> str:
        """Let one deployment fail; gives its job."""
        event = DeploymentCompleted(
            source="native",
            delivery=f"delivery-{name}",
            project="default",
            environment="production",
            application=f"shop-{name}",
            version="1",
            deployment_id=name,
            outcome="succeeded",
            event_time=1_795_428_000_000,
            metadata=msgspec.Raw(b'{"pipeline":"main"}'),
            metadata_dropped=False,
            traceparent=None,
        )
        await self.backlog.add(event)
        (lease,) = (await self.backlog.claim(1)).leases
        assert isinstance(lease, Lease)
        ticket = msgspec.structs.replace(lease.ticket, attempts=4)
        failure = record_failure("rejected", detail="HTTP 400", raw=raw, ticket=ticket)
        assert await self.backlog.give_up(lease, failure) == "given up"
        return await self.age(lease.job, days_ago)

    async def set_aside(self, delivery: str, body: bytes) -> str:
        """Let one event be set aside; gives its job."""
        event = Unmappable("missing: version", ("version",), delivery, body)
        assert await self.backlog.set_aside("native", event)
        return f"unmappable:native/{delivery}"

    async def age(self, job: str, days: float) -> str:
        """Let a failure be so old."""
        await self.client.zincrby(KEYS.failed, -days * DAY_MS, job)
        return job

    async def look(self) -> tuple[int, int]:
        """Count what waits and what has failed."""
        return await self.client.zcard(KEYS.backlog), await self.client.zcard(KEYS.failed)


@pytest.fixture
async def yard(shell: Shell, server: EmbeddedServer) -> AsyncIterator[Yard]:
    """Give a shell whose commands look at a server on which things can fail."""
    shell.environ["ENRICHER_REDIS_URL"] = server.url
    made = Yard(server.url)
    yield made
    await made.group.aclose()
    await made.client.aclose()


async def test_the_list_is_sifted_and_can_be_read_by_programs(shell: Shell, yard: Yard) -> None:
    """By reason, source, application, age and number; the newest first, hostile names escaped."""
    old, new = await yard.fail("one", days_ago=3), await yard.fail("two")
    aside = await yard.set_aside("d1", b"{}")
    await yard.client.zadd(KEYS.failed, {"id:\x1b[2J": 1})
    everything = await shell.run("failed list")
    header, *rows = everything.out.splitlines()
    assert header == " failed  reason            tries  source        application      job"
    assert [row.split()[-1] for row in rows] == [aside, new, old, r"id:\x1b[2J"]
    assert rows[2] == f"    3 d  rejected              5  native        shop-one         {old}"
    for words, jobs in (
        ("--reason rejected", [new, old]),
        ("--source native --limit 1", [aside]),
        ("--application shop-one", [old]),
        ("--older-than 2d --newer-than 1w", [old]),
        ("--newer-than 120m --reason rejected", [new]),
        ("--source nobody", []),
    ):
        listed = await shell.run(f"failed list --json {words}")
        told = [json.loads(line) for line in listed.out.splitlines()]
        assert [one["job"] for one in told] == jobs, words
        assert listed.code == 0


async def test_one_is_shown_with_all_that_is_known(shell: Shell, yard: Yard) -> None:
    """Why, when, what the webhook said, the answer escaped and cut, and how to retry."""
    job = await yard.fail("one", raw=b'{"message":"\x1b[2J"}\n' + b"x" * 5000)
    shown = await shell.run(f"failed show {job}")
    assert shown.code == 0
    for line in (
        "reason       rejected",
        "detail       HTTP 400",
        "attempts     5",
        "delivery     delivery-one",
        "application  shop-one",
        "eventTime    2026-11-23T10:00:00+00:00",
        'metadata     {"pipeline":"main"}',
        "answer       5019 bytes",
        r'  {"message":"\x1b[2J"}',
        "  .. cut here: `failed show --json` gives all 5019 characters",
        f"  deployment-enricher failed retry {job}",
    ):
        assert line in shown.out.splitlines(), line
    whole = json.loads((await shell.run(f"failed show --json {job}")).out)
    assert (whole["raw"][-1], len(whole["raw"]), whole["rawCut"]) == ("x", 5019, False)
    stranger = await shell.run("failed show id:nobody")
    assert (stranger.code, stranger.err) == (1, "id:nobody is not among the failed\n")


async def test_what_failed_is_published_once_it_is_there(shell: Shell) -> None:
    """From a webhook over `failed list` and `failed retry` to a record, against a real `run`."""
    simulate = await shell.start("simulate --port 0", until="simulator_opened")
    upstream = (await simulate.wait_for(r"http://[\d.:]+"))[0]
    shell.environ["ENRICHER_LAUNCHDARKLY_URL"] = upstream
    shell.environ["ENRICHER_APPEAR_DEADLINE"] = "0.001"
    run = await shell.start("run", until="door_opened")
    door = f"{(await run.wait_for(r'http://[0-9.:]+'))[0]}/webhooks/native"
    await shell.run(f"send --url {door} {NATIVE}")
    await run.wait_for("deployment_given_up")
    listed = await shell.run("failed list --reason not_found")
    assert listed.out.splitlines()[1].endswith(f"  {JOB}")

    event = {
        "projectKey": "default",
        "environmentKey": "production",
        "applicationKey": "shop",
        "version": "1.2.3",
        "eventType": "finished",
    }
    headers = {"Authorization": shell.environ["LAUNCHDARKLY_ACCESS_TOKEN"]}
    path = "/api/v2/engineering-insights/deployment-events"
    async with (
        aiohttp.ClientSession() as session,
        session.post(upstream + path, json=event, headers=headers) as answer,
    ):
        assert answer.status == 201
    again = await shell.run(f"failed retry {JOB}")
    assert (again.code, again.out) == (0, f"{JOB}: is due now\n")
    published = json.loads((await run.wait_for(".*deployment_published.*"))[0])
    assert (published["job"], published["attempt"]) == (JOB, 1)
    assert (await shell.run("failed list")).err == "nothing that has failed\n"


class Sender:
    """A GitHub whose events our source cannot map yet: it names no project."""

    SOURCE = '[[source]]\nname = "web"\npreset = "github"\nsecrets = ["env:GITHUB"]\n'

    def __init__(self, file: Path) -> None:
        self.file = file
        self.door = ""
        self.serve: Program
        self.body = json.dumps(
            {
                "deployment_status": {"state": "success", "environment": "production"},
                "deployment": {"sha": "7fd1a60"},
                "repository": {"name": "shop"},
            }
        ).encode()

    def write(self, more: str = "") -> None:
        """Write the file of sources."""
        self.file.write_text(self.SOURCE + more)

    async def post(self) -> dict[str, Any]:
        """Sign and post the event; gives the answer."""
        digest = hmac.digest(PASSWORD.encode(), self.body, "sha256").hex()
        headers = {
            "X-GitHub-Event": "deployment_status",
            "X-GitHub-Delivery": "d1",
            "X-Hub-Signature-256": f"sha256={digest}",
        }
        async with (
            aiohttp.ClientSession() as session,
            session.post(self.door, data=self.body, headers=headers) as answer,
        ):
            told: dict[str, Any] = await answer.json()
            return told


@pytest.fixture
async def sender(shell: Shell, server: EmbeddedServer, tmp_path: Path) -> Sender:
    """Give a sender whose event was set aside by a running door."""
    made = Sender(tmp_path / "sources.toml")
    made.write()
    shell.environ |= {"ENRICHER_SOURCES": str(made.file), "GITHUB": PASSWORD}
    shell.environ["ENRICHER_REDIS_URL"] = server.url
    made.serve = await shell.start("serve", until="door_opened")
    made.door = f"{(await made.serve.wait_for(r'http://[0-9.:]+'))[0]}/webhooks/web"
    assert (await made.post())["status"] == "set aside"
    return made


async def test_what_was_set_aside_is_left_with_the_new_reason(shell: Shell, sender: Sender) -> None:
    """While its source is not mended; a source that is gone says so."""
    sender.write('when = { "body.x" = "y" }\n')
    left = await shell.run("failed retry unmappable:web/d1")
    reason = "it would be no event any more: body.x is not what this source waits for"
    assert (left.code, left.out) == (1, f"unmappable:web/d1: left: {reason}\n")
    shown = await shell.run("failed show unmappable:web/d1")
    assert f"detail       {reason}\n" in shown.out
    assert "  deployment-enricher failed retry unmappable:web/d1\n" in shown.out
    gone = await shell.run("failed retry --all", ENRICHER_SOURCES="")
    assert gone.out == "unmappable:web/d1: left: there is no source 'web' here\n"
    assert PASSWORD not in left.out + shown.out + gone.out + gone.err


async def test_what_was_set_aside_is_read_by_the_source_as_it_is_now(
    shell: Shell, sender: Sender
) -> None:
    """By what was kept of its headers; then its sender's repeats are those of the new job."""
    sender.write('project = "default"\n')
    planned = await shell.run("failed retry --all --dry-run")
    done = await shell.run("failed retry --all")
    job = "find:default/production/shop/7fd1a60"
    assert planned.out == f"unmappable:web/d1: would be due now as {job}\n"
    assert (done.code, done.out) == (0, f"unmappable:web/d1: is due now as {job}\n")
    sender.serve.child.send_signal(signal.SIGHUP)
    await sender.serve.wait_for("sources_reloaded")
    assert await sender.post() == {"status": "duplicate", "job": job, "delivery": "d1"}
    assert PASSWORD not in planned.out + done.out + done.err


async def test_many_are_settled_as_asked_and_written_down(shell: Shell, yard: Yard) -> None:
    """A dry run does nothing; one line tells who did it, how many, and which."""
    jobs = [await yard.fail(f"n{number}") for number in range(3)]
    dry = await shell.run("failed drop --all --dry-run")
    assert (dry.code, dry.out.count("would be dropped")) == (0, 3)
    assert "failed_dropped" not in dry.err
    assert await yard.look() == (0, 3)

    retried = await shell.run(f"failed retry {jobs[0]} {jobs[1]} id:nobody")
    dropped = await shell.run("failed drop --all --reason rejected")
    assert await yard.look() == (2, 0)
    assert (retried.code, dropped.code) == (1, 0)
    assert "id:nobody is not among the failed\n" in retried.err
    who = pwd.getpwuid(os.getuid()).pw_name
    for ended, fact, told in (
        (retried, "failed_retried", jobs[:2]),
        (dropped, "failed_dropped", jobs[2:]),
    ):
        (line,) = [json.loads(line) for line in ended.err.splitlines() if line.startswith("{")]
        assert (line["event"], line["who"], line["count"]) == (fact, who, len(told))
        assert line["jobs"] == told


@pytest.mark.parametrize(
    ("answer", "words", "left"),
    [("y", "", (1, 0)), ("n", "", (0, 1)), ("", "", (0, 1)), (None, "--yes", (1, 0))],
)
async def test_a_terminal_is_asked_before_all(
    shell: Shell, yard: Yard, answer: str | None, words: str, left: tuple[int, int]
) -> None:
    """Nothing is done without a yes; --yes asks nothing."""
    await yard.fail("one")
    ours, theirs = os.openpty()
    child = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "service", "failed", "retry", "--all", *words.split()),
        env=shell.environ,
        stdin=theirs,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    os.close(theirs)
    assert child.stderr is not None
    async with asyncio.timeout(30):
        if answer is not None:
            asked = await child.stderr.readuntil(b"[y/N] ")
            assert asked.endswith(b"retry 1 of the failed? [y/N] ")
            os.write(ours, f"{answer}\n".encode())
        await child.communicate()
    os.close(ours)
    assert await yard.look() == left
    assert child.returncode == (0 if left[0] else 1)


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        ("failed", "the following arguments are required: WHAT"),
        ("failed retry", "name the jobs, or say --all"),
        ("failed drop --all id:x", "name the jobs, or say --all"),
        ("failed list --older-than soon", "'soon' is no age such as 90s, 30m, 2h or 7d"),
        ("failed list --limit 0", "--limit: 0 is not from 1 to 1000000"),
    ],
)
async def test_a_mistake_is_told_in_a_sentence(
    shell: Shell, yard: Yard, words: str, complaint: str
) -> None:
    """And ends with 2."""
    ended = await shell.run(words)
    assert ended.code == 2
    assert complaint in ended.complaint
    assert await yard.look() == (0, 0)


async def test_without_redis_it_is_told(shell: Shell) -> None:
    """Exit code 1, as everywhere."""
    ended = await shell.run("failed list")
    assert ended.code == 1
    assert "Redis is away" in ended.complaint
