"""The image's HEALTHCHECK: whether the command of this container still answers.

Docker starts it every few seconds, so it imports little. Which URL it asks depends on the
command of process 1: a receiver answers ``/healthz`` on its own port, a worker on a loopback port,
the simulator ``/`` on its port. Any other command is healthy as long as it runs. Neither
``/healthz`` depends on Redis: a restart does not bring Redis back.
"""

import os
import socket
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from service.cli.container_problem import read_problem

WORKER_HEALTH_PORT = 9109
SIMULATOR_PORT = 9090
_TIMEOUT_S = 2.0


class HealthUrl(NamedTuple):
    """What a healthy process answers with 200."""

    port: int
    path: str = "/healthz"
    host: str = "127.0.0.1"


def health_url(arguments: Sequence[str], environ: Mapping[str, str]) -> HealthUrl | None:
    """Return what the command with these arguments answers; None if it answers nothing."""
    if "serve" in arguments or "run" in arguments:
        # Not by settings.py, which takes longer to import than everything else here.
        port = environ.get("ENRICHER_PORT", "").strip() or "8080"
        host = environ.get("ENRICHER_HOST", "").strip() or "127.0.0.1"
        return HealthUrl(int(port) if port.isdecimal() else 0, host=host)
    if "work" in arguments:
        return HealthUrl(WORKER_HEALTH_PORT)
    if "simulate" in arguments:
        port = arguments[arguments.index("--port") + 1] if "--port" in arguments else ""
        return HealthUrl(int(port or SIMULATOR_PORT), path="/")
    return None


def find_problem(url: HealthUrl) -> str | None:
    """Return why this machine does not answer the URL with 200 in time; None if it does."""
    try:
        with socket.create_connection((url.host, url.port), timeout=_TIMEOUT_S) as connection:
            connection.sendall(f"GET {url.path} HTTP/1.0\r\nHost: localhost\r\n\r\n".encode())
            status_line = connection.recv(64).partition(b"\r\n")[0]
    except OSError as error:
        return f"{url.host}:{url.port}{url.path} does not answer: {error.strerror or error}"
    if status_line.split(b" ")[1:2] == [b"200"]:
        return None
    return f"{url.host}:{url.port}{url.path} answers {status_line.decode(errors='replace')!r}"


def main() -> None:
    """Check process 1, which is the command or the init above it; exit with 1 if it is ill.

    Print why, also what is wrong with a command that goes on with the settings of before.
    """
    arguments = Path("/proc/1/cmdline").read_text(encoding="utf-8", errors="replace").split("\0")
    url = health_url(arguments, os.environ)
    ill = None if url is None else find_problem(url)
    if problem := read_problem() or ill:
        print(problem)  # noqa: T201 - Docker keeps it, see `docker inspect`
    if ill:
        sys.exit(1)


if __name__ == "__main__":
    main()
