"""Tests of the clock of the scripts: it goes on when Redis's clock is set back."""

import itertools
import time
from collections.abc import AsyncIterator, Iterator

import pytest
import structlog
from redis.asyncio import Redis

from service.backlog.backlog import Backlog, BacklogConfig
from service.backlog.failures import FailureRecord
from service.backlog.ticket import Lease
from service.store.connect import open_client
from service.store.group_commit import GroupCommit
from service.store.keys import Keys
from service.store.redis_clock import ClockWatch, read_clock
from service.store.script import load_script
from tests.backlog.claims import build_backlog, claim_lease
from tests.factories import make_event
from tests.faults.redis_clock import RedisClock, ServerWithClock, build_redis_clock
from tests.store.conftest import RecordingLog

HOUR_S = 3600
MINUTE_MS = 60_000


class ClockHarness:
    """A namespace on a server whose clock a test sets."""

    def __init__(self, redis: Redis, group: GroupCommit, clock: RedisClock, keys: Keys) -> None:
        self.redis, self.group, self.clock, self.keys = redis, group, clock, keys
        tokens = iter(range(1_000_000))
        config = BacklogConfig(
            lease_ms=MINUTE_MS,
            delivery_ttl_ms=24 * 60 * MINUTE_MS,
            failed_ttl_ms=MINUTE_MS,
            call_ttl_ms=MINUTE_MS,
            max_tickets=1000,
            rate_limit_share=1.0,
        )
        self.backlog: Backlog = build_backlog(
            group, keys=keys, config=config, new_token=lambda: f"{next(tokens):016d}"
        )
        self._search = load_script("service.console", "search")

    async def read_script_ms(self) -> int:
        """Return the time of the scripts; the script stores nothing."""
        reply = await self.group.submit(
            self._search, keys=(self.keys.backlog, self.keys.tickets), args=(0, -1, "", "")
        )
        assert isinstance(reply, list)
        return int(reply[0])

    async def behind_ms(self) -> int:
        """Return by how much Redis's clock is behind the time of the scripts."""
        return (await read_clock(self.redis, self.keys.clock)).behind_ms


@pytest.fixture(scope="module")
def clock_server(
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[tuple[ServerWithClock, RedisClock]]:
    """Start a server with a clock that tests set."""
    folder = tmp_path_factory.mktemp("clock")
    clock = build_redis_clock(folder)
    if clock is None:
        pytest.skip("there is no C compiler")
    server = ServerWithClock(folder / "redis", appendfsync="no")
    server.clock = clock
    with server:
        yield server, clock


@pytest.fixture
async def harness(
    clock_server: tuple[ServerWithClock, RedisClock], request: pytest.FixtureRequest
) -> AsyncIterator[ClockHarness]:
    """Yield a namespace of its own; the clock is right at the beginning."""
    server, clock = clock_server
    clock.set_ahead(0)
    async with open_client(server.url) as redis:
        group = GroupCommit(
            redis, durability="memory", clock=time.monotonic, log=structlog.get_logger()
        )
        yield ClockHarness(redis, group, clock, Keys(request.node.name.replace("_", "-")[:40]))
        await group.aclose()
        clock.set_ahead(0)
        await redis.flushall()


async def test_waiting_ticket_is_due_in_time_although_the_clock_is_set_back(
    harness: ClockHarness,
) -> None:
    """A ticket that waits for 0.3 s is claimed, an hour before it is due by Redis's own clock."""
    await harness.backlog.add(make_event(1))
    lease = await claim_lease(harness.backlog)
    await harness.backlog.postpone(lease, lease.ticket, delay_s=0.3)
    harness.clock.set_ahead(-HOUR_S)
    again = await claim_lease(harness.backlog)
    assert again.job == lease.job
    assert again.now >= lease.now
    assert HOUR_S - 2 < await harness.behind_ms() / 1000 <= HOUR_S
    await harness.backlog.fail(again, FailureRecord(reason="test"))


async def test_time_goes_on_when_the_clock_is_set_back_and_forward_again(
    harness: ClockHarness,
) -> None:
    """The clock that was repaired is taken as it is: time neither jumps nor keeps an offset."""
    await harness.backlog.add(make_event(1))
    lease = await claim_lease(harness.backlog)
    harness.clock.set_ahead(-HOUR_S)
    claimed = await harness.backlog.claim(1)  # stores the offset
    assert claimed.leases == []
    before = await harness.read_script_ms()
    harness.clock.set_ahead(0)
    after = await harness.read_script_ms()
    assert 0 <= after - before < MINUTE_MS
    assert (await harness.backlog.claim(1)).leases == []  # the lease did not run out
    assert await harness.behind_ms() == 0
    assert await harness.backlog.fail(lease, FailureRecord(reason="test")) == "failed"


async def test_times_of_scripts_never_fall_through_any_steps(harness: ClockHarness) -> None:
    """Neither steps back nor forward, small or large, make a later claim earlier."""
    times: list[int] = []
    for number, ahead_s in enumerate((0, -2, -0.2, -HOUR_S, -HOUR_S / 2, -2 * HOUR_S, 5, 0, -1)):
        harness.clock.set_ahead(ahead_s)
        await harness.backlog.add(make_event(number))
        lease: Lease = await claim_lease(harness.backlog)
        times.append(lease.now)
        await harness.backlog.fail(lease, FailureRecord(reason="test"))
    # Between two stored times, a step back of less than a second may go unnoticed.
    assert all(later >= earlier - 1000 for earlier, later in itertools.pairwise(times))


async def test_offset_is_worked_off_slowly(harness: ClockHarness) -> None:
    """While Redis is behind, each second takes up to 50 ms off, and time still goes on."""
    seconds, micros = await harness.redis.time()
    server_ms = int(seconds) * 1000 + int(micros) // 1000
    await harness.redis.set(harness.keys.clock, f"{server_ms + 8000} 10000")  # 2 s passed
    before = server_ms + 8000
    await harness.backlog.add(make_event(1))
    behind_ms = await harness.behind_ms()
    assert 9400 <= behind_ms < 10_000
    assert await harness.read_script_ms() >= before
    await harness.backlog.fail(await claim_lease(harness.backlog), FailureRecord(reason="test"))


async def test_unreadable_clock_is_replaced(harness: ClockHarness) -> None:
    """Text that is no clock counts as none."""
    await harness.redis.set(harness.keys.clock, "nonsense")
    await harness.backlog.add(make_event(1))
    assert (await claim_lease(harness.backlog)).now > 0
    assert await harness.behind_ms() == 0


def test_watch_logs_each_step_once_and_its_end_once() -> None:
    """An offset that is worked off is no news."""
    log = RecordingLog()
    watch = ClockWatch(log)
    for behind_s in (0.0, 0.4, 30.0, 29.0, 28.0, 60.0, 59.0, 2.0, 0.9, 0.0):
        watch.report(behind_s)
    assert log.events == ["redis_clock_set_back", "redis_clock_set_back", "redis_clock_corrected"]
