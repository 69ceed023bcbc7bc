"""A reverse proxy in front of the receiver, configured as docs/operations.md shows."""

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from yarl import URL

from tests.doc_blocks import ROOT, read_blocks

_UNPACKED = ROOT / ".tool" / "nginx" / "usr" / "sbin" / "nginx"  # where .ci/run puts it
_START_TIMEOUT_S = 20.0


def find_nginx() -> str | None:
    """Return the path of nginx: the installed one, else the one that .ci/run unpacked."""
    return shutil.which("nginx") or shutil.which("/usr/sbin/nginx") or shutil.which(_UNPACKED)


@contextmanager
def serve_nginx(nginx: str, folder: Path, receiver_url: str) -> Iterator[str]:
    """Run nginx in front of a receiver and of one that is gone; yield its URL."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    config = folder / "nginx.conf"
    config.write_text(_render_config(port, URL(receiver_url).port or 0))
    command = [nginx, "-p", str(folder), "-c", str(config), "-e", "stderr"]
    with subprocess.Popen(command, stderr=subprocess.PIPE) as process:
        try:
            _wait_for_port(process, port)
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()
            process.communicate(timeout=_START_TIMEOUT_S)


def _render_config(port: int, receiver_port: int) -> str:
    (page_block,) = [
        block.source
        for block in read_blocks(ROOT / "docs" / "operations.md")
        if block.language == "nginx"
    ]
    documented = page_block.replace("10.0.0.1:8080 ", f"127.0.0.1:{receiver_port} ")
    documented = documented.replace("10.0.0.2:8080 ", "127.0.0.1:1 ")  # nothing listens there
    upstream, location, location_body = documented.partition("location ")
    assert str(receiver_port) in upstream
    paths = " ".join(
        f"{name}_temp_path {name};" for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    user = "user root;" if os.getuid() == 0 else ""
    return (
        f"{user} daemon off; worker_processes 1; pid nginx.pid; events {{}}\n"
        f"http {{ access_log off; {paths}\n{upstream}"
        f"server {{ listen 127.0.0.1:{port};\n{location}{location_body} }} }}\n"
    )


def _wait_for_port(process: subprocess.Popen[bytes], port: int) -> None:
    deadline = time.monotonic() + _START_TIMEOUT_S
    while time.monotonic() < deadline:
        if process.poll() is not None:
            _, errors = process.communicate()
            raise AssertionError(f"nginx ended: {errors.decode()}")
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.02)
    raise AssertionError("nginx does not listen")
