"""Is what is in hand renewed, and does a stall cost its margin only once?"""

import asyncio
from collections.abc import Sequence

from msgspec.structs import replace

from service.backlog.leases import Capacity, LeaseKeeper
from service.backlog.ticket import Lease, Ticket

TICKET = Ticket(source="s", delivery="d", outcome="succeeded")


class LeaseKeeperStub:
    """A clock that is set by hand, and a log that is read."""

    def __init__(self) -> None:
        self.now_s = 100.0
        self.log_events: list[str] = []
        self.renewals: list[int] = []
        self.redis_unavailable = False

    def __call__(self) -> float:
        """Tell the time."""
        return self.now_s

    def warning(self, event: str, **_: object) -> None:
        """Remember what went wrong."""
        self.log_events.append(event)

    async def renew(self, held: Sequence[tuple[str, float]], by_ms: int) -> list[float | None]:
        """Lengthen every lease, or fail."""
        self.now_s += 1.0
        if self.redis_unavailable:
            self.redis_unavailable = False
            raise ConnectionError("away")
        self.renewals.append(by_ms)
        return [fence + by_ms for _, fence in held]


async def test_a_renewal_makes_good_the_time_since_the_last_that_succeeded() -> None:
    """One that failed is made up for by the next; the fence grows by what has passed."""
    clock = LeaseKeeperStub()
    holding = LeaseKeeper(
        clock.renew, capacity=Capacity(2, 4), lease_s=0.003, clock=clock, log=clock
    )
    lease = Lease(job="j", fence=5.5, generation=1, crashes=0, queued_at=0, now=0, ticket=TICKET)
    hand = holding.add(lease)
    clock.redis_unavailable = True
    renewing = asyncio.create_task(holding.renew_until_cancelled())
    async with asyncio.timeout(5):
        while len(clock.renewals) < 3:
            await asyncio.sleep(0)
    renewing.cancel()
    await asyncio.gather(renewing, return_exceptions=True)
    # The clock stands still but for each renewal, which takes one second.
    assert clock.renewals[:3] == [1000, 1000, 1000]
    assert clock.log_events == ["renew_failed"]
    assert hand.lease.fence == 5.5 + sum(clock.renewals)


async def test_there_is_room_until_calls_or_company_run_out() -> None:
    """Who has a call of its own takes a hand; half of the company must be gone for more to come."""
    clock = LeaseKeeperStub()
    holding = LeaseKeeper(clock.renew, capacity=Capacity(2, 4), lease_s=1.0, clock=clock, log=clock)
    own = Lease(job="j", fence=5.5, generation=1, crashes=0, queued_at=0, now=0, ticket=TICKET)
    shares = replace(own, leader="j")
    first = holding.add(own)
    company = [holding.add(shares) for _ in range(3)]
    assert (holding.free_capacity(), holding.has_capacity()) == (Capacity(1, 1), False)
    waiting = asyncio.create_task(holding.wait_for_capacity())
    holding.remove(first)
    await asyncio.sleep(0)
    assert not waiting.done()
    holding.remove(company[0])
    holding.remove(company[0])  # once is enough
    await waiting
    assert (holding.free_capacity(), len(holding)) == (Capacity(2, 2), 2)
    for _ in range(2):
        holding.add(own)
    assert (holding.free_capacity(), holding.has_capacity()) == (Capacity(0, 2), False)
