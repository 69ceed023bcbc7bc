"""Tests of short storms: random kills, freezes and stops lose, duplicate and block nothing."""

from pathlib import Path

import pytest

from service.store.embedded import AppendFsync
from tests.faults.recovery import measure_recovery
from tests.faults.report import format_report
from tests.faults.storm import Storm, StormConfig
from tests.faults.strike_schedule import StrikeConfig
from tests.faults.system import FLAG_EVENT_ENVIRON, LEASE_S, SystemConfig, start_system
from tests.faults.traffic import TrafficConfig

SHORT_STRIKES = StrikeConfig(interval_s=0.9, lease_s=LEASE_S)


@pytest.mark.timeout(180)
@pytest.mark.parametrize(("appendfsync", "seed"), [("always", 11), ("everysec", 12)])
async def test_short_storm_loses_and_duplicates_nothing(
    tmp_path: Path, appendfsync: AppendFsync, seed: int
) -> None:
    """Two receivers and two workers survive ten kills; every 2xx has exactly one end."""
    storm_config = StormConfig(
        seed=seed,
        strikes=SHORT_STRIKES,
        per_s=40,
        webhooks=200,
        kills=10,
        epoch_s=3,
        skip_backoff=True,
    )
    config = SystemConfig(seed=seed, workers=2, appendfsync=appendfsync)
    async with start_system(config, tmp_path) as system:
        outcome = await Storm(system, storm_config).run()
    report = format_report(outcome, None, title=f"seed {seed}")
    assert outcome.is_clean, report
    assert not outcome.report.failed, report
    assert not outcome.rate_limited_while_closed, report


async def test_work_continues_after_a_kill(tmp_path: Path) -> None:
    """Another worker publishes the tickets of a killed one; all notice that Redis is back."""
    async with start_system(SystemConfig(seed=3, receivers=1, workers=2), tmp_path) as system:
        recovery = await measure_recovery(system, rounds=1, seed=3)
        await system.stop()
        assert not system.list_violations()
    assert (len(recovery.worker_s), len(recovery.redis_s)) == (1, 1)


@pytest.mark.long
@pytest.mark.timeout(3600)
async def test_long_storm_loses_and_duplicates_nothing(tmp_path: Path) -> None:
    """A storm of some minutes, as `run.py faults` runs it; nothing is reported twice either."""
    storm_config = StormConfig(
        seed=5,
        strikes=StrikeConfig(interval_s=2.4, lease_s=LEASE_S),
        per_s=70,
        kills=100,
        flag_events_per_s=2,
        traffic=TrafficConfig(reported_share=0.1),
    )
    async with start_system(SystemConfig(seed=5, environ=FLAG_EVENT_ENVIRON), tmp_path) as system:
        outcome = await Storm(system, storm_config).run()
    report = format_report(outcome, None, title="seed 5")
    assert outcome.is_clean, report
    assert outcome.report.with_flag_events, report
