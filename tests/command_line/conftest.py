"""What does a command run in? A shell of its own, and a Redis that may be spoiled."""

import asyncio
import signal
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from service.store.embedded import EmbeddedServer
from tests.command_line.shell import Shell


@pytest.fixture
async def shell(tmp_path: Path) -> AsyncIterator[Shell]:
    """Open a shell; whatever was started in it ends with it."""
    opened = Shell(tmp_path)
    yield opened
    await asyncio.gather(*(program.end(signal.SIGKILL) for program in opened.started))


@pytest.fixture
def server(tmp_path: Path) -> Iterator[EmbeddedServer]:
    """Start a Redis that a test may spoil."""
    with EmbeddedServer(tmp_path / "redis") as started:
        yield started
