"""The composition of a test: docker-compose.yml under a project name and on ports of its own."""

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
SERVICES = ("receiver", "worker", "simulator", "pipeline")
SIMULATOR_OPTIONS = '{"latency_ms":[5,60],"nested_page_size":2,"nested_details":false}'
_REDIS_IMAGE, _IMAGE_WITH_DATA_DIR = "valkey/valkey:8-alpine", "enricher-test-redis"


def engine_problem() -> str:
    """Return why Docker Compose is unavailable, or an empty string."""
    try:
        for command in (("docker", "info"), ("docker", "compose", "version")):
            subprocess.run(command, check=True, capture_output=True, timeout=20)
    except (OSError, subprocess.SubprocessError) as error:
        return f"Docker with Compose v2 is not available ({error})"
    return ""


async def run_command(*command: str, env: Mapping[str, str] | None = None) -> str:
    """Run a command and return its output; raise EngineError when it fails."""
    child = await asyncio.create_subprocess_exec(
        *command,
        cwd=ROOT,
        env=env,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await child.communicate()
    if child.returncode:
        raise EngineError(f"{' '.join(command)}\n{err.decode()[-3000:]}")
    return out.decode()


# A short lease, so that another worker takes over the tickets of a killed one within a test.
SHORT_LEASE = MappingProxyType({"ENRICHER_LEASE": "2", "ENRICHER_RATE_LIMIT_SHARE": "1"})


class CompositionConfig(Struct, frozen=True, kw_only=True):
    """The Redis image, the number of receiver ports, and the changes to docker-compose.yml.

    ``settings`` are environment variables of receiver and worker. ``simulator_options`` is JSON.
    """

    redis_image: str
    receivers: int = 1
    settings: Mapping[str, str] = SHORT_LEASE
    simulator_options: str = SIMULATOR_OPTIONS


class EngineError(Exception):
    """A Docker command failed. The message is its error output."""


class Composition:
    """One composition. It also publishes Redis, so that an oracle can read the stream."""

    def __init__(self, home: Path, environ: Mapping[str, str], config: CompositionConfig) -> None:
        receivers = config.receivers
        first_port, self.redis_port, simulator_port = _free_ports(receivers)
        self._config = config
        self.version = f"test-{first_port}"  # does not replace an image of this machine
        self.ports = range(first_port, first_port + receivers)
        self._files = ["-f", str(ROOT / "docker-compose.yml"), "-f", str(home / "override.yml")]
        (home / "secret").write_text(SECRET)
        (home / "token").write_text(TOKEN)
        (home / "override.yml").write_text(yaml.safe_dump(self._override()))
        self.environ = {
            **environ,
            "COMPOSE_PROJECT_NAME": f"enricher-{self.version}",
            "COMPOSE_PROFILES": "demo",
            "ENRICHER_VERSION": self.version,
            "ENRICHER_PUBLISH": f"127.0.0.1:{first_port}-{first_port + receivers - 1}",
            "ENRICHER_LAUNCHDARKLY_URL": "http://simulator:9090",
            "ENRICHER_WEBHOOK_SECRET_FILE": str(home / "secret"),
            "LAUNCHDARKLY_ACCESS_TOKEN_FILE": str(home / "token"),
            "SIMULATOR_PORT": str(simulator_port),
            "SIMULATOR_OPTIONS": config.simulator_options,
        }

    def _override(self) -> dict[str, Any]:
        """Return the override file of a test: a port for Redis, and other settings."""
        service = {"build": {"network": "host"}, "environment": {}}
        with_settings = {**service, "environment": dict(self._config.settings)}
        redis: dict[str, Any] = {
            "image": self._config.redis_image,
            "ports": [f"127.0.0.1:{self.redis_port}:6379"],
            "networks": ["default", "store"],
        }
        return {
            "services": {
                "redis": redis,
                **{
                    name: with_settings if name in {"receiver", "worker"} else service
                    for name in SERVICES
                },
            }
        }

    async def up(self, *services: str) -> None:
        """Build the image, start the services and wait until they are healthy."""
        await self.compose("build", "receiver")
        await self.compose("up", "-d", "--wait", "--wait-timeout", "60", *services)

    async def down(self) -> None:
        """Stop the composition and delete its data and images."""
        await self.compose("down", "-v", "--timeout", "5", "--remove-orphans")
        list_images = ("docker", "images", "--format", "{{.Repository}}:{{.Tag}}", IMAGE)
        images = [
            image for image in (await run_command(*list_images)).split() if self.version in image
        ]
        await run_command("docker", "image", "rm", *images)

    async def compose(self, *arguments: str, **changes: str) -> str:
        """Run one command of Docker Compose."""
        env = {**self.environ, **changes}
        return await run_command("docker", "compose", *self._files, *arguments, env=env)

    async def list_containers(self, service: str) -> list[dict[str, Any]]:
        """Return the running containers of a service, the oldest first."""
        container_ids = (await self.compose("ps", "-q", service)).split()
        containers: list[dict[str, Any]] = json.loads(
            await run_command("docker", "inspect", *container_ids)
        )
        return sorted(containers, key=lambda container: str(container["Created"]))

    async def kill_process_in(self, container: str) -> None:
        """Kill the main process of a container, so that its restart policy restarts it."""
        with suppress(EngineError):  # the container may end before the command in it
            await run_command("docker", "exec", container, "python", "-c", _KILL_CHILD_SCRIPT)

    async def wait_until_healthy(self, service: str, *, count: int) -> None:
        """Wait until this many containers of a service run and are healthy."""
        async with asyncio.timeout(60):
            while True:
                states = [container["State"] for container in await self.list_containers(service)]
                healthy = [
                    container for container in states if container["Health"]["Status"] == "healthy"
                ]
                if len(healthy) == len(states) == count:
                    return
                await asyncio.sleep(0.2)


@asynccontextmanager
async def open_composition(
    home: Path, environ: Mapping[str, str], config: CompositionConfig, *services: str
) -> AsyncIterator[Composition]:
    """Start the services, healthy within a minute, and stop them at the end."""
    composition = Composition(home, environ, config)
    try:
        await composition.up(*services)
        yield composition
    finally:
        await composition.down()


# Process 1 is the init process. Its child is the service.
_KILL_CHILD_SCRIPT = """
import os, pathlib, signal
for folder in pathlib.Path('/proc').glob('[0-9]*'):
    pid, command_line = int(folder.name), (folder / 'cmdline').read_bytes()
    if pid not in (1, os.getpid()) and b'deployment-enricher' in command_line:
        os.kill(pid, signal.SIGKILL)
"""


async def build_redis_image(home: Path) -> str:
    """Return the Redis image; build one with a data directory where the image has none.

    A new volume belongs to the owner of that directory in the image.
    """
    check_data_dir = (
        "docker",
        "run",
        "--rm",
        "--entrypoint",
        "sh",
        _REDIS_IMAGE,
        "-c",
        "test -d /data || echo no",
    )
    if not await run_command(*check_data_dir):
        return _REDIS_IMAGE
    lines = (f"FROM {_REDIS_IMAGE}", "USER root", "RUN mkdir /data && chown valkey /data")
    (home / "Dockerfile").write_text("\n".join(lines))
    await run_command("docker", "build", "-q", "-t", _IMAGE_WITH_DATA_DIR, str(home))
    return _IMAGE_WITH_DATA_DIR


def _free_ports(receivers: int) -> tuple[int, int, int]:
    """Return the first of a range of free ports, and free ports for Redis and the simulator."""
    for first_port in range(20_000, 30_000, receivers + 2):
        if all(_is_free(port) for port in range(first_port, first_port + receivers + 2)):
            return first_port, first_port + receivers, first_port + receivers + 1
    raise OSError("no free range of ports between 20000 and 30000")


def _is_free(port: int) -> bool:
    try:
        socket.create_server(("127.0.0.1", port)).close()
    except OSError:
        return False
    return True


def receiver_urls(ports: Sequence[int]) -> list[str]:
    """Return the URLs of the receivers."""
    return [f"http://127.0.0.1:{port}" for port in ports]
