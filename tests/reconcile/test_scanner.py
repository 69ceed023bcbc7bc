"""Tests of the scanner: each list call counts in the shared budget."""

import asyncio
import time

from aiohttp import ClientSession, web
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


def build_scanner(
    group_commit: GroupCommit, keys: Keys, session: ClientSession, origin: str
) -> Scanner:
    """Return a scanner that makes two calls at once at most."""
    return Scanner(
        Upstream(
            launchdarkly=LaunchDarkly(session, origin=origin, max_bytes=9999, clock=time.time),
            budget=Budget(group_commit, keys=keys, share=1.0, rng=lambda: 0.5, spare_only=True),
            limiter=asyncio.Semaphore(2),
            rng=lambda: 0.5,
        ),
        Runs(group_commit, keys=keys, new_token=lambda: "", ttl_ms=60_000),
        deployment_filter=DeploymentFilter(),
        grace_ms=0,
    )


async def test_scan_ends_with_an_error_where_the_next_link_has_another_type(
    group_commit: GroupCommit, keys: Keys
) -> None:
    """The deployments of the page are queued; the checkpoint does not move past the others."""

    async def respond(_: web.Request) -> web.Response:
        return web.json_response({"items": [{"id": "a", "endedAt": "soon"}], "_links": 7})

    app = web.Application()
    app.router.add_get("/{path:.*}", respond)
    async with (
        serve_app(app, host="127.0.0.1", port=0) as origin,
        open_session("api-token", max_connections=2) as session,
    ):
        scanner = build_scanner(group_commit, keys, session, origin)
        runs = Runs(group_commit, keys=keys, new_token=lambda: "first", ttl_ms=60_000)
        async with runs.hold("a", interval_ms=0) as run:
            assert isinstance(run, Run)
            result = await scanner.scan(run, SCOPE, TimeRange(1, 9))
    assert (result.listed, result.missed) == (1, 1)
    assert result.error == "the next link has another type"


async def test_two_scans_of_one_scope_are_two_calls_in_flight(
    group_commit: GroupCommit, redis: Redis, keys: Keys
) -> None:
    """A backfill may run beside a reconcile run; each call in flight is counted."""
    requested, may_respond = asyncio.Semaphore(0), asyncio.Event()

    async def respond(_: web.Request) -> web.Response:
        requested.release()
        await may_respond.wait()
        return web.json_response({"items": []})

    app = web.Application()
    app.router.add_get("/{path:.*}", respond)
    async with (
        serve_app(app, host="127.0.0.1", port=0) as origin,
        open_session("api-token", max_connections=2) as session,
    ):
        scanner = build_scanner(group_commit, keys, session, origin)
        scans = [
            asyncio.create_task(scanner.scan(Run(name, token, 9, None), SCOPE, TimeRange(1, 9)))
            for name, token in (("a", "first"), ("a", "second"))
        ]
        for _ in scans:
            await requested.acquire()
        assert await redis.zcard(keys.budget_calls) == len(scans)
        may_respond.set()
        await asyncio.wait(scans)
