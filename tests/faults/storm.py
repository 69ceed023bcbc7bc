"""A storm: senders send while processes are struck, then the oracle checks the result."""

import asyncio
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import count

from msgspec import Struct
from redis.exceptions import RedisError

from service.simulate.options import SimulatedDeployment
from service.simulate.rates import Fault
from service.store.connect import UNAVAILABLE_ERRORS
from tests.faults.make_due import make_due
from tests.faults.oracle import OracleReport, check_deliveries, find_wrong_reports
from tests.faults.processes import RedisProcess, ServiceProcess
from tests.faults.record_reader import (
    GROUP,
    drop_refreshes,
    keys_allowed_without_ttl,
    read_leftover_state,
)
from tests.faults.strike_schedule import ROLE_ACTIONS, Strike, StrikeConfig, draw_strikes
from tests.faults.system import KEYS, SystemUnderTest
from tests.faults.traffic import TrafficConfig, draw_webhooks
from tests.faults.upstream import FaultyLaunchDarkly

_MAX_TARGETS_DOWN = 2

StrikeTarget = ServiceProcess | RedisProcess | FaultyLaunchDarkly


class StormConfig(Struct, frozen=True, kw_only=True):
    """The configuration of a storm. It ends when it has its webhooks, kills and seconds.

    ``no_progress_timeout_s``: after this time without progress at the end, the rest counts as
    stuck. It is longer than the longest backoff of a ticket. ``skip_backoff`` makes waiting tickets
    due at the end.
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
    flag_events_per_s: float = 0.0
    no_progress_timeout_s: float = 330.0
    skip_backoff: bool = False


class StormResult(Struct, frozen=True, kw_only=True):
    """The result of a storm. ``strikes`` counts by (role, action).

    ``recoveries`` are the seconds from each restart of Redis to the next record. ``reported``
    counts the deployments that only the service reports. ``reported_twice`` are the events that it
    reported again, and ``wrong_reports`` the deployments that LaunchDarkly does not know exactly
    once.
    """

    report: OracleReport
    strikes: Counter[tuple[str, str]]
    seconds: float
    drained_s: float
    statuses: dict[int, int]
    rate_limited: int
    rate_limited_while_closed: int
    forbidden_responses: int
    cut_pages: int
    clock_jumps_s: Sequence[float]
    log_events: Counter[str]
    violations: Sequence[str]
    recoveries: Sequence[float]
    reported: int = 0
    reported_twice: int = 0
    wrong_reports: Sequence[str] = ()

    @property
    def kills(self) -> int:
        """The number of processes that were killed by SIGKILL."""
        return count_kills(self.strikes)

    @property
    def is_clean(self) -> bool:
        """Whether nothing was lost, duplicated, stuck or failed, and no rule was violated.

        Each fault ends within seconds, so it is no reason to give a ticket up.
        """
        is_reported_once = not self.reported_twice and not self.wrong_reports
        is_clean = self.report.is_clean and not self.violations
        return is_clean and is_reported_once and not self.report.failed


def count_kills(strikes: Counter[tuple[str, str]]) -> int:
    """Count the SIGKILLs. A kill of the upstream does not count: it only aborts connections."""
    return sum(
        n for (role, action), n in strikes.items() if action == "kill" and role != "upstream"
    )


class Storm:
    """Strikes the processes of a system while its senders send."""

    def __init__(self, system: SystemUnderTest, config: StormConfig) -> None:
        self.strikes: Counter[tuple[str, str]] = Counter()
        self._system = system
        self._config = config
        self._started_s = time.monotonic()
        self._is_stopped_early = False
        self._running_strikes: set[asyncio.Task[None]] = set()

    def is_finished(self) -> bool:
        """Return whether every goal is reached."""
        config = self._config
        return self._is_stopped_early or (
            self._system.senders.accepted >= config.webhooks
            and count_kills(self.strikes) >= config.kills
            and time.monotonic() - self._started_s >= config.seconds
        )

    def stop_early(self) -> None:
        """End the storm now; the oracle checks what was accepted until then."""
        self._is_stopped_early = True

    async def run(self, log: Callable[[str], None] = lambda _: None) -> StormResult:
        """Strike until every goal is reached, wait until all work is done, and check the result."""
        system, config = self._system, self._config
        webhooks = draw_webhooks(config.seed, config.traffic)
        send_task = system.senders.send_all(
            webhooks, per_s=config.per_s, concurrency=config.concurrency
        )
        async with asyncio.TaskGroup() as group:
            group.create_task(send_task)
            epoch_task = group.create_task(self._advance_epochs())
            progress_task = group.create_task(self._log_progress(log))
            flag_task = group.create_task(self._change_flags())
            await self._run_strikes()
            system.senders.stop()
            await asyncio.gather(*self._running_strikes)
            epoch_task.cancel()
            flag_task.cancel()
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
            if strike.action == "clock" and self._system.redis_process.clock is None:
                continue
            for target in self._choose_targets(strike):
                task = asyncio.create_task(target.strike(strike))
                self._running_strikes.add(task)
                self.strikes[_role_label(target), strike.action] += 1
            self._running_strikes = {
                task for task in self._running_strikes if not _is_finished(task)
            }

    def _count_struck(self) -> int:
        """Count the targets that are down or still starting.

        The limit on them keeps a storm moving on a slow machine.
        """
        targets: list[StrikeTarget] = [*self._system.list_processes(), self._system.redis_process]
        return sum(target.is_struck for target in targets)

    def _choose_targets(self, strike: Strike) -> list[StrikeTarget]:
        """Choose the target of a strike.

        If all processes of the role are down, choose another role, unless only this one has the
        action.
        """
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
        if strike.action not in ROLE_ACTIONS:
            available = available or [target for target in all_targets if not target.is_struck]
        return [available[int(strike.target_fraction * len(available))]] if available else []

    async def _advance_epochs(self) -> None:
        while True:
            await asyncio.sleep(self._config.epoch_s)
            self._system.upstream.advance_epoch()

    async def _change_flags(self) -> None:
        if not self._config.flag_events_per_s:
            return
        for number in count():
            self._system.upstream.change_flag(number)
            await asyncio.sleep(1 / self._config.flag_events_per_s)

    async def _log_progress(self, log: Callable[[str], None]) -> None:
        system = self._system
        for minute in count():
            log(
                f"{minute} min: {system.senders.accepted} accepted,"
                f" {len(system.reader.records)} records, {count_kills(self.strikes)} kills,"
                f" {len(system.list_violations())} violations"
            )
            await asyncio.sleep(60)

    async def _drain(self) -> None:
        """Wait until no work is left and all records are read, or until there is no progress."""
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
        """Count the waiting tickets and the unread records."""
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
        await drop_refreshes(system.redis, KEYS)
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
            forbidden_responses=stats.statuses.get("403", 0),
            cut_pages=stats.faults.get(Fault.TRUNCATED, 0),
            clock_jumps_s=clock.jumps_s if (clock := system.redis_process.clock) else (),
            log_events=system.count_log_events(),
            violations=system.list_violations(),
            recoveries=measure_recoveries(
                system.redis_process.started_at[1:], system.reader.read_at
            ),
            reported=len(system.senders.reported),
            reported_twice=stats.reported_twice,
            wrong_reports=find_wrong_reports(
                system.senders.reported,
                (
                    (_job_of(deployment), deployment.status)
                    for deployment in system.upstream.simulator.list_deployments()
                ),
            ),
        )


def _job_of(deployment: SimulatedDeployment) -> str:
    parts = (deployment.project, deployment.environment, deployment.application, deployment.version)
    return "find:" + "/".join(parts)


def measure_recoveries(started_at: Sequence[float], read_at: Sequence[float]) -> list[float]:
    """Return for each start the seconds until the next record, if there was one."""
    first_reads = (
        min((read_s for read_s in read_at if read_s >= start), default=None) for start in started_at
    )
    return [
        first - start
        for start, first in zip(started_at, first_reads, strict=True)
        if first is not None
    ]


def log_progress(text: str) -> None:
    """Write one progress line to stderr."""
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
    """Return whether a strike has ended; raise its exception if it failed."""
    if task.done():
        task.result()
    return task.done()
