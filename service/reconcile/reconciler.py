"""How do lost webhooks heal? Now and then, what LaunchDarkly lists is held against what we know."""

import asyncio
from collections.abc import Sequence
from typing import Protocol

from msgspec import Struct

from service.reconcile.missed import Scope, Span, advance
from service.reconcile.rounds import Lost, Rounds
from service.reconcile.sweep import Sweeper

_OVERLAP_MS = 3_600_000  # LaunchDarkly may list a deployment later than it ended
_AFTER_TROUBLE_S = 10.0
_SHORTEST_S = 0.05


class Log(Protocol):
    """Where it is said what was found."""

    def info(self, event: str, **facts: object) -> object:
        """Write a fact."""

    def warning(self, event: str, **facts: object) -> object:
        """Write a fact that somebody should know of."""


class Rhythm(Struct, frozen=True, kw_only=True):
    """How often each scope is listed, and how far back the first time (ms)."""

    every_ms: int
    window_ms: int


class Reconciler:
    """Lists each scope again and again, from its checkpoint on and some time before it."""

    def __init__(
        self,
        scopes: Sequence[Scope],
        sweeper: Sweeper,
        rounds: Rounds,
        *,
        rhythm: Rhythm,
        log: Log,
    ) -> None:
        self._scopes = scopes
        self._sweeper = sweeper
        self._rounds = rounds
        self._rhythm = rhythm
        self._log = log

    async def run(self) -> None:
        """Reconcile for ever; what goes wrong is tried again."""
        while True:
            waits = [await self._try(scope) for scope in self._scopes]
            await asyncio.sleep(max(_SHORTEST_S, min(waits)))

    async def _try(self, scope: Scope) -> float:
        try:
            return await self.reconcile(scope)
        except Lost:
            self._log.warning("reconciling_taken_over", scope=scope.name)
        except Exception as error:  # noqa: BLE001 - one that ends in silence heals nothing
            self._log.warning("reconciling_failed", scope=scope.name, reason=repr(error))
        return _AFTER_TROUBLE_S

    async def reconcile(self, scope: Scope) -> float:
        """List one scope, if it is time; gives the seconds until it is time again. Raises Lost."""
        every_ms, window_ms = self._rhythm.every_ms, self._rhythm.window_ms
        async with self._rounds.hold(scope.name, every_ms=every_ms) as held:
            if isinstance(held, float):
                return held
            now_ms = held.now_ms
            begin = now_ms - window_ms if held.checkpoint is None else held.checkpoint - _OVERLAP_MS
            swept = await self._sweeper.sweep(held, scope, Span(begin, now_ms))
            if swept.trouble:
                self._log.warning("reconciling_failed", scope=scope.name, reason=swept.trouble)
                return min(_AFTER_TROUBLE_S, every_ms / 1000)
            checkpoint = advance(now_ms, swept.oldest_open, window_ms=window_ms)
            await self._rounds.end(held, checkpoint)
            self._log.info(
                "deployments_reconciled",
                scope=scope.name,
                listed=swept.listed,
                open=swept.open,
                missed=swept.missed,
                unreadable=swept.unreadable,
            )
            return every_ms / 1000
