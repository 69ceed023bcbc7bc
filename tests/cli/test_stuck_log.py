"""Tests of processes whose stderr takes no line: they answer, do not spin, and end when told to."""

import asyncio
import fcntl
import json
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path

import aiohttp
import pytest

from service.accept.signatures import sign_standard_webhook
from service.store.embedded import EmbeddedServer
from tests.cli.shell import SECRET, CommandRunner
from tests.cli.test_metrics import free_port

EVENT = json.dumps({"deploymentId": "a0eebc99", "eventType": "finished"}).encode()
CLOSED = -1


def open_full_pipe(stack: AsyncExitStack) -> int:
    """Open a pipe that is full and that nobody reads, as a stuck log driver leaves it."""
    reader, fd = os.pipe()
    os.write(fd, b"." * fcntl.fcntl(fd, fcntl.F_SETPIPE_SZ, 4096))
    stack.callback(os.close, reader)
    stack.callback(os.close, fd)
    return fd


def open_abandoned_pipe(stack: AsyncExitStack) -> int:
    """Open a pipe whose reader is gone."""
    reader, fd = os.pipe()
    os.close(reader)
    stack.callback(os.close, fd)
    return fd


def open_full_disk(stack: AsyncExitStack) -> int:
    """Open a file on a disk that is full."""
    fd = os.open("/dev/full", os.O_WRONLY)
    stack.callback(os.close, fd)
    return fd


def close_stderr(_: AsyncExitStack) -> int:
    """Open nothing: the process starts without stderr."""
    return CLOSED


@asynccontextmanager
async def start_service(
    runner: CommandRunner, stderr: int, **changes: str
) -> AsyncIterator[asyncio.subprocess.Process]:
    """Start receiver and worker in one process with a given stderr; kill it at the end."""
    close = "2>&-" if stderr == CLOSED else ""
    child = await asyncio.create_subprocess_exec(
        *("sh", "-c", f'exec "$0" -m service run {close}', sys.executable),
        env=runner.env | changes,
        stdin=asyncio.subprocess.DEVNULL,
        stderr=None if stderr == CLOSED else stderr,
    )
    try:
        yield child
    finally:
        with suppress(ProcessLookupError):
            child.kill()
        await child.wait()


async def post_event(session: aiohttp.ClientSession, url: str) -> int:
    """Post a signed event until somebody answers; return the status."""
    headers = sign_standard_webhook(SECRET, delivery="d", timestamp_s=int(time.time()), body=EVENT)
    async with asyncio.timeout(20):
        while True:
            try:
                async with session.post(url, data=EVENT, headers=headers) as response:
                    return response.status
            except aiohttp.ClientConnectionError:
                await asyncio.sleep(0.05)


async def measure_cpu_share(pid: int) -> float:
    """Return the share of a core that a process uses, measured for a second."""
    path, ticks_per_s = Path(f"/proc/{pid}/stat"), os.sysconf("SC_CLK_TCK")

    def read_ticks() -> int:
        user, system = path.read_text().rpartition(")")[2].split()[11:13]
        return int(user) + int(system)

    started_at, ticks = time.monotonic(), read_ticks()
    await asyncio.sleep(1)
    return (read_ticks() - ticks) / ticks_per_s / (time.monotonic() - started_at)


@pytest.mark.parametrize(
    "open_stderr", [open_full_pipe, open_abandoned_pipe, open_full_disk, close_stderr]
)
async def test_process_with_a_stuck_log_answers_and_ends_with_exit_code_0(
    command_runner: CommandRunner,
    server: EmbeddedServer,
    open_stderr: Callable[[AsyncExitStack], int],
) -> None:
    """Receiver and worker work on, and SIGTERM ends them."""
    port = free_port()
    settings = {
        "ENRICHER_PORT": str(port),
        "ENRICHER_REDIS_URL": server.url,
        "ENRICHER_LAUNCHDARKLY_URL": "http://127.0.0.1:9",
        "ENRICHER_LOG_FORMAT": "json",
    }
    async with (
        AsyncExitStack() as stack,
        start_service(command_runner, open_stderr(stack), **settings) as child,
        aiohttp.ClientSession() as session,
    ):
        assert await post_event(session, f"http://127.0.0.1:{port}/webhooks/native") == 202
        assert await measure_cpu_share(child.pid) < 0.4
        child.send_signal(signal.SIGTERM)
        async with asyncio.timeout(20):
            assert await child.wait() == 0
