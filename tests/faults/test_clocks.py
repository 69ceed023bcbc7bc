"""Does a wall clock that jumps by an hour lose anything? Only signatures are judged by it."""

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
from tests.end_to_end.harness import SECRET, ServiceHarness, deployment_id
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
    """Post one webhook as if it were signed at a moment; gives the status."""
    event = {"deploymentId": deployment_id(number), "eventType": "finished"}
    body = json.dumps(event).encode()
    headers = sign_standard_webhook(SECRET, delivery=f"d{number}", timestamp_s=int(at_s), body=body)
    async with (
        aiohttp.ClientSession() as session,
        session.post(f"{receiver_url}/webhooks/native", data=body, headers=headers) as response,
    ):
        return response.status


async def test_a_jump_in_one_process_changes_only_whose_signature_is_in_time(
    story: ServiceHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Work begun before a jump ends after it; signatures are judged by the receiver's clock."""
    ahead_s = 0.0
    jumping = SimpleNamespace(time=lambda: time.time() + ahead_s, monotonic=time.monotonic)
    monkeypatch.setattr("service.app.time", jumping)
    await story.open(workers=2)
    story.simulator.options = Options(latency_ms=(200, 300))
    deliveries, numbers = [], iter(range(1, 1000))

    async def accept() -> None:
        number = next(numbers)
        assert await post(story.receiver_url, number, at_s=time.time() + ahead_s) == 202
        name = deployment_id(number)
        deliveries.append(SentDelivery(name=f"d{number}", job=f"id:{name}", epoch=0, queued=1))

    async with making_due(story.redis, story.keys):
        for jump_s in JUMPS_S:
            await asyncio.gather(*(accept() for _ in range(10)))  # in hand when the clock jumps
            ahead_s = jump_s
            await asyncio.gather(*(accept() for _ in range(10)))
            for wrong_s in {-HOUR_S, 0, HOUR_S} - {jump_s}:
                assert (
                    await post(story.receiver_url, next(numbers), at_s=time.time() + wrong_s) == 401
                )
        async with asyncio.timeout(50):
            while not await story.is_done():
                await asyncio.sleep(0.02)
    records = await read_records(story.redis, story.keys)
    report = check_deliveries(
        deliveries, records, await read_leftover_state(story.redis, story.keys)
    )
    assert (report.lost, report.duplicated, report.stuck) == ([], [], [])
    assert (report.accepted, report.records, report.failed) == (60, 60, {})
    facts = Counter(fact["event"] for fact in story.log_events())
    assert not facts.keys() & {"attempt_error", "settle_failed", "unhandled_error", "lease_lost"}


@pytest.mark.timeout(120)
async def test_every_process_jumps_and_nothing_is_lost(tmp_path: Path) -> None:
    """Receivers turn away what is out of time, and take it once their clock is right again."""
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
    """Set the clock of every process that follows it, in one act."""
    temporary = clock.with_suffix(".new")
    temporary.write_text(str(ahead_s))
    temporary.replace(clock)
