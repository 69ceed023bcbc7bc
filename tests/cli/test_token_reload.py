"""Tests of SIGHUP in a worker: it works on, and reads the access token again."""

import signal
from pathlib import Path

from service.store.embedded import EmbeddedServer
from tests.cli.shell import BackgroundCommand, CommandRunner


async def reload(worker: BackgroundCommand, log_event: str) -> str:
    """Send SIGHUP to a worker and return the line of the log event that answers it."""
    worker.lines.clear()
    worker.child.send_signal(signal.SIGHUP)
    return (await worker.wait_for(f'.*"event":"{log_event}".*'))[0]


async def test_sighup_replaces_the_access_token_and_ends_no_worker(
    command_runner: CommandRunner, server: EmbeddedServer, tmp_path: Path
) -> None:
    """A file that cannot be used keeps the token; the next one replaces it."""
    token_file = tmp_path / "token"
    token_file.write_text("api-first")
    del command_runner.env["LAUNCHDARKLY_ACCESS_TOKEN"]
    worker = await command_runner.start(
        "work",
        ready_pattern="worker_started",
        ENRICHER_REDIS_URL=server.url,
        ENRICHER_LAUNCHDARKLY_URL="http://127.0.0.1:9",
        LAUNCHDARKLY_ACCESS_TOKEN_FILE=str(token_file),
    )
    token_file.write_text("")
    assert "empty file" in await reload(worker, "token_reload_failed")
    token_file.write_text("api-second")
    assert '"changed":true' in await reload(worker, "token_reloaded")
    assert '"changed":false' in await reload(worker, "token_reloaded")
    assert "api-" not in "".join(worker.lines)
    assert await worker.stop() == 0
