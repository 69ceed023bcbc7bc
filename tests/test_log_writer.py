"""Tests of the writer of the log: nobody waits for stderr, and no lost line goes unnoticed."""

import errno
import fcntl
import json
import os
import select
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

import pytest

from service.log_writer import LogWriter

PIPE_BYTES = 4096


class Pipe:
    """A small pipe, and a writer of log lines into it."""

    def __init__(self) -> None:
        self.reader, self.fd = os.pipe()
        fcntl.fcntl(self.fd, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
        self.writer = LogWriter(
            self.fd, encoding="utf-8", render_lost=lambda count: f"lost {count}", max_characters=500
        )

    def fill(self) -> None:
        """Fill the pipe, as a log driver that is stuck leaves it."""
        os.write(self.fd, b"." * (PIPE_BYTES - 1) + b"\n")

    def read_until(self, end: str) -> list[str]:
        """Read the lines until one that contains a text."""
        text, deadline = "", time.monotonic() + 20
        while f"{end}\n" not in text:
            assert time.monotonic() < deadline, text
            if select.select([self.reader], [], [], 0.1)[0]:
                text += os.read(self.reader, 1 << 16).decode()
        return text.splitlines()


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    """Open a pipe and its writer; close both."""
    pipe = Pipe()
    yield pipe
    pipe.writer.close(timeout_s=0.0)
    os.close(pipe.reader)
    os.close(pipe.fd)
    pipe.writer._thread.join(20)


def wait_until(condition: Callable[[], bool]) -> None:
    """Wait for a condition."""
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_lines_are_written_in_their_order(pipe: Pipe) -> None:
    """Some of them are written together."""
    for number in range(100):
        pipe.writer.put(f"{number}\n")
        wait_until(lambda: pipe.writer._put_characters - pipe.writer._written_characters < 100)
    assert pipe.read_until("99") == [str(number) for number in range(100)]


def test_full_pipe_loses_lines_above_the_bound_and_counts_them(pipe: Pipe) -> None:
    """put() returns although nobody reads; the count follows the lines that were kept."""
    pipe.fill()
    for number in range(1000):
        pipe.writer.put(f"line {number}\n")
    lost = pipe.writer.lost
    assert 900 < lost < 1000
    lines = pipe.read_until(f"lost {lost}")
    assert lines[1:] == [*(f"line {number}" for number in range(1000 - lost)), f"lost {lost}"]
    pipe.writer.put("after\n")
    assert pipe.read_until("after") == ["after"]


def test_reader_that_is_gone_does_not_spin(pipe: Pipe, monkeypatch: pytest.MonkeyPatch) -> None:
    """A failed write is repeated at growing intervals; the last try is at the end."""
    tries: list[float] = []

    def write(*_: object) -> int:
        tries.append(time.monotonic())
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("service.log_writer.os.write", write)
    pipe.writer.put("a\n")
    wait_until(lambda: len(tries) == 3)
    assert tries[2] - tries[0] > 0.25
    pipe.writer.close()
    assert len(tries) < 6
    assert not pipe.writer._thread.is_alive()


def test_close_writes_what_is_queued(pipe: Pipe) -> None:
    """The last lines of a process are the most interesting."""
    pipe.writer.put("a\n")
    pipe.writer.put("b\n")
    pipe.writer.close()
    assert os.read(pipe.reader, 100) == b"a\nb\n"


def test_close_ends_although_the_pipe_is_full(pipe: Pipe) -> None:
    """It waits for its timeout and no longer."""
    pipe.fill()
    pipe.writer.put("a\n")
    pipe.writer.close(timeout_s=0.01)
    assert pipe.writer._thread.is_alive()


def test_non_blocking_pipe_loses_nothing(pipe: Pipe) -> None:
    """Another process that shares the pipe may have made it non-blocking."""
    os.set_blocking(pipe.fd, False)
    pipe.fill()
    pipe.writer.put("a\n")
    assert pipe.read_until("a")[-1] == "a"
    assert pipe.writer.lost == 0


def test_closed_descriptor_is_not_written_to(pipe: Pipe) -> None:
    """The writer keeps its own: the number of a closed one may be given to a socket."""
    os.close(pipe.fd)
    os.open(os.devnull, os.O_RDWR)
    pipe.writer.put("a\n")
    assert pipe.read_until("a") == ["a"]


LOGGING_PROGRAM = """
import sys
from service.cli.preconditions import configure_log
from service.settings import Settings
log = configure_log(Settings())
for number in range(300):
    log.info("thing_happened", number=number)
class Broken:
    def __del__(self):
        raise ValueError("secret")
Broken()
"""


@pytest.mark.parametrize(
    ("end", "code", "errors"),
    [("sys.exit(3)", 3, ["ValueError"]), ("raise KeyError('x')", 1, ["ValueError", "KeyError"])],
)
def test_process_writes_its_last_lines_and_keeps_its_exit_code(
    end: str, code: int, errors: list[str]
) -> None:
    """Errors that Python itself reports are lines too; only the last has its traceback."""
    ended = subprocess.run(
        [sys.executable, "-c", LOGGING_PROGRAM + end], capture_output=True, text=True, check=False
    )
    assert ended.returncode == code
    lines = [json.loads(line) for line in ended.stderr.splitlines()]
    assert [line.get("number") for line in lines[:300]] == [*range(300)]
    for line, error in zip(lines[300:], errors, strict=True):
        assert line["event"] == "unhandled_error"
        assert error in {line.get("error"), line.get("exception", "").rpartition("\n")[2][:8]}
    assert "secret" not in ended.stderr


def test_process_whose_log_is_stuck_keeps_its_exit_code() -> None:
    """It waits a second for the reader of its log, and then ends."""
    reader, fd = os.pipe()
    os.write(fd, b"." * fcntl.fcntl(fd, fcntl.F_SETPIPE_SZ, PIPE_BYTES))
    program = [sys.executable, "-c", f"{LOGGING_PROGRAM}sys.exit(3)"]
    ended = subprocess.run(program, stderr=fd, timeout=20, check=False)
    os.close(fd)
    os.close(reader)
    assert ended.returncode == 3
