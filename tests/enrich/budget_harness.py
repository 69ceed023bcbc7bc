"""How do tests work with one namespace? Deployments that wait, and answers told by hand."""

import itertools

import msgspec
from redis.asyncio import Redis

from service.accept.mapping import DeploymentCompleted
from service.backlog.backlog import Backlog, BacklogConfig, Claimed
from service.enrich.budget import CALL_TTL_MS, Budget, load_budget_prelude
from service.enrich.rate_limits import RateLimitHeaders, RateLimitWindow
from service.enrich.verdict import CallResult
from service.store.group_commit import GroupCommit
from service.store.keys import Keys

ANSWERED_JOB = "id:answered"


class BudgetHarness:
    """One namespace as its workers see it: claim, take, learn. Times are Redis's ms."""

    def __init__(self, redis: Redis, group: GroupCommit, keys: Keys, terms: BacklogConfig) -> None:
        self.redis = redis
        self.keys = keys
        self._group = group
        self._counter = itertools.count()
        self.jitter = 0.0
        self.next_token = ""  # of a claim that is sent again; else each has its own
        self.budget = Budget(
            group, keys=keys, share=terms.rate_limit_share, rng=lambda: self.jitter
        )
        self.backlog = Backlog(
            group,
            keys=keys,
            config=terms,
            budget_lua=load_budget_prelude(),
            new_token=lambda: self.next_token or f"{next(self._counter):016d}",
        )

    async def now(self) -> int:
        """Read Redis's clock."""
        seconds, micros = await self.redis.time()
        return int(seconds) * 1000 + int(micros) // 1000

    async def add_tickets(self, count: int, *, known: bool = True) -> None:
        """Let deployments wait, with their id or to be found."""
        for _ in range(count):
            number = next(self._counter)
            await self.backlog.add(
                DeploymentCompleted(
                    source="native",
                    delivery=f"delivery-{number}",
                    project="default",
                    environment="production",
                    application="shop",
                    version=str(number),
                    deployment_id=f"a0eebc99-9c0b-4ef8-bb6d-{number:012d}" if known else None,
                    outcome="succeeded",
                    event_time=None,
                    metadata=msgspec.Raw(b"{}"),
                    metadata_dropped=False,
                    traceparent=None,
                )
            )

    async def claim_jobs(self, limit: int = 100) -> list[str]:
        """Claim, and give the jobs handed out."""
        return [lease.job for lease in (await self.claim(limit)).leases]

    async def claim(self, limit: int = 100) -> Claimed:
        """Claim, and give all that was said."""
        return await self.backlog.claim(limit)

    async def acquire(self, job: str, route: str = "get", *, life_ms: int = CALL_TTL_MS) -> int:
        """Ask once for one more call; 0 when it may be made, else ms to wait."""
        budget, keys = self.budget, self.keys
        wait = await self._group.submit(
            budget._acquire,
            keys=(keys.budget, keys.budget_calls, keys.budget_waiting),
            args=(job, route, life_ms, budget._share),
        )
        assert isinstance(wait, int)
        return wait

    async def record(
        self,
        job: str,
        outcome: CallResult = "ok",
        rate_limit_headers: RateLimitHeaders | None = None,
    ) -> int:
        """End a call; gives for how many ms the budget is closed."""
        closed = await self.budget.record(job, outcome, rate_limit_headers or RateLimitHeaders())
        assert isinstance(closed, int)
        return closed

    async def report_window(
        self, remaining: int, *, limit: int | None, reset_ms: int | None, family: str = "global"
    ) -> None:
        """Hear what one good answer says of one window that ends at a moment (ms)."""
        window = RateLimitWindow(family=family, limit=limit, remaining=remaining, reset_ms=reset_ms)
        await self.record(ANSWERED_JOB, rate_limit_headers=RateLimitHeaders(windows=(window,)))

    async def reopen(self) -> None:
        """Let the time pass for which the budget is closed."""
        await self.redis.hset(self.keys.budget, "closed_until", "0")
