"""Is what is in hand renewed, and does a stall cost its margin only once?"""

import asyncio
from collections.abc import Sequence

from msgspec.structs import replace

from service.backlog.holding import Holding, Room
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
    holding = Holding(clock.renew, room=Room(2, 4), lease_s=0.003, clock=clock, log=clock)
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


async def test_there_is_room_until_calls_or_company_run_out() -> None:
    """Who has a call of its own takes a hand; half of the company must be gone for more to come."""
    clock = Clock()
    holding = Holding(clock.renew, room=Room(2, 4), lease_s=1.0, clock=clock, log=clock)
    own = Lease(job="j", fence=5.5, generation=1, crashes=0, queued_at=0, now=0, ticket=TICKET)
    shares = replace(own, lead="j")
    first = holding.take(own)
    company = [holding.take(shares) for _ in range(3)]
    assert (holding.measure_room(), holding.has_room()) == (Room(1, 1), False)
    waiting = asyncio.create_task(holding.wait_for_room())
    holding.let_go(first)
    await asyncio.sleep(0)
    assert not waiting.done()
    holding.let_go(company[0])
    holding.let_go(company[0])  # once is enough
    await waiting
    assert (holding.measure_room(), len(holding)) == (Room(2, 2), 2)
    for _ in range(2):
        holding.take(own)
    assert (holding.measure_room(), holding.has_room()) == (Room(0, 2), False)
