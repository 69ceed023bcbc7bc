"""How do lost webhooks heal? Now and then, what LaunchDarkly lists is held against what we know."""

import asyncio
from collections.abc import Sequence
from typing import Protocol

from msgspec import Struct

from service.reconcile.missed import Scope, TimeRange, next_checkpoint
from service.reconcile.rounds import LeaseLost, Runs
from service.reconcile.sweep import Scanner

_OVERLAP_MS = 3_600_000  # LaunchDarkly may list a deployment later than it ended
_RETRY_DELAY_S = 10.0
_MIN_SLEEP_S = 0.05


class Log(Protocol):
    """Where it is said what was found."""

    def info(self, event: str, **facts: object) -> object:
        """Write a fact."""

    def warning(self, event: str, **facts: object) -> object:
        """Write a fact that somebody should know of."""


class ReconcileConfig(Struct, frozen=True, kw_only=True):
    """How often each scope is listed, and how far back the first time (ms)."""

    interval_ms: int
    lookback_ms: int


class Reconciler:
    """Lists each scope again and again, from its checkpoint on and some time before it."""

    def __init__(
        self,
        scopes: Sequence[Scope],
        scanner: Scanner,
        runs: Runs,
        *,
        config: ReconcileConfig,
        log: Log,
    ) -> None:
        self._scopes = scopes
        self._scanner = scanner
        self._runs = runs
        self._config = config
        self._log = log

    async def run(self) -> None:
        """Reconcile for ever; what goes wrong is tried again."""
        while True:
            waits_s = [await self._try_reconcile(scope) for scope in self._scopes]
            await asyncio.sleep(max(_MIN_SLEEP_S, min(waits_s)))

    async def _try_reconcile(self, scope: Scope) -> float:
        try:
            return await self.reconcile(scope)
        except LeaseLost:
            self._log.warning("reconciling_taken_over", scope=scope.name)
        except Exception as error:  # noqa: BLE001 - one that ends in silence heals nothing
            self._log.warning("reconciling_failed", scope=scope.name, reason=repr(error))
        return _RETRY_DELAY_S

    async def reconcile(self, scope: Scope) -> float:
        """List one scope, if it is time; gives the seconds until it is time again. Raises Lost."""
        interval_ms, lookback_ms = self._config.interval_ms, self._config.lookback_ms
        async with self._runs.hold(scope.name, interval_ms=interval_ms) as run:
            if isinstance(run, float):
                return run
            now_ms = run.now_ms
            start_ms = (
                now_ms - lookback_ms if run.checkpoint is None else run.checkpoint - _OVERLAP_MS
            )
            result = await self._scanner.scan(run, scope, TimeRange(start_ms, now_ms))
            if result.error:
                self._log.warning("reconciling_failed", scope=scope.name, reason=result.error)
                return min(_RETRY_DELAY_S, interval_ms / 1000)
            checkpoint = next_checkpoint(now_ms, result.oldest_open_ms, lookback_ms=lookback_ms)
            await self._runs.end(run, checkpoint)
            self._log.info(
                "deployments_reconciled",
                scope=scope.name,
                listed=result.listed,
                open=result.still_open,
                missed=result.missed,
                unreadable=result.unreadable,
            )
            return interval_ms / 1000
