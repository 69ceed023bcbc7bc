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

from service.backlog.backlog import BacklogConfig
from service.backlog.ticket import Lease
from service.enrich.rate_limits import RateLimitHeaders, RateLimitWindow
from service.enrich.verdict import CallResult
from service.store.connect import open_client
from service.store.group_commit import GroupCommit
from service.store.keys import Keys
from tests.enrich.budget_harness import BudgetHarness
from tests.state_machine import run_machine, with_examples

NAMESPACES = itertools.count()
DAY = 86_400_000
WINDOW = 10_000
CALL_LIFE = 40_000
TIMEOUT = 30_000
GUARD = 50


class GrantedCall(Struct):
    """A call that was granted: on its way, or answered with this by the server."""

    job: str
    outcome: CallResult | None = None
    remaining: int = 0
    window_end: int = 0
    age: int = 0


class FixedWindowServer(Struct):
    """A fixed window of calls, told truthfully; ``ends`` is when it does, in ms."""

    limit: int
    window_end: int
    used: int = 0
    used_by_others: bool = False

    def roll_window(self, now: int) -> None:
        """Open the next window when this one has ended."""
        if now >= self.window_end:
            self.window_end += ((now - self.window_end) // WINDOW + 1) * WINDOW
            self.used, self.used_by_others = 0, False

    def answer_call(self, call: GrantedCall, now: int) -> None:
        """Count a call and say what remains, or refuse it."""
        self.roll_window(now)
        call.outcome = "ok" if self.used < self.limit else "rate_limited"
        self.used = min(self.used + 1, self.limit)
        call.remaining, call.window_end = self.limit - self.used, self.window_end


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
        self.calls: list[GrantedCall] = []
        self.crashed_count = 0
        self.closed_until = 0
        self.names = itertools.count()
        self.run(self.open(url))

    async def open(self, url: str) -> None:
        """Open a desk whose tickets and calls outlive the test."""
        self.client = open_client(url)
        self.group = GroupCommit(
            self.client, durability="memory", clock=time.monotonic, log=structlog.get_logger()
        )
        terms = BacklogConfig(
            lease_ms=DAY,
            delivery_ttl_ms=DAY,
            failed_ttl_ms=DAY,
            call_ttl_ms=CALL_LIFE,
            max_tickets=9999,
            rate_limit_share=1.0,
        )
        keys = Keys(f"budget-model{next(NAMESPACES)}")
        self.harness = BudgetHarness(self.client, self.group, keys, terms)

    @initialize(
        limit=st.integers(1, 9), age=st.integers(0, WINDOW - 2000), tickets=st.integers(5, 15)
    )
    def open_window(self, limit: int, age: int, tickets: int) -> None:
        """The window was opened some time ago, and its limit is known."""
        self.server = FixedWindowServer(
            limit=limit, window_end=self.run(self.harness.now()) + WINDOW - age
        )
        self.last_reported = (self.server.window_end, limit)
        self.run(self.harness.report_window(limit, limit=limit, reset_ms=self.server.window_end))
        self.run(self.harness.add_tickets(tickets))

    @rule(limit=st.integers(1, 12), twice=st.booleans())
    def claim(self, limit: int, twice: bool = False) -> None:
        """A worker claims tickets, each with its call."""
        self.harness.next_token = f"claim{next(self.names):011d}"
        claimed = self.run(self.harness.claim(limit))
        if twice and claimed.leases:
            again = self.run(self.harness.claim(limit))
            assert [lease.job for lease in again.leases] == [lease.job for lease in claimed.leases]
        for lease in claimed.leases:
            assert isinstance(lease, Lease)
            self.grant(lease.job, lease.now)

    @rule(twice=st.booleans())
    def take(self, twice: bool) -> None:
        """A deployment already begun asks for one more call."""
        job = f"id:begun{next(self.names)}"
        before = self.run(self.harness.now())
        wait = self.run(self.harness.acquire(job))
        if twice:
            first, wait = wait, self.run(self.harness.acquire(job))
            turned = before <= self.last_reported[0] + GUARD <= self.run(self.harness.now())
            assert first or not wait or turned, "it stood in its own way"
        if wait == 0:
            self.grant(job, before)

    def grant(self, job: str, now: int) -> None:
        """Whoever is told to call may do so: nobody was told to wait until later."""
        assert now >= self.closed_until
        self.calls.append(GrantedCall(job=job))
        self.server.roll_window(now)
        ends, remaining = self.last_reported
        if ends == self.server.window_end:
            assert len(self.calls) <= remaining
        in_flight = sum(call.outcome is None for call in self.calls)
        if not self.server.used_by_others:
            assert self.server.used + in_flight <= self.server.limit

    @rule(place=st.integers(0, 99))
    def deliver_call(self, place: int) -> None:
        """A call reaches the server, in whatever order."""
        if any(call.outcome is None for call in self.calls):
            self.answer_call(place)

    def answer_call(self, place: int) -> None:
        """Have the server answer one call of those on their way."""
        in_flight = [call for call in self.calls if call.outcome is None]
        call = in_flight[place % len(in_flight)]
        self.server.roll_window(self.run(self.harness.now()))
        alone = not self.server.used_by_others
        self.server.answer_call(call, self.run(self.harness.now()))
        assert call.outcome == "ok" or not alone, "a call over the quota"

    @rule(place=st.integers(0, 99), chance=st.floats(0, 0.999), twice=st.booleans())
    def receive_answer(self, place: int, chance: float, twice: bool = False) -> None:
        """An answer comes back, in whatever order."""
        answered = [call for call in self.calls if call.outcome is not None]
        if not answered:
            return
        call = answered[place % len(answered)]
        self.calls.remove(call)
        assert call.outcome is not None
        self.harness.jitter = chance
        ends, remaining = self.last_reported
        if call.window_end >= ends:
            self.last_reported = (
                call.window_end,
                min(remaining, call.remaining) if call.window_end == ends else call.remaining,
            )
        window = RateLimitWindow("global", self.server.limit, call.remaining, call.window_end)
        resume = call.window_end if call.outcome == "rate_limited" else None
        rate_limit_headers = RateLimitHeaders(windows=(window,), resume_at_ms=resume)
        closed = self.run(self.harness.record(call.job, call.outcome, rate_limit_headers))
        if twice:
            closed = self.run(self.harness.record(call.job, call.outcome, rate_limit_headers))
        if call.outcome == "rate_limited":
            assert closed > 0
            self.closed_until = max(self.closed_until, call.window_end)

    @rule(place=st.integers(0, 99))
    def crash(self, place: int) -> None:
        """A worker dies with its call on the way, or with an answer nobody has heard."""
        if self.calls and self.crashed_count < 3:
            self.calls.pop(place % len(self.calls))
            self.crashed_count += 1

    @rule(count=st.integers(1, 5))
    def use_calls_elsewhere(self, count: int) -> None:
        """The account's other users make calls too."""
        self.server.roll_window(self.run(self.harness.now()))
        self.server.used = min(self.server.used + count, self.server.limit)
        self.server.used_by_others = True

    @rule(by=st.sampled_from([40, 400, 3000, WINDOW]))
    def pass_time(self, by: int) -> None:
        """Time passes for everybody; who waits for an answer gives up in the end."""
        self.run(self.move_to_past(by))
        self.server.window_end -= by
        self.closed_until -= by
        self.last_reported = (self.last_reported[0] - by, self.last_reported[1])
        for call in self.calls:
            call.window_end -= by
            call.age += by
        self.calls = [call for call in self.calls if call.age < TIMEOUT]

    async def move_to_past(self, by: int) -> None:
        """Move every moment of the budget into the past."""
        keys = self.harness.keys
        state = cast("dict[bytes, bytes]", await self.client.hgetall(keys.budget))
        for name, value in state.items():
            fields = value.split()
            if name in {b"closed_until", b"breaker_window_ends"}:
                await self.client.hincrby(keys.budget, name.decode(), -by)
            elif len(fields) == 7:
                for moment in (2, 6):
                    fields[moment] = str(int(fields[moment]) - by).encode()
                await self.client.hset(keys.budget, name.decode(), b" ".join(fields))
        for key in (keys.budget_calls, keys.budget_waiting):
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
                    self.answer_call(0)
                else:
                    self.receive_answer(0, 0.0)
            if self.run(self.count_due()) == 0:
                return
            self.claim(20)
            if not self.calls:
                self.pass_time(WINDOW)
        pytest.fail("tickets wait that nobody is given")

    async def count_due(self) -> int:
        """Count the tickets that no worker has been given."""
        return int(
            await self.client.zcount(self.harness.keys.backlog, "-inf", await self.harness.now())
        )

    async def close(self) -> None:
        """Leave nothing behind."""
        pattern = f"{{{self.harness.keys.namespace}}}:*"
        keys = [key async for key in self.client.scan_iter(match=pattern, count=1000)]
        if keys:
            await self.client.delete(*keys)
        await self.group.aclose()
        await self.client.aclose()


@with_examples((120, 40), long=(1500, 80))
def test_budget_in_any_interleaving_overdraws_no_window_and_makes_progress(
    redis_url: str, examples: int, steps: int
) -> None:
    """Never a call over what is known, never one while closed, and always an end."""
    run_machine(BudgetModel, redis_url, examples=examples, steps=steps)
