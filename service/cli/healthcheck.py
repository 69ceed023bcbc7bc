"""Is the one process of this container well? Asked by the image's HEALTHCHECK, every few seconds.

It starts anew each time, so it imports next to nothing. What is asked depends on the command that
the container runs: who serves is asked over HTTP, as anybody would; who works is asked likewise
where its metrics have a port, and is well while it is in touch with Redis; of any other, that it
runs is enough.
"""

import os
import socket
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

_TIMEOUT_S = 2.0
_ESTABLISHED_STATE = "01"  # the state in /proc/net/tcp (net/tcp_states.h)
_LOOPBACK_PREFIXES = (
    "0100007F",
    "0000000000000000FFFF00000100007F",
    "00000000000000000000000001000000",
)
_PORT_VARIABLES = {
    "serve": ("ENRICHER_PORT", "8080"),
    "run": ("ENRICHER_PORT", "8080"),
    "work": ("ENRICHER_METRICS_PORT", "0"),
}


def command_port(arguments: Sequence[str], environ: Mapping[str, str]) -> int:
    """Say on which port the command answers; 0: on none."""
    for command, (variable, default) in _PORT_VARIABLES.items():
        if command in arguments:
            return int(environ.get(variable) or default)
    if "simulate" in arguments:
        return int(arguments[arguments.index("--port") + 1]) if "--port" in arguments else 9090
    return 0


def has_remote_connection(tcp_table: Iterable[str]) -> bool:
    """Tell whether a connection to another machine stands, by the lines of /proc/net/tcp."""
    for line in tcp_table:
        _, _, remote, state, *_ = [*line.split(), "", "", "", ""]
        if state == _ESTABLISHED_STATE and not remote.startswith(_LOOPBACK_PREFIXES):
            return True
    return False


def is_page_served(port: int, path: str) -> bool:
    """Ask this machine for a page; tells whether it was had."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=_TIMEOUT_S) as connection:
            connection.sendall(f"GET {path} HTTP/1.0\r\nHost: localhost\r\n\r\n".encode())
            return connection.recv(64).split(b" ")[1:2] == [b"200"]
    except OSError:
        return False


def main() -> None:
    """Look at process 1, which is the command or the init that minds it."""
    arguments = Path("/proc/1/cmdline").read_text(encoding="utf-8", errors="replace").split("\0")
    port = command_port(arguments, os.environ)
    if port and not is_page_served(port, "/" if "simulate" in arguments else "/healthz"):
        sys.exit(1)
    if "work" in arguments and not os.environ.get("ENRICHER_REDIS_URL", "").startswith("unix:"):
        tables = (Path("/proc/net/tcp"), Path("/proc/net/tcp6"))
        lines = [line for table in tables if table.exists() for line in table.open()]
        sys.exit(not has_remote_connection(lines))


if __name__ == "__main__":
    main()
