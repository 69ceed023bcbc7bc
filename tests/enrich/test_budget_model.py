"""Is the quota kept by every interleaving, and does work always go on?"""

import asyncio
import itertools
import time
from typing import cast

import pytest
import structlog
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    rule,
)
from msgspec import Struct

from service.backlog.backlog import Terms
from service.backlog.ticket import Lease
from service.enrich.ratelimit import Hints, Window
from service.enrich.verdict import Outcome
from service.store.connect import open_client
from service.store.group import GroupCommit
from service.store.keys import Keys
from tests.enrich.desk import Desk
from tests.machine import play, run_machine

NAMESPACES = itertools.count()
DAY = 86_400_000
WINDOW = 10_000
CALL_LIFE = 40_000
TIMEOUT = 30_000
GUARD = 50


class Call(Struct):
    """A call that was granted: on its way, or answered with this by the server."""

    job: str
    outcome: Outcome | None = None
    left: int = 0
    ends: int = 0
    age: int = 0


class Upstream(Struct):
    """A fixed window of calls, told truthfully; ``ends`` is when it does, in ms."""

    limit: int
    ends: int
    used: int = 0
    others: bool = False

    def turn(self, now: int) -> None:
        """Open the next window when this one has ended."""
        if now >= self.ends:
            self.ends += ((now - self.ends) // WINDOW + 1) * WINDOW
            self.used, self.others = 0, False

    def answer(self, call: Call, now: int) -> None:
        """Count a call and say what remains, or refuse it."""
        self.turn(now)
        call.outcome = "fine" if self.used < self.limit else "limited"
        self.used = min(self.used + 1, self.limit)
        call.left, call.ends = self.limit - self.used, self.ends


class BudgetModel(RuleBasedStateMachine):
    """Workers that share one budget before an upstream that counts.

    Time passes by moving every moment that anybody keeps, since Redis's clock cannot be moved.
    ``twice`` is a lost reply: the same act is sent once more, and must not count twice.
    No rule has a precondition: what is granted may differ by a millisecond from run to run.
    """

    def __init__(self, url: str) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.run = self.runner.run
        self.calls: list[Call] = []
        self.dead = 0
        self.closed_until = 0
        self.names = itertools.count()
        self.run(self.open(url))

    async def open(self, url: str) -> None:
        """Open a desk whose tickets and calls outlive the test."""
        self.client = open_client(url)
        self.group = GroupCommit(
            self.client, durability="memory", clock=time.monotonic, log=structlog.get_logger()
        )
        terms = Terms(
            lease_ms=DAY, mark_ms=DAY, failed_ms=DAY, call_ms=CALL_LIFE, limit=9999, share=1.0
        )
        keys = Keys(f"budget-model{next(NAMESPACES)}")
        self.desk = Desk(self.client, self.group, keys, terms)

    @initialize(
        limit=st.integers(1, 9), age=st.integers(0, WINDOW - 2000), tickets=st.integers(5, 15)
    )
    def begin(self, limit: int, age: int, tickets: int) -> None:
        """The window was opened some time ago, and its limit is known."""
        self.upstream = Upstream(limit=limit, ends=self.run(self.desk.now()) + WINDOW - age)
        self.heard = (self.upstream.ends, limit)
        self.run(self.desk.tell(limit, limit=limit, ends=self.upstream.ends))
        self.run(self.desk.add(tickets))

    @rule(limit=st.integers(1, 12), twice=st.booleans())
    def claim(self, limit: int, twice: bool = False) -> None:
        """A worker claims tickets, each with its call."""
        self.desk.token = f"claim{next(self.names):011d}"
        claimed = self.run(self.desk.look(limit))
        if twice and claimed.leases:
            again = self.run(self.desk.look(limit))
            assert [lease.job for lease in again.leases] == [lease.job for lease in claimed.leases]
        for lease in claimed.leases:
            assert isinstance(lease, Lease)
            self.grant(lease.job, lease.now)

    @rule(twice=st.booleans())
    def take(self, twice: bool) -> None:
        """A deployment already begun asks for one more call."""
        job = f"id:begun{next(self.names)}"
        before = self.run(self.desk.now())
        wait = self.run(self.desk.ask(job))
        if twice:
            first, wait = wait, self.run(self.desk.ask(job))
            turned = before <= self.heard[0] + GUARD <= self.run(self.desk.now())
            assert first or not wait or turned, "it stood in its own way"
        if wait == 0:
            self.grant(job, before)

    def grant(self, job: str, now: int) -> None:
        """Whoever is told to call may do so: nobody was told to wait until later."""
        assert now >= self.closed_until
        self.calls.append(Call(job=job))
        self.upstream.turn(now)
        ends, left = self.heard
        if ends == self.upstream.ends:
            assert len(self.calls) <= left
        flying = sum(call.outcome is None for call in self.calls)
        if not self.upstream.others:
            assert self.upstream.used + flying <= self.upstream.limit

    @rule(place=st.integers(0, 99))
    def arrive(self, place: int) -> None:
        """A call reaches the server, in whatever order."""
        if any(call.outcome is None for call in self.calls):
            self.deliver(place)

    def deliver(self, place: int) -> None:
        """Have the server answer one call of those on their way."""
        flying = [call for call in self.calls if call.outcome is None]
        call = flying[place % len(flying)]
        self.upstream.turn(self.run(self.desk.now()))
        alone = not self.upstream.others
        self.upstream.answer(call, self.run(self.desk.now()))
        assert call.outcome == "fine" or not alone, "a call over the quota"

    @rule(place=st.integers(0, 99), chance=st.floats(0, 0.999), twice=st.booleans())
    def hear(self, place: int, chance: float, twice: bool = False) -> None:
        """An answer comes back, in whatever order."""
        answered = [call for call in self.calls if call.outcome is not None]
        if not answered:
            return
        call = answered[place % len(answered)]
        self.calls.remove(call)
        assert call.outcome is not None
        self.desk.chance = chance
        ends, left = self.heard
        if call.ends >= ends:
            self.heard = (call.ends, min(left, call.left) if call.ends == ends else call.left)
        window = Window("global", self.upstream.limit, call.left, call.ends)
        resume = call.ends if call.outcome == "limited" else None
        hints = Hints(windows=(window,), resume_at_ms=resume)
        closed = self.run(self.desk.learn(call.job, call.outcome, hints))
        if twice:
            closed = self.run(self.desk.learn(call.job, call.outcome, hints))
        if call.outcome == "limited":
            assert closed > 0
            self.closed_until = max(self.closed_until, call.ends)

    @rule(place=st.integers(0, 99))
    def crash(self, place: int) -> None:
        """A worker dies with its call on the way, or with an answer nobody has heard."""
        if self.calls and self.dead < 3:
            self.calls.pop(place % len(self.calls))
            self.dead += 1

    @rule(count=st.integers(1, 5))
    def compete(self, count: int) -> None:
        """The account's other users make calls too."""
        self.upstream.turn(self.run(self.desk.now()))
        self.upstream.used = min(self.upstream.used + count, self.upstream.limit)
        self.upstream.others = True

    @rule(by=st.sampled_from([40, 400, 3000, WINDOW]))
    def pass_time(self, by: int) -> None:
        """Time passes for everybody; who waits for an answer gives up in the end."""
        self.run(self.move_back(by))
        self.upstream.ends -= by
        self.closed_until -= by
        self.heard = (self.heard[0] - by, self.heard[1])
        for call in self.calls:
            call.ends -= by
            call.age += by
        self.calls = [call for call in self.calls if call.age < TIMEOUT]

    async def move_back(self, by: int) -> None:
        """Move every moment of the budget into the past."""
        keys = self.desk.keys
        state = cast("dict[bytes, bytes]", await self.client.hgetall(keys.budget))
        for name, value in state.items():
            words = value.split()
            if name in {b"closed", b"tally_ends"}:
                await self.client.hincrby(keys.budget, name.decode(), -by)
            elif len(words) == 7:
                for moment in (2, 6):
                    words[moment] = str(int(words[moment]) - by).encode()
                await self.client.hset(keys.budget, name.decode(), b" ".join(words))
        for key in (keys.calls, keys.callers):
            for member in cast("list[bytes]", await self.client.zrange(key, 0, -1)):
                await self.client.zincrby(key, -by, member)

    def teardown(self) -> None:
        """Let everybody else be quiet, and see that the work comes to its end."""
        try:
            if hasattr(self, "upstream"):
                self.finish()
        finally:
            self.run(self.close())
            self.runner.close()

    def finish(self) -> None:
        """Every ticket gets its call within a bounded number of windows."""
        for _ in range(100):
            while self.calls:
                if any(call.outcome is None for call in self.calls):
                    self.deliver(0)
                else:
                    self.hear(0, 0.0)
            if self.run(self.count_due()) == 0:
                return
            self.claim(20)
            if not self.calls:
                self.pass_time(WINDOW)
        pytest.fail("tickets wait that nobody is given")

    async def count_due(self) -> int:
        """Count the tickets that no worker has been given."""
        return int(await self.client.zcount(self.desk.keys.backlog, "-inf", await self.desk.now()))

    async def close(self) -> None:
        """Leave nothing behind."""
        pattern = f"{{{self.desk.keys.namespace}}}:*"
        found = [key async for key in self.client.scan_iter(match=pattern, count=1000)]
        if found:
            await self.client.delete(*found)
        await self.group.aclose()
        await self.client.aclose()


@play((120, 40), long=(1500, 80))
def test_no_window_is_overdrawn_and_work_goes_on(redis_url: str, examples: int, steps: int) -> None:
    """Never a call over what is known, never one while closed, and always an end."""
    run_machine(BudgetModel, redis_url, examples=examples, steps=steps)
