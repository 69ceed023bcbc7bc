"""The pipe between a process and the file of its log, which can be blocked."""

import asyncio
import fcntl
import os
import sys
from pathlib import Path

_PIPE_BYTES = 8192  # so little that a blocked pipe is full at once
_READ_BYTES = 1 << 16


class LogPipe:
    """Copies what a process writes to ``write_fd`` into a file, until its last writer ends."""

    def __init__(self, file: Path) -> None:
        self._loop = asyncio.get_running_loop()
        self._file = file.open("wb", buffering=0)
        self._read_fd, self.write_fd = os.pipe()
        if sys.platform == "linux":
            fcntl.fcntl(self.write_fd, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
        self._ended = asyncio.Event()
        self.unblock()

    def close_write_end(self) -> None:
        """Leave the process as the only writer."""
        os.close(self.write_fd)

    def block(self) -> None:
        """Stop reading, as a log driver that is stuck."""
        self._loop.remove_reader(self._read_fd)

    def unblock(self) -> None:
        """Read again."""
        if not self._ended.is_set():
            self._loop.add_reader(self._read_fd, self._copy)

    async def wait_until_ended(self) -> None:
        """Wait until the process has ended and the file holds all that it wrote."""
        self.unblock()
        await self._ended.wait()

    def _copy(self) -> None:
        if data := os.read(self._read_fd, _READ_BYTES):
            self._file.write(data)
            return
        self._loop.remove_reader(self._read_fd)
        os.close(self._read_fd)
        self._file.close()
        self._ended.set()
