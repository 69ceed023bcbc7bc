"""What is in hand, and does it stay ours? Leases are renewed while work goes on."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol

from msgspec import Struct
from msgspec.structs import replace

from service.backlog.ticket import Lease, Unreadable

RENEWALS_PER_LEASE = 3

Renew = Callable[[Sequence[tuple[str, float]], int], Awaitable[list[float | None]]]
"""Lengthen leases (job, fence) by so many ms; gives the new fences, None where one is lost."""


class Log(Protocol):
    """Where it is said that something went wrong."""

    def warning(self, event: str, **facts: object) -> object:
        """Write a fact that somebody should know of."""


class Hand:
    """One lease in hand. Its fence changes when it is renewed, until it is being settled."""

    __slots__ = ("has_call", "lease", "settling", "task")

    def __init__(self, lease: Lease | Unreadable) -> None:
        self.lease = lease
        self.has_call = not isinstance(lease, Lease) or lease.lead is None
        self.settling = False
        self.task: asyncio.Task[None] | None = None


class Room(Struct, frozen=True):
    """How much may be in hand: leases with a call of their own, and company that shares one."""

    leads: int
    company: int


class Holding:
    """All hands of one worker, their leases renewed thrice in the life of one (``lease_s``).

    ``clock`` gives monotonic seconds.
    """

    def __init__(
        self,
        renew: Renew,
        *,
        room: Room,
        lease_s: float,
        clock: Callable[[], float],
        log: Log,
    ) -> None:
        self._renew = renew
        self._room = room
        self._every_s = lease_s / RENEWALS_PER_LEASE
        self._clock = clock
        self._log = log
        self._hands: set[Hand] = set()
        self._leads = 0
        self._has_room = asyncio.Event()
        self._has_room.set()
        self._settled_fences = asyncio.Event()
        self._settled_fences.set()

    def __len__(self) -> int:
        return len(self._hands)

    def measure_room(self) -> Room:
        """Say how much more may be taken in hand."""
        company = len(self._hands) - self._leads
        return Room(max(0, self._room.leads - self._leads), max(0, self._room.company - company))

    def take(self, lease: Lease | Unreadable) -> Hand:
        """Take a lease in hand."""
        hand = Hand(lease)
        self._hands.add(hand)
        self._leads += hand.has_call
        self._look_for_room()
        return hand

    def let_go(self, hand: Hand) -> None:
        """Have a hand free again."""
        if hand in self._hands:
            self._hands.remove(hand)
            self._leads -= hand.has_call
            self._look_for_room()

    def has_room(self) -> bool:
        """Tell whether more should be taken: not while it would have to do without company."""
        return self._has_room.is_set()

    async def wait_for_room(self) -> None:
        """Wait until more should be taken."""
        await self._has_room.wait()

    def _look_for_room(self) -> None:
        company = len(self._hands) - self._leads
        if self._leads < self._room.leads and company * 2 <= self._room.company:
            self._has_room.set()
        else:
            self._has_room.clear()

    def list_tasks(self) -> list[asyncio.Task[None]]:
        """List the work that is going on."""
        return [hand.task for hand in self._hands if hand.task is not None]

    async def begin_settling(self, hand: Hand) -> None:
        """Hold the fence still: a renewal under way is about to change it."""
        hand.settling = True
        await self._settled_fences.wait()

    async def keep_renewed(self) -> None:
        """Renew for ever; work whose lease was lost is cancelled, as another has it now.

        Each renewal makes good the time since the last, so that a stall costs no margin for good.
        """
        last = self._clock()
        while True:
            await asyncio.sleep(self._every_s)
            begun = self._clock()
            hands = [hand for hand in self._hands if not hand.settling]
            try:
                await self._renew_all(hands, by_ms=round((begun - last) * 1000))
                last = begun
            except Exception as error:  # noqa: BLE001 - a lease not renewed is only a lease lost
                self._log.warning("renewing_failed", reason=repr(error))

    async def _renew_all(self, hands: list[Hand], *, by_ms: int) -> None:
        if not hands:
            return
        held = [(hand.lease.job, hand.lease.fence) for hand in hands]
        self._settled_fences.clear()
        try:
            fences = await self._renew(held, by_ms)
        finally:
            self._settled_fences.set()
        for hand, fence in zip(hands, fences, strict=True):
            if fence is not None:
                hand.lease = replace(hand.lease, fence=fence)
            elif hand.task is not None and not hand.settling:
                hand.task.cancel()
                self._log.warning("lease_lost", job=hand.lease.job)
