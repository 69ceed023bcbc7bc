"""A harness for the budget of one namespace: waiting tickets, and responses set by the test."""

import itertools
from typing import cast

from redis.asyncio import Redis

from service.backlog.backlog import Backlog, BacklogConfig, Claimed
from service.enrich.budget import CALL_TTL_MS, Budget, load_budget_prelude
from service.enrich.rate_limits import RateLimitHeaders, RateLimitWindow
from service.enrich.verdict import CallResult
from service.store.group_commit import GroupCommit
from service.store.keys import Keys
from tests.factories import deployment_id, make_event

ANSWERED_JOB = "id:answered"


class BudgetHarness:
    """The budget and backlog of one namespace as its workers use them; times are Redis's ms."""

    def __init__(self, redis: Redis, group: GroupCommit, keys: Keys, config: BacklogConfig) -> None:
        self.redis = redis
        self.keys = keys
        self._group = group
        self._counter = itertools.count()
        self.jitter = 0.0
        self.next_token = ""  # set by a test that repeats one claim
        self.budget = Budget(
            group, keys=keys, share=config.rate_limit_share, rng=lambda: self.jitter
        )
        self.backlog = Backlog(
            group,
            keys=keys,
            config=config,
            budget_lua=load_budget_prelude(),
            new_token=lambda: self.next_token or f"{next(self._counter):016d}",
        )

    async def now(self) -> int:
        """Return the time of Redis."""
        seconds, micros = await self.redis.time()
        return int(seconds) * 1000 + int(micros) // 1000

    async def add_tickets(self, count: int, *, with_id: bool = True) -> None:
        """Add tickets, with the id of their deployment or with its version only."""
        for _ in range(count):
            number = next(self._counter)
            await self.backlog.add(
                make_event(number, deployment_id=deployment_id(number) if with_id else None)
            )

    async def claim_jobs(self, limit: int = 100) -> list[str]:
        """Claim tickets and return their jobs."""
        return [lease.job for lease in (await self.claim(limit)).leases]

    async def claim(self, limit: int = 100) -> Claimed:
        """Claim tickets and return the whole reply."""
        return await self.backlog.claim(limit)

    async def acquire(self, job: str, route: str = "get", *, ttl_ms: int = CALL_TTL_MS) -> int:
        """Try once to acquire a call; return 0 when it may be made, else the ms to wait."""
        budget = self.budget
        wait_ms = await self._group.submit(
            budget._acquire,
            keys=budget._acquire_keys,
            args=(job, route, ttl_ms, budget._share, int(budget._spare_only)),
        )
        assert isinstance(wait_ms, int)
        return wait_ms

    async def record(
        self,
        job: str,
        result: CallResult = "ok",
        rate_limits: RateLimitHeaders | None = None,
        *,
        scope: str = "",
    ) -> int:
        """Record the result of a call; return for how many ms the budget is closed."""
        closed_ms = await self.budget.record(
            job, result, rate_limits or RateLimitHeaders(), scope=scope
        )
        assert isinstance(closed_ms, int)
        return closed_ms

    async def report_window(
        self, remaining: int, *, limit: int | None, reset_ms: int | None, family: str = "global"
    ) -> None:
        """Record a good response that reports one window, which ends at ``reset_ms``."""
        window = RateLimitWindow(family=family, limit=limit, remaining=remaining, reset_ms=reset_ms)
        await self.record(ANSWERED_JOB, rate_limits=RateLimitHeaders(windows=(window,)))

    async def pass_time(self, elapsed_ms: int) -> None:
        """Let time pass: move every moment in the budget into the past."""
        keys = self.keys
        state = cast("dict[bytes, bytes]", await self.redis.hgetall(keys.budget))
        for name, value in state.items():
            fields = value.split()
            if name in {b"closed_until", b"breaker_window_ends"}:
                await self.redis.hincrby(keys.budget, name.decode(), -elapsed_ms)
            elif len(fields) == 7:
                for moment in (2, 6):
                    fields[moment] = str(int(fields[moment]) - elapsed_ms).encode()
                await self.redis.hset(keys.budget, name.decode(), b" ".join(fields))
        for key in (keys.budget_calls, keys.budget_waiting):
            for member in cast("list[bytes]", await self.redis.zrange(key, 0, -1)):
                await self.redis.zincrby(key, -elapsed_ms, member)

    async def reopen(self) -> None:
        """End the time for which the budget is closed."""
        await self.redis.hset(self.keys.budget, "closed_until", "0")
