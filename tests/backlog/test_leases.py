"""Tests of the lease keeper: renewals and capacity."""

import asyncio
from collections.abc import Sequence

from structlog.testing import CapturingLogger

from service.backlog.leases import Capacity, LeaseKeeper
from tests.factories import make_lease


class ManualClock:
    """A clock that the test sets; each renewal takes one second of it."""

    def __init__(self) -> None:
        self.now_s = 100.0
        self.renewals: list[int] = []
        self.sizes: list[int] = []
        self.redis_unavailable = False

    def __call__(self) -> float:
        """Return the time in seconds."""
        return self.now_s

    async def renew(self, held: Sequence[tuple[str, float]], by_ms: int) -> list[float | None]:
        """Extend every lease; fail once if Redis is unavailable."""
        self.now_s += 1.0
        if self.redis_unavailable:
            self.redis_unavailable = False
            raise ConnectionError("away")
        self.renewals.append(by_ms)
        self.sizes.append(len(held))
        return [fence + by_ms for _, fence in held]


async def test_renewal_after_a_failed_one_extends_by_the_time_since_the_last_success() -> None:
    """The next renewal makes up for one that failed; the fence grows by the time that passed."""
    clock, log = ManualClock(), CapturingLogger()
    lease_keeper = LeaseKeeper(
        clock.renew, capacity=Capacity(2, 4), lease_s=0.003, clock=clock, log=log
    )
    held_lease = lease_keeper.add(make_lease(fence=5.5))
    clock.redis_unavailable = True
    renew_task = asyncio.create_task(lease_keeper.renew_until_cancelled())
    async with asyncio.timeout(5):
        while len(clock.renewals) < 3:
            await asyncio.sleep(0)
    renew_task.cancel()
    await asyncio.gather(renew_task, return_exceptions=True)
    # The clock moves only with a renewal, by one second.
    assert clock.renewals[:3] == [1000, 1000, 1000]
    assert [call.args[0] for call in log.calls] == ["renew_failed"]
    assert held_lease.lease.fence == 5.5 + sum(clock.renewals)


async def test_many_leases_are_renewed_in_slices() -> None:
    """Each lease is renewed once, and one call renews at most 100."""
    clock = ManualClock()
    lease_keeper = LeaseKeeper(
        clock.renew, capacity=Capacity(1, 1), lease_s=0.003, clock=clock, log=CapturingLogger()
    )
    held_leases = [lease_keeper.add(make_lease(job=f"j{n}", fence=5.5)) for n in range(600)]
    renew_task = asyncio.create_task(lease_keeper.renew_until_cancelled())
    async with asyncio.timeout(5):
        while any(held_lease.lease.fence == 5.5 for held_lease in held_leases):
            await asyncio.sleep(0)
    renew_task.cancel()
    await asyncio.gather(renew_task, return_exceptions=True)
    assert clock.sizes[:6] == [100] * 6
    assert clock.renewals[:6] == [clock.renewals[0]] * 6


async def test_capacity_is_used_up_by_leaders_or_by_half_of_the_followers() -> None:
    """A lease with its own call uses leader capacity; claiming waits for half of the followers."""
    clock = ManualClock()
    lease_keeper = LeaseKeeper(
        clock.renew, capacity=Capacity(2, 4), lease_s=1.0, clock=clock, log=CapturingLogger()
    )
    leader = make_lease(job="j")
    first = lease_keeper.add(leader)
    followers = [lease_keeper.add(make_lease(job="j", leader="j")) for _ in range(3)]
    assert (lease_keeper.free_capacity(), lease_keeper.has_capacity()) == (Capacity(1, 1), False)
    waiting = asyncio.create_task(lease_keeper.wait_for_capacity())
    lease_keeper.remove(first)
    await asyncio.sleep(0)
    assert not waiting.done()
    lease_keeper.remove(followers[0])
    lease_keeper.remove(followers[0])  # the second time does nothing
    await waiting
    assert (lease_keeper.free_capacity(), len(lease_keeper)) == (Capacity(2, 2), 2)
    for _ in range(2):
        lease_keeper.add(leader)
    assert (lease_keeper.free_capacity(), lease_keeper.has_capacity()) == (Capacity(0, 2), False)
