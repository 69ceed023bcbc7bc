"""Tests of secret files that change: read again without a signal, and after SIGHUP."""

import asyncio
import json
import re
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest

from service.cli.container_problem import HOLD_VARIABLE
from service.cli.reload import Reloads
from service.store.embedded import EmbeddedServer
from tests.cli.shell import SECRET, CommandRunner

TOKEN, OTHER_TOKEN = "a-token-of-the-operators", "another-token-of-theirs"


@asynccontextmanager
async def count_reloads(environ: dict[str, str]) -> AsyncIterator[asyncio.Queue[int]]:
    """Watch the files of an environment; the queue holds a number for each reload."""
    reloads, numbers = Reloads(environ), asyncio.Queue[int]()

    def count() -> None:
        numbers.put_nowait(numbers.qsize() + 1)

    reloads.add(count)
    async with reloads.watch(interval_s=0.005), asyncio.timeout(20):
        yield numbers


def write_by_rename(file: Path, text: str) -> None:
    """Replace a file as an editor does: by another one of the same size and time."""
    other = file.with_name("other")
    other.write_text(text)
    other.rename(file)


async def test_a_file_that_is_written_or_replaced_or_made_readable_is_read_again(
    tmp_path: Path,
) -> None:
    """Also one that a symbolic link leads to, and one that appears later."""
    first, second, secret = tmp_path / "1", tmp_path / "2", tmp_path / "secret"
    for folder, text in ((first, "old"), (second, "new")):
        folder.mkdir()
        (folder / "token").write_text(text)
    link = tmp_path / "current"
    link.symlink_to(first)
    environ = {
        "LAUNCHDARKLY_ACCESS_TOKEN_FILE": str(link / "token"),
        "ENRICHER_WEBHOOK_SECRET_FILE": str(secret),
    }
    async with count_reloads(environ) as reloads:
        for number in range(4):
            secret.write_text(f"secret {number}")
            await reloads.get()
        write_by_rename(secret, "secret r")
        await reloads.get()
        other = tmp_path / "other"
        other.symlink_to(second)
        other.rename(link)
        await reloads.get()
        secret.chmod(0o600)
        await reloads.get()
        secret.unlink()
        await reloads.get()


async def test_secret_files_of_sources_are_watched(tmp_path: Path) -> None:
    """Those that the file of sources names now, also after a mistake in it."""
    sources, secret = tmp_path / "sources.toml", tmp_path / "github_secret"
    secret.write_text("old")
    async with count_reloads({"ENRICHER_SOURCES": str(sources)}) as reloads:
        for text in (f'[[source]]\nsecrets = ["file:{secret}"]', "[[", f'x = "file:{secret}"'):
            sources.write_text(text)
            await reloads.get()
        secret.write_text("new")
        await reloads.get()


async def test_processes_use_new_secrets_without_a_signal(
    command_runner: CommandRunner, server: EmbeddedServer, tmp_path: Path
) -> None:
    """The receiver takes the new webhook secret and console token, the worker the access token."""
    files = {
        name: tmp_path / name.lower()
        for name in (
            "ENRICHER_WEBHOOK_SECRET",
            "ENRICHER_CONSOLE_TOKEN",
            "LAUNCHDARKLY_ACCESS_TOKEN",
            "ENRICHER_REDIS_URL",
        )
    }
    for name in ("ENRICHER_WEBHOOK_SECRET", "LAUNCHDARKLY_ACCESS_TOKEN"):
        del command_runner.env[name]
    texts = (SECRET, TOKEN, "api-first", server.url)
    for file, text in zip(files.values(), texts, strict=True):
        file.write_text(text)
    process = await command_runner.start(
        "run",
        ready_pattern="receiver_started",
        ENRICHER_LAUNCHDARKLY_URL="http://127.0.0.1:9",
        **{f"{name}_FILE": str(file) for name, file in files.items()},
    )
    url = json.loads((await process.wait_for(".*receiver_started.*")).group())["url"]
    files["ENRICHER_CONSOLE_TOKEN"].write_text("short")
    assert "16 characters" in (await process.wait_for(".*console_token_reload_failed.*")).group()
    process.lines.clear()
    for file, text in zip(
        files.values(), (f"{SECRET}x {SECRET}", OTHER_TOKEN, "api-second", "redis://r"), strict=True
    ):
        write_by_rename(file, text)
    await process.wait_for('(?=.*"sources_reloaded")(?=.*"secrets_changed":."native")')
    await process.wait_for('(?=.*"token_reloaded")(?=.*"changed":true)')
    await process.wait_for('(?=.*"console_token_reloaded")(?=.*"changed":true)')
    await process.wait_for('"restart_needed"')
    form = {"token": OTHER_TOKEN}
    async with (
        aiohttp.ClientSession(headers={"Sec-Fetch-Site": "same-origin"}) as session,
        session.post(f"{url}/console/sign-in", data=form, allow_redirects=False) as response,
    ):
        assert response.status == 303
    printed = "".join(process.lines)
    assert not re.search(f"{TOKEN}|{OTHER_TOKEN}|{SECRET}|api-", printed)
    assert await process.stop() == 0


@pytest.mark.parametrize("role", ["simulate --port 0", "pipeline --per-second 0.1"])
async def test_sighup_ends_no_role_of_the_demo(command_runner: CommandRunner, role: str) -> None:
    """The tests of reloads send it to the others. A terminal that closes ends `demo` and `tail`."""
    process = await command_runner.start(
        role,
        ready_pattern="simulator_started|pipeline_started",
        ENRICHER_LAUNCHDARKLY_URL="http://127.0.0.1:9",
    )
    process.child.send_signal(signal.SIGHUP)
    if role.startswith("pipeline"):
        await process.wait_for("secrets_reloaded")
    assert await process.stop() == 0


async def test_role_in_a_container_stays_until_its_secret_file_is_corrected(
    command_runner: CommandRunner, tmp_path: Path
) -> None:
    """It says why in the last line of its log and in the file that the health check prints."""
    file = tmp_path / "secret"
    file.write_text("short")
    del command_runner.env["ENRICHER_WEBHOOK_SECRET"]
    process = await command_runner.start(
        "serve",
        ready_pattern="Error: ",
        ENRICHER_REDIS_URL="redis://127.0.0.1:9",
        ENRICHER_WEBHOOK_SECRET_FILE=str(file),
        TMPDIR=str(tmp_path),
        **{HOLD_VARIABLE: "60"},
    )
    problem = "ENRICHER_WEBHOOK_SECRET: its secret 1 has fewer than 16 characters"
    async with asyncio.timeout(20):
        while not (tmp_path / "deployment-enricher-problem").exists():
            await asyncio.sleep(0.02)
    assert (tmp_path / "deployment-enricher-problem").read_text().startswith(problem)
    assert process.child.returncode is None
    file.write_text(SECRET)
    async with asyncio.timeout(20):
        assert await process.child.wait() == 2
    assert [line for line in process.lines if problem in line] == process.lines[-1:]
