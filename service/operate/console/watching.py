"""How do many watch at the cost of one? One look each second for all of them."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence

from msgspec import Struct
from redis.exceptions import RedisError

from service.log import EventLogger
from service.operate.console.figures import Sample, SampleHistory
from service.operate.console.looking import Overview
from service.store import RedisUnavailable
from service.store.connect import UNAVAILABLE_ERRORS, describe_error

MAX_VIEWERS = 32

_ACTIVE_INTERVAL_S, _IDLE_INTERVAL_S = 1.0, 5.0
_MAX_AGE_S = 0.5


class LiveState(Struct, frozen=True):
    """What is shown: the last glimpse, the measures of the last minutes, and what is in the way."""

    overview: Overview | None
    samples: Sequence[Sample] = ()
    redis_error: str = ""


Fragments = Mapping[str, str]
"""Parts of the page by their names, as HTML."""


class TooManyViewers(Exception):
    """So many watch already that nobody more may."""


class LiveFeed:
    """Looks again and again, more often while somebody watches.

    ``look`` may raise Unavailable or redis's errors; ``clock`` gives monotonic seconds.
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
        """Look until cancelled."""
        while True:
            try:
                state = await self.read_state()
                if self._viewers:
                    self._fragments = self._render(state)
            except Exception:  # noqa: BLE001 - a page that stands still is better than a door that falls
                self._log.exception("console_failed")
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
        """Give what is to be seen now; who asks while somebody looks shares that look."""
        async with self._read_lock:
            if self._clock() - self._read_at > _MAX_AGE_S:
                self._state = await self._read_new_state()
                self._read_at = self._clock()
            return self._state

    async def subscribe(self) -> AsyncGenerator[Fragments]:
        """Give every frame from now on, until we end; raises Full."""
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
        """Let all who watch go."""
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
