"""Tests of the timeout of a script call: one timer serves all calls, and none is left over."""

import asyncio
import math
from pathlib import Path

import pytest

from service.store import RedisUnavailable
from service.store.embedded import EmbeddedServer
from tests.store.conftest import OpenGroup
from tests.store.test_group_commit import submit_write


async def test_timeouts_in_any_order_each_end_at_their_own_time(
    tmp_path: Path, open_group: OpenGroup
) -> None:
    """A call fails after its own timeout; the calls with more time wait on."""
    loop = asyncio.get_running_loop()
    async with open_group(f"unix://{tmp_path}/missing.sock") as group_commit:
        started = loop.time()
        long = submit_write(group_commit, "long", timeout_s=60.0)
        middle = submit_write(group_commit, "middle", timeout_s=0.5)
        short = submit_write(group_commit, "short", timeout_s=0.02)
        with pytest.raises(RedisUnavailable):
            await short
        assert not middle.done()
        with pytest.raises(RedisUnavailable):
            await middle
        assert loop.time() - started >= 0.5
        assert not long.done()


async def test_cancelled_call_when_its_timeout_passes_stays_cancelled(
    tmp_path: Path, open_group: OpenGroup
) -> None:
    """A call that is done already is left alone, and the next one still times out."""
    async with open_group(f"unix://{tmp_path}/missing.sock") as group_commit:
        cancelled = submit_write(group_commit, "cancelled", timeout_s=0.01)
        cancelled.cancel()
        with pytest.raises(RedisUnavailable):
            await submit_write(group_commit, "waiting", timeout_s=0.1)
        assert cancelled.cancelled()


async def test_timer_after_every_reply_is_not_scheduled_again(
    server: EmbeddedServer, open_group: OpenGroup
) -> None:
    """Answered calls are not kept until their timeout would have passed."""
    async with open_group(server.url) as group_commit:
        for number in range(100):
            await submit_write(group_commit, str(number), timeout_s=3600.0)
        async with asyncio.timeout(10):
            while group_commit._timeout_timer is not None:
                await asyncio.sleep(0.05)


async def test_timer_without_a_timeout_is_not_scheduled(
    server: EmbeddedServer, open_group: OpenGroup
) -> None:
    """A call that may wait forever needs no timer."""
    async with open_group(server.url) as group_commit:
        await submit_write(group_commit, "x", timeout_s=math.inf)
        assert group_commit._timeout_timer is None


async def test_timer_at_close_is_cancelled(server: EmbeddedServer, open_group: OpenGroup) -> None:
    """A closed connection leaves nothing scheduled on the event loop."""
    async with open_group(server.url) as group_commit:
        await submit_write(group_commit, "x", timeout_s=3600.0)
        timer = group_commit._timeout_timer
        assert timer is not None
    assert timer.cancelled()
