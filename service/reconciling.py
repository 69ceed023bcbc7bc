"""How is reconciling put together? From settings to a loop beside the workers."""

import asyncio
import random
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from service.app import build_filter
from service.enrich.calls import Upstream
from service.enrich.launchdarkly import LaunchDarkly, open_session
from service.enrich.leftover import SpareBudget
from service.house import Runtime, build_token_factory
from service.operate.counting import MetricsLog, reconcile_counters
from service.reconcile.missed import Scope
from service.reconcile.reconciler import ReconcileConfig, Reconciler
from service.reconcile.rounds import Runs
from service.reconcile.sweep import Scanner
from service.settings import parse_scopes

_MAX_GRACE_S = 120.0


@asynccontextmanager
async def open_reconciler(runtime: Runtime) -> AsyncIterator[None]:
    """Reconcile in the background what the settings name; nothing where they name nothing."""
    settings = runtime.settings
    scopes = [Scope(*pair) for pair in parse_scopes(settings.reconcile_scopes)]
    if not scopes:
        yield
        return
    interval_s = settings.reconcile_interval
    async with open_scanner(runtime, grace_s=min(_MAX_GRACE_S, interval_s)) as (scanner, runs):
        config = ReconcileConfig(
            interval_ms=round(interval_s * 1000), lookback_ms=round(settings.lookback * 1000)
        )
        log = MetricsLog(runtime.log, reconcile_counters(runtime.metrics))
        reconciler = Reconciler(scopes, scanner, runs, config=config, log=log)
        reconcile_task = asyncio.create_task(reconciler.run(), name="reconcile")
        try:
            yield
        finally:
            reconcile_task.cancel()
            await asyncio.gather(reconcile_task, return_exceptions=True)


@asynccontextmanager
async def open_scanner(runtime: Runtime, *, grace_s: float) -> AsyncIterator[tuple[Scanner, Runs]]:
    """Open what lists LaunchDarkly's deployments, on calls that are left over."""
    settings, keys = runtime.settings, runtime.keys
    async with open_session(settings.access_token.reveal(), max_connections=1) as session:
        launchdarkly = LaunchDarkly(
            session,
            origin=settings.launchdarkly_url,
            max_bytes=settings.max_answer_bytes,
            clock=time.time,
        )
        budget = SpareBudget(
            runtime.group_commit, keys=keys, share=settings.rate_limit_share, rng=random.random
        )
        runs = Runs(
            runtime.group_commit,
            keys=keys,
            new_token=build_token_factory(),
            ttl_ms=round(settings.published_retention * 1000),
        )
        upstream = Upstream(launchdarkly, budget, asyncio.Semaphore(1))
        yield (
            Scanner(
                upstream,
                runs,
                deployment_filter=build_filter(settings),
                rng=random.random,
                grace_ms=round(grace_s * 1000),
            ),
            runs,
        )
