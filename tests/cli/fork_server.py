"""A process that has imported the service once, and forks a process for each command.

Importing takes most of the time of a short command. A forked command has an environment, standard
streams, signals and an exit code of its own, as if it had been started by `python -m service`.
"""

import asyncio
import gc
import json
import os
import selectors
import signal
import socket
import subprocess
import sys
from asyncio.subprocess import DEVNULL
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NoReturn, Self

from service.cli.main import main

_ROOT = Path(__file__).resolve().parents[2]
_MAX_MESSAGE_BYTES = 1 << 20
_FIRST_OTHER_FD, _MAX_FDS = 3, 1024


class ForkedProcess:
    """A forked command, with the part of ``asyncio.subprocess.Process`` that tests use."""

    def __init__(self, stdout: asyncio.StreamReader, stderr: asyncio.StreamReader) -> None:
        self.stdout, self.stderr = stdout, stderr
        self.pid = 0
        self.returncode: int | None = None
        self._end: asyncio.Task[None] | None = None

    async def follow(self, status: asyncio.StreamReader) -> Self:
        """Read the process id, and then the exit code in the background."""
        self.pid = int(await status.readline())
        self._end = asyncio.create_task(self._read_exit_code(status), name=f"end of {self.pid}")
        return self

    async def _read_exit_code(self, status: asyncio.StreamReader) -> None:
        self.returncode = int(await status.readline())

    def send_signal(self, signal_number: int) -> None:
        """Send a signal. Raises ProcessLookupError when the process has ended."""
        if self.returncode is not None:
            raise ProcessLookupError
        os.kill(self.pid, signal_number)

    async def wait(self) -> int:
        """Wait for the end; return the exit code."""
        assert self._end is not None
        await asyncio.shield(self._end)
        assert self.returncode is not None
        return self.returncode

    async def communicate(self) -> tuple[bytes, bytes]:
        """Read both streams to their ends and wait; return what they held."""
        out, err, _ = await asyncio.gather(self.stdout.read(), self.stderr.read(), self.wait())
        return out, err


class ForkServer:
    """The server process, seen from the tests."""

    def __init__(self) -> None:
        self._transports: list[asyncio.ReadTransport] = []
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", __name__, str(theirs.fileno())],
                cwd=_ROOT,
                pass_fds=[theirs.fileno()],
                start_new_session=True,
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._control.close()
        self._process.wait()

    async def fork(
        self, arguments: Sequence[str], env: Mapping[str, str], *, stdin: int = DEVNULL
    ) -> ForkedProcess:
        """Run a command; ``stdin`` is a file descriptor."""
        (status, status_fd), (out, out_fd), (err, err_fd) = [
            await self._open_pipe() for _ in range(3)
        ]
        message = json.dumps([[*arguments], {**env}]).encode()
        stdin_fd = os.open(os.devnull, os.O_RDONLY) if stdin == DEVNULL else os.dup(stdin)
        fds = [stdin_fd, out_fd, err_fd, status_fd]
        socket.send_fds(self._control, [message], fds)
        for fd in fds:
            os.close(fd)
        return await ForkedProcess(out, err).follow(status)

    async def _open_pipe(self) -> tuple[asyncio.StreamReader, int]:
        """Return a stream, and the descriptor whose writer it reads."""
        read_fd, write_fd = os.pipe()
        reader = asyncio.StreamReader()
        transport, _ = await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(read_fd, "rb")
        )
        self._transports.append(transport)
        return reader, write_fd

    async def close_pipes(self) -> None:
        """Close the pipes of all commands before the event loop of a test ends."""
        for transport in self._transports:
            transport.close()
        self._transports.clear()
        await asyncio.sleep(0)  # the transports close their files


def serve(control: socket.socket) -> None:
    """Fork a process for each message, and report its end, until nobody sends any more."""
    gc.collect()
    gc.freeze()  # what is imported is not copied because a collection touches it
    with selectors.DefaultSelector() as selector:
        selector.register(control, selectors.EVENT_READ)
        while True:
            for key, _ in selector.select():
                if key.data is not None:
                    selector.unregister(key.fileobj)
                    _report_end(key.fd, *key.data)
                    continue
                message, fds, _, _ = socket.recv_fds(control, _MAX_MESSAGE_BYTES, 4)
                if not message:
                    return
                pid = os.fork()
                if pid == 0:
                    arguments, env = json.loads(message)
                    run_command(arguments, env, fds)
                for fd in fds[:_FIRST_OTHER_FD]:
                    os.close(fd)
                pidfd = os.pidfd_open(pid)
                selector.register(pidfd, selectors.EVENT_READ, (pid, fds[_FIRST_OTHER_FD]))


def _report_end(pidfd: int, pid: int, status_fd: int) -> None:
    os.close(pidfd)
    _, status = os.waitpid(pid, 0)
    with suppress(BrokenPipeError):  # the test has ended
        os.write(status_fd, f"{os.waitstatus_to_exitcode(status)}\n".encode())
    os.close(status_fd)


def run_command(arguments: list[str], env: dict[str, str], fds: list[int]) -> NoReturn:
    """Become a command in the forked process; it ends by SystemExit."""
    *streams, status_fd = fds
    os.write(status_fd, f"{os.getpid()}\n".encode())
    for target, fd in enumerate(streams):
        os.dup2(fd, target)
    os.closerange(_FIRST_OTHER_FD, _MAX_FDS)
    os.environ.clear()
    os.environ.update(env)
    sys.argv = ["deployment-enricher", *arguments]
    sys.stdin = open(0, closefd=False)  # noqa: SIM115 - for the whole process
    sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115 - as above
    sys.stderr = open(2, "w", errors="backslashreplace", buffering=1, closefd=False)  # noqa: SIM115 - as above
    main()
    raise SystemExit(0)


def can_fork() -> bool:
    """Return whether this system has what the server needs."""
    return hasattr(os, "pidfd_open")


if __name__ == "__main__":
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    serve(socket.socket(fileno=int(sys.argv[1])))
