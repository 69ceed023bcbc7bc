"""How do tests work with one namespace? Deployments that wait, and answers told by hand."""

import itertools

import msgspec
from redis.asyncio import Redis

from service.accept.events import DeploymentCompleted
from service.backlog.backlog import Backlog, Claimed, Terms
from service.enrich.budget import CALL_LIFE_MS, Budget, load_room
from service.enrich.ratelimit import Hints, Window
from service.enrich.verdict import Outcome
from service.store.group import GroupCommit
from service.store.keys import Keys

ANSWERED = "id:answered"


class Desk:
    """One namespace as its workers see it: claim, take, learn. Times are Redis's ms."""

    def __init__(self, redis: Redis, group: GroupCommit, keys: Keys, terms: Terms) -> None:
        self.redis = redis
        self.keys = keys
        self._group = group
        self._numbers = itertools.count()
        self.chance = 0.0
        self.token = ""  # of a claim that is sent again; else each has its own
        self.budget = Budget(group, keys=keys, share=terms.share, chance=lambda: self.chance)
        self.backlog = Backlog(
            group,
            keys=keys,
            terms=terms,
            room=load_room(),
            new_token=lambda: self.token or f"{next(self._numbers):016d}",
        )

    async def now(self) -> int:
        """Read Redis's clock."""
        seconds, micros = await self.redis.time()
        return int(seconds) * 1000 + int(micros) // 1000

    async def add(self, count: int, *, known: bool = True) -> None:
        """Let deployments wait, with their id or to be found."""
        for _ in range(count):
            number = next(self._numbers)
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

    async def claim(self, limit: int = 100) -> list[str]:
        """Claim, and give the jobs handed out."""
        return [lease.job for lease in (await self.look(limit)).leases]

    async def look(self, limit: int = 100) -> Claimed:
        """Claim, and give all that was said."""
        return await self.backlog.claim(limit)

    async def ask(self, job: str, route: str = "get", *, life_ms: int = CALL_LIFE_MS) -> int:
        """Ask once for one more call; 0 when it may be made, else ms to wait."""
        budget, keys = self.budget, self.keys
        wait = await self._group.submit(
            budget._take,
            keys=(keys.budget, keys.calls, keys.callers),
            args=(job, route, life_ms, budget._share),
        )
        assert isinstance(wait, int)
        return wait

    async def learn(self, job: str, outcome: Outcome = "fine", hints: Hints | None = None) -> int:
        """End a call; gives for how many ms the budget is closed."""
        closed = await self.budget.learn(job, outcome, hints or Hints())
        assert isinstance(closed, int)
        return closed

    async def tell(
        self, left: int, *, limit: int | None, ends: int | None, family: str = "global"
    ) -> None:
        """Hear what one good answer says of one window that ends at a moment (ms)."""
        window = Window(family=family, limit=limit, left=left, reset_ms=ends)
        await self.learn(ANSWERED, hints=Hints(windows=(window,)))

    async def reopen(self) -> None:
        """Let the time pass for which the budget is closed."""
        await self.redis.hset(self.keys.budget, "closed", "0")
