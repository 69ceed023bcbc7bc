"""The reader of the stream: it fills the history, and knows when it has read what there was."""

import asyncio
import time
from contextlib import suppress
from datetime import UTC, datetime, timedelta

import msgspec
from deployment_enricher_client import EnrichedStream, ReaderOptions, Record

from .deployments import parse_record
from .history import History
from .periods import LONGEST_MS

_QUIET_S = 1.0  # when no further record comes for so long, all that there were are read
_FORGET_EVERY_S = 600.0
_YIELD_EVERY = 100  # records, so that pages are served while many are read


class Reader:
    """Reads the stream of one namespace into a history until cancelled.

    It reads without a group: it acknowledges nothing and disturbs no other reader.
    """

    def __init__(self, redis_url: str, *, namespace: str) -> None:
        self.history = History()
        self.redis_lost_at: int | None = None
        """When Redis was away (epoch ms); None after the next record."""
        self._redis_url = redis_url
        self._namespace = namespace
        self._started_ms = _now_ms()
        self._active_at = time.monotonic()
        self._forget_at = time.monotonic() + _FORGET_EVERY_S
        self._is_loaded = False

    @property
    def is_loaded(self) -> bool:
        """Whether the records are read that there were when the reader started."""
        is_quiet = time.monotonic() - self._active_at > _QUIET_S and self.redis_lost_at is None
        self._is_loaded = self._is_loaded or is_quiet
        return self._is_loaded

    async def run(self) -> None:
        """Read until cancelled; raise redis's errors if waiting does not cure them."""
        since = datetime.now(UTC) - timedelta(milliseconds=LONGEST_MS)
        options = ReaderOptions(
            on_invalid_entry=lambda _: None, on_unavailable=self._note_unavailable
        )
        async with EnrichedStream(
            self._redis_url, namespace=self._namespace, since=since, options=options
        ) as records:
            async for record in records:
                self._add(record)
                if self.history.number % _YIELD_EVERY == 0:
                    await asyncio.sleep(0)

    def _add(self, record: Record) -> None:
        with suppress(msgspec.ValidationError):  # LaunchDarkly's part is no deployment
            self.history.add(parse_record(record))
        self.redis_lost_at, self._active_at = None, time.monotonic()
        if int(record.position.partition("-")[0]) >= self._started_ms:
            self._is_loaded = True
        if self._active_at >= self._forget_at:
            self.history.forget_before(_now_ms() - LONGEST_MS)
            self._forget_at = self._active_at + _FORGET_EVERY_S

    def _note_unavailable(self, _: Exception) -> None:
        self.redis_lost_at = _now_ms()


def _now_ms() -> int:
    return int(time.time() * 1000)
