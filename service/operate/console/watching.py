"""How do many watch at the cost of one? One look each second for all of them."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence

from msgspec import Struct
from redis.exceptions import RedisError

from service.log import FactLog
from service.operate.console.figures import History, Measures
from service.operate.console.looking import Glimpse
from service.store import Unavailable
from service.store.connect import AWAY, describe_trouble

MOST_WATCHERS = 32

_LIVELY_S, _IDLE_S = 1.0, 5.0
_FRESH_S = 0.5


class View(Struct, frozen=True):
    """What is shown: the last glimpse, the measures of the last minutes, and what is in the way."""

    glimpse: Glimpse | None
    history: Sequence[Measures] = ()
    trouble: str = ""


Frame = Mapping[str, str]
"""Parts of the page by their names, as HTML."""


class Full(Exception):
    """So many watch already that nobody more may."""


class Watch:
    """Looks again and again, more often while somebody watches.

    ``look`` may raise Unavailable or redis's errors; ``clock`` gives monotonic seconds.
    """

    def __init__(
        self,
        look: Callable[[], Awaitable[Glimpse]],
        draw: Callable[[View], Frame],
        *,
        clock: Callable[[], float],
        log: FactLog,
    ) -> None:
        self._look = look
        self._draw = draw
        self._clock = clock
        self._log = log
        self._history = History()
        self._view = View(None)
        self._looked_at = float("-inf")
        self._looking = asyncio.Lock()
        self._watchers: set[asyncio.Event] = set()
        self._wanted = asyncio.Event()
        self._frame: Frame = {}
        self._has_ended = False

    async def keep_looking(self) -> None:
        """Look until cancelled."""
        while True:
            try:
                view = await self.see()
                if self._watchers:
                    self._frame = self._draw(view)
            except Exception:  # noqa: BLE001 - a page that stands still is better than a door that falls
                self._log.exception("console_failed")
            for watcher in self._watchers:
                watcher.set()
            self._wanted.clear()
            try:
                async with asyncio.timeout(_LIVELY_S if self._watchers else _IDLE_S):
                    await self._wanted.wait()
            except TimeoutError:
                continue

    async def see(self) -> View:
        """Give what is to be seen now; who asks while somebody looks shares that look."""
        async with self._looking:
            if self._clock() - self._looked_at > _FRESH_S:
                self._view = await self._look_anew()
                self._looked_at = self._clock()
            return self._view

    async def follow(self) -> AsyncGenerator[Frame]:
        """Give every frame from now on, until we end; raises Full."""
        if len(self._watchers) >= MOST_WATCHERS:
            raise Full
        mine = asyncio.Event()
        self._watchers.add(mine)
        self._wanted.set()
        try:
            while not self._has_ended:
                await mine.wait()
                mine.clear()
                if self._frame and not self._has_ended:
                    yield self._frame
        finally:
            self._watchers.discard(mine)

    def end(self) -> None:
        """Let all who watch go."""
        self._has_ended = True
        for watcher in self._watchers:
            watcher.set()

    async def _look_anew(self) -> View:
        try:
            glimpse = await self._look()
        except Unavailable as error:
            return View(self._view.glimpse, self._view.history, str(error))
        except (*AWAY, RedisError) as error:
            return View(self._view.glimpse, self._view.history, describe_trouble(error))
        self._history.add(glimpse.measures)
        return View(glimpse, self._history.list_samples())
