"""Is what is in hand renewed, and does a stall cost its margin only once?"""

import asyncio
from collections.abc import Sequence

from service.backlog.holding import Holding
from service.backlog.ticket import Lease, Ticket

TICKET = Ticket(source="s", delivery="d", outcome="succeeded")


class Clock:
    """A clock that is set by hand, and a log that is read."""

    def __init__(self) -> None:
        self.now_s = 100.0
        self.said: list[str] = []
        self.renewals: list[int] = []
        self.away = False

    def __call__(self) -> float:
        """Tell the time."""
        return self.now_s

    def warning(self, event: str, **_: object) -> None:
        """Remember what went wrong."""
        self.said.append(event)

    async def renew(self, held: Sequence[tuple[str, float]], by_ms: int) -> list[float | None]:
        """Lengthen every lease, or fail."""
        self.now_s += 1.0
        if self.away:
            self.away = False
            raise ConnectionError("away")
        self.renewals.append(by_ms)
        return [fence + by_ms for _, fence in held]


async def test_a_renewal_makes_good_the_time_since_the_last_that_succeeded() -> None:
    """One that failed is made up for by the next; the fence grows by what has passed."""
    clock = Clock()
    holding = Holding(clock.renew, lease_s=0.003, clock=clock, log=clock)
    lease = Lease(job="j", fence=5.5, generation=1, crashes=0, queued_at=0, now=0, ticket=TICKET)
    hand = holding.take(lease)
    clock.away = True
    renewing = asyncio.create_task(holding.keep_renewed())
    async with asyncio.timeout(5):
        while len(clock.renewals) < 3:
            await asyncio.sleep(0)
    renewing.cancel()
    await asyncio.gather(renewing, return_exceptions=True)
    # The clock stands still but for each renewal, which takes one second.
    assert clock.renewals[:3] == [1000, 1000, 1000]
    assert clock.said == ["renewing_failed"]
    assert hand.lease.fence == 5.5 + sum(clock.renewals)
