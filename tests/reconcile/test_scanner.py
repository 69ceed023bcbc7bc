"""Is a list read within everybody's budget, whoever else reads the same one?"""

import asyncio
import time

from aiohttp import web
from redis.asyncio import Redis

from service.accept.filters import DeploymentFilter
from service.enrich.budget import Budget
from service.enrich.client import LaunchDarkly, Upstream, open_session
from service.metrics.http import serve_app
from service.reconcile.checkpoint import Run, Runs
from service.reconcile.missed import Scope, TimeRange
from service.reconcile.reconciler import Scanner
from service.store.group_commit import GroupCommit
from service.store.keys import Keys

SCOPE = Scope("default", "production")


async def test_two_who_list_the_same_scope_are_two_calls(
    group_commit: GroupCommit, redis: Redis, keys: Keys
) -> None:
    """A backfill beside a round, or a second one: each call on its way is counted."""
    asked, answering = asyncio.Semaphore(0), asyncio.Event()

    async def answer(_: web.Request) -> web.Response:
        asked.release()
        await answering.wait()
        return web.json_response({"items": []})

    app = web.Application()
    app.router.add_get("/{path:.*}", answer)
    async with (
        serve_app(app, host="127.0.0.1", port=0) as origin,
        open_session("api-token", max_connections=2) as session,
    ):
        sweeper = Scanner(
            Upstream(
                LaunchDarkly(session, origin=origin, max_bytes=9999, clock=time.time),
                Budget(group_commit, keys=keys, share=1.0, rng=lambda: 0.5, spare_only=True),
                asyncio.Semaphore(2),
            ),
            Runs(group_commit, keys=keys, new_token=lambda: "", ttl_ms=60_000),
            deployment_filter=DeploymentFilter(),
            rng=lambda: 0.5,
            grace_ms=0,
        )
        sweeping = [
            asyncio.create_task(sweeper.scan(Run(name, token, 9, None), SCOPE, TimeRange(1, 9)))
            for name, token in (("a", "mine"), ("a", "theirs"))
        ]
        for _ in sweeping:
            await asked.acquire()
        assert await redis.zcard(keys.budget_calls) == len(sweeping)
        answering.set()
        await asyncio.wait(sweeping)
