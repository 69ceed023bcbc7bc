"""The memory of a worker for responses, or of a receiver for bodies: when full, reading waits.

Each webhook, each attempt and each shared list has a hold. It counts the bytes that were read for
it until it is done: the webhook is parsed, or the ticket is settled. A list and the attempts that
need it are one group. The oldest group may exceed the limit, one hold at a time, so that it always
comes to its end and frees its memory: every wait ends, even if one attempt holds several
pages.
"""

import asyncio


class MemoryHold:
    """The bytes that one webhook, attempt or list holds. ``users`` is how many releases end it."""

    __slots__ = ("_memory", "_users", "group", "held")

    def __init__(self, memory: "BufferMemory", *, group: object, users: int) -> None:
        self._memory = memory
        self._users = users
        self.group = group
        self.held = 0

    def try_acquire(self, size: int) -> bool:
        """Hold more bytes if that needs no wait; return whether it did."""
        return self._memory.try_acquire(self, size)

    async def acquire(self, size: int) -> bool:
        """Hold more bytes, and return whether that had to wait."""
        if self.try_acquire(size):
            return False
        await self._memory.wait(self, size)
        return True

    def resize(self, held: int) -> None:
        """Hold this number of bytes from now on, without waiting."""
        self._memory.resize(self, held)

    def end_reading(self) -> None:
        """Let another hold of the group exceed the limit: this one keeps what it has."""
        self._memory.end_reading(self)

    def release(self) -> None:
        """End the use by one user; the last one frees the bytes."""
        self._users -= 1
        if self._users <= 0:
            self.resize(0)
            self.end_reading()


class Reading:
    """The part of a hold that one response or body takes; ``has_waited``: reading had to pause."""

    __slots__ = ("_bytes_before", "_hold", "has_waited")

    def __init__(self, hold: MemoryHold) -> None:
        self._hold = hold
        self._bytes_before = hold.held
        self.has_waited = False

    @property
    def reserved(self) -> int:
        """The bytes that are reserved for the response."""
        return self._hold.held - self._bytes_before

    async def reserve(self, size: int, *, timeout_s: float | None = None) -> None:
        """Reserve bytes up to ``size`` in total. Raises TimeoutError."""
        missing = size - self.reserved
        if missing <= 0 or self._hold.try_acquire(missing):
            return
        self.has_waited = True
        async with asyncio.timeout(timeout_s):
            await self._hold.acquire(missing)

    def settle(self, size: int) -> None:
        """Keep this number of bytes until the hold is released."""
        self._hold.resize(self._bytes_before + size)


class BufferMemory:
    """The limit, the bytes in use, and the holds that wait for more."""

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.used = 0
        self.peak = 0
        self._bytes_by_group: dict[object, int] = {}  # the oldest group first
        self._exceeding: MemoryHold | None = None
        self._waiting: list[tuple[MemoryHold, int, asyncio.Future[None]]] = []

    @property
    def is_short(self) -> bool:
        """Whether a hold waits for memory."""
        return bool(self._waiting)

    def open_hold(self, *, group: object = None, users: int = 1) -> MemoryHold:
        """Return a hold of no bytes; without ``group`` it is a group of its own."""
        return MemoryHold(self, group=object() if group is None else group, users=users)

    def try_acquire(self, hold: MemoryHold, size: int) -> bool:
        """Add bytes to a hold, and return True, unless that has to wait for memory."""
        fits = not self._waiting and self.used + size <= self.max_bytes
        if not fits and not self._try_exceed(hold):
            return False
        self._add(hold, size)
        return True

    async def wait(self, hold: MemoryHold, size: int) -> None:
        """Wait until these bytes fit, and add them to a hold."""
        granted: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        waiter = (hold, size, granted)
        self._waiting.append(waiter)
        try:
            await granted
        except asyncio.CancelledError:
            if granted.done() and not granted.cancelled():
                self.resize(hold, hold.held - size)
            else:
                self._waiting.remove(waiter)
                self._grant()
            raise

    def resize(self, hold: MemoryHold, held: int) -> None:
        """Set the bytes of a hold, and grant what fits then."""
        self._add(hold, held - hold.held)
        self._grant()

    def end_reading(self, hold: MemoryHold) -> None:
        """Let another hold of its group exceed the limit."""
        if self._exceeding is hold:
            self._exceeding = None
            self._grant()

    def _try_exceed(self, hold: MemoryHold) -> bool:
        """Let a hold of the oldest group go over the limit, if no other does; return whether."""
        oldest_group = next(iter(self._bytes_by_group), hold.group)
        if hold.group is not oldest_group or self._exceeding not in {None, hold}:
            return False
        self._exceeding = hold
        return True

    def _add(self, hold: MemoryHold, size: int) -> None:
        hold.held += size
        self.used += size
        self.peak = max(self.peak, self.used)
        group_bytes = self._bytes_by_group.get(hold.group, 0) + size
        if group_bytes:
            self._bytes_by_group[hold.group] = group_bytes
        else:
            self._bytes_by_group.pop(hold.group, None)

    def _grant(self) -> None:
        """Grant what waits, the holds of older groups first, until one does not fit."""
        if not self._waiting:
            return
        ages = {group: age for age, group in enumerate(self._bytes_by_group)}
        self._waiting.sort(key=lambda waiter: ages.get(waiter[0].group, len(ages)))
        while self._waiting:
            hold, size, granted = self._waiting[0]
            if self.used + size > self.max_bytes and not self._try_exceed(hold):
                return
            del self._waiting[0]
            self._add(hold, size)
            granted.set_result(None)
