"""What is in hand, and does it stay ours? Leases are renewed while work goes on."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol

from msgspec import Struct
from msgspec.structs import replace

from service.backlog.ticket import CorruptTicket, Lease

RENEWALS_PER_LEASE = 3

RenewLeases = Callable[[Sequence[tuple[str, float]], int], Awaitable[list[float | None]]]
"""Lengthen leases (job, fence) by so many ms; gives the new fences, None where one is lost."""


class LeaseLog(Protocol):
    """Where it is said that something went wrong."""

    def warning(self, event: str, **fields: object) -> object:
        """Write a fact that somebody should know of."""


class HeldLease:
    """One lease in hand. Its fence changes when it is renewed, until it is being settled."""

    __slots__ = ("has_call", "lease", "settling", "task")

    def __init__(self, lease: Lease | CorruptTicket) -> None:
        self.lease = lease
        self.has_call = not isinstance(lease, Lease) or lease.leader is None
        self.settling = False
        self.task: asyncio.Task[None] | None = None


class Capacity(Struct, frozen=True):
    """How much may be in hand: leases with a call of their own, and company that shares one."""

    leaders: int
    followers: int


class LeaseKeeper:
    """All hands of one worker, their leases renewed thrice in the life of one (``lease_s``).

    ``clock`` gives monotonic seconds.
    """

    def __init__(
        self,
        renew: RenewLeases,
        *,
        capacity: Capacity,
        lease_s: float,
        clock: Callable[[], float],
        log: LeaseLog,
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
        """Say how much more may be taken in hand."""
        followers = len(self._held_leases) - self._leaders
        return Capacity(
            max(0, self._capacity.leaders - self._leaders),
            max(0, self._capacity.followers - followers),
        )

    def add(self, lease: Lease | CorruptTicket) -> HeldLease:
        """Take a lease in hand."""
        held_lease = HeldLease(lease)
        self._held_leases.add(held_lease)
        self._leaders += held_lease.has_call
        self._update_capacity()
        return held_lease

    def remove(self, held_lease: HeldLease) -> None:
        """Have a hand free again."""
        if held_lease in self._held_leases:
            self._held_leases.remove(held_lease)
            self._leaders -= held_lease.has_call
            self._update_capacity()

    def has_capacity(self) -> bool:
        """Tell whether more should be taken: not while it would have to do without company."""
        return self._has_capacity.is_set()

    async def wait_for_capacity(self) -> None:
        """Wait until more should be taken."""
        await self._has_capacity.wait()

    def _update_capacity(self) -> None:
        followers = len(self._held_leases) - self._leaders
        if self._leaders < self._capacity.leaders and followers * 2 <= self._capacity.followers:
            self._has_capacity.set()
        else:
            self._has_capacity.clear()

    def list_tasks(self) -> list[asyncio.Task[None]]:
        """List the work that is going on."""
        return [held_lease.task for held_lease in self._held_leases if held_lease.task is not None]

    async def begin_settling(self, held_lease: HeldLease) -> None:
        """Hold the fence still: a renewal under way is about to change it."""
        held_lease.settling = True
        await self._renewal_finished.wait()

    async def renew_until_cancelled(self) -> None:
        """Renew for ever; work whose lease was lost is cancelled, as another has it now.

        Each renewal makes good the time since the last, so that a stall costs no margin for good.
        """
        last_renewed_at = self._clock()
        while True:
            await asyncio.sleep(self._renew_interval_s)
            started_at = self._clock()
            held_leases = [
                held_lease for held_lease in self._held_leases if not held_lease.settling
            ]
            try:
                await self._renew_all(
                    held_leases, by_ms=round((started_at - last_renewed_at) * 1000)
                )
                last_renewed_at = started_at
            except Exception as error:  # noqa: BLE001 - a lease not renewed is only a lease lost
                self._log.warning("renew_failed", reason=repr(error))

    async def _renew_all(self, held_leases: list[HeldLease], *, by_ms: int) -> None:
        if not held_leases:
            return
        job_fences = [(held_lease.lease.job, held_lease.lease.fence) for held_lease in held_leases]
        self._renewal_finished.clear()
        try:
            fences = await self._renew(job_fences, by_ms)
        finally:
            self._renewal_finished.set()
        for held_lease, fence in zip(held_leases, fences, strict=True):
            if fence is not None:
                held_lease.lease = replace(held_lease.lease, fence=fence)
            elif held_lease.task is not None and not held_lease.settling:
                held_lease.task.cancel()
                self._log.warning("lease_lost", job=held_lease.lease.job)
