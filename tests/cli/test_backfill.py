"""Tests of `backfill`: missed deployments are queued once, and a stopped run continues."""

import random
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from service.metrics.http import serve_app
from service.simulate.options import Options
from service.simulate.responses import Canned
from service.simulate.server import Simulator
from service.simulate.world import NewDeployment
from service.store.connect import open_client
from service.store.embedded import EmbeddedServer
from service.store.keys import Keys
from tests.cli.shell import CommandRunner
from tests.end_to_end.harness import read_stream

Eventually = Callable[[Callable[[], Awaitable[bool]]], Awaitable[None]]

KEYS = Keys("deployments")
DAY_S = 86_400
SINCE = time.strftime("%Y-%m-%d", time.gmtime(time.time() - 10 * DAY_S))
COMMAND = f"backfill --project default --environment production --from {SINCE}"


@pytest.fixture
async def simulator(
    command_runner: CommandRunner, server: EmbeddedServer
) -> AsyncIterator[Simulator]:
    """Run a simulated LaunchDarkly that knows a deployment of each of the last eight days."""
    running = Simulator(Options(), clock=time.time, rng=random.Random(1))
    for days in range(1, 9):
        started_at = round((time.time() - days * DAY_S) * 1000)
        running.add_deployment(NewDeployment(started_at=started_at, version=f"{days}"))
    async with serve_app(running.app(), host="127.0.0.1", port=0) as url:
        command_runner.env |= {"ENRICHER_LAUNCHDARKLY_URL": url, "ENRICHER_REDIS_URL": server.url}
        yield running


@pytest.mark.usefixtures("simulator")
async def test_backfill_queues_missed_deployments_once(
    command_runner: CommandRunner, server: EmbeddedServer, eventually: Eventually
) -> None:
    """A dry run only counts; then all is queued, and nothing of it a second time."""
    dry = await command_runner.run(f"{COMMAND} --dry-run")
    assert (dry.code, dry.out) == (0, "8 listed, 0 known, 0 open, 8 to queue\n")
    queued = await command_runner.run(COMMAND)
    assert (queued.code, queued.out) == (0, "8 listed, 0 known, 0 open, 8 queued\n")
    assert queued.err.splitlines()[-1].startswith("100%  8 listed")
    again = await command_runner.run(COMMAND)
    assert again.out == "8 listed, 8 known, 0 open, 0 queued\n"
    await command_runner.start("work", ready_pattern="worker_started")
    async with open_client(server.url) as client:

        async def are_all_out() -> bool:
            return len(await read_stream(client, KEYS.enriched)) == 8

        await eventually(are_all_out)
        entries = await read_stream(client, KEYS.enriched)
        assert await client.zcard(KEYS.refreshes) < 8  # those of long ago are in their final form
    assert {entry["source"] for entry in entries} == {"/deployment-enricher/backfill"}
    assert (await command_runner.run(f"{COMMAND} --dry-run")).out.startswith("8 listed, 8 known")


async def test_backfill_filters_by_application_and_end(
    command_runner: CommandRunner, simulator: Simulator
) -> None:
    """Only the application that is named, and only until --to."""
    simulator.add_deployment(
        NewDeployment(application="shop", started_at=round((time.time() - 5 * DAY_S) * 1000))
    )
    shop = await command_runner.run(f"{COMMAND} --application shop --dry-run")
    assert shop.out == "1 listed, 0 known, 0 open, 1 to queue\n"
    until = time.strftime("%Y-%m-%dT%H:%M", time.gmtime(time.time() - 5.5 * DAY_S))
    early = await command_runner.run(f"{COMMAND} --to {until}Z --dry-run")
    assert early.out == "3 listed, 0 known, 0 open, 3 to queue\n"


async def test_backfill_stopped_by_an_error_continues_from_there(
    command_runner: CommandRunner, simulator: Simulator
) -> None:
    """Exit code 1 and why; the same command lists only what is left."""
    command_runner.env["ENRICHER_MAX_RESPONSE_BYTES"] = (
        "700"  # one deployment fits, and the next does not
    )
    simulator.add_deployment(
        NewDeployment(version="8b", started_at=round((time.time() - 4 * DAY_S) * 1000) + 1)
    )
    stopped = await command_runner.run(COMMAND)
    assert stopped.code == 1
    assert "stopped early: too_large; the same command continues" in stopped.err
    command_runner.env["ENRICHER_MAX_RESPONSE_BYTES"] = "70000"
    rest = await command_runner.run(COMMAND)
    assert rest.code == 0
    assert "continuing where it stopped" in rest.err
    done, left = (int(ended.out.split()[0]) for ended in (stopped, rest))
    assert (done, left) == (4, 5)


async def test_backfill_stopped_by_a_signal_continues_from_there(
    command_runner: CommandRunner, simulator: Simulator
) -> None:
    """Ctrl-C ends it with what it came to; the rest follows when it is typed again."""
    simulator.options = Options(latency_ms=(200, 200))
    program = await command_runner.start(COMMAND, ready_pattern=r"\d+%  [1-9] listed")
    assert await program.stop(signal.SIGINT) == 0
    assert "queued" in program.lines[-1]
    simulator.options = Options()
    rest = await command_runner.run(COMMAND)
    assert rest.code == 0
    assert "continuing where it stopped" in rest.err
    assert (await command_runner.run(f"{COMMAND} --dry-run")).out.startswith("8 listed, 8 known")


async def test_backfill_reports_an_error_of_launchdarkly(
    command_runner: CommandRunner, simulator: Simulator
) -> None:
    """Nothing is queued, and nothing is forgotten."""
    simulator.set_response("", Canned(status=500, body=b""))
    ended = await command_runner.run(COMMAND)
    assert ended.code == 1
    assert "HTTP 500" in ended.err


async def test_backfill_of_a_forbidden_project_says_so(
    command_runner: CommandRunner, simulator: Simulator
) -> None:
    """It ends at once, with a sentence about the token."""
    simulator.options = Options(forbidden_projects=("default/production",))
    ended = await command_runner.run(COMMAND)
    assert ended.code == 1
    assert "stopped early: LaunchDarkly's token may not read this project" in ended.err


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (
            "backfill --project a --environment b --from yesterday",
            "is not a time such as 2026-11-01",
        ),
        ("backfill --project a --environment b", "--from"),
        (
            "backfill --project a --environment b --from 2026-11-02 --to 2026-11-01",
            "--from must be before --to",
        ),
        ("backfill --project a --environment b --from 2999-01-01", "--from is in the future: give"),
        (
            "backfill --project a --environment b --from 2999-01-01 --to 2999-01-02",
            "--from is in the future: give",
        ),
    ],
)
async def test_backfill_with_wrong_times_is_a_usage_error(
    command_runner: CommandRunner, words: str, complaint: str
) -> None:
    """A time that is none, the wrong way round, or in the future: exit code 2."""
    ended = await command_runner.run(words)
    assert ended.code == 2
    assert complaint in ended.error_text


async def test_backfill_of_a_misspelt_scope_says_so(
    command_runner: CommandRunner, simulator: Simulator
) -> None:
    """An empty list and a 404 both name the spelling; a time without deployments does not."""
    misspelt = await command_runner.run(COMMAND.replace("default", "defualt"))
    assert "defualt/production: nothing was ever listed for this scope" in misspelt.err
    an_hour_ago = time.strftime("%Y-%m-%dT%H:%MZ", time.gmtime(time.time() - 3600))
    unused = await command_runner.run(f"{COMMAND.replace(SINCE, an_hour_ago)} --dry-run")
    assert "0 listed" in unused.out
    assert "spelling" not in unused.err
    simulator.set_response("", Canned(status=404, body=b"{}"))
    unknown = await command_runner.run(COMMAND)
    assert unknown.code == 1
    assert "does not know the project or the environment; check the spelling" in unknown.err
