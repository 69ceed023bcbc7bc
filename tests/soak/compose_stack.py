"""The composition of a soak: docker-compose.yml on a real engine, killed from outside."""

import json
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from types import MappingProxyType

from tests.deploy.compose_stack import (
    Composition,
    CompositionConfig,
    EngineError,
    build_images,
    open_composition,
    run_command,
)

# Short, so that retained data reaches its full size within the run.
_RETENTIONS = ("DELIVERY_RETENTION", "PUBLISHED_RETENTION", "STREAM_RETENTION", "FAILED_RETENTION")
_SETTINGS = MappingProxyType(
    {
        "ENRICHER_LEASE": "5",
        "ENRICHER_REFRESH_AFTER": "20 120",
        **{f"ENRICHER_{name}": "300" for name in _RETENTIONS},
    }
)
_OPTIONS = {
    "latency_ms": [5, 60],
    "nested_page_size": 5,
    "quota": {"global_limit": 400},
    "faults": {"error": 0.02, "error_html": 0.01, "truncated": 0.01, "html": 0.01, "reset": 0.02},
    "shape": {"pull_requests": [0, 4], "big_share": 0.02, "big_pull_requests": [6, 12]},
}
_SERVICES = ("redis", "receiver", "proxy", "worker", "simulator")


@asynccontextmanager
async def open_soak_stack(folder: Path) -> AsyncIterator[Composition]:
    """Start the composition with two workers, and stop it at the end."""
    config = CompositionConfig(
        images=await build_images(folder),
        workers=2,
        settings=_SETTINGS,
        simulator_options=json.dumps(_OPTIONS),
    )
    async with open_composition(folder, os.environ, config, *_SERVICES) as composition:
        yield composition


async def list_processes(composition: Composition, service: str) -> list[tuple[str, list[int]]]:
    """Return the running containers of a service with their host process ids."""
    names = (await composition.compose("ps", "--quiet", "--status=running", service)).split()
    containers = []
    for index, name in enumerate(names):
        with suppress(EngineError):  # the container has just ended
            lines = (await run_command("docker", "top", name, "-o", "pid,comm")).splitlines()[1:]
            rows = [line.split() for line in lines]
            pids = [int(pid) for pid, comm in rows if "init" not in comm]
            containers.append((f"{service}-{index + 1}", pids))
    return containers


async def kill_random_container(composition: Composition, service: str, fraction: float) -> bool:
    """Kill the processes of one container with SIGKILL; its restart policy restarts it."""
    containers = await list_processes(composition, service)
    if not containers:
        return False
    _, pids = containers[int(fraction * len(containers))]
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    return bool(pids)
