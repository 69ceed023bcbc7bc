"""What is soaked? The composition as it is shipped, on a real engine, struck from outside."""

import asyncio
import base64
import json
import os
import secrets
import signal
import textwrap
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path

from tests.faults.plant import find_free_ports

ROOT = Path(__file__).parents[2]
PROJECT = "enricher-soak"
TOKEN = "api-simulator"

# Short, so that what is kept for a time comes to its full size within the run.
_KEPT_S = 300
_OPTIONS = {
    "latency_ms": [5, 60],
    "nested_page_size": 5,
    "quota": {"global_limit": 400},
    "faults": {"error": 0.02, "error_html": 0.01, "truncated": 0.01, "html": 0.01, "reset": 0.02},
    "shape": {"pull_requests": [0, 4], "big_share": 0.02, "big_pull_requests": [6, 12]},
}
_OVERRIDE = f"""
x-kept: &kept
  ENRICHER_DELIVERY_RETENTION: "{_KEPT_S}"
  ENRICHER_PUBLISHED_RETENTION: "{_KEPT_S}"
  ENRICHER_STREAM_RETENTION: "{_KEPT_S}"
  ENRICHER_FAILED_RETENTION: "{_KEPT_S}"
  ENRICHER_LEASE: "5"
  ENRICHER_LAUNCHDARKLY_URL: http://simulator:9090
services:
  redis: {{ports: ["127.0.0.1:${{SOAK_REDIS_PORT}}:6379"]}}
  door:
    image: deployment-enricher:soak
    build: {{network: host}}
    environment: {{<<: *kept}}
  worker:
    image: deployment-enricher:soak
    build: {{network: host}}
    environment: {{<<: *kept}}
    scale: 2
  simulator:
    image: deployment-enricher:soak
    build: {{network: host}}
    command: [simulate, --host, 0.0.0.0, --port, "9090", --options, '{json.dumps(_OPTIONS)}']
"""


class Composition:
    """The services of one composition; ``secret`` signs webhooks for its ``door``."""

    def __init__(self, folder: Path) -> None:
        self.secret = "whsec_" + base64.b64encode(secrets.token_bytes(24)).decode()
        self._override = folder / "soak.yml"
        self._override.write_text(textwrap.dedent(_OVERRIDE))
        # Fixed ports: the engine would choose others for a container that starts anew.
        door, redis = find_free_ports(2)
        self.door, self.redis = f"http://127.0.0.1:{door}", f"redis://127.0.0.1:{redis}/0"
        self._environ = dict(
            os.environ,
            COMPOSE_PROFILES="demo",
            ENRICHER_PUBLISH=f"127.0.0.1:{door}",
            SOAK_REDIS_PORT=redis,
        )
        given = {
            "LAUNCHDARKLY_ACCESS_TOKEN_FILE": TOKEN,
            "ENRICHER_WEBHOOK_SECRET_FILE": self.secret,
        }
        for name, value in given.items():
            path = folder / name.lower()
            path.write_text(value)
            self._environ[name] = str(path)

    async def list_processes(self, service: str) -> list[tuple[str, list[int]]]:
        """List the containers of a service that run, with their processes as seen from here."""
        names = (await self._compose("ps", "--quiet", "--status=running", service)).split()
        found = []
        for place, name in enumerate(names):
            with suppress(ComposeError):  # it has just ended
                lines = (await _run(["docker", "top", name, "-o", "pid,comm"])).splitlines()[1:]
                words = [line.split() for line in lines]
                ours = [int(pid) for pid, comm in words if "init" not in comm]
                found.append((f"{service}-{place + 1}", ours))
        return found

    async def kill(self, service: str, chance: float) -> bool:
        """End one container's processes as the kernel would; its restart policy brings it back."""
        containers = await self.list_processes(service)
        if not containers:
            return False
        _, pids = containers[int(chance * len(containers))]
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return bool(pids)

    async def _compose(self, *words: str) -> str:
        files = ["-f", str(ROOT / "docker-compose.yml"), "-f", str(self._override)]
        command = ["docker", "compose", "-p", PROJECT, *files, *words]
        return await _run(command, environ=self._environ)

    async def up(self, services: Sequence[str]) -> None:
        """Build, start, and wait until all is well."""
        await self._compose("up", "--build", "--detach", "--wait", "--scale", "worker=2", *services)

    async def down(self) -> None:
        """End everything, and its data."""
        await self._compose("down", "--volumes", "--timeout", "10")


class ComposeError(Exception):
    """The engine refused; the text is its own."""


@asynccontextmanager
async def open_composition(folder: Path) -> AsyncIterator[Composition]:
    """Compose it up; on leaving, down."""
    composition = Composition(folder)
    try:
        await composition.up(["redis", "door", "worker", "simulator"])
        yield composition
    finally:
        await composition.down()


async def _run(words: Sequence[str], *, environ: dict[str, str] | None = None) -> str:
    process = await asyncio.create_subprocess_exec(
        *words,
        env=environ,
        cwd=ROOT,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await process.communicate()
    if process.returncode:
        raise ComposeError(f"{' '.join(words[:3])} ...: {err.decode().strip()[-2000:]}")
    return out.decode()
