"""The live overview: read from Redis in one round trip, shared by all viewers."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any, cast

from msgspec import Struct
from redis.exceptions import RedisError

from service.backlog.failures import FailedTicket
from service.console.charts import Sample, SampleHistory, WindowView, parse_windows
from service.console.fragments import Fragments
from service.console.timeline import (
    DeploymentView,
    view_from_failed,
    view_from_record,
    view_from_ticket,
)
from service.log import EventLogger
from service.metrics.namespace import NamespaceStats
from service.store import RedisUnavailable
from service.store.connect import UNAVAILABLE_ERRORS, describe_error
from service.store.exchange import decode_text
from service.store.group_commit import GroupCommit
from service.store.keys import Keys
from service.store.script import Script, load_script

MAX_RECORD_BYTES = 65_536  # of a larger record only the routing fields are read

_MAX_TICKETS, _MAX_FAILURES, _MAX_RECORDS = 8, 8, 16
_REDIS_TIMEOUT_S = 2.0


class Overview(Struct, frozen=True, kw_only=True):
    """One reading: sample, windows, next tickets, last records and failed tickets, newest first."""

    sample: Sample
    windows: Sequence[WindowView]
    tickets: Sequence[DeploymentView]
    records: Sequence[DeploymentView]
    failures: Sequence[FailedTicket]

    def list_deployments(self) -> list[DeploymentView]:
        """Return leased, then waiting tickets, then records and failed tickets, newest first."""
        failed = map(view_from_failed, self.failures)
        ended = sorted(
            (*self.records, *failed), key=lambda deployment: deployment.at_ms, reverse=True
        )
        current = sorted(self.tickets, key=lambda deployment: deployment.status != "leased")
        return [*current, *ended]


class OverviewReader:
    """Reads the overview of one namespace; known records and failed tickets are not read again.

    ``read_stats`` returns the state of the namespace, ``read_failed`` the failed tickets of some
    jobs, ``count_received`` how many webhooks this process received.
    """

    def __init__(
        self,
        group_commit: GroupCommit,
        *,
        keys: Keys,
        read_stats: Callable[[], Awaitable[NamespaceStats]],
        read_failed: Callable[[Iterable[str]], Awaitable[Sequence[FailedTicket]]],
        count_received: Callable[[], int],
    ) -> None:
        self._group_commit = group_commit
        self._keys = (
            *(keys.backlog, keys.tickets, keys.failed, keys.enriched, keys.budget),
            keys.counts,
        )
        self._read_stats = read_stats
        self._read_failed = read_failed
        self._count_received = count_received
        self._script: Script = load_script(__package__, "overview")
        self._records: list[DeploymentView] = []
        self._failed_cache: dict[tuple[str, float], FailedTicket] = {}
        self._last_position = "-"
        self._appended = 0

    async def read(self) -> Overview:
        """Return the overview of this moment; raises RedisUnavailable or redis's errors."""
        stats, reply = await asyncio.gather(  # together, so that they share one round trip
            self._read_stats(), self._run_overview_script()
        )
        now_ms, appended, failed = reply[:3]
        if appended < self._appended:  # the stream was replaced by a new one
            self._records, self._last_position, self._appended = [], "-", 0
            return await self.read()
        self._appended = appended
        self._add_records(reply[6])
        return Overview(
            sample=self._build_sample(stats, at_ms=now_ms, appended=appended, failed=failed),
            windows=parse_windows(decode_fields(reply[3]), now_ms=now_ms),
            tickets=[
                view_from_ticket(decode_text(job), score, stored, now_ms=now_ms)
                for job, score, stored in split_rows(reply[4], 3)
            ],
            records=tuple(self._records),
            failures=await self._load_failed(reply[5]),
        )

    async def _run_overview_script(self) -> list[Any]:
        reply = await self._group_commit.submit(
            self._script,
            keys=self._keys,
            args=(_MAX_TICKETS, _MAX_FAILURES, _MAX_RECORDS, self._last_position, MAX_RECORD_BYTES),
            timeout_s=_REDIS_TIMEOUT_S,
        )
        return cast("list[Any]", reply)

    def _build_sample(
        self, stats: NamespaceStats, *, at_ms: int, appended: int, failed: int
    ) -> Sample:
        return Sample(
            at_ms=at_ms,
            waiting=stats.backlog,
            due=stats.due,
            leased=stats.leased,
            oldest_s=stats.oldest_age_s,
            failed=failed,
            records=stats.records,
            reader_groups=stats.reader_groups,
            unread=stats.lag_records,
            appended=appended,
            received=self._count_received(),
            in_flight=stats.in_flight,
            calls_available=min(stats.calls_left.values()),
            closed_s=stats.closed_s,
            closed_reason=stats.closed_reason if stats.closed_s else "",
        )

    def _add_records(self, entries: Sequence[Any]) -> None:
        """Put the new records before the known ones."""
        new_records = [
            view_from_record(decode_text(position), pair_fields(fields))
            for position, fields in split_rows(entries, 2)
        ]
        if new_records:
            self._last_position = decode_text(entries[0])
            self._records = [*new_records, *self._records][:_MAX_RECORDS]

    async def _load_failed(self, scored_jobs: Sequence[Any]) -> list[FailedTicket]:
        """Return the failed tickets; reads the new ones and forgets those that are gone."""
        listed = [(decode_text(job), float(score)) for job, score in split_rows(scored_jobs, 2)]
        uncached_jobs = [job for job, at_ms in listed if (job, at_ms) not in self._failed_cache]
        loaded = (
            {failed.job: failed for failed in await self._read_failed(uncached_jobs)}
            if uncached_jobs
            else {}
        )
        loaded_by_key = {(failed.job, failed.at_ms): failed for failed in loaded.values()}
        available = self._failed_cache | loaded_by_key
        self._failed_cache = {
            cache_key: available[cache_key] for cache_key in listed if cache_key in available
        }
        return list(self._failed_cache.values())


def decode_fields(values: Sequence[object]) -> Mapping[str, str]:
    """Return the pairs of a flat list of names and values, as text."""
    return {decode_text(name): decode_text(value) for name, value in split_rows(values, 2)}


def pair_fields(values: Sequence[Any]) -> Mapping[bytes, bytes]:
    """Return the pairs of a flat list of names and values, as bytes."""
    return dict(zip(values[::2], values[1::2], strict=True))


def split_rows(values: Sequence[Any], width: int) -> list[Sequence[Any]]:
    """Return the rows of a flat list, ``width`` values each."""
    return [values[start : start + width] for start in range(0, len(values), width)]


MAX_VIEWERS = 32

_ACTIVE_INTERVAL_S, _IDLE_INTERVAL_S = 1.0, 5.0
_MAX_AGE_S = 0.5


class LiveState(Struct, frozen=True):
    """What the pages show: the last overview, recent samples, and the error while Redis is away."""

    overview: Overview | None
    samples: Sequence[Sample] = ()
    redis_error: str = ""


class TooManyViewers(Exception):
    """Raised when the maximum number of viewers is connected."""


class LiveFeed:
    """Reads the overview periodically, more often while there are viewers.

    ``read_overview`` may raise RedisUnavailable or redis's errors; ``clock`` returns monotonic
    seconds.
    """

    def __init__(
        self,
        read_overview: Callable[[], Awaitable[Overview]],
        render: Callable[[LiveState], Fragments],
        *,
        clock: Callable[[], float],
        log: EventLogger,
    ) -> None:
        self._read_overview = read_overview
        self._render = render
        self._clock = clock
        self._log = log
        self._history = SampleHistory()
        self._state = LiveState(None)
        self._read_at = float("-inf")
        self._read_lock = asyncio.Lock()
        self._viewers: set[asyncio.Event] = set()
        self._viewer_joined = asyncio.Event()
        self._fragments: Fragments = {}
        self._is_closed = False

    async def run(self) -> None:
        """Read and render until cancelled."""
        while True:
            try:
                state = await self.read_state()
                if self._viewers:
                    self._fragments = self._render(state)
            except Exception:  # noqa: BLE001 - a stale page is better than a stopped receiver
                self._log.exception("console_error")
            for viewer in self._viewers:
                viewer.set()
            self._viewer_joined.clear()
            try:
                async with asyncio.timeout(
                    _ACTIVE_INTERVAL_S if self._viewers else _IDLE_INTERVAL_S
                ):
                    await self._viewer_joined.wait()
            except TimeoutError:
                continue

    async def read_state(self) -> LiveState:
        """Return the state, at most half a second old; concurrent callers share one reading."""
        async with self._read_lock:
            if self._clock() - self._read_at > _MAX_AGE_S:
                self._state = await self._read_new_state()
                self._read_at = self._clock()
            return self._state

    async def subscribe(self) -> AsyncGenerator[Fragments]:
        """Yield the fragments after each reading until closed; raises TooManyViewers."""
        if len(self._viewers) >= MAX_VIEWERS:
            raise TooManyViewers
        updated = asyncio.Event()
        self._viewers.add(updated)
        self._viewer_joined.set()
        try:
            while not self._is_closed:
                await updated.wait()
                updated.clear()
                if self._fragments and not self._is_closed:
                    yield self._fragments
        finally:
            self._viewers.discard(updated)

    def close(self) -> None:
        """End all subscriptions."""
        self._is_closed = True
        for viewer in self._viewers:
            viewer.set()

    async def _read_new_state(self) -> LiveState:
        try:
            overview = await self._read_overview()
        except RedisUnavailable as error:
            return LiveState(self._state.overview, self._state.samples, str(error))
        except (*UNAVAILABLE_ERRORS, RedisError) as error:
            return LiveState(self._state.overview, self._state.samples, describe_error(error))
        self._history.add(overview.sample)
        return LiveState(overview, self._history.list_samples())
