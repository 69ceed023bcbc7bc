"""Tests of wall clocks that jump by an hour: only the age of a signature depends on them."""

import asyncio
import json
import os
import time
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import aiohttp
import pytest

from service.accept.signatures import sign_standard_webhook
from service.simulate.options import Options
from tests.end_to_end.harness import SECRET, ServiceHarness
from tests.factories import deployment_id
from tests.faults.make_due import making_due
from tests.faults.oracle import SentDelivery, check_deliveries
from tests.faults.record_reader import read_leftover_state, read_records
from tests.faults.storm import Storm, StormConfig
from tests.faults.strike_schedule import StrikeConfig
from tests.faults.system import LEASE_S, SystemConfig, start_system

HOUR_S = 3600
JUMPS_S = (HOUR_S, -HOUR_S, 0)
FOLDER = Path(__file__).parent


async def post(receiver_url: str, number: int, *, at_s: float) -> int:
    """Post one webhook with the given signature time; return the status."""
    event = {"deploymentId": deployment_id(number), "eventType": "finished"}
    body = json.dumps(event).encode()
    headers = sign_standard_webhook(SECRET, delivery=f"d{number}", timestamp_s=int(at_s), body=body)
    async with (
        aiohttp.ClientSession() as session,
        session.post(f"{receiver_url}/webhooks/native", data=body, headers=headers) as response,
    ):
        return response.status


async def test_clock_jump_in_one_process_affects_only_signatures(
    service: ServiceHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Work from before a jump ends after it. The receiver's clock decides on signatures."""
    ahead_s = 0.0
    shifted_time = SimpleNamespace(time=lambda: time.time() + ahead_s, monotonic=time.monotonic)
    monkeypatch.setattr("service.app.time", shifted_time)
    await service.open(workers=2)
    service.simulator.options = Options(latency_ms=(200, 300))
    deliveries, numbers = [], iter(range(1, 1000))

    async def accept() -> None:
        number = next(numbers)
        assert await post(service.receiver_url, number, at_s=time.time() + ahead_s) == 202
        name = deployment_id(number)
        deliveries.append(SentDelivery(name=f"d{number}", job=f"id:{name}", epoch=0, queued=1))

    async with making_due(service.redis, service.keys):
        for jump_s in JUMPS_S:
            await asyncio.gather(*(accept() for _ in range(10)))  # leased when the clock jumps
            ahead_s = jump_s
            await asyncio.gather(*(accept() for _ in range(10)))
            for wrong_s in {-HOUR_S, 0, HOUR_S} - {jump_s}:
                assert (
                    await post(service.receiver_url, next(numbers), at_s=time.time() + wrong_s)
                    == 401
                )
        async with asyncio.timeout(50):
            while not await service.is_done():
                await asyncio.sleep(0.02)
    records = await read_records(service.redis, service.keys)
    report = check_deliveries(
        deliveries, records, await read_leftover_state(service.redis, service.keys)
    )
    assert (report.lost, report.duplicated, report.stuck) == ([], [], [])
    assert (report.accepted, report.records, report.failed) == (60, 60, {})
    events = Counter(line["event"] for line in service.log_events())
    assert not events.keys() & {"attempt_error", "settle_failed", "unhandled_error", "lease_lost"}


@pytest.mark.timeout(120)
async def test_clock_jump_in_every_process_loses_nothing(tmp_path: Path) -> None:
    """Receivers refuse old and future signatures, and accept them once their clock is right."""
    clock = tmp_path / "clock"
    set_clock(clock, 0)
    path = os.pathsep.join([str(FOLDER / "shifted_clock"), str(FOLDER.parent.parent)])
    environ = {"PYTHONPATH": path, "CLOCK_FILE": str(clock)}
    config = SystemConfig(seed=4, receivers=1, workers=2, environ=environ)
    strike_config = StrikeConfig(interval_s=1.0, lease_s=LEASE_S)
    storm_config = StormConfig(
        seed=4, strikes=strike_config, per_s=30, seconds=6, webhooks=90, skip_backoff=True
    )
    async with start_system(config, tmp_path) as system:
        storm = asyncio.create_task(Storm(system, storm_config).run())
        for jump_s in JUMPS_S:
            set_clock(clock, jump_s)
            await asyncio.sleep(1.5)
        outcome = await storm
    assert outcome.is_clean, (outcome.report, outcome.violations)
    assert outcome.statuses[401] > 0
    assert not outcome.report.failed


def set_clock(clock: Path, ahead_s: int) -> None:
    """Set the clock of every process that reads the file, in one atomic step."""
    temporary = clock.with_suffix(".new")
    temporary.write_text(str(ahead_s))
    temporary.replace(clock)
