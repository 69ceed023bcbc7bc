"""Fixtures of the tests with software of others: where it is installed, and a way to run it."""

import asyncio
import os
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
from redis.asyncio import Redis

from service.settings import Secret
from service.store.keys import Keys
from tests.end_to_end.harness import ServiceHarness, open_harness, remaining_tasks
from tests.environments import find_environment

NPM = Path(__file__).resolve().parents[1] / "npm"
PROGRAMS = Path(__file__).parent / "programs"

RunProgram = Callable[..., Awaitable[str]]


def fail_or_skip(reason: str) -> None:
    """Skip the test; fail it in the gate, which installs everything."""
    if "GATE" in os.environ:
        pytest.fail(reason)
    pytest.skip(reason)


async def run_command(*command: str | Path, text: str = "", cwd: Path | None = None) -> str:
    """Run a program on a standard input, assert exit code 0, and return its standard output."""
    process = await asyncio.create_subprocess_exec(
        *command,
        cwd=cwd,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    output, errors = await process.communicate(text.encode())
    assert process.returncode == 0, output.decode() + errors.decode()
    return output.decode()


@pytest.fixture
def run_node() -> RunProgram:
    """Return a function that runs a script of tests/npm on a standard input."""
    node = shutil.which("node")
    if node is None or not (NPM / "node_modules").is_dir():
        fail_or_skip("needs node, and `npm ci` in tests/npm")

    async def run(script: str, *arguments: str | Path, text: str = "") -> str:
        return await run_command(str(node), NPM / script, *arguments, text=text, cwd=NPM)

    return run


@pytest.fixture(scope="session")
def interop_python() -> Path:
    """Return the Python that has the packages of tests/interop/requirements.lock."""
    python = find_environment("interop")
    if python is None:
        fail_or_skip("needs `python -m tests.environments interop`")
    assert python is not None
    return python


@pytest.fixture
def run_python(interop_python: Path) -> RunProgram:
    """Return a function that runs a program of tests/interop/programs on a standard input."""

    async def run(program: str, *arguments: str | Path, text: str = "") -> str:
        return await run_command(interop_python, "-I", PROGRAMS / program, *arguments, text=text)

    return run


@pytest.fixture
async def service(redis_url: str, redis: Redis, keys: Keys) -> AsyncIterator[ServiceHarness]:
    """Build the service; each test opens it with its own settings."""
    async with open_harness(redis, keys.namespace, redis_url=Secret(redis_url)) as harness:
        yield harness
    # No worker runs here, so the tickets stay.
    await redis.delete(keys.backlog, keys.tickets)
    unfinished_tasks = await remaining_tasks()
    assert not unfinished_tasks, f"tasks were left: {unfinished_tasks}"
