"""How is reconciling put together? From settings to a loop beside the workers."""

import asyncio
import random
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from service.app import make_only
from service.enrich.calls import Upstream
from service.enrich.launchdarkly import LaunchDarkly, open_session
from service.enrich.leftover import LeftoverBudget
from service.house import House, count_tokens
from service.operate.counting import CountingLog, count_rounds
from service.reconcile.missed import Scope
from service.reconcile.reconciler import Reconciler, Rhythm
from service.reconcile.rounds import Rounds
from service.reconcile.sweep import Sweeper
from service.settings import read_scopes

_LONGEST_GRACE_S = 120.0


@asynccontextmanager
async def open_reconciler(house: House) -> AsyncIterator[None]:
    """Reconcile in the background what the settings name; nothing where they name nothing."""
    settings = house.settings
    scopes = [Scope(*pair) for pair in read_scopes(settings.reconcile)]
    if not scopes:
        yield
        return
    every_s = settings.reconcile_every
    async with open_sweeper(house, grace_s=min(_LONGEST_GRACE_S, every_s)) as (sweeper, rounds):
        rhythm = Rhythm(
            every_ms=round(every_s * 1000), window_ms=round(settings.resolve_window * 1000)
        )
        log = CountingLog(house.log, count_rounds(house.metrics))
        reconciler = Reconciler(scopes, sweeper, rounds, rhythm=rhythm, log=log)
        working = asyncio.create_task(reconciler.run(), name="reconcile")
        try:
            yield
        finally:
            working.cancel()
            await asyncio.gather(working, return_exceptions=True)


@asynccontextmanager
async def open_sweeper(house: House, *, grace_s: float) -> AsyncIterator[tuple[Sweeper, Rounds]]:
    """Open what lists LaunchDarkly's deployments, on calls that are left over."""
    settings, keys = house.settings, house.keys
    async with open_session(settings.access_token.reveal(), connections=1) as session:
        launchdarkly = LaunchDarkly(
            session,
            origin=settings.launchdarkly_url,
            max_bytes=settings.max_answer_bytes,
            clock=time.time,
        )
        budget = LeftoverBudget(
            house.group, keys=keys, share=settings.rate_share, chance=random.random
        )
        rounds = Rounds(
            house.group,
            keys=keys,
            new_token=count_tokens(),
            life_ms=round(settings.published_retention * 1000),
        )
        upstream = Upstream(launchdarkly, budget, asyncio.Semaphore(1))
        yield (
            Sweeper(
                upstream,
                rounds,
                only=make_only(settings),
                chance=random.random,
                grace_ms=round(grace_s * 1000),
            ),
            rounds,
        )
