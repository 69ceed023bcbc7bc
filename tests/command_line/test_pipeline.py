"""Does `pipeline` keep a demo alive, and leave the real LaunchDarkly alone?"""

import pytest

from tests.command_line.shell import Shell


async def test_it_tells_both_of_each_deployment(shell: Shell) -> None:
    """What it makes up is found by those who are told of it, and published."""
    simulate = await shell.start("simulate --port 0", until="simulator_opened")
    upstream = (await simulate.wait_for(r"http://[\d.:]+"))[0]
    shell.environ["ENRICHER_LAUNCHDARKLY_URL"] = upstream
    run = await shell.start("run", until="door_opened")
    door = (await run.wait_for(r"http://[\d.:]+"))[0]
    words = f"pipeline --door {door}/webhooks/native --events 12 --per-second 50"
    ended = await shell.run(words)
    assert ended.code == 0
    assert '"queued":12' in ended.err
    await run.wait_for("deployment_published")


@pytest.mark.parametrize(
    "url",
    ["https://app.launchdarkly.com", "https://app.eu.launchdarkly.com", "http://x.launchdarkly.us"],
)
async def test_the_real_launchdarkly_is_not_told_what_never_was(shell: Shell, url: str) -> None:
    """Exit code 2 before anything is sent."""
    ended = await shell.run("pipeline", ENRICHER_LAUNCHDARKLY_URL=url)
    assert ended.code == 2
    assert "a simulator only" in ended.complaint


async def test_it_needs_a_secret_to_sign_with(shell: Shell) -> None:
    """Exit code 2 and the setting."""
    ended = await shell.run("pipeline", ENRICHER_WEBHOOK_SECRET="")
    assert (ended.code, "ENRICHER_WEBHOOK_SECRET" in ended.complaint) == (2, True)
