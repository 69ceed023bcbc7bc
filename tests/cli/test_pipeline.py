"""Tests of `pipeline`: it feeds a demo, and refuses the real LaunchDarkly."""

import pytest

from tests.cli.shell import CommandRunner


async def test_pipeline_reports_each_deployment_to_both_sides(
    command_runner: CommandRunner,
) -> None:
    """What it makes up is found by those who are told about it, and published."""
    simulate = await command_runner.start("simulate --port 0", ready_pattern="simulator_started")
    upstream = (await simulate.wait_for(r"http://[\d.:]+"))[0]
    command_runner.env["ENRICHER_LAUNCHDARKLY_URL"] = upstream
    run = await command_runner.start("run", ready_pattern="receiver_started")
    receiver = (await run.wait_for(r"http://[\d.:]+"))[0]
    command = f"pipeline --url {receiver}/webhooks/native --events 12 --per-second 50"
    ended = await command_runner.run(command)
    assert ended.code == 0
    assert '"queued":12' in ended.err
    await run.wait_for("deployment_published")


@pytest.mark.parametrize(
    "url",
    ["https://app.launchdarkly.com", "https://app.eu.launchdarkly.com", "http://x.launchdarkly.us"],
)
async def test_pipeline_refuses_the_real_launchdarkly(
    command_runner: CommandRunner, url: str
) -> None:
    """Exit code 2 before anything is sent."""
    ended = await command_runner.run("pipeline", ENRICHER_LAUNCHDARKLY_URL=url)
    assert ended.code == 2
    assert "a simulator only" in ended.error_text


async def test_pipeline_without_a_secret_is_refused(command_runner: CommandRunner) -> None:
    """Exit code 2 and the setting."""
    ended = await command_runner.run("pipeline", ENRICHER_WEBHOOK_SECRET="")
    assert (ended.code, "ENRICHER_WEBHOOK_SECRET" in ended.error_text) == (2, True)
