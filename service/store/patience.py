"""Who has waited long enough for a reply? One timer looks after all of them."""

import asyncio
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")

_LOOK_EVERY_S = 0.25


class Patience(Generic[T]):
    """Futures with a deadline; ``lose`` is called with each whose deadline passes unanswered.

    A timer for each would cost a busy door more than what it waits for.
    """

    def __init__(self, lose: Callable[[asyncio.Future[T]], None]) -> None:
        self._lose = lose
        self._watched: list[tuple[float, asyncio.Future[T]]] = []
        self._timer: asyncio.TimerHandle | None = None

    def watch(self, reply: asyncio.Future[T], *, for_s: float) -> None:
        """Wait for a reply so long, and not longer."""
        loop = reply.get_loop()
        self._watched.append((loop.time() + for_s, reply))
        if self._timer is None:
            self._timer = loop.call_later(min(for_s, _LOOK_EVERY_S), self._look, loop)

    def _look(self, loop: asyncio.AbstractEventLoop) -> None:
        now = loop.time()
        waiting = [pair for pair in self._watched if not pair[1].done()]
        self._watched = [pair for pair in waiting if pair[0] > now]
        for deadline, reply in waiting:
            if deadline <= now:
                self._lose(reply)
        self._timer = None
        if self._watched:
            soonest = min(deadline for deadline, _ in self._watched)
            self._timer = loop.call_later(
                min(max(soonest - now, 0.0), _LOOK_EVERY_S), self._look, loop
            )
