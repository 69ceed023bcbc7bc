"""A model test of the budget: any interleaving keeps the quota, and work always continues."""

import asyncio
import itertools
import time

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
DELIVERY = (
    6000  # within this time a call reaches the server, or never: connecting takes at most 5 s
)
MAX_IDLE_WINDOWS = 3  # a closed budget, and two windows in which calls of dead workers may count
GUARD = 50


class GrantedCall(Struct):
    """A call that the budget granted; ``result`` is set once the server has answered it."""

    job: str
    result: CallResult | None = None
    remaining: int = 0
    window_end: int = 0
    age: int = 0


class FixedWindowServer(Struct):
    """A server with a fixed window of calls, reported truthfully; ``window_end`` is in ms."""

    limit: int
    window_end: int
    used: int = 0
    used_by_others: bool = False

    def roll_window(self, now: int) -> None:
        """Start the next window when this one has ended."""
        if now >= self.window_end:
            self.window_end += ((now - self.window_end) // WINDOW + 1) * WINDOW
            self.used, self.used_by_others = 0, False

    def answer_call(self, call: GrantedCall, now: int) -> None:
        """Count a call and report what remains, or refuse the call."""
        self.roll_window(now)
        call.result = "ok" if self.used < self.limit else "rate_limited"
        self.used = min(self.used + 1, self.limit)
        call.remaining, call.window_end = self.limit - self.used, self.window_end


class BudgetModel(RuleBasedStateMachine):
    """Workers that share one budget, and a server that counts their calls.

    Time passes by moving every stored moment into the past, since Redis's clock cannot be moved.
    ``is_repeated`` is a lost reply: the same script is sent again and must not count twice. No
    rule has a precondition, because the calls granted may differ by a millisecond between runs.
    """

    def __init__(self, url: str) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.run = self.runner.run
        self.calls: list[GrantedCall] = []
        self.crashed_count = 0
        self.closed_until = 0
        self.call_numbers = itertools.count()
        self.run(self.open(url))

    async def open(self, url: str) -> None:
        """Open a harness whose tickets and calls outlive the test."""
        self.client = open_client(url)
        self.group = GroupCommit(
            self.client, durability="memory", clock=time.monotonic, log=structlog.get_logger()
        )
        config = BacklogConfig(
            lease_ms=DAY,
            delivery_ttl_ms=DAY,
            failed_ttl_ms=DAY,
            call_ttl_ms=CALL_LIFE,
            max_tickets=9999,
            rate_limit_share=1.0,
        )
        keys = Keys(f"budget-model{next(NAMESPACES)}")
        self.harness = BudgetHarness(self.client, self.group, keys, config)

    @initialize(
        limit=st.integers(1, 9), age=st.integers(0, WINDOW - 2000), tickets=st.integers(5, 15)
    )
    def open_window(self, limit: int, age: int, tickets: int) -> None:
        """Start with a window that began some time ago and has a known limit."""
        self.server = FixedWindowServer(
            limit=limit, window_end=self.run(self.harness.now()) + WINDOW - age
        )
        self.last_reported = (self.server.window_end, limit)
        self.run(self.harness.report_window(limit, limit=limit, reset_ms=self.server.window_end))
        self.run(self.harness.add_tickets(tickets))

    @rule(limit=st.integers(1, 12), is_repeated=st.booleans())
    def claim(self, limit: int, is_repeated: bool = False) -> None:
        """Claim tickets, each with its call."""
        self.harness.next_token = f"claim{next(self.call_numbers):011d}"
        claimed = self.run(self.harness.claim(limit))
        if is_repeated and claimed.leases:
            repeated = self.run(self.harness.claim(limit))
            assert [lease.job for lease in repeated.leases] == [
                lease.job for lease in claimed.leases
            ]
        for lease in claimed.leases:
            assert isinstance(lease, Lease)
            self.grant(lease.job, lease.now)

    @rule(is_repeated=st.booleans())
    def acquire(self, is_repeated: bool) -> None:
        """Acquire one more call for a deployment already begun."""
        job = f"id:begun{next(self.call_numbers)}"
        called_at = self.run(self.harness.now())
        wait_ms = self.run(self.harness.acquire(job))
        if is_repeated:
            first_wait_ms, wait_ms = wait_ms, self.run(self.harness.acquire(job))
            has_window_ended = (
                called_at <= self.last_reported[0] + GUARD <= self.run(self.harness.now())
            )
            assert first_wait_ms or not wait_ms or has_window_ended, "the call blocked itself"
        if wait_ms == 0:
            self.grant(job, called_at)

    def grant(self, job: str, now: int) -> None:
        """Record a granted call, and check that the window and the closed budget allow it."""
        assert now >= self.closed_until
        self.calls.append(GrantedCall(job=job))
        self.server.roll_window(now)
        window_end, remaining = self.last_reported
        if window_end == self.server.window_end:
            assert len(self.calls) <= remaining
        in_flight = sum(call.result is None for call in self.calls)
        if not self.server.used_by_others:
            assert self.server.used + in_flight <= self.server.limit

    @rule(index=st.integers(0, 99))
    def deliver_call(self, index: int) -> None:
        """Let any call in flight reach the server."""
        if any(call.result is None for call in self.calls):
            self.answer_call(index)

    def answer_call(self, index: int) -> None:
        """Let the server answer one of the calls in flight."""
        in_flight = [call for call in self.calls if call.result is None]
        self.deliver(in_flight[index % len(in_flight)])

    def deliver(self, call: GrantedCall) -> None:
        """Let one call reach the server, which answers it."""
        self.server.roll_window(self.run(self.harness.now()))
        is_exclusive = not self.server.used_by_others
        self.server.answer_call(call, self.run(self.harness.now()))
        assert call.result == "ok" or not is_exclusive, "a call exceeded the quota"

    @rule(index=st.integers(0, 99), jitter=st.floats(0, 0.999), is_repeated=st.booleans())
    def receive_answer(self, index: int, jitter: float, is_repeated: bool = False) -> None:
        """Receive any answer of the server."""
        answered = [call for call in self.calls if call.result is not None]
        if not answered:
            return
        call = answered[index % len(answered)]
        self.calls.remove(call)
        assert call.result is not None
        self.harness.jitter = jitter
        window_end, remaining = self.last_reported
        if call.window_end >= window_end:
            self.last_reported = (
                call.window_end,
                min(remaining, call.remaining) if call.window_end == window_end else call.remaining,
            )
        window = RateLimitWindow("global", self.server.limit, call.remaining, call.window_end)
        resume_at_ms = call.window_end if call.result == "rate_limited" else None
        rate_limits = RateLimitHeaders(windows=(window,), resume_at_ms=resume_at_ms)
        closed_ms = self.run(self.harness.record(call.job, call.result, rate_limits))
        if is_repeated:
            closed_ms = self.run(self.harness.record(call.job, call.result, rate_limits))
        if call.result == "rate_limited":
            assert closed_ms > 0
            self.closed_until = max(self.closed_until, call.window_end)

    @rule(index=st.integers(0, 99), is_sent=st.booleans())
    def crash(self, index: int, is_sent: bool = False) -> None:
        """Lose a call together with its worker, before or after it reached the server."""
        if self.calls and self.crashed_count < 3:
            call = self.calls[index % len(self.calls)]
            if is_sent and call.result is None:
                self.deliver(call)
            self.calls.remove(call)
            self.crashed_count += 1

    @rule(is_sent=st.booleans())
    def crash_a_probe(self, is_sent: bool) -> None:
        """Let a window end, claim a probe of the next one, and lose all of its calls."""
        if self.crashed_count or self.calls:
            return
        self.pass_time(WINDOW)
        self.claim(4)
        for call in self.calls if is_sent else []:
            self.deliver(call)
        self.crashed_count += len(self.calls)
        self.calls.clear()

    @rule(count=st.integers(1, 5))
    def use_calls_elsewhere(self, count: int) -> None:
        """Use calls of the window by another client of the account."""
        self.server.roll_window(self.run(self.harness.now()))
        self.server.used = min(self.server.used + count, self.server.limit)
        self.server.used_by_others = True

    @rule(elapsed_ms=st.sampled_from([40, 400, 3000, WINDOW]))
    def pass_time(self, elapsed_ms: int) -> None:
        """Let time pass; calls reach the server in time, and time out without an answer."""
        for call in self.calls:
            if call.result is None and call.age + elapsed_ms > DELIVERY:
                self.deliver(call)
        self.run(self.harness.pass_time(elapsed_ms))
        self.server.window_end -= elapsed_ms
        self.closed_until -= elapsed_ms
        self.last_reported = (self.last_reported[0] - elapsed_ms, self.last_reported[1])
        for call in self.calls:
            call.window_end -= elapsed_ms
            call.age += elapsed_ms
        self.calls = [call for call in self.calls if call.age < TIMEOUT]

    def teardown(self) -> None:
        """Check that all work is finished once the other clients stop."""
        try:
            if hasattr(self, "server"):
                self.finish()
        finally:
            self.run(self.close())
            self.runner.close()

    def finish(self) -> None:
        """Check that every ticket gets its call, and that dead workers delay none for long."""
        idle_windows = 0
        for _ in range(100):
            while self.calls:
                if any(call.result is None for call in self.calls):
                    self.answer_call(0)
                else:
                    self.receive_answer(0, 0.0)
            if self.run(self.count_due()) == 0:
                return
            self.claim(20)
            idle_windows = 0 if self.calls else idle_windows + 1
            assert idle_windows <= MAX_IDLE_WINDOWS, "calls of a dead worker are in the way"
            if not self.calls:
                self.pass_time(WINDOW)
        pytest.fail("tickets wait that no claim returns")

    async def count_due(self) -> int:
        """Return the number of tickets that are due and not leased."""
        return int(
            await self.client.zcount(self.harness.keys.backlog, "-inf", await self.harness.now())
        )

    async def close(self) -> None:
        """Delete every key and close the connection."""
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
    """No call exceeds the known window or a closed budget, and every ticket gets its call."""
    run_machine(BudgetModel, redis_url, examples=examples, steps=steps)
