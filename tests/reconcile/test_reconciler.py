"""Tests of the reconciler: what it keeps in view between two runs."""

import asyncio
import itertools
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest
import structlog
from aiohttp import web
from redis.asyncio import Redis

from service.accept.filters import DeploymentFilter
from service.enrich.budget import Budget
from service.enrich.client import LaunchDarkly, Upstream, open_session
from service.metrics.http import serve_app
from service.reconcile.checkpoint import Runs
from service.reconcile.missed import Scope
from service.reconcile.reconciler import ReconcileConfig, Reconciler, Scanner
from service.store.group_commit import GroupCommit
from service.store.keys import Keys

SCOPE = Scope("default", "production")
HOUR_MS = 3_600_000


class ReconcileHarness:
    """A LaunchDarkly whose list is limited by the start, and reconcilers of one scope."""

    def __init__(self, group_commit: GroupCommit, keys: Keys, upstream: Upstream) -> None:
        tokens = itertools.count()
        self._runs = Runs(
            group_commit, keys=keys, new_token=lambda: f"{next(tokens)}", ttl_ms=60_000
        )
        self._scanner = Scanner(
            upstream, self._runs, deployment_filter=DeploymentFilter(), grace_ms=0
        )

    async def reconcile(self, *, lookback_ms: int) -> None:
        """Run once."""
        reconciler = Reconciler(
            [SCOPE],
            self._scanner,
            self._runs,
            config=ReconcileConfig(interval_ms=0, lookback_ms=lookback_ms),
            log=structlog.get_logger(),
        )
        await reconciler.reconcile(SCOPE)


@pytest.fixture
def deployments() -> dict[str, dict[str, Any]]:
    """Return the deployments that LaunchDarkly knows; a test adds some."""
    return {}


@pytest.fixture
async def harness(
    group_commit: GroupCommit, keys: Keys, deployments: dict[str, dict[str, Any]]
) -> AsyncIterator[ReconcileHarness]:
    """Serve the deployments and build reconcilers that read them."""

    async def respond(request: web.Request) -> web.Response:
        deployment_id = request.path.rpartition("/")[2]
        if deployment_id in deployments:
            return web.json_response(deployments[deployment_id])
        start_ms = int(request.query.get("from", 0))
        items = [item for item in deployments.values() if item["startedAt"] >= start_ms]
        return web.json_response({"items": items if "from" in request.query else []})

    app = web.Application()
    app.router.add_get("/{path:.*}", respond)
    async with (
        serve_app(app, host="127.0.0.1", port=0) as origin,
        open_session("api-token", max_connections=2) as session,
    ):
        upstream = Upstream(
            launchdarkly=LaunchDarkly(session, origin=origin, max_bytes=9999, clock=time.time),
            budget=Budget(group_commit, keys=keys, share=1.0, rng=lambda: 0.5, spare_only=True),
            limiter=asyncio.Semaphore(2),
            rng=lambda: 0.5,
        )
        yield ReconcileHarness(group_commit, keys, upstream)


def build_item(deployment_id: str, **changes: object) -> dict[str, Any]:
    """Return a deployment that started five hours ago and is in progress."""
    return {
        "id": deployment_id,
        "applicationKey": "shop",
        "applicationVersion": "1.0",
        "environmentKey": "production",
        "status": "started",
        "startedAt": int(time.time() * 1000) - 5 * HOUR_MS,
        **changes,
    }


async def test_deployment_in_progress_for_longer_than_the_lookback_is_found_at_its_end(
    harness: ReconcileHarness, deployments: dict[str, dict[str, Any]], redis: Redis, keys: Keys
) -> None:
    """The list no longer holds it, so it is fetched by its id until it has ended."""
    deployments["slow"] = build_item("slow")
    deployments["deleted"] = build_item("deleted")
    await harness.reconcile(lookback_ms=6 * HOUR_MS)
    await harness.reconcile(lookback_ms=60_000)
    assert await redis.exists(keys.refreshes) == 0
    now = int(time.time() * 1000)
    deployments["slow"] = build_item("slow", status="finished", endedAt=now - 60_000)
    del deployments["deleted"]
    await harness.reconcile(lookback_ms=60_000)
    assert await redis.zrange(keys.refreshes, 0, -1) == [b"slow"]
    assert await redis.hget(keys.reconcile(SCOPE.name), "out_of_view") == b"{}"


async def test_second_deployment_of_a_version_is_found_after_its_ticket(
    harness: ReconcileHarness, deployments: dict[str, dict[str, Any]], redis: Redis, keys: Keys
) -> None:
    """A webhook reported one of two deployments; the checkpoint waits for its ticket."""
    now = int(time.time() * 1000)
    for number in (1, 2):
        ended = {"status": "finished", "endedAt": now - number * HOUR_MS}
        deployments[f"run-{number}"] = build_item(f"run-{number}", **ended)
    await redis.hset(keys.tickets, "find:default/production/shop/1.0", "1")
    await harness.reconcile(lookback_ms=6 * HOUR_MS)
    assert await redis.exists(keys.refreshes) == 0
    await redis.delete(keys.tickets)
    await redis.hset(keys.published("run-1"), "revision", "1")  # the ticket found this one
    await redis.pexpire(keys.published("run-1"), 60_000)
    await harness.reconcile(lookback_ms=6 * HOUR_MS)
    assert await redis.zrange(keys.refreshes, 0, -1) == [b"run-2"]
