"""Who has waited long enough for a reply? One timer looks after all of them."""

import asyncio
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")

_DEADLINE_CHECK_INTERVAL_S = 0.25


class Deadlines(Generic[T]):
    """Futures with a deadline; ``lose`` is called with each whose deadline passes unanswered.

    A timer for each would cost a busy door more than what it waits for.
    """

    def __init__(self, on_expired: Callable[[asyncio.Future[T]], None]) -> None:
        self._on_expired = on_expired
        self._pending: list[tuple[float, asyncio.Future[T]]] = []
        self._timer: asyncio.TimerHandle | None = None

    def add(self, reply: asyncio.Future[T], *, timeout_s: float) -> None:
        """Wait for a reply so long, and not longer."""
        loop = reply.get_loop()
        self._pending.append((loop.time() + timeout_s, reply))
        if self._timer is None:
            self._timer = loop.call_later(
                min(timeout_s, _DEADLINE_CHECK_INTERVAL_S), self._check, loop
            )

    def _check(self, loop: asyncio.AbstractEventLoop) -> None:
        now = loop.time()
        unanswered = [pair for pair in self._pending if not pair[1].done()]
        self._pending = [pair for pair in unanswered if pair[0] > now]
        for deadline, reply in unanswered:
            if deadline <= now:
                self._on_expired(reply)
        self._timer = None
        if self._pending:
            next_deadline = min(deadline for deadline, _ in self._pending)
            self._timer = loop.call_later(
                min(max(next_deadline - now, 0.0), _DEADLINE_CHECK_INTERVAL_S), self._check, loop
            )
