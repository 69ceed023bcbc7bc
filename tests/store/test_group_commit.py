"""Does every act happen once and every caller hear of it, whatever becomes of the connection?"""

import asyncio
import os
import signal
from collections.abc import Awaitable, Callable
from hashlib import sha1
from pathlib import Path
from typing import cast

import msgspec
import pytest
from redis.asyncio import Redis
from redis.exceptions import ResponseError

from service.accept.mapping import DeploymentCompleted, Queued
from service.backlog.backlog import Backlog, BacklogConfig
from service.backlog.ticket import Lease
from service.enrich.budget import load_budget_prelude
from service.store import RedisUnavailable, group_commit
from service.store.connect import is_retryable
from service.store.embedded import EmbeddedServer
from service.store.group_commit import GroupCommit
from service.store.keys import Keys
from service.store.script import Script
from tests.store.conftest import OpenGroup, RecordingLog, execute
from tests.store.faulty_proxy import FaultProxy

Eventually = Callable[[Callable[[], Awaitable[bool]]], Awaitable[None]]
NewToken = Callable[[], str]

KEYS = Keys("store")


def build_script(text: str) -> Script:
    """Make an act of a line of Lua."""
    body = text.encode()
    return Script(
        name="test", text=body, sha=sha1(body, usedforsecurity=False).hexdigest().encode()
    )


REMEMBER = build_script("redis.call('SADD', KEYS[1], ARGV[1]) return ARGV[1]")
REFUSE = build_script("return redis.error_reply('ERR never ' .. KEYS[1])")


def make_event(number: int) -> DeploymentCompleted:
    """Make the event of one deployment."""
    return DeploymentCompleted(
        source="native",
        delivery=f"delivery-{number}",
        project="default",
        environment="production",
        application="shop",
        version="1.0",
        deployment_id=f"a0eebc99-9c0b-4ef8-bb6d-{number:012d}",
        outcome="succeeded",
        event_time=None,
        metadata=msgspec.Raw(b"{}"),
        metadata_dropped=False,
        traceparent=None,
    )


def open_backlog(group_commit: GroupCommit, new_token: NewToken) -> Backlog:
    """Open a backlog whose leases outlive a test."""
    terms = BacklogConfig(
        lease_ms=60_000,
        delivery_ttl_ms=60_000,
        failed_ttl_ms=60_000,
        call_ttl_ms=60_000,
        max_tickets=1000,
        rate_limit_share=1.0,
        enqueue_timeout_s=20.0,
    )
    return Backlog(
        group_commit, keys=KEYS, config=terms, budget_lua=load_budget_prelude(), new_token=new_token
    )


def submit_write(
    group_commit: GroupCommit, member: str, *, patience_s: float = 20.0
) -> asyncio.Future[object]:
    """Submit one small act."""
    return group_commit.submit(
        REMEMBER, keys=("set",), args=(member,), durable=True, timeout_s=patience_s
    )


async def test_an_event_whose_reply_was_lost_is_queued_once(
    fault_proxy: FaultProxy,
    direct_client: Redis,
    open_group: OpenGroup,
    new_token: NewToken,
    recording_log: RecordingLog,
) -> None:
    """The repeat hears "queued", not "duplicate", and the ticket is the first of its kind."""
    async with open_group(fault_proxy.url) as commits:
        backlog = open_backlog(commits, new_token)
        await backlog.add(make_event(0))
        fault_proxy.lose_reply(b"delivery-1")
        assert isinstance(await backlog.add(make_event(1)), Queued)
        assert fault_proxy.connection_count == 2
        assert recording_log.events == ["redis_disconnected", "redis_reconnected"]
        assert await direct_client.zcard(KEYS.backlog) == 2
        leases = (await backlog.claim(2)).leases
        assert [lease.generation for lease in leases] == [1, 1]


async def test_a_claim_whose_reply_was_lost_leases_nothing_to_nobody(
    fault_proxy: FaultProxy, direct_client: Redis, open_group: OpenGroup, new_token: NewToken
) -> None:
    """The repeat hears of the same leases; no ticket and no call is held by no one."""
    async with open_group(fault_proxy.url) as commits:
        backlog = open_backlog(commits, new_token)
        for number in range(3):
            await backlog.add(make_event(number))
        await backlog.claim(1)
        fault_proxy.lose_reply(KEYS.budget_waiting.encode())
        (lease,) = (await backlog.claim(1)).leases
        assert isinstance(lease, Lease)
        assert fault_proxy.connection_count == 2
        assert await direct_client.zscore(KEYS.backlog, lease.job) == lease.fence
        assert await direct_client.zcard(KEYS.budget_calls) == 2
        (last,) = (await backlog.claim(3)).leases
        assert isinstance(last, Lease)
        assert (lease.crashes, last.crashes) == (0, 0)


@pytest.mark.parametrize("count", [1, 700, 9000, 20_000])
async def test_a_connection_cut_mid_way_loses_and_doubles_nothing(
    fault_proxy: FaultProxy,
    direct_client: Redis,
    open_group: OpenGroup,
    new_token: NewToken,
    count: int,
) -> None:
    """Whatever part of a group had arrived, every event is queued exactly once."""
    async with open_group(fault_proxy.url) as commits:
        backlog = open_backlog(commits, new_token)
        await backlog.add(make_event(0))
        fault_proxy.cut_after(count)
        answers = await asyncio.gather(
            *(backlog.add(make_event(number)) for number in range(1, 80))
        )
        assert all(isinstance(answer, Queued) for answer in answers)
        assert fault_proxy.connection_count == 2
        stored = cast("list[bytes]", await direct_client.hvals(KEYS.tickets))
        assert len(stored) == 80
        assert {ticket[:4] for ticket in stored} == {(1).to_bytes(4, "big")}


async def test_callers_wait_for_a_server_that_was_killed(
    tmp_path: Path, open_group: OpenGroup
) -> None:
    """Started again on its data, it has what it answered, and who waited succeeds."""
    first = EmbeddedServer(tmp_path / "data")
    first.start()
    async with open_group(first.url) as commits:
        await asyncio.gather(*(submit_write(commits, f"before {number}") for number in range(50)))
        assert first.pid is not None
        os.kill(first.pid, signal.SIGKILL)
        waiting = [submit_write(commits, f"meanwhile {number}") for number in range(50)]
        with pytest.raises(RedisUnavailable):
            await submit_write(commits, "impatient", patience_s=0.1)
        assert not any(caller.done() for caller in waiting)
        first.stop()
        async with EmbeddedServer(tmp_path / "data"):
            await asyncio.gather(*waiting)
            async with open_group(first.url) as other:
                card = build_script("return redis.call('SCARD', KEYS[1])")
                assert await other.submit(card, keys=("set",), args=()) in {100, 101}


async def test_who_loses_patience_hears_why(tmp_path: Path, open_group: OpenGroup) -> None:
    """Without a server the receiver says so in time, and does not wait for ever."""
    async with open_group(f"unix://{tmp_path}/nobody.sock") as commits:
        with pytest.raises(RedisUnavailable, match="ConnectionError"):
            await submit_write(commits, "x", patience_s=0.1)
        with pytest.raises(RedisUnavailable):
            await commits.connect()


async def test_one_callers_patience_costs_the_others_nothing(
    fault_proxy: FaultProxy, open_group: OpenGroup
) -> None:
    """Impatient callers come and go; the exchange under way is not cut for their sake."""
    async with open_group(fault_proxy.url) as commits:
        await submit_write(commits, "first")
        fault_proxy.replies_allowed.clear()
        patient = submit_write(commits, "patient")
        for _ in range(5):
            with pytest.raises(RedisUnavailable):
                await submit_write(commits, "impatient", patience_s=0.02)
        fault_proxy.replies_allowed.set()
        assert await patient == b"patient"
        assert fault_proxy.connection_count == 1


async def test_a_cancelled_caller_disturbs_nobody(
    fault_proxy: FaultProxy, open_group: OpenGroup
) -> None:
    """Its reply is read and dropped; everybody else gets their own."""
    async with open_group(fault_proxy.url) as commits:
        await submit_write(commits, "first")
        fault_proxy.replies_allowed.clear()
        callers = [submit_write(commits, str(number)) for number in range(20)]
        await asyncio.sleep(0)
        for number in (0, 7, 19):
            callers[number].cancel()
        fault_proxy.replies_allowed.set()
        heard = await asyncio.gather(*callers, return_exceptions=True)
        for number, reply in enumerate(heard):
            if number in {0, 7, 19}:
                assert isinstance(reply, asyncio.CancelledError)
            else:
                assert reply == str(number).encode()
        assert await submit_write(commits, "last") == b"last"
        assert fault_proxy.connection_count == 1


async def test_an_error_for_one_call_is_its_callers_alone(
    fault_proxy: FaultProxy, direct_client: Redis, open_group: OpenGroup
) -> None:
    """A script that fails, and one that the server has forgotten, in one group with good ones."""
    async with open_group(fault_proxy.url) as commits:
        await submit_write(commits, "first")
        await direct_client.script_flush()
        good = [submit_write(commits, str(number)) for number in range(5)]
        bad = commits.submit(REFUSE, keys=("nothing",), args=())
        good += [submit_write(commits, str(number)) for number in range(5, 10)]
        assert await asyncio.gather(*good) == [str(number).encode() for number in range(10)]
        with pytest.raises(ResponseError, match="never nothing"):
            await bad
        assert fault_proxy.connection_count == 1


async def test_what_cannot_be_sent_hurts_nobody_else(
    fault_proxy: FaultProxy, open_group: OpenGroup
) -> None:
    """An argument that is no argument is told to whoever gave it."""
    async with open_group(fault_proxy.url) as commits:
        good = submit_write(commits, "good")
        with pytest.raises(TypeError):
            commits.submit(REMEMBER, keys=("set",), args=({},))  # type: ignore[arg-type] # on purpose
        assert await good == b"good"


@pytest.mark.parametrize(
    ("spoil", "mend"),
    [
        (("REPLICAOF", "127.0.0.1", "1"), ("REPLICAOF", "NO", "ONE")),
        (("CONFIG", "SET", "maxmemory", "1"), ("CONFIG", "SET", "maxmemory", "0")),
        (
            ("CONFIG", "SET", "min-replicas-to-write", "1"),
            ("CONFIG", "SET", "min-replicas-to-write", "0"),
        ),
    ],
    ids=["READONLY", "OOM", "NOREPLICAS"],
)
async def test_a_server_that_cannot_write_now_is_waited_for(
    direct_client: Redis,
    server: EmbeddedServer,
    open_group: OpenGroup,
    spoil: tuple[str, ...],
    mend: tuple[str, ...],
) -> None:
    """Failing over or full: the impatient hear Unavailable, the patient succeed when it is over."""
    async with open_group(server.url) as commits:
        await submit_write(commits, "first")
        await execute(direct_client, *spoil)
        with pytest.raises(RedisUnavailable):
            await submit_write(commits, "impatient", patience_s=0.1)
        patient = submit_write(commits, "patient")
        await execute(direct_client, *mend)
        assert await patient == b"patient"


@pytest.mark.parametrize(
    ("said", "passes"),
    [
        ("MISCONF Errors writing to the AOF file: No space left on device", True),
        ("BUSY Redis is busy running a script", True),
        ("ERR wrong number of arguments", False),
        ("WRONGTYPE Operation against a key holding the wrong kind of value", False),
        ("NOPERM this user has no permissions", False),
    ],
)
def test_what_passes_is_told_from_what_needs_a_fix(said: str, passes: bool) -> None:
    """A full disk or a busy server asks for patience, a wrong command does not."""
    assert is_retryable(ResponseError(said)) is passes


async def test_a_server_that_hangs_is_given_up_in_time_and_found_again(
    server: EmbeddedServer,
    open_group: OpenGroup,
    recording_log: RecordingLog,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Stopped, not dead: the connection stays open and says nothing."""
    monkeypatch.setattr(group_commit, "REPLY_TIMEOUT_S", 0.2)
    async with open_group(server.url) as commits:
        await submit_write(commits, "first")
        assert server.pid is not None
        os.kill(server.pid, signal.SIGSTOP)
        try:
            patient = submit_write(commits, "patient")
            with pytest.raises(RedisUnavailable, match="TimeoutError"):
                await submit_write(commits, "impatient", patience_s=1.0)
        finally:
            os.kill(server.pid, signal.SIGCONT)
        assert await patient == b"patient"
        assert recording_log.events[-1] == "redis_reconnected"


async def test_closing_leaves_no_caller_waiting(tmp_path: Path, open_group: OpenGroup) -> None:
    """Without a server, those who would wait for ever are let go, early and late ones."""
    async with open_group(f"unix://{tmp_path}/nobody.sock") as commits:
        early = submit_write(commits, "early", patience_s=float("inf"))
        with pytest.raises(RedisUnavailable):
            await submit_write(commits, "impatient", patience_s=0.1)
        late = submit_write(commits, "late", patience_s=float("inf"))
        with pytest.raises(RedisUnavailable):
            await submit_write(commits, "impatient", patience_s=0.6)
    assert early.cancelled()
    assert late.cancelled()
