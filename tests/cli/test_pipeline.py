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


async def test_pipeline_at_a_wrong_url_ends_with_a_sentence(
    command_runner: CommandRunner,
) -> None:
    """Exit code 1: the receiver has no source of this name."""
    simulate = await command_runner.start("simulate --port 0", ready_pattern="simulator_started")
    upstream = (await simulate.wait_for(r"http://[\d.:]+"))[0]
    run = await command_runner.start("run", ready_pattern="receiver_started")
    receiver = (await run.wait_for(r"http://[\d.:]+"))[0]
    ended = await command_runner.run(
        f"pipeline --url {receiver}/webhooks/nope --per-second 50",
        ENRICHER_LAUNCHDARKLY_URL=upstream,
    )
    assert ended.code == 1
    assert "Error: the receiver refuses a webhook with HTTP 404; check --url" in ended.err
    assert "Traceback" not in ended.err


async def test_pipeline_without_a_receiver_logs_that_nobody_answers(
    command_runner: CommandRunner,
) -> None:
    """It goes on, since the receiver may start later."""
    process = await command_runner.start(
        "pipeline --url http://127.0.0.1:9/ --per-second 50",
        ready_pattern="webhook_post_failed",
        ENRICHER_LAUNCHDARKLY_URL="http://127.0.0.1:9",
    )
    await process.wait_for("event_report_failed")
    assert (
        "Cannot connect to host 127.0.0.1:9" in (await process.wait_for("webhook_post_f.*")).string
    )
    assert await process.stop() == 0


async def test_pipeline_without_a_secret_is_refused(command_runner: CommandRunner) -> None:
    """Exit code 2 and the setting."""
    ended = await command_runner.run("pipeline", ENRICHER_WEBHOOK_SECRET="")
    assert (ended.code, "ENRICHER_WEBHOOK_SECRET" in ended.error_text) == (2, True)
