"""Is a list read within everybody's budget, whoever else reads the same one?"""

import asyncio
import time

from aiohttp import web
from redis.asyncio import Redis

from service.accept.choice import Only
from service.enrich.calls import Upstream
from service.enrich.launchdarkly import LaunchDarkly, open_session
from service.enrich.leftover import LeftoverBudget
from service.operate.listening import listen
from service.reconcile.missed import Scope, Span
from service.reconcile.rounds import Round, Rounds
from service.reconcile.sweep import Sweeper
from service.store.group import GroupCommit
from service.store.keys import Keys

SCOPE = Scope("default", "production")


async def test_two_who_list_the_same_scope_are_two_calls(
    group: GroupCommit, redis: Redis, keys: Keys
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
        listen(app, host="127.0.0.1", port=0) as origin,
        open_session("api-token", connections=2) as session,
    ):
        sweeper = Sweeper(
            Upstream(
                LaunchDarkly(session, origin=origin, max_bytes=9999, clock=time.time),
                LeftoverBudget(group, keys=keys, share=1.0, chance=lambda: 0.5),
                asyncio.Semaphore(2),
            ),
            Rounds(group, keys=keys, new_token=lambda: "", life_ms=60_000),
            only=Only(),
            chance=lambda: 0.5,
            grace_ms=0,
        )
        sweeping = [
            asyncio.create_task(sweeper.sweep(Round(name, token, 9, None), SCOPE, Span(1, 9)))
            for name, token in (("a", "mine"), ("a", "theirs"))
        ]
        for _ in sweeping:
            await asked.acquire()
        assert await redis.zcard(keys.calls) == len(sweeping)
        answering.set()
        await asyncio.wait(sweeping)
