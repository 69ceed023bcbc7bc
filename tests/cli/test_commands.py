"""Tests of the commands together, in processes of their own."""

import asyncio
import json
import re
import signal
import socket
from typing import Any

import aiohttp
import pytest

from service.store.connect import open_client
from service.store.embedded import EmbeddedServer
from tests.cli.shell import PASSWORD, CommandRunner, processes_using, wait_until_unused


async def test_sent_webhook_becomes_a_record_through_commands(
    command_runner: CommandRunner,
) -> None:
    """What is sent comes out, and a killed `run` leaves its records and no server."""
    command_runner.fork_server = None  # a user starts them by `python -m service`
    simulate = await command_runner.start("simulate --port 0", ready_pattern="simulator_started")
    upstream = (await simulate.wait_for(r"http://[\d.:]+"))[0]
    given = {"ENRICHER_LAUNCHDARKLY_URL": upstream}
    run = await command_runner.start("run", ready_pattern="receiver_started", **given)
    receiver = f"{(await run.wait_for(r'http://[0-9.:]+'))[0]}/webhooks/native"
    following = await command_runner.start("tail", ready_pattern="flags touched")
    identifier = "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"

    send = f"send --url {receiver} --id {identifier}"
    once, twice = [await command_runner.run(f"{send} --delivery one") for _ in range(2)]
    assert (once.code, once.out[:23]) == (0, '202 {"status":"queued",')
    assert (twice.code, twice.out[:26]) == (0, '200 {"status":"duplicate",')
    refused = await command_runner.run(f"send --url {receiver} --project default")
    assert (refused.code, refused.out[:4]) == (1, "422 ")

    await following.wait_for(f"^{identifier}  ")
    await run.stop(signal.SIGKILL)
    await wait_until_unused(command_runner.data)
    run = await command_runner.start("run", ready_pattern="receiver_started", **given)
    reading = await command_runner.start("tail --json --from-start", ready_pattern='"position"')
    record = json.loads(reading.lines[0])
    assert record["subject"] == record["data"]["deployment"]["id"] == identifier
    ends = [await program.stop() for program in (following, reading, run, simulate)]
    assert ends == [0, 0, 0, 0]
    assert [line for line in following.lines if line.startswith("Redis is away")]
    assert not [
        line for program in command_runner.started for line in program.lines if "Traceback" in line
    ]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_signal_stops_every_command_with_exit_code_0(
    command_runner: CommandRunner, server: EmbeddedServer, number: signal.Signals
) -> None:
    """Whatever goes on ends as asked, leaves no process and no traceback."""
    shared = {"ENRICHER_REDIS_URL": server.url}
    programs = await asyncio.gather(
        command_runner.start("run", ready_pattern="receiver_started"),
        command_runner.start("serve", ready_pattern="receiver_started", **shared),
        command_runner.start("work", ready_pattern="worker_started", **shared),
        command_runner.start("simulate --port 0", ready_pattern="simulator_started"),
        command_runner.start("tail", ready_pattern="flags touched", **shared),
        command_runner.start("demo", ready_pattern="^-- received"),
    )
    assert await asyncio.gather(*(program.stop(number) for program in programs)) == [0] * 6
    assert processes_using(command_runner.data) == []
    assert not [line for program in programs for line in program.lines if "Traceback" in line]


async def test_demo_prints_records_and_a_working_tail_command(
    command_runner: CommandRunner,
) -> None:
    """Records, a count, a sentence; its line for another terminal works; a second is refused."""
    demo = await command_runner.start("demo --events 40 --per-second 5", ready_pattern="^Ctrl-C")
    pasted = (await demo.wait_for(r"^  (ENRICHER_REDIS_URL=.*) tail --from-start$"))[1]
    variables = dict(word.split("=", 1) for word in pasted.split() if word.startswith("ENRICHER_"))
    following = await command_runner.start(
        "tail --from-start", ready_pattern="flags touched", **variables
    )
    address = (await demo.wait_for(r"^console +(http://127\.0\.0\.1:\d+/)$"))[1]
    async with aiohttp.ClientSession() as session, session.get(address) as page:
        assert "Latest deployments" in await page.text()
    assert "another process runs" in (await command_runner.run("demo")).error_text
    async with asyncio.timeout(50):
        assert await demo.child.wait() == 0
    seen = [line for line in demo.lines if re.match(r"[0-9a-f]{8}-", line)]
    assert len(seen) == 40
    assert "What you saw: " in "\n".join(demo.lines)
    assert "published 40" in "\n".join(demo.lines)
    assert set(following.lines) & set(seen)
    assert processes_using(command_runner.data) == []


async def test_demo_on_the_users_redis_shows_no_password_and_can_be_repeated(
    command_runner: CommandRunner, server: EmbeddedServer
) -> None:
    """A second demo there invents other deployments, and clears away what the first left."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    async with open_client(server.url) as client:
        await client.config_set("port", port)
        await client.config_set("requirepass", PASSWORD)
    url = {"ENRICHER_REDIS_URL": f"redis://:{PASSWORD}@127.0.0.1:{port}"}
    seen = []
    for _ in range(2):
        ended = await command_runner.run("demo --events 2 --per-second 20 --quota 500", **url)
        assert (ended.code, ended.err) == (0, "")
        assert PASSWORD not in ended.out
        assert '  redis-cli -u "$ENRICHER_REDIS_URL" XRANGE ' in ended.out
        seen.append(set(re.findall(r"^[0-9a-f-]{36}", ended.out, re.MULTILINE)))
    assert [len(ids) for ids in seen] == [2, 2]
    assert not seen[0] & seen[1]
    async with open_client(url["ENRICHER_REDIS_URL"]) as client:
        assert await client.xlen("{deployments-demo}:enriched") < 4


async def test_closed_stdout_ends_tail_quietly(
    command_runner: CommandRunner, server: EmbeddedServer
) -> None:
    """`tail | head -1` ends without complaint."""
    command_runner.fork_server = None  # the test closes a pipe of the child
    async with open_client(server.url) as client:
        for _ in range(3):
            await client.xadd("{deployments}:enriched", {"n": "x"})
        tail = await command_runner.start(
            "tail --from-start --json", ready_pattern="unreadable", ENRICHER_REDIS_URL=server.url
        )
        child: Any = tail.child
        child._transport.get_pipe_transport(1).close()  # our end only
        async with asyncio.timeout(20):
            while tail.child.returncode is None:
                await client.xadd("{deployments}:enriched", {"n": "x"})
                await asyncio.sleep(0.05)
    assert tail.child.returncode == 0
    assert not [line for line in tail.lines if not line.startswith("{")]


async def test_output_in_an_ascii_environment_is_utf8(
    command_runner: CommandRunner, server: EmbeddedServer
) -> None:
    """An environment without a locale neither ends a command nor makes its JSON invalid."""
    async with open_client(server.url) as client:
        await client.xadd("{deployments}:enriched", {"n": "é\ud83d".encode("utf-8", "replace")})
    tail = await command_runner.start(
        "tail --from-start --json",
        ready_pattern='"n":"é',
        ENRICHER_REDIS_URL=server.url,
        PYTHONIOENCODING="ascii",
    )
    assert await tail.stop() == 0
