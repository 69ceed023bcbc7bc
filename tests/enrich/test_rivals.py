"""What if others live on the same quota? They are seen, spared while they call, and forgotten."""

from collections.abc import Awaitable, Callable

import msgspec

from service.enrich.ratelimit import Hints, Window
from tests.enrich.desk import Desk

Eventually = Callable[[Callable[[], Awaitable[bool]]], Awaitable[None]]


async def read_rivals(desk: Desk) -> float:
    """Read how many calls a second others are believed to make."""
    return float(await desk.redis.hget(desk.keys.budget, "rivals") or "nan")


async def believe(desk: Desk, rivals: float | None) -> None:
    """Believe that others make so many calls a second; None: nothing is known of them."""
    if rivals is None:
        await desk.redis.hdel(desk.keys.budget, "rivals")
    else:
        await desk.redis.hset(desk.keys.budget, "rivals", str(rivals))


async def test_who_may_not_be_alone_sends_half_of_what_is_left(desk: Desk) -> None:
    """At first nothing is known of others; a window without them, and all is sent at once."""
    await believe(desk, None)
    await desk.add(60)
    ends = await desk.now() + 9000
    await desk.tell(21, limit=100, ends=ends)
    assert len(await desk.claim()) == 11
    assert await desk.claim() == []
    await desk.tell(99, limit=100, ends=ends + 10_000)
    assert len(await desk.claim()) == 60 - 11


async def test_what_went_to_nobody_of_ours_went_to_others(desk: Desk) -> None:
    """Remaining fell further than by our own calls: somebody else is about."""
    await desk.add(99)
    ends = await desk.now() + 9000
    await desk.tell(99, limit=100, ends=ends)
    await desk.tell(50, limit=100, ends=ends)
    assert await read_rivals(desk) > 1
    assert len(await desk.claim()) <= 25


async def test_what_others_took_before_our_first_answer_has_no_pace(desk: Desk) -> None:
    """A window found half used says nothing of how fast that went."""
    await desk.add(99)
    ends = await desk.now() + 9000
    await desk.tell(50, limit=100, ends=ends)
    await desk.tell(49, limit=100, ends=ends)
    assert len(await desk.claim()) == 49


async def test_our_own_calls_are_no_rivals(desk: Desk) -> None:
    """Neither the calls that were answered nor those on their way, which may be counted already."""
    await desk.add(30)
    ends = await desk.now() + 9000
    await desk.tell(20, limit=100, ends=ends)
    first, second, *_ = await desk.claim(6)
    for job, left in ((first, 14), (second, 16)):
        window = Window(family="global", limit=100, left=left, reset_ms=ends)
        await desk.learn(job, hints=Hints(windows=(window,)))
    assert await read_rivals(desk) < 1
    assert len(await desk.claim()) == 14 - 4


async def test_what_rivals_take_while_a_call_is_on_its_way_is_left_to_them(desk: Desk) -> None:
    """Thirty calls a second are nine in 0.3 s."""
    await desk.add(30)
    await desk.tell(12, limit=100, ends=await desk.now() + 9000)
    await believe(desk, 31)
    assert await desk.ask("id:a") == 0
    assert len(await desk.claim()) == 12 - 9 - 1


async def test_a_share_that_leaves_enough_is_not_left_twice(desk: Desk) -> None:
    """What the operator leaves for others is what they may take meanwhile."""
    shared = Desk(
        desk.redis,
        desk.backlog._group,
        desk.keys,
        msgspec.structs.replace(desk.backlog._terms, share=0.8),
    )
    await shared.add(30)
    await shared.tell(24, limit=100, ends=await shared.now() + 9000)
    await believe(desk, 31)
    assert len(await shared.claim()) == 4


async def test_rivals_that_fall_silent_are_forgotten(desk: Desk) -> None:
    """With every window that begins, half as many are expected."""
    await desk.add(99)
    await believe(desk, 31)
    ends = await desk.now() + 9000
    for turn in range(5):
        await desk.tell(99, limit=100, ends=ends + 10_000 * turn)
    assert await read_rivals(desk) < 1
    assert len(await desk.claim()) == 99


async def test_however_many_rivals_work_goes_on(desk: Desk, eventually: Eventually) -> None:
    """Every window opens with a call of ours, even if the rest of it is left to others."""
    await desk.add(9)
    await desk.tell(0, limit=1, ends=await desk.now() + 300)
    await believe(desk, 1000)
    claimed: list[str] = []

    async def opened() -> bool:
        claimed.extend(await desk.claim())
        return bool(claimed)

    await eventually(opened)
    assert len(claimed) == 1
