"""What commands run in: a runner, and a Redis that a test may break."""

import asyncio
import signal
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from service.store.embedded import EmbeddedServer
from tests.cli.fork_server import ForkServer, can_fork
from tests.cli.shell import CommandRunner


@pytest.fixture(scope="session")
def fork_server() -> Iterator[ForkServer | None]:
    """Start a process that forks the commands of this session, where the system can do that."""
    if not can_fork():
        yield None
        return
    with ForkServer() as started:
        yield started


@pytest.fixture
async def command_runner(
    tmp_path: Path, fork_server: ForkServer | None
) -> AsyncIterator[CommandRunner]:
    """Build a runner; kill what it started at the end."""
    runner = CommandRunner(tmp_path, fork_server)
    yield runner
    await asyncio.gather(*(command.stop(signal.SIGKILL) for command in runner.started))
    if fork_server is not None:
        await fork_server.close_pipes()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[EmbeddedServer]:
    """Start a Redis that a test may break."""
    with EmbeddedServer(tmp_path / "redis") as started:
        yield started
