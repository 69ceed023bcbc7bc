"""Tests of the response memory: its limit holds, and nothing waits for ever."""

import asyncio
import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.buffer_memory import BufferMemory, MemoryHold, Reading

LIMIT = 100


def start(hold: MemoryHold, size: int) -> asyncio.Task[bool]:
    """Start to acquire bytes."""
    return asyncio.create_task(hold.acquire(size))


async def settle_tasks() -> None:
    """Let every task run until it waits."""
    for _ in range(5):
        await asyncio.sleep(0)


async def test_acquire_beyond_the_limit_waits_until_memory_is_released() -> None:
    """The first hold takes what it needs; the second one waits for its end."""
    memory = BufferMemory(LIMIT)
    first, second = memory.open_hold(), memory.open_hold()
    assert await first.acquire(80) is False
    waiting = start(second, 30)
    await settle_tasks()
    assert (waiting.done(), memory.used) == (False, 80)
    first.release()
    assert await waiting is True
    assert (memory.used, memory.peak) == (30, 80)


async def test_response_larger_than_the_limit_is_read() -> None:
    """One answer may always proceed, with all its pages; others wait meanwhile."""
    memory = BufferMemory(LIMIT)
    large, small = memory.open_hold(), memory.open_hold()
    for _ in range(3):
        assert await large.acquire(LIMIT) is False
    waiting = start(small, 1)
    await settle_tasks()
    assert not waiting.done()
    large.release()
    assert await waiting is True


async def test_oldest_hold_exceeds_the_limit_while_younger_ones_wait() -> None:
    """Two half-read responses do not wait for each other."""
    memory = BufferMemory(LIMIT)
    old, young = memory.open_hold(), memory.open_hold()
    await old.acquire(50)
    await young.acquire(50)
    waiting = start(young, 10)
    await settle_tasks()
    assert await old.acquire(10) is False
    assert not waiting.done()
    old.release()
    await waiting
    assert memory.used == 60


async def test_small_acquire_does_not_pass_those_that_wait() -> None:
    """Else small responses would keep a large one waiting for ever."""
    memory = BufferMemory(LIMIT)
    first, large, small = (memory.open_hold() for _ in range(3))
    await first.acquire(60)
    waiting = [start(large, 90), start(small, 5)]
    await settle_tasks()
    assert [task.done() for task in waiting] == [False, False]
    first.release()
    await asyncio.gather(*waiting)
    assert memory.used == 95


async def test_list_and_its_tickets_exceed_the_limit_one_at_a_time() -> None:
    """The pages of a list stay in memory until each of its tickets is settled."""
    memory = BufferMemory(LIMIT)
    pages = memory.open_hold(users=2)
    await pages.acquire(150)
    tickets = [memory.open_hold(group=pages.group) for _ in range(2)]
    waiting = [start(ticket, 40) for ticket in tickets]
    await settle_tasks()
    assert [task.done() for task in waiting] == [False, False]
    pages.end_reading()
    await settle_tasks()
    assert [task.done() for task in waiting] == [True, False]
    for ticket in tickets:
        pages.release()
        ticket.release()
        await settle_tasks()
    assert [task.done() for task in waiting] == [True, True]
    assert (memory.used, memory.peak) == (0, 190)


async def test_cancelled_acquire_leaves_nothing_behind() -> None:
    """Neither a waiting acquire nor one that was just granted."""
    memory = BufferMemory(LIMIT)
    first, second, third = (memory.open_hold() for _ in range(3))
    await first.acquire(LIMIT)
    waiting = [start(second, 70), start(third, 70)]
    await settle_tasks()
    waiting[0].cancel()
    await settle_tasks()
    first.release()
    waiting[1].cancel()
    await asyncio.wait(waiting)
    assert memory.used == 0
    assert await first.acquire(LIMIT) is False


async def test_reading_that_waits_too_long_times_out() -> None:
    """It says that it waited: LaunchDarkly did not fail."""
    memory = BufferMemory(LIMIT)
    await memory.open_hold().acquire(LIMIT)
    reading = Reading(memory.open_hold())
    with pytest.raises(TimeoutError):
        await reading.reserve(10, timeout_s=0.01)
    assert (reading.has_waited, reading.reserved) == (True, 0)


class Attempts:
    """Lists and attempts that read responses of given sizes, with random pauses."""

    def __init__(self, memory: BufferMemory, seed: int) -> None:
        self.memory = memory
        self._rng = random.Random(seed)

    async def _read(self, hold: MemoryHold, sizes: list[int]) -> None:
        for size in sizes:
            await hold.acquire(size)
            for _ in range(self._rng.randrange(3)):
                await asyncio.sleep(0)

    async def run_ticket(self, sizes: list[int], pages: MemoryHold | None = None) -> None:
        """Read the responses of a ticket, and settle it."""
        hold = self.memory.open_hold(group=None if pages is None else pages.group)
        await self._read(hold, sizes)
        hold.release()
        if pages is not None:
            pages.release()

    async def run_list(self, sizes: list[int], tickets: list[list[int]]) -> None:
        """Read the pages of a list, then run its tickets."""
        pages = self.memory.open_hold(users=len(tickets))
        await self._read(pages, sizes)
        pages.end_reading()
        await asyncio.gather(*(self.run_ticket(ticket, pages) for ticket in tickets))


SIZES = st.lists(st.integers(1, 70), max_size=4)
LISTS = st.lists(st.tuples(SIZES, st.lists(SIZES, min_size=1, max_size=3)), max_size=3)


@given(lists=LISTS, singles=st.lists(SIZES, max_size=5), seed=st.integers(0, 9))
def test_every_attempt_ends_whatever_it_needs(lists: Any, singles: Any, seed: int) -> None:
    """The limit is exceeded by the largest list with its largest ticket at most."""
    attempts = Attempts(BufferMemory(LIMIT), seed)

    async def run_all() -> None:
        async with asyncio.timeout(20):
            runs = [attempts.run_list(*sizes) for sizes in lists]
            await asyncio.gather(*runs, *map(attempts.run_ticket, singles))

    asyncio.run(run_all())
    groups = [sum(sizes) for sizes in singles]
    groups += [sum(sizes) + max(map(sum, tickets)) for sizes, tickets in lists]
    assert attempts.memory.used == 0
    assert attempts.memory.peak <= LIMIT + max(groups, default=0)
