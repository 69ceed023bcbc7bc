"""How does a storm go? Senders send, strokes fall, everything comes back, and is judged."""

import asyncio
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import count

from msgspec import Struct
from redis.exceptions import RedisError

from service.store.connect import UNAVAILABLE_ERRORS
from tests.faults.make_due import make_due
from tests.faults.oracle import OracleReport, check_deliveries
from tests.faults.processes import RedisProcess, ServiceProcess
from tests.faults.record_reader import GROUP, keys_allowed_without_ttl, read_leftover_state
from tests.faults.strike_schedule import Strike, StrikeConfig, draw_strikes
from tests.faults.system import KEYS, SystemUnderTest
from tests.faults.traffic import TrafficConfig, draw_webhooks
from tests.faults.upstream import FaultyLaunchDarkly

_MAX_TARGETS_DOWN = 2

StrikeTarget = ServiceProcess | RedisProcess | FaultyLaunchDarkly


class StormConfig(Struct, frozen=True, kw_only=True):
    """What storm is ordered. It ends when every goal is reached: webhooks, kills and seconds.

    ``no_progress_s`` is how long nothing may move at the end before what is left is called stuck:
    longer than the longest backoff of a ticket. ``hurry`` makes due at the end what backs off.
    """

    seed: int
    strikes: StrikeConfig
    per_s: float
    webhooks: int = 0
    kills: int = 0
    seconds: float = 0.0
    traffic: TrafficConfig = TrafficConfig()
    concurrency: int = 64
    epoch_s: float = 20.0
    no_progress_timeout_s: float = 330.0
    skip_backoff: bool = False


class StormResult(Struct, frozen=True, kw_only=True):
    """What a storm came to. ``strokes`` counts by (role, blow).

    ``recoveries`` are seconds from Redis being back to the next record.
    """

    report: OracleReport
    strikes: Counter[tuple[str, str]]
    seconds: float
    drained_s: float
    statuses: dict[int, int]
    rate_limited: int
    rate_limited_while_closed: int
    log_events: Counter[str]
    violations: Sequence[str]
    recoveries: Sequence[float]

    @property
    def kills(self) -> int:
        """How many processes were ended by SIGKILL."""
        return count_kills(self.strikes)

    @property
    def is_clean(self) -> bool:
        """Tell whether nothing was lost, twice or stuck, and nothing wrote of a mistake."""
        return self.report.is_clean and not self.violations


def count_kills(strikes: Counter[tuple[str, str]]) -> int:
    """Count the SIGKILLs; that of the upstream is only a cut."""
    return sum(
        n for (role, action), n in strikes.items() if action == "kill" and role != "upstream"
    )


class Storm:
    """Strikes a plant while its senders send."""

    def __init__(self, system: SystemUnderTest, config: StormConfig) -> None:
        self.strikes: Counter[tuple[str, str]] = Counter()
        self._system = system
        self._config = config
        self._started_s = time.monotonic()
        self._is_stopped_early = False
        self._running_strikes: set[asyncio.Task[None]] = set()

    def is_finished(self) -> bool:
        """Tell whether every goal is reached."""
        config = self._config
        return self._is_stopped_early or (
            self._system.senders.accepted >= config.webhooks
            and count_kills(self.strikes) >= config.kills
            and time.monotonic() - self._started_s >= config.seconds
        )

    def stop_early(self) -> None:
        """Let it be enough now; what was accepted until then is judged."""
        self._is_stopped_early = True

    async def run(self, log: Callable[[str], None] = lambda _: None) -> StormResult:
        """Strike until it is enough, then let everything come to rest, and judge."""
        system, config = self._system, self._config
        webhooks = draw_webhooks(config.seed, config.traffic)
        sending = system.senders.send_all(
            webhooks, per_s=config.per_s, concurrency=config.concurrency
        )
        async with asyncio.TaskGroup() as group:
            group.create_task(sending)
            epoch_task = group.create_task(self._advance_epochs())
            progress_task = group.create_task(self._log_progress(log))
            await self._run_strikes()
            system.senders.stop()
            await asyncio.gather(*self._running_strikes)
            epoch_task.cancel()
            progress_task.cancel()
        seconds = time.monotonic() - self._started_s
        await self._drain()
        return await self._build_result(seconds)

    async def _run_strikes(self) -> None:
        for strike in draw_strikes(self._config.seed, self._config.strikes):
            await asyncio.sleep(strike.delay_s)
            while self._count_struck() > _MAX_TARGETS_DOWN:
                await asyncio.sleep(0.05)
            if self.is_finished():
                return
            for target in self._choose_targets(strike):
                task = asyncio.create_task(target.strike(strike))
                self._running_strikes.add(task)
                self.strikes[_role_label(target), strike.action] += 1
            self._running_strikes = {
                task for task in self._running_strikes if not _is_finished(task)
            }

    def _count_struck(self) -> int:
        """Count who is down or still starts: on a slow machine the storm must not stand still."""
        targets: list[StrikeTarget] = [*self._system.list_processes(), self._system.redis_process]
        return sum(target.is_struck for target in targets)

    def _choose_targets(self, strike: Strike) -> list[StrikeTarget]:
        """Choose who of the role is struck; one who is down already gives way to another role."""
        system = self._system
        targets_by_role: dict[str, list[StrikeTarget]] = {
            "worker": [*system.workers],
            "receiver": [*system.receivers],
            "redis": [system.redis_process],
            "upstream": [system.upstream],
        }
        all_targets: list[StrikeTarget] = [*system.workers, *system.receivers, system.redis_process]
        if strike.role == "all":
            return [target for target in all_targets if not target.is_struck]
        available = [target for target in targets_by_role[strike.role] if not target.is_struck]
        available = available or [target for target in all_targets if not target.is_struck]
        return [available[int(strike.target_fraction * len(available))]] if available else []

    async def _advance_epochs(self) -> None:
        while True:
            await asyncio.sleep(self._config.epoch_s)
            self._system.upstream.advance_epoch()

    async def _log_progress(self, log: Callable[[str], None]) -> None:
        system = self._system
        for minute in count():
            log(
                f"{minute} min: {system.senders.accepted} accepted,"
                f" {len(system.reader.records)} records, {count_kills(self.strikes)} kills,"
                f" {len(system.list_violations())} mistakes"
            )
            await asyncio.sleep(60)

    async def _drain(self) -> None:
        """Wait until nothing waits and all is read, or nothing has moved for too long."""
        self._drained_s = time.monotonic()
        previous, last_progress_s = (-1, -1), time.monotonic()
        while time.monotonic() - last_progress_s < self._config.no_progress_timeout_s:
            pending = await self._count_pending()
            if pending == (0, 0):
                break
            if pending != previous:
                previous, last_progress_s = pending, time.monotonic()
            await asyncio.sleep(0.05)
        self._drained_s = time.monotonic() - self._drained_s

    async def _count_pending(self) -> tuple[int, int]:
        """Count what waits, and the records that are not read yet."""
        redis = self._system.redis
        try:
            if self._config.skip_backoff:
                await make_due(redis, KEYS)
            waiting = await redis.zcard(KEYS.backlog) + await redis.hlen(KEYS.tickets)
            (group,) = await redis.xinfo_groups(KEYS.enriched)
        except (*UNAVAILABLE_ERRORS, RedisError, ValueError):
            return (-2, -2)
        assert group["name"] == GROUP.encode()
        return (waiting, (group["lag"] or 0) + group["pending"])

    async def _build_result(self, seconds: float) -> StormResult:
        system = self._system
        await system.stop()
        records = system.reader.records.values()
        report = check_deliveries(
            system.senders.deliveries,
            records,
            await read_leftover_state(system.redis, KEYS),
            allowed_without_ttl=keys_allowed_without_ttl(KEYS),
        )
        stats = system.upstream.simulator.stats
        return StormResult(
            report=report,
            strikes=self.strikes,
            seconds=seconds,
            drained_s=self._drained_s,
            statuses=system.senders.statuses,
            rate_limited=stats.rate_limited,
            rate_limited_while_closed=stats.rate_limited_while_closed,
            log_events=system.count_log_events(),
            violations=system.list_violations(),
            recoveries=measure_recoveries(
                system.redis_process.started_at[1:], system.reader.read_at
            ),
        )


def measure_recoveries(started_at: Sequence[float], read_at: Sequence[float]) -> list[float]:
    """Give for each moment how long it took until something was noted, if anything was."""
    first_reads = (
        min((moment for moment in read_at if moment >= start), default=None) for start in started_at
    )
    return [
        first - start
        for start, first in zip(started_at, first_reads, strict=True)
        if first is not None
    ]


def log_progress(text: str) -> None:
    """Tell a person how it goes."""
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


def _role_label(target: StrikeTarget) -> str:
    match target:
        case RedisProcess():
            return "redis"
        case FaultyLaunchDarkly():
            return "upstream"
        case ServiceProcess():
            return target.name.rstrip("0123456789")


def _is_finished(task: asyncio.Task[None]) -> bool:
    """Tell whether a stroke is over; raises what went wrong with it."""
    if task.done():
        task.result()
    return task.done()
