"""The writer of the log: a bounded queue, and a thread that writes it to a file descriptor.

A reader of the log that is gone, full or slow must not stop the process: only the thread waits.
"""

import atexit
import os
import queue
import select
import threading
from collections.abc import Callable

_MAX_QUEUED_CHARACTERS = 4 << 20
_MAX_WRITE_BYTES = 1 << 16
_BATCH_INTERVAL_S = 0.02  # a wakeup of the thread for each line would cost more than its write
_RETRY_DELAY_S = 0.1
_MAX_RETRY_DELAY_S = 5.0
_POLL_MS = 1000
_FLUSH_TIMEOUT_S = 1.0


class LogWriter:
    """Writes lines in their order; :meth:`put` never waits.

    Above ``max_characters`` in the queue, new lines are lost and counted. ``render_lost`` returns
    the line that states a number of lost lines; it is written as soon as the file takes lines
    again.
    """

    def __init__(
        self,
        fd: int,
        *,
        encoding: str,
        render_lost: Callable[[int], str],
        max_characters: int = _MAX_QUEUED_CHARACTERS,
    ) -> None:
        self._fd = os.dup(fd)  # if somebody closes fd, its number may name another file
        self._encoding = encoding
        self._render_lost = render_lost
        self._max_characters = max_characters
        # A SimpleQueue may be used from a destructor, which can run in the middle of a put. Each
        # sum has one writer: a lock could not be taken twice then.
        self._queue: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._put_characters = 0
        self._written_characters = 0
        self.lost = 0
        self._reported_lost = 0
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="log-writer", daemon=True)
        self._thread.start()
        atexit.register(self.close)

    def put(self, line: str) -> None:
        """Queue one line, which ends with a line break; count it as lost if the queue is full."""
        if self._put_characters - self._written_characters > self._max_characters:
            self.lost += 1
            return
        self._put_characters += len(line)
        self._queue.put(line)

    def close(self, *, timeout_s: float = _FLUSH_TIMEOUT_S) -> None:
        """Write what is queued, for up to ``timeout_s``; the rest is lost."""
        if self._closing.is_set():
            return
        self._closing.set()
        self._queue.put("")  # wakes the thread
        self._thread.join(timeout_s)
        if not self._thread.is_alive():
            os.close(self._fd)
        atexit.unregister(self.close)

    def _run(self) -> None:
        while not self._closing.is_set():
            self._write_batch(self._queue.get() + self._take_queued())
            self._closing.wait(_BATCH_INTERVAL_S)
        self._write_batch(self._take_queued())

    def _take_queued(self) -> str:
        lines = []
        while not self._queue.empty():
            lines.append(self._queue.get())
        return "".join(lines)

    def _write_batch(self, lines: str) -> None:
        is_written = self._write(lines)
        self._written_characters += len(lines)
        lost = self.lost
        if is_written and lost > self._reported_lost:
            self._write(self._render_lost(lost - self._reported_lost) + "\n")
            self._reported_lost = lost

    def _write(self, text: str) -> bool:
        """Write a text, however long that takes; return False if closing ended the attempts."""
        rest = memoryview(text.encode(self._encoding, "backslashreplace"))
        delay_s = _RETRY_DELAY_S
        while rest:
            try:
                rest = rest[os.write(self._fd, rest[:_MAX_WRITE_BYTES]) :]
                delay_s = _RETRY_DELAY_S
            except BlockingIOError:  # somebody who shares the file made it non-blocking
                self._wait_until_writable()
            except OSError:  # the reader is gone, the disk is full; there is no log to say so
                if self._closing.wait(delay_s):
                    return False
                delay_s = min(delay_s * 2, _MAX_RETRY_DELAY_S)
        return True

    def _wait_until_writable(self) -> None:
        poll = select.poll()
        poll.register(self._fd, select.POLLOUT)
        poll.poll(_POLL_MS)
