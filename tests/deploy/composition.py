"""What is composed for a test? docker-compose.yml itself, under a name and on ports of its own."""

import asyncio
import json
import socket
import subprocess
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from types import MappingProxyType
from typing import Any

import yaml
from msgspec import Struct

ROOT = Path(__file__).resolve().parents[2]
SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
TOKEN = "api-simulator"
IMAGE = "deployment-enricher"
OURS = ("door", "worker", "simulator", "pipeline")
UPSTREAM = '{"latency_ms":[5,60],"nested_page_size":2,"nested_details":false}'
_REDIS, _WITH_DATA = "valkey/valkey:8-alpine", "enricher-test-store"


def find_engine() -> str:
    """Say what is missing to compose for real; nothing when an engine with Compose answers."""
    try:
        for words in (("docker", "info"), ("docker", "compose", "version")):
            subprocess.run(words, check=True, capture_output=True, timeout=20)
    except (OSError, subprocess.SubprocessError) as error:
        return f"no Docker engine with Compose v2 answers here ({error})"
    return ""


async def run(*words: str, environ: Mapping[str, str] | None = None) -> str:
    """Run a program to its good end; gives what it wrote."""
    child = await asyncio.create_subprocess_exec(
        *words,
        cwd=ROOT,
        env=environ,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await child.communicate()
    if child.returncode:
        raise EngineError(f"{' '.join(words)}\n{err.decode()[-3000:]}")
    return out.decode()


# A short lease, so that what a killed worker held is taken over while a test waits.
HASTY = MappingProxyType({"ENRICHER_LEASE": "2", "ENRICHER_RATE_SHARE": "1"})


class Cast(Struct, frozen=True, kw_only=True):
    """What is composed: which store, how many ports for doors, what differs from what is shipped.

    ``settings`` are those of door and worker, ``upstream`` the options of the simulator.
    """

    store_image: str
    doors: int = 1
    settings: Mapping[str, str] = HASTY
    upstream: str = UPSTREAM


class EngineError(Exception):
    """The engine refused; the text is its own."""


class Composition:
    """One composition; its redis is published too, so that an oracle can read the stream."""

    def __init__(self, home: Path, environ: Mapping[str, str], cast: Cast) -> None:
        doors = cast.doors
        first, self.redis_port, simulator = _find_ports(doors)
        self._cast = cast
        self.version = f"test-{first}"  # whoever has built an image here keeps it
        self.ports = range(first, first + doors)
        self._files = ["-f", str(ROOT / "docker-compose.yml"), "-f", str(home / "override.yml")]
        (home / "secret").write_text(SECRET)
        (home / "token").write_text(TOKEN)
        (home / "override.yml").write_text(yaml.safe_dump(self._override()))
        self.environ = {
            **environ,
            "COMPOSE_PROJECT_NAME": f"enricher-{self.version}",
            "COMPOSE_PROFILES": "demo",
            "ENRICHER_VERSION": self.version,
            "ENRICHER_PUBLISH": f"127.0.0.1:{first}-{first + doors - 1}",
            "ENRICHER_LAUNCHDARKLY_URL": "http://simulator:9090",
            "ENRICHER_WEBHOOK_SECRET_FILE": str(home / "secret"),
            "LAUNCHDARKLY_ACCESS_TOKEN_FILE": str(home / "token"),
            "SIMULATOR_PORT": str(simulator),
            "SIMULATOR_OPTIONS": cast.upstream,
        }

    def _override(self) -> dict[str, Any]:
        """Change what a test needs otherwise: a port to look at Redis, other settings."""
        built = {"build": {"network": "host"}, "environment": {}}
        ours = {**built, "environment": dict(self._cast.settings)}
        redis: dict[str, Any] = {
            "image": self._cast.store_image,
            "ports": [f"127.0.0.1:{self.redis_port}:6379"],
            "networks": ["default", "store"],
        }
        return {
            "services": {
                "redis": redis,
                **{name: ours if name in {"door", "worker"} else built for name in OURS},
            }
        }

    async def up(self, *words: str) -> None:
        """Build the one image, then start what is named and wait until it is well."""
        await self.compose("build", "door")
        await self.compose("up", "-d", "--wait", "--wait-timeout", "60", *words)

    async def down(self) -> None:
        """End all of it, with its data and its images."""
        await self.compose("down", "-v", "--timeout", "5", "--remove-orphans")
        named = ("docker", "images", "--format", "{{.Repository}}:{{.Tag}}", IMAGE)
        ours = [each for each in (await run(*named)).split() if self.version in each]
        await run("docker", "image", "rm", *ours)

    async def compose(self, *words: str, **environ: str) -> str:
        """Run one command of Compose."""
        whole = {**self.environ, **environ}
        return await run("docker", "compose", *self._files, *words, environ=whole)

    async def list_containers(self, service: str) -> list[dict[str, Any]]:
        """Inspect the containers of a service that run, the oldest first."""
        names = (await self.compose("ps", "-q", service)).split()
        told: list[dict[str, Any]] = json.loads(await run("docker", "inspect", *names))
        return sorted(told, key=lambda each: str(each["Created"]))

    async def kill_within(self, container: str) -> None:
        """Kill what a container runs, so that its restart policy has to start it again."""
        with suppress(EngineError):  # the container may end before what was run in it has
            await run("docker", "exec", container, "python", "-c", _KILL_CHILD)

    async def wait_until_well(self, service: str, *, count: int) -> None:
        """Wait until so many containers of a service run and are healthy."""
        async with asyncio.timeout(60):
            while True:
                states = [each["State"] for each in await self.list_containers(service)]
                well = [each for each in states if each["Health"]["Status"] == "healthy"]
                if len(well) == len(states) == count:
                    return
                await asyncio.sleep(0.2)


@asynccontextmanager
async def open_composition(
    home: Path, environ: Mapping[str, str], cast: Cast, *words: str
) -> AsyncIterator[Composition]:
    """Compose up what is named, healthy within a minute; on leaving, down."""
    made = Composition(home, environ, cast)
    try:
        await made.up(*words)
        yield made
    finally:
        await made.down()


# Process 1 is the init; what it minds is the only other one but for this.
_KILL_CHILD = """
import os, pathlib, signal
for each in pathlib.Path('/proc').glob('[0-9]*'):
    number, words = int(each.name), (each / 'cmdline').read_bytes()
    if number not in (1, os.getpid()) and b'deployment-enricher' in words:
        os.kill(number, signal.SIGKILL)
"""


async def find_store_image(home: Path) -> str:
    """Name the store's image; where it is a stand-in without a data directory, one with it.

    A new volume belongs to whom the directory of the image belongs to, which is its user.
    """
    look = ("docker", "run", "--rm", "--entrypoint", "sh", _REDIS, "-c", "test -d /data || echo no")
    if not await run(*look):
        return _REDIS
    lines = (f"FROM {_REDIS}", "USER root", "RUN mkdir /data && chown valkey /data")
    (home / "Dockerfile").write_text("\n".join(lines))
    await run("docker", "build", "-q", "-t", _WITH_DATA, str(home))
    return _WITH_DATA


def _find_ports(doors: int) -> tuple[int, int, int]:
    """Find a range of free ports for the doors, and one each for Redis and the simulator."""
    for first in range(20_000, 30_000, doors + 2):
        if all(_is_free(port) for port in range(first, first + doors + 2)):
            return first, first + doors, first + doors + 1
    raise OSError("no range of free ports")


def _is_free(port: int) -> bool:
    try:
        socket.create_server(("127.0.0.1", port)).close()
    except OSError:
        return False
    return True


def list_urls(ports: Sequence[int]) -> list[str]:
    """Give the addresses of the doors."""
    return [f"http://127.0.0.1:{port}" for port in ports]
