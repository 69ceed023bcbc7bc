"""Is nothing lost, twice or stuck when everything is killed, frozen and stopped at random?"""

from pathlib import Path

import pytest

from service.store.embedded import AppendFsync
from tests.faults.plant import LEASE_S, Cast, build_plant
from tests.faults.recovery import measure_recovery
from tests.faults.report import write_report
from tests.faults.schedule import Tempo
from tests.faults.storm import Order, Storm

SHORT = Tempo(every_s=0.9, lease_s=LEASE_S)


@pytest.mark.timeout(180)
@pytest.mark.parametrize(("appendfsync", "seed"), [("always", 11), ("everysec", 12)])
async def test_a_short_storm_loses_nothing_and_makes_nothing_twice(
    tmp_path: Path, appendfsync: AppendFsync, seed: int
) -> None:
    """Two doors and two workers are struck until a dozen kills; every 2xx has its one end."""
    order = Order(seed=seed, tempo=SHORT, per_s=40, webhooks=200, kills=10, epoch_s=3, hurry=True)
    cast = Cast(seed=seed, workers=2, appendfsync=appendfsync)
    async with build_plant(cast, tmp_path) as plant:
        outcome = await Storm(plant, order).rage()
    report = write_report(outcome, None, title=f"seed {seed}")
    assert outcome.is_clean, report
    assert not outcome.judgement.failed, report
    assert not outcome.rate_limited_while_closed, report


async def test_work_goes_on_after_each_kill_without_a_restart(tmp_path: Path) -> None:
    """What a dead worker held is published by another; Redis's return is noticed by itself."""
    async with build_plant(Cast(seed=3, doors=1, workers=2), tmp_path) as plant:
        recovery = await measure_recovery(plant, rounds=1, seed=3)
        await plant.end()
        assert not plant.list_mistakes()
    assert (len(recovery.worker_s), len(recovery.redis_s)) == (1, 1)


@pytest.mark.long
@pytest.mark.timeout(3600)
async def test_a_long_storm(tmp_path: Path) -> None:
    """The same for some minutes, as `run.py faults` does it."""
    order = Order(seed=5, tempo=Tempo(every_s=2.4, lease_s=LEASE_S), per_s=70, kills=100)
    async with build_plant(Cast(seed=5), tmp_path) as plant:
        outcome = await Storm(plant, order).rage()
    assert outcome.is_clean, write_report(outcome, None, title="seed 5")
