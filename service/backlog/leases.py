"""The leases that one worker holds, renewed while it works on their tickets."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence

from msgspec import Struct
from msgspec.structs import replace

from service.backlog.ticket import CorruptTicket, Lease
from service.log import EventLogger

RENEWALS_PER_LEASE = 3
_MAX_RENEWED = 100
"""The most leases that one call renews, so that its script blocks Redis briefly."""

RenewLeases = Callable[[Sequence[tuple[str, float]], int], Awaitable[list[float | None]]]
"""Extends leases (job, fence) by so many ms; returns the new fences, None for a lost lease."""


class HeldLease:
    """A lease that this worker holds. Each renewal changes its fence, until it is being settled."""

    __slots__ = ("has_call", "lease", "settling", "task")

    def __init__(self, lease: Lease | CorruptTicket) -> None:
        self.lease = lease
        self.has_call = not isinstance(lease, Lease) or lease.leader is None
        self.settling = False
        self.task: asyncio.Task[None] | None = None


class Capacity(Struct, frozen=True):
    """The most leases that a worker holds: leaders with a call of their own, and followers."""

    leaders: int
    followers: int


class LeaseKeeper:
    """Holds the leases of one worker and renews them three times per lease (``lease_s``).

    ``clock`` returns monotonic seconds.
    """

    def __init__(
        self,
        renew: RenewLeases,
        *,
        capacity: Capacity,
        lease_s: float,
        clock: Callable[[], float],
        log: EventLogger,
    ) -> None:
        self._renew = renew
        self._capacity = capacity
        self._renew_interval_s = lease_s / RENEWALS_PER_LEASE
        self._clock = clock
        self._log = log
        self._held_leases: set[HeldLease] = set()
        self._leaders = 0
        self._has_capacity = asyncio.Event()
        self._has_capacity.set()
        self._renewal_finished = asyncio.Event()
        self._renewal_finished.set()

    def __len__(self) -> int:
        return len(self._held_leases)

    def free_capacity(self) -> Capacity:
        """Return how many more leases the worker may hold."""
        followers = len(self._held_leases) - self._leaders
        return Capacity(
            max(0, self._capacity.leaders - self._leaders),
            max(0, self._capacity.followers - followers),
        )

    def add(self, lease: Lease | CorruptTicket) -> HeldLease:
        """Hold a lease and renew it from now on."""
        held_lease = HeldLease(lease)
        self._held_leases.add(held_lease)
        self._leaders += held_lease.has_call
        self._update_capacity()
        return held_lease

    def remove(self, held_lease: HeldLease) -> None:
        """Stop holding a lease; do nothing if it is not held."""
        if held_lease in self._held_leases:
            self._held_leases.remove(held_lease)
            self._leaders -= held_lease.has_call
            self._update_capacity()

    def has_capacity(self) -> bool:
        """Return whether the worker should claim: not while half of its followers are taken."""
        return self._has_capacity.is_set()

    async def wait_for_capacity(self) -> None:
        """Wait until the worker should claim more."""
        await self._has_capacity.wait()

    def _update_capacity(self) -> None:
        followers = len(self._held_leases) - self._leaders
        if self._leaders < self._capacity.leaders and followers * 2 <= self._capacity.followers:
            self._has_capacity.set()
        else:
            self._has_capacity.clear()

    def list_tasks(self) -> list[asyncio.Task[None]]:
        """Return the tasks that work on held leases."""
        return [held_lease.task for held_lease in self._held_leases if held_lease.task is not None]

    async def begin_settling(self, held_lease: HeldLease) -> float:
        """Stop renewing a lease and return its final fence, after any renewal in progress."""
        held_lease.settling = True
        await self._renewal_finished.wait()
        return held_lease.lease.fence

    def resume_renewing(self, held_lease: HeldLease) -> None:
        """Renew a lease again: Redis refused to settle it for now, and executed nothing."""
        held_lease.settling = False

    async def renew_until_cancelled(self) -> None:
        """Renew all leases until cancelled; cancel the task of a lost lease.

        Each renewal extends by the time since the last one, so that a stalled process catches up.
        A renewal that took long is followed by the next one at once.
        """
        last_renewed_at = started_at = self._clock()
        while True:
            await asyncio.sleep(max(0.0, started_at + self._renew_interval_s - self._clock()))
            started_at = self._clock()
            held_leases = [
                held_lease for held_lease in self._held_leases if not held_lease.settling
            ]
            try:
                await self._renew_all(
                    held_leases, by_ms=round((started_at - last_renewed_at) * 1000)
                )
                last_renewed_at = started_at
            except Exception as error:  # noqa: BLE001 - at worst the leases are lost
                self._log.warning("renew_failed", reason=repr(error))

    async def _renew_all(self, held_leases: list[HeldLease], *, by_ms: int) -> None:
        if not held_leases:
            return
        self._renewal_finished.clear()
        try:
            for start in range(0, len(held_leases), _MAX_RENEWED):
                await self._renew_slice(held_leases[start : start + _MAX_RENEWED], by_ms=by_ms)
        finally:
            self._renewal_finished.set()

    async def _renew_slice(self, held_leases: list[HeldLease], *, by_ms: int) -> None:
        job_fences = [(held_lease.lease.job, held_lease.lease.fence) for held_lease in held_leases]
        fences = await self._renew(job_fences, by_ms)
        for held_lease, fence in zip(held_leases, fences, strict=True):
            if fence is not None:
                held_lease.lease = replace(held_lease.lease, fence=fence)
            elif held_lease.task is not None and not held_lease.settling:
                held_lease.task.cancel()
                self._log.warning("lease_lost", job=held_lease.lease.job)
