"""The image's HEALTHCHECK: whether the command of this container still answers.

Docker starts it anew every few seconds, so it imports little. Which URL it asks depends on the
command of process 1: a receiver answers ``/healthz`` on its own port, a worker on a loopback port,
the simulator ``/`` on its port. Any other command is healthy as long as it runs. Neither
``/healthz`` depends on Redis: a restart does not bring Redis back.
"""

import os
import socket
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from msgspec import Struct

from service.settings import read_settings

WORKER_HEALTH_PORT = 9109
SIMULATOR_PORT = 9090
_TIMEOUT_S = 2.0


class HealthUrl(Struct, frozen=True):
    """What a healthy process answers with 200."""

    port: int
    path: str = "/healthz"
    host: str = "127.0.0.1"


def health_url(arguments: Sequence[str], environ: Mapping[str, str]) -> HealthUrl | None:
    """Return what the command with these arguments answers; None if it answers nothing."""
    if "serve" in arguments or "run" in arguments:
        settings = read_settings(environ)
        return HealthUrl(settings.port, host=settings.host)
    if "work" in arguments:
        return HealthUrl(WORKER_HEALTH_PORT)
    if "simulate" in arguments:
        port = arguments[arguments.index("--port") + 1] if "--port" in arguments else SIMULATOR_PORT
        return HealthUrl(int(port), path="/")
    return None


def is_healthy(url: HealthUrl) -> bool:
    """Return whether this machine answers the URL with 200 in time."""
    try:
        with socket.create_connection((url.host, url.port), timeout=_TIMEOUT_S) as connection:
            connection.sendall(f"GET {url.path} HTTP/1.0\r\nHost: localhost\r\n\r\n".encode())
            return connection.recv(64).split(b" ")[1:2] == [b"200"]
    except OSError:
        return False


def main() -> None:
    """Check process 1, which is the command or the init above it; exit with 1 if it is ill."""
    arguments = Path("/proc/1/cmdline").read_text(encoding="utf-8", errors="replace").split("\0")
    url = health_url(arguments, os.environ)
    if url is not None and not is_healthy(url):
        sys.exit(1)


if __name__ == "__main__":
    main()
