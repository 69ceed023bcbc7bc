"""Tests of `doctor`: it finds what is wrong, also when nothing answers, and shows no secret."""

import json
import socket
import time
from pathlib import Path
from typing import Any

import aiohttp

from service.log import build_log
from service.simulate.options import Options
from service.simulate.pipeline import EventBody, report_event
from service.store.connect import open_client
from service.store.embedded import EmbeddedServer
from service.store.keys import Keys
from tests.cli.shell import PASSWORD, SECRET, CommandResult, CommandRunner

KEYS = Keys("deployments")


def parse_findings(result: CommandResult) -> dict[str, tuple[str, str]]:
    """Read findings by their check: status and found; no secret is among them."""
    assert "Traceback" not in result.err
    assert not [
        secret for secret in (SECRET, PASSWORD, "api-") if secret in result.out + result.err
    ]
    report: dict[str, Any] = json.loads(result.out)
    assert report["ok"] is (result.code == 0)
    return {
        finding["check"]: (finding["status"], finding["found"]) for finding in report["findings"]
    }


async def test_doctor_of_a_running_service_finds_no_error(command_runner: CommandRunner) -> None:
    """Redis, a worker, LaunchDarkly and the receiver are there; exit code 0."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        command_runner.env["ENRICHER_PORT"] = str(free.getsockname()[1])
    options = '{"quota":{"global_limit":40}}'
    simulate = await command_runner.start(
        f"simulate --port 0 --options {options}", ready_pattern="simulator_started"
    )
    upstream = (await simulate.wait_for(r"http://[\d.:]+"))[0]
    deployed = {"projectKey": "default", "environmentKey": "production", "version": "1"}
    event: EventBody = {**deployed, "applicationKey": "shop", "eventType": "finished"}
    async with aiohttp.ClientSession() as session:
        await report_event(session, upstream, event, token=Options().token, log=build_log())
    command_runner.env["ENRICHER_LAUNCHDARKLY_URL"] = upstream
    command_runner.env["ENRICHER_RECONCILE_SCOPES"] = "default/production"
    command_runner.env["ENRICHER_FLAG_EVENTS"] = "on"
    serving = await command_runner.start("run", ready_pattern="receiver_started")
    await serving.wait_for("deployments_reconciled")
    found = parse_findings(await command_runner.run("doctor --json"))
    assert found["reconcile"][1].startswith("last listed: default/production ")
    assert found["reconcile"][1].endswith(" s ago")
    assert {status for status, _ in found.values()} == {"ok"}, found
    assert found["redis durability"][1].startswith("fsync: each write is on disk")
    assert found["workers"][1].startswith("1 idle")
    assert found["quota"][1].startswith("calls left: global ")
    assert found["flag events"][1] == "the token may read those of default/production"
    assert found["receiver"][1].startswith("answers at ")
    page = await command_runner.run("doctor")
    assert page.code == 0
    assert page.out.splitlines()[-1].startswith("0 errors, 0 warnings, ")


async def test_doctor_reports_everything_that_is_away(command_runner: CommandRunner) -> None:
    """Exit code 1, a fix for each, and no password of a URL."""
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))  # and not listening
        port = silent.getsockname()[1]
        url = f"redis://user:{PASSWORD}@127.0.0.1:{port}"
        away = f"http://127.0.0.1:{port}"
        ended = await command_runner.run(
            "doctor --json",
            ENRICHER_REDIS_URL=url,
            ENRICHER_LAUNCHDARKLY_URL=away,
            ENRICHER_PORT=str(port),
        )
    found = parse_findings(ended)
    assert ended.code == 1
    assert found["redis"][0] == "error"
    assert f"127.0.0.1:{port} is away: " in found["redis"][1]
    assert found["launchdarkly"][0] == "error"
    assert found["receiver"] == ("error", f"cannot listen on {away}: Address already in use")
    assert all(
        finding["fix"] for finding in json.loads(ended.out)["findings"] if finding["status"] != "ok"
    )


async def test_stopped_embedded_server_is_a_warning_only(
    command_runner: CommandRunner,
) -> None:
    """`run` starts it; without token and sources, though, `run` does not start."""
    ended = await command_runner.run(
        "doctor --json", ENRICHER_WEBHOOK_SECRET="", LAUNCHDARKLY_ACCESS_TOKEN=""
    )
    found = parse_findings(ended)
    assert found["redis"][0] == "warning"
    assert (found["token"][0], found["sources"][0]) == ("error", "error")


async def test_doctor_reports_errors_of_token_workers_and_redis(
    command_runner: CommandRunner, server: EmbeddedServer
) -> None:
    """A refused token, failures by reason, tickets that nobody takes, a Redis without a disk."""
    simulate = await command_runner.start("simulate --port 0", ready_pattern="simulator_started")
    upstream = (await simulate.wait_for(r"http://[\d.:]+"))[0]
    async with open_client(server.url) as client:
        await client.config_set("appendonly", "no")
        await client.hset(KEYS.budget, "closed_reason", "token refused")
        await client.zadd(KEYS.backlog, {"id:a": 1})
        await client.hset(KEYS.tickets, "id:a", b"")
        await client.zadd(KEYS.failed, {"id:b": 1, "id:c": 2})
        await client.hset(KEYS.counts, "failed:not_found", 2)
    ended = await command_runner.run(
        "doctor --json",
        ENRICHER_REDIS_URL=server.url,
        ENRICHER_LAUNCHDARKLY_URL=upstream,
        LAUNCHDARKLY_ACCESS_TOKEN=PASSWORD,
    )
    found = parse_findings(ended)
    wrong = {check for check, (status, _) in found.items() if status == "error"}
    assert wrong == {"redis durability", "workers", "budget", "token"}
    assert found["redis durability"][1].startswith("Redis does not write to disk")
    assert found["token"][1] == "is refused (401)"
    assert found["failed"] == ("warning", "2: 2 not_found")


async def test_doctor_makes_no_call_while_the_rate_limit_is_reached(
    command_runner: CommandRunner, server: EmbeddedServer
) -> None:
    """While the budget is closed by a 429, the doctor does not call either."""
    async with open_client(server.url) as client:
        soon = int((time.time() + 60) * 1000)
        await client.hset(
            KEYS.budget,
            mapping={"closed_until": soon, "closed_reason": "rate limited"},
        )
    ended = await command_runner.run(
        "doctor --json",
        ENRICHER_REDIS_URL=server.url,
        ENRICHER_LAUNCHDARKLY_URL="http://127.0.0.1:1",
    )
    found = parse_findings(ended)
    assert found["launchdarkly"] == (
        "ok",
        "no call was made: the rate limit is reached, and tickets wait for it",
    )
    assert found["budget"][0] == "warning"


async def test_doctor_checks_whether_the_token_may_write(
    command_runner: CommandRunner, tmp_path: Path
) -> None:
    """Only if a source has `report = true`; no deployment is created."""
    options = f'{{"reader_tokens":["{Options().token}"],"auto_create":false}}'
    simulate = await command_runner.start(
        f"simulate --port 0 --options {options}", ready_pattern="simulator_started"
    )
    upstream = (await simulate.wait_for(r"http://[\d.:]+"))[0]
    source = '[[source]]\nname = "web"\npreset = "github"\nproject = "default"\n'
    source += f'secrets = ["{SECRET}"]\n'
    for text, expected in ((source, None), (f"{source}report = true\n", "error")):
        (tmp_path / "sources.toml").write_text(text)
        ended = await command_runner.run(
            "doctor --json",
            ENRICHER_LAUNCHDARKLY_URL=upstream,
            ENRICHER_SOURCES=str(tmp_path / "sources.toml"),
        )
        assert parse_findings(ended).get("report", (None, ""))[0] == expected
    async with aiohttp.ClientSession() as session:
        await session.post(f"{upstream}/simulator/options", json={"reader_tokens": []})
        ended = await command_runner.run(
            "doctor --json",
            ENRICHER_LAUNCHDARKLY_URL=upstream,
            ENRICHER_SOURCES=str(tmp_path / "sources.toml"),
        )
        assert parse_findings(ended)["report"][0] == "ok"
        path = "/api/v2/engineering-insights/deployments?projectKey=default&environmentKey=e"
        headers = {"Authorization": Options().token, "LD-API-Version": "beta"}
        async with session.get(upstream + path, headers=headers) as response:
            assert (await response.json())["items"] == []
