"""What is soaked? The composition as it is shipped, on a real engine, struck from outside."""

import json
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from types import MappingProxyType

from tests.deploy.composition import (
    Cast,
    Composition,
    EngineError,
    find_store_image,
    open_composition,
    run,
)

# Short, so that what is kept for a time comes to its full size within the run.
_KEPT = ("DELIVERY_RETENTION", "PUBLISHED_RETENTION", "STREAM_RETENTION", "FAILED_RETENTION")
_SETTINGS = MappingProxyType(
    {
        "ENRICHER_LEASE": "5",
        "ENRICHER_REVISIONS": "20 120",
        **{f"ENRICHER_{name}": "300" for name in _KEPT},
    }
)
_OPTIONS = {
    "latency_ms": [5, 60],
    "nested_page_size": 5,
    "quota": {"global_limit": 400},
    "faults": {"error": 0.02, "error_html": 0.01, "truncated": 0.01, "html": 0.01, "reset": 0.02},
    "shape": {"pull_requests": [0, 4], "big_share": 0.02, "big_pull_requests": [6, 12]},
}
_SERVICES = ("redis", "door", "worker", "simulator")


@asynccontextmanager
async def open_soaked(folder: Path) -> AsyncIterator[Composition]:
    """Compose it up with two workers; on leaving, down."""
    cast = Cast(
        store_image=await find_store_image(folder),
        settings=_SETTINGS,
        upstream=json.dumps(_OPTIONS),
    )
    scaled = ("--scale", "worker=2", *_SERVICES)
    async with open_composition(folder, os.environ, cast, *scaled) as composition:
        yield composition


async def list_processes(composition: Composition, service: str) -> list[tuple[str, list[int]]]:
    """List the containers of a service that run, with their processes as seen from here."""
    names = (await composition.compose("ps", "--quiet", "--status=running", service)).split()
    found = []
    for place, name in enumerate(names):
        with suppress(EngineError):  # it has just ended
            lines = (await run("docker", "top", name, "-o", "pid,comm")).splitlines()[1:]
            words = [line.split() for line in lines]
            ours = [int(pid) for pid, comm in words if "init" not in comm]
            found.append((f"{service}-{place + 1}", ours))
    return found


async def kill_one(composition: Composition, service: str, chance: float) -> bool:
    """End one container's processes as the kernel would; its restart policy brings it back."""
    containers = await list_processes(composition, service)
    if not containers:
        return False
    _, pids = containers[int(chance * len(containers))]
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    return bool(pids)
