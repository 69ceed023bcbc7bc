"""Tests of calls that Redis refuses because its memory is full: they wait, and the others go on."""

import asyncio
from hashlib import sha1

import pytest
from redis.asyncio import Redis

from service.store import RedisRefused, RedisUnavailable
from service.store.embedded import EmbeddedServer
from service.store.refused_calls import RefusedCalls
from service.store.script import Script
from tests.store.conftest import OpenGroup, RecordingLog, execute
from tests.store.single_fault_proxy import SingleFaultProxy
from tests.store.test_group_commit import submit_write


def build_script(text: str, *, runs_when_full: bool = False, plain: Script | None = None) -> Script:
    """Return a script of one text."""
    body = text.encode()
    sha = sha1(body, usedforsecurity=False).hexdigest().encode()
    return Script("test", body, sha, runs_when_full=runs_when_full, plain=plain)


REMEMBER = build_script("#!lua\nredis.call('SADD', KEYS[1], ARGV[1]) return ARGV[1]")
FORGET = build_script(
    "#!lua flags=allow-oom\nredis.call('SREM', KEYS[1], ARGV[1]) return 'forgotten'",
    runs_when_full=True,
)


async def fill_memory(client: Redis) -> None:
    """Make the server's memory full."""
    await execute(client, "CONFIG", "SET", "maxmemory", "1")


async def free_memory(client: Redis) -> None:
    """Remove the limit of the server's memory."""
    await execute(client, "CONFIG", "SET", "maxmemory", "0")


async def test_refused_call_waits_while_the_others_go_on(
    fault_proxy: SingleFaultProxy,
    direct_client: Redis,
    open_group: OpenGroup,
    recording_log: RecordingLog,
) -> None:
    """A batch may hold both: what was executed is answered at once, on the same connection."""
    async with open_group(fault_proxy.url) as group_commit:
        await group_commit.submit(REMEMBER, keys=("set",), args=("first",))
        await fill_memory(direct_client)
        refused = [group_commit.submit(REMEMBER, keys=("set",), args=(n,)) for n in range(600)]
        for _ in range(5):
            forget = group_commit.submit(FORGET, keys=("set",), args=("first",), durable=True)
            assert await forget == b"forgotten"
        assert not any(call.done() for call in refused)
        assert recording_log.events == ["redis_writes_refused"]
        await free_memory(direct_client)
        assert await asyncio.gather(*refused) == [str(n).encode() for n in range(600)]
        assert fault_proxy.connection_count == 1


async def test_refused_calls_that_time_out_name_the_reason(
    server: EmbeddedServer, direct_client: Redis, open_group: OpenGroup
) -> None:
    """A receiver answers 503 and says why; the reason is forgotten when memory is back."""
    async with open_group(server.url) as group_commit:
        await submit_write(group_commit, "first")
        await fill_memory(direct_client)
        with pytest.raises(RedisUnavailable, match="maxmemory"):
            await submit_write(group_commit, "impatient", timeout_s=0.1)
        with pytest.raises(RedisRefused, match="maxmemory"):
            await group_commit.submit(REMEMBER, keys=("set",), args=("x",), patient=False)
        await free_memory(direct_client)
        assert await submit_write(group_commit, "patient") == b"patient"
        assert group_commit._last_error == "no answer in time"


async def test_script_whose_first_line_is_refused_runs_without_it(
    fault_proxy: SingleFaultProxy, open_group: OpenGroup
) -> None:
    """A server that does not know `#!lua` runs the same script without that line."""
    text = "return ARGV[1]"
    script = build_script(f"#!unknown flags=x\n{text}", plain=build_script(text))
    async with open_group(fault_proxy.url) as group_commit:
        for _ in range(2):
            calls = [group_commit.submit(script, keys=("k",), args=(n,)) for n in range(3)]
            assert await asyncio.gather(*calls) == [b"0", b"1", b"2"]
        assert fault_proxy.connection_count == 1


class ManualClock:
    """A clock that the test sets, in seconds."""

    now_s = 100.0

    def __call__(self) -> float:
        """Return the time."""
        return self.now_s


def test_delay_grows_while_calls_are_refused_and_the_log_says_it_once() -> None:
    """The longest delay is 2 s. An accepted call makes the others due, the oldest first."""
    clock, log = ManualClock(), RecordingLog()
    refused = RefusedCalls[int](clock=clock, log=log)
    delays = []
    refused.calls = [1, 2, 3]
    refused.record_refusal("full")
    for _ in range(8):
        delays.append(round(refused.wait_s(), 3))
        clock.now_s += refused.wait_s() + 1e-6
        taken = refused.take_due(2)
        refused.calls += taken
        refused.record_refusal("full")
    assert delays == [0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 2.0, 2.0]
    assert log.events == ["redis_writes_refused"]
    refused.record_acceptance()
    assert len(refused.take_due(2)) == 2
    assert len(refused.take_due(2)) == 0
    clock.now_s += 60.0
    assert len(refused.take_due(2)) == 1


def test_memory_that_is_nearly_full_does_not_flood_the_log() -> None:
    """Refusals and acceptances in turn are one outage, which ends 2 s after the last refusal."""
    clock, log = ManualClock(), RecordingLog()
    refused = RefusedCalls[int](clock=clock, log=log)
    for _ in range(100):
        refused.record_refusal("full")
        clock.now_s += 0.1
        refused.record_acceptance()
    assert log.events == ["redis_writes_refused"]
    clock.now_s += 2.0
    refused.record_acceptance()
    refused.record_acceptance()
    assert log.events == ["redis_writes_refused", "redis_writes_accepted"]
