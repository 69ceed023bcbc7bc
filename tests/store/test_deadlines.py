"""Does everybody wait as long as they said, and nobody longer, on one timer?"""

import asyncio

from service.store.group_commit import Deadlines


async def test_each_is_given_up_when_its_time_is_over_and_not_before() -> None:
    """Whatever the order in which they came; who has a reply is left alone."""
    lost: list[str] = []
    replies: dict[str, asyncio.Future[str]] = {}

    def lose(reply: asyncio.Future[str]) -> None:
        lost.append(next(name for name, each in replies.items() if each is reply))
        reply.cancel()

    patience = Deadlines(lose)
    loop = asyncio.get_running_loop()
    for name, for_s in (("long", 60.0), ("middle", 0.3), ("short", 0.02), ("answered", 0.01)):
        replies[name] = loop.create_future()
        patience.add(replies[name], timeout_s=for_s)
    replies["answered"].set_result("here")
    begun = loop.time()
    await asyncio.wait([replies["short"]], timeout=10)
    assert lost == ["short"]
    await asyncio.wait([replies["middle"]], timeout=10)
    assert lost == ["short", "middle"]
    assert loop.time() - begun >= 0.3
    assert not replies["long"].done()
    replies["long"].set_result("at last")


async def test_what_is_answered_is_not_kept() -> None:
    """Thousands of replies a second are not held until their time would be over."""
    patience = Deadlines[int](lambda _: None)
    loop = asyncio.get_running_loop()
    for number in range(100):
        reply = loop.create_future()
        patience.add(reply, timeout_s=3600)
        reply.set_result(number)
    async with asyncio.timeout(10):
        while patience._pending:
            await asyncio.sleep(0.05)
    assert patience._timer is None
