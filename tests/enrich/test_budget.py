"""Is the quota a contract? Claim, take and learn, against a real Redis."""

import asyncio
import itertools
from collections.abc import Awaitable, Callable
from typing import cast

import msgspec
import pytest
from redis.asyncio import Redis

from service.backlog.backlog import Terms
from service.backlog.failure import record_failure
from service.backlog.ticket import Lease
from service.enrich.ratelimit import Hints, Window
from service.store.group import GroupCommit
from service.store.keys import Keys
from tests.enrich.desk import Desk

Eventually = Callable[[Callable[[], Awaitable[bool]]], Awaitable[None]]

HOUR = 3_600_000


async def test_an_unknown_limit_opens_with_a_small_probe_and_doubles(desk: Desk) -> None:
    """Four calls in flight at first, twice as many after each answer that tells nothing."""
    await desk.add(30)
    begun = await desk.claim()
    assert len(begun) == 4
    assert await desk.claim() == []
    await desk.learn(begun.pop())
    assert len(await desk.claim()) == 8 - 3
    await desk.learn(begun.pop())
    assert len(await desk.claim()) == 16 - 7


async def test_a_limit_that_is_never_told_is_met_by_few_calls(desk: Desk) -> None:
    """However many answers tell nothing, no more than 64 calls are in flight."""
    await desk.add(80)
    for _ in range(10):
        await desk.learn("id:answered")
    assert len(await desk.claim()) == 64


async def test_what_remains_bounds_all_calls_together(desk: Desk) -> None:
    """Claimed and taken calls in flight never add up to more than Remaining."""
    await desk.add(9)
    await desk.tell(7, limit=10, ends=await desk.now() + 9000)
    claimed = await desk.claim(5)
    assert len(claimed) == 5
    assert [await desk.ask(job) for job in ("id:a", "id:b")] == [0, 0]
    assert await desk.ask("id:c") > 0
    looked = await desk.look()
    assert looked.leases == []
    assert looked.sleep_s is not None
    assert 0 < looked.sleep_s < 9.1


@pytest.mark.parametrize("order", list(itertools.permutations((5, 4, 3))))
async def test_the_lowest_remaining_wins_in_whatever_order(
    desk: Desk, order: tuple[int, ...]
) -> None:
    """Answers of one window overtake each other; a reset that trembles is still the same one."""
    await desk.add(12)
    ends = await desk.now() + 9000
    for job, left in zip(await desk.claim(3), order, strict=True):
        window = Window(family="global", limit=10, left=left, reset_ms=ends + left * 20)
        await desk.learn(job, hints=Hints(windows=(window,)))
    assert len(await desk.claim()) == 3


async def test_an_older_windows_late_answer_is_ignored(desk: Desk) -> None:
    """Neither a window that ends before this one nor one that has ended says anything of it."""
    await desk.add(12)
    now = await desk.now()
    await desk.tell(5, limit=1000, ends=now + 9000)
    await desk.tell(900, limit=1000, ends=now + 1000)
    await desk.tell(0, limit=1000, ends=now - 200)
    assert len(await desk.claim()) == 5


async def test_a_late_answer_does_not_hide_the_window_that_follows(desk: Desk) -> None:
    """An answer that comes after its window's end must not pass for the next one's."""
    await desk.add(12)
    now = await desk.now()
    await desk.tell(900, limit=1000, ends=now - 200)
    await desk.tell(3, limit=1000, ends=now + 8000)
    assert len(await desk.claim()) == 3


async def test_a_slow_answer_is_no_newer_window(desk: Desk) -> None:
    """An answer that took long shows an old Date: its window is still the one we know."""
    now = await desk.now()
    await desk.add(12)
    await desk.tell(0, limit=10, ends=now + 8000)
    slow = Window(family="global", limit=10, left=9, reset_ms=now + 8000)
    await desk.learn("id:slow", hints=Hints(windows=(slow,), date_ms=now - 4000))
    assert await desk.claim() == []


async def test_a_new_window_opens_with_a_probe_and_then_at_once(
    desk: Desk, eventually: Eventually
) -> None:
    """Used up means shut until the reset; the next window's first answer opens all of it."""
    await desk.add(30)
    await desk.tell(0, limit=20, ends=await desk.now() + 400)
    looked = await desk.look()
    assert looked.leases == []
    assert looked.sleep_s is not None
    assert 0 < looked.sleep_s <= 0.5
    claimed: list[str] = []

    async def opened() -> bool:
        claimed.extend(await desk.claim())
        return bool(claimed)

    await eventually(opened)
    assert len(claimed) == 4
    await desk.tell(19, limit=20, ends=await desk.now() + 9000)
    assert len(await desk.claim()) == 19 - 4


async def test_a_probe_is_no_larger_than_the_limit_last_told(
    desk: Desk, eventually: Eventually
) -> None:
    """A limit of two opens with two calls, not with four."""
    await desk.add(9)
    await desk.tell(0, limit=2, ends=await desk.now() + 300)
    claimed: list[str] = []

    async def opened() -> bool:
        claimed.extend(await desk.claim())
        return bool(claimed)

    await eventually(opened)
    assert len(claimed) == 2


@pytest.mark.parametrize(
    ("limit", "left", "ours"), [(10, 10, 8), (5, 5, 4), (5, 2, 1), (5, 1, 0), (1, 1, 1), (2, 2, 1)]
)
async def test_a_fifth_is_left_to_the_accounts_other_users(
    desk: Desk, limit: int, left: int, ours: int
) -> None:
    """A share of 0.8 leaves a fifth of the limit unused, but a limit of one lets one through."""
    shared = Desk(
        desk.redis,
        desk.backlog._group,
        desk.keys,
        msgspec.structs.replace(desk.backlog._terms, share=0.8),
    )
    await shared.add(12)
    await shared.tell(left, limit=limit, ends=await shared.now() + 9000)
    assert len(await shared.claim()) == ours


@pytest.mark.parametrize("tightest", ["global", "token", "route:get"])
async def test_the_tightest_family_binds(desk: Desk, tightest: str) -> None:
    """Whichever family has least left decides."""
    await desk.add(12)
    ends = await desk.now() + 9000
    for family in ("global", "token", "route:get", "route:list"):
        left = 2 if family == tightest else 50
        await desk.tell(left, limit=100, ends=ends, family=family)
    assert len(await desk.claim()) == 2
    assert await desk.ask("id:more") > 0


async def test_one_route_used_up_does_not_hold_up_the_other(desk: Desk) -> None:
    """Deployments to be found wait for the list's window, those with an id go past them."""
    await desk.add(8, known=False)
    await desk.add(3)
    ends = await desk.now() + 9000
    await desk.tell(50, limit=100, ends=ends)
    await desk.tell(1, limit=5, ends=ends, family="route:list")
    claimed = await desk.claim(4)
    assert sorted(job.partition(":")[0] for job in claimed) == ["find", "id", "id", "id"]
    assert await desk.ask("find:more", "list") > 0
    assert await desk.ask("id:more", "get") == 0


async def test_a_family_no_longer_told_stops_binding(desk: Desk) -> None:
    """A family last heard of long ago neither bounds nor slows what is known now."""
    await desk.add(60)
    now = await desk.now()
    await desk.redis.hset(desk.keys.budget, "route:get", f"5 0 {now - 120_000} told")
    await desk.tell(50, limit=100, ends=now + 9000)
    assert len(await desk.claim()) == 50


@pytest.mark.parametrize("reset", [None, "far", "past"])
async def test_a_reset_that_cannot_be_believed_is_replaced_by_ten_seconds(
    desk: Desk, reset: str | None
) -> None:
    """Missing, two hours ahead or an hour ago: what remains still binds, for a window."""
    await desk.add(12)
    now = await desk.now()
    ends = {None: None, "far": now + 2 * HOUR, "past": now - HOUR}[reset]
    await desk.tell(3, limit=10, ends=ends)
    await desk.tell(2, limit=10, ends=ends)
    await desk.tell(4, limit=10, ends=ends)
    assert len(await desk.claim()) == 2
    looked = await desk.look()
    assert looked.sleep_s is not None
    assert looked.sleep_s <= 10.1


async def test_after_a_long_rest_the_last_limit_still_bounds_the_probe(desk: Desk) -> None:
    """Nothing newer is known: a limit of two opens with two calls, not with four."""
    await desk.add(9)
    ended = await desk.now() - 3 * HOUR
    await desk.redis.hset(desk.keys.budget, "global", f"2 0 {ended} told")
    await desk.redis.pexpire(desk.keys.budget, HOUR)
    assert len(await desk.claim()) == 2


async def test_a_window_told_replaces_one_that_was_guessed(desk: Desk) -> None:
    """After one answer without a reset, those with one are not taken for older."""
    await desk.add(12)
    await desk.tell(9, limit=10, ends=None)
    now = await desk.now()
    await desk.tell(8, limit=10, ends=now + 5000)
    await desk.tell(7, limit=10, ends=now + 5000)
    assert len(await desk.claim()) == 7


async def test_without_a_limit_the_remaining_alone_binds(desk: Desk) -> None:
    """Older answers tell only Remaining."""
    await desk.add(12)
    await desk.tell(6, limit=None, ends=await desk.now() + 9000)
    assert len(await desk.claim()) == 6


async def test_a_dead_workers_calls_return_to_the_budget(
    desk: Desk, eventually: Eventually
) -> None:
    """Calls whose worker was killed are believed in for their life only."""
    await desk.tell(2, limit=10, ends=await desk.now() + 15_000)
    assert await desk.ask("id:a", life_ms=300) == 0
    assert await desk.ask("id:b", life_ms=300) == 0
    assert await desk.ask("id:c") > 0

    async def returned() -> bool:
        return await desk.ask("id:c") == 0

    await eventually(returned)
    assert await desk.ask("id:d") == 0
    assert await desk.ask("id:e") > 0


async def test_a_call_without_an_answer_counts_as_spent(desk: Desk) -> None:
    """The server may have counted it, so it is not handed out again in the same window."""
    await desk.add(12)
    await desk.tell(3, limit=10, ends=await desk.now() + 9000)
    for job in await desk.claim(2):
        await desk.learn(job, "failing")
    assert len(await desk.claim()) == 1


async def test_begun_deployments_go_before_new_ones(desk: Desk) -> None:
    """Whoever was refused a further page gets the next call, and no new ticket takes it."""
    await desk.add(6)
    ends = await desk.now() + 9000
    await desk.tell(2, limit=10, ends=ends)
    first, second = await desk.claim()
    assert await desk.ask("id:begun") > 0
    await desk.learn(first)
    await desk.learn(second)
    await desk.tell(2, limit=10, ends=ends)
    assert len(await desk.claim()) == 1
    assert await desk.ask("id:begun") == 0
    assert await desk.claim() == []


async def test_a_take_whose_reply_was_lost_does_not_stand_in_its_own_way(desk: Desk) -> None:
    """The same take sent twice is one call."""
    await desk.tell(1, limit=10, ends=await desk.now() + 9000)
    assert await desk.ask("id:a") == 0
    assert await desk.ask("id:a") == 0
    assert await desk.ask("id:b") > 0


async def test_taking_waits_until_the_window_opens(desk: Desk) -> None:
    """A deployment begun waits for its next call as long as it must, and then has it."""
    await desk.tell(0, limit=10, ends=await desk.now() + 300)
    async with asyncio.timeout(10):
        await desk.budget.take("id:begun", "get")
    assert await desk.redis.zcard(desk.keys.calls) == 1
    assert await desk.redis.zcard(desk.keys.callers) == 0


@pytest.mark.parametrize("act", ["wait", "give up"])
async def test_who_lost_a_lease_does_not_return_anothers_call(
    desk: Desk, terms: Terms, eventually: Eventually, act: str
) -> None:
    """The call in flight belongs to the worker that has the ticket now."""
    await desk.add(1)
    brief = msgspec.structs.replace(terms, lease_ms=50)
    lost = (await Desk(desk.redis, desk.backlog._group, desk.keys, brief).look()).leases[0]
    assert isinstance(lost, Lease)

    async def taken_over() -> bool:
        return bool(await desk.claim())

    await eventually(taken_over)
    if act == "wait":
        assert not await desk.backlog.wait(lost, lost.ticket, for_s=9)
    else:
        assert await desk.backlog.give_up(lost, record_failure("late")) == "lost"
    assert await desk.redis.zcard(desk.keys.calls) == 1


async def test_learning_a_new_window_wakes_who_sleeps(desk: Desk) -> None:
    """The bell rings when it is known again how much may be called."""
    await desk.redis.delete(desk.keys.bell)
    ends = await desk.now() + 9000
    await desk.tell(5, limit=10, ends=ends)
    assert await desk.redis.llen(desk.keys.bell) == 1
    await desk.redis.delete(desk.keys.bell)
    await desk.tell(4, limit=10, ends=ends)
    assert await desk.redis.llen(desk.keys.bell) == 0


async def test_nothing_of_the_budget_stays_for_ever(desk: Desk) -> None:
    """Windows, calls in flight and callers all have an end, even if everybody is killed."""
    await desk.add(3)
    await desk.tell(1, limit=10, ends=await desk.now() + 9000)
    assert len(await desk.claim()) == 1
    assert await desk.ask("id:begun") > 0
    keys = desk.keys
    for key in (keys.budget, keys.calls, keys.callers, keys.bell):
        assert await desk.redis.pttl(key) > 0, key


@pytest.mark.parametrize("name", ["{}", "list for {}"])
async def test_calls_of_dead_workers_do_not_hold_up_a_deep_backlog(
    redis: Redis,
    group: GroupCommit,
    keys: Keys,
    terms: Terms,
    eventually: Eventually,
    *,
    name: str,
) -> None:
    """What they had in flight is back when their leases end, though older work is due before."""
    mortal = msgspec.structs.replace(terms, lease_ms=300, call_ms=HOUR)
    desk = Desk(redis, group, keys, mortal)
    await desk.add(4)
    died = await desk.claim()
    assert len(died) == 4  # all that an unknown limit allows
    held = [name.format(job) for job in died]
    until = cast("float", await redis.zscore(keys.calls, died[0]))
    await redis.delete(keys.calls)
    await redis.zadd(keys.calls, dict.fromkeys(held, until))
    older = [f"id:older-{number}" for number in range(150)]
    await redis.hset(keys.tickets, mapping=dict.fromkeys(older, "no ticket"))
    await redis.zadd(keys.backlog, dict.fromkeys(older, 1))
    assert await desk.claim() == []

    async def are_given_out() -> bool:
        return bool(await desk.claim(1))

    await eventually(are_given_out)
    assert not set(await redis.zrange(keys.calls, 0, -1)) & {call.encode() for call in held}
    await redis.delete(keys.backlog, keys.tickets)
