"""Tests of GroupCommit: each script takes effect once, whatever happens to the connection."""

import asyncio
import os
import signal
from collections.abc import Callable, Coroutine
from hashlib import sha1
from pathlib import Path
from typing import Any, cast

import pytest
from hiredis import pack_command
from redis.asyncio import Redis
from redis.exceptions import ResponseError

from service.accept.mapping import Queued
from service.backlog.backlog import Backlog, BacklogConfig
from service.backlog.ticket import Lease
from service.enrich.budget import load_budget_prelude
from service.store import RedisUnavailable
from service.store import group_commit as group_commit_module
from service.store.connect import is_retryable, open_client
from service.store.embedded import EmbeddedServer
from service.store.exchange import exchange
from service.store.group_commit import GroupCommit
from service.store.keys import Keys
from service.store.script import Script
from tests.factories import make_event
from tests.store.conftest import OpenGroup, RecordingLog, execute
from tests.store.single_fault_proxy import SingleFaultProxy

NewToken = Callable[[], str]

KEYS = Keys("store")


def build_script(text: str) -> Script:
    """Return a script of one line of Lua."""
    body = text.encode()
    return Script(
        name="test", text=body, sha=sha1(body, usedforsecurity=False).hexdigest().encode()
    )


REMEMBER = build_script("redis.call('SADD', KEYS[1], ARGV[1]) return ARGV[1]")
REFUSE = build_script("return redis.error_reply('ERR never ' .. KEYS[1])")


def open_backlog(group_commit: GroupCommit, new_token: NewToken) -> Backlog:
    """Return a backlog whose leases outlive a test."""
    config = BacklogConfig(
        lease_ms=60_000,
        delivery_ttl_ms=60_000,
        failed_ttl_ms=60_000,
        call_ttl_ms=60_000,
        max_tickets=1000,
        rate_limit_share=1.0,
        enqueue_timeout_s=20.0,
    )
    return Backlog(
        group_commit,
        keys=KEYS,
        config=config,
        budget_lua=load_budget_prelude(),
        new_token=new_token,
    )


def submit_write(
    group_commit: GroupCommit, member: str, *, timeout_s: float = 20.0
) -> asyncio.Future[object]:
    """Submit one small durable script."""
    return group_commit.submit(
        REMEMBER, keys=("set",), args=(member,), durable=True, timeout_s=timeout_s
    )


async def test_add_when_its_reply_is_lost_queues_the_event_once(
    fault_proxy: SingleFaultProxy,
    direct_client: Redis,
    open_group: OpenGroup,
    new_token: NewToken,
    recording_log: RecordingLog,
) -> None:
    """The repeated call returns Queued, not Duplicate, and the ticket has generation 1."""
    async with open_group(fault_proxy.url) as group_commit:
        backlog = open_backlog(group_commit, new_token)
        await backlog.add(make_event(0))
        fault_proxy.lose_reply(b"delivery-1")
        assert isinstance(await backlog.add(make_event(1)), Queued)
        assert fault_proxy.connection_count == 2
        assert recording_log.events == ["redis_disconnected", "redis_reconnected"]
        assert await direct_client.zcard(KEYS.backlog) == 2
        leases = (await backlog.claim(2)).leases
        assert [lease.generation for lease in leases] == [1, 1]


async def test_claim_when_its_reply_is_lost_returns_the_same_leases(
    fault_proxy: SingleFaultProxy, direct_client: Redis, open_group: OpenGroup, new_token: NewToken
) -> None:
    """No ticket and no call of the budget is leased without a holder."""
    async with open_group(fault_proxy.url) as group_commit:
        backlog = open_backlog(group_commit, new_token)
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
async def test_batch_when_the_connection_is_cut_queues_each_event_once(
    fault_proxy: SingleFaultProxy,
    direct_client: Redis,
    open_group: OpenGroup,
    new_token: NewToken,
    count: int,
) -> None:
    """Any part of the batch may have arrived before the cut."""
    async with open_group(fault_proxy.url) as group_commit:
        backlog = open_backlog(group_commit, new_token)
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


async def test_submit_while_the_server_restarts_succeeds_afterwards(
    tmp_path: Path, open_group: OpenGroup
) -> None:
    """The restarted server has every confirmed write, and the waiting calls succeed."""
    first = EmbeddedServer(tmp_path / "data")
    first.start()
    async with open_group(first.url) as group_commit:
        await asyncio.gather(
            *(submit_write(group_commit, f"before {number}") for number in range(50))
        )
        assert first.pid is not None
        os.kill(first.pid, signal.SIGKILL)
        waiting_calls = [submit_write(group_commit, f"meanwhile {number}") for number in range(50)]
        with pytest.raises(RedisUnavailable):
            await submit_write(group_commit, "impatient", timeout_s=0.1)
        assert not any(call.done() for call in waiting_calls)
        first.stop()
        async with EmbeddedServer(tmp_path / "data"):
            await asyncio.gather(*waiting_calls)
            async with open_group(first.url) as other:
                card = build_script("return redis.call('SCARD', KEYS[1])")
                assert await other.submit(card, keys=("set",), args=()) in {100, 101}


async def test_submit_without_a_server_fails_in_time_with_the_reason(
    tmp_path: Path, open_group: OpenGroup
) -> None:
    """A receiver without Redis can answer 503 in time."""
    async with open_group(f"unix://{tmp_path}/nobody.sock") as group_commit:
        with pytest.raises(RedisUnavailable, match="ConnectionError"):
            await submit_write(group_commit, "x", timeout_s=0.1)
        with pytest.raises(RedisUnavailable):
            await group_commit.connect()


async def test_submit_when_another_call_times_out_keeps_the_connection(
    fault_proxy: SingleFaultProxy, open_group: OpenGroup
) -> None:
    """Calls with short timeouts do not interrupt the exchange of the others."""
    async with open_group(fault_proxy.url) as group_commit:
        await submit_write(group_commit, "first")
        fault_proxy.replies_allowed.clear()
        patient = submit_write(group_commit, "patient")
        for _ in range(5):
            with pytest.raises(RedisUnavailable):
                await submit_write(group_commit, "impatient", timeout_s=0.02)
        fault_proxy.replies_allowed.set()
        assert await patient == b"patient"
        assert fault_proxy.connection_count == 1


async def test_submit_when_cancelled_leaves_the_other_replies_intact(
    fault_proxy: SingleFaultProxy, open_group: OpenGroup
) -> None:
    """The reply of the cancelled call is read and dropped."""
    async with open_group(fault_proxy.url) as group_commit:
        await submit_write(group_commit, "first")
        fault_proxy.replies_allowed.clear()
        callers = [submit_write(group_commit, str(number)) for number in range(20)]
        await asyncio.sleep(0)
        for number in (0, 7, 19):
            callers[number].cancel()
        fault_proxy.replies_allowed.set()
        replies = await asyncio.gather(*callers, return_exceptions=True)
        for number, reply in enumerate(replies):
            if number in {0, 7, 19}:
                assert isinstance(reply, asyncio.CancelledError)
            else:
                assert reply == str(number).encode()
        assert await submit_write(group_commit, "last") == b"last"
        assert fault_proxy.connection_count == 1


async def test_submit_when_one_script_fails_answers_the_others(
    fault_proxy: SingleFaultProxy, direct_client: Redis, open_group: OpenGroup
) -> None:
    """One batch holds a failing script, scripts the server has forgotten, and good ones."""
    async with open_group(fault_proxy.url) as group_commit:
        await submit_write(group_commit, "first")
        await direct_client.script_flush()
        good = [submit_write(group_commit, str(number)) for number in range(5)]
        bad = group_commit.submit(REFUSE, keys=("nothing",), args=())
        good += [submit_write(group_commit, str(number)) for number in range(5, 10)]
        assert await asyncio.gather(*good) == [str(number).encode() for number in range(10)]
        with pytest.raises(ResponseError, match="never nothing"):
            await bad
        assert fault_proxy.connection_count == 1


async def test_submit_with_an_invalid_argument_raises_for_its_caller_only(
    fault_proxy: SingleFaultProxy, open_group: OpenGroup
) -> None:
    """The other calls of the batch succeed."""
    async with open_group(fault_proxy.url) as group_commit:
        good = submit_write(group_commit, "good")
        with pytest.raises(TypeError):
            group_commit.submit(REMEMBER, keys=("set",), args=({},))  # type: ignore[arg-type] # on purpose
        assert await good == b"good"


@pytest.mark.parametrize(
    ("break_command", "repair_command"),
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
async def test_submit_while_the_server_rejects_writes_succeeds_afterwards(
    direct_client: Redis,
    server: EmbeddedServer,
    open_group: OpenGroup,
    break_command: tuple[str, ...],
    repair_command: tuple[str, ...],
) -> None:
    """During a failover or with full memory, a short timeout fails and a long one succeeds."""
    async with open_group(server.url) as group_commit:
        await submit_write(group_commit, "first")
        await execute(direct_client, *break_command)
        with pytest.raises(RedisUnavailable):
            await submit_write(group_commit, "impatient", timeout_s=0.1)
        patient = submit_write(group_commit, "patient")
        await execute(direct_client, *repair_command)
        assert await patient == b"patient"


@pytest.mark.parametrize(
    ("message", "is_temporary"),
    [
        ("MISCONF Errors writing to the AOF file: No space left on device", True),
        ("BUSY Redis is busy running a script", True),
        ("ERR wrong number of arguments", False),
        ("WRONGTYPE Operation against a key holding the wrong kind of value", False),
        ("NOPERM this user has no permissions", False),
    ],
)
def test_is_retryable_by_error_text_separates_temporary_errors(
    message: str, is_temporary: bool
) -> None:
    """A full disk or a busy server is temporary; a wrong command is not."""
    assert is_retryable(ResponseError(message)) is is_temporary


async def test_submit_while_the_server_hangs_times_out_and_reconnects(
    server: EmbeddedServer,
    open_group: OpenGroup,
    recording_log: RecordingLog,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The server process is stopped, so the connection stays open without replies."""
    monkeypatch.setattr(group_commit_module, "REPLY_TIMEOUT_S", 0.2)
    async with open_group(server.url) as group_commit:
        await submit_write(group_commit, "first")
        assert server.pid is not None
        os.kill(server.pid, signal.SIGSTOP)
        try:
            patient = submit_write(group_commit, "patient")
            with pytest.raises(RedisUnavailable, match="TimeoutError"):
                await submit_write(group_commit, "impatient", timeout_s=1.0)
        finally:
            os.kill(server.pid, signal.SIGCONT)
        assert await patient == b"patient"
        assert recording_log.events[-1] == "redis_reconnected"


async def test_aclose_without_a_server_cancels_every_call(
    tmp_path: Path, open_group: OpenGroup
) -> None:
    """Calls without a timeout are cancelled, whether they were sent or still queued."""
    async with open_group(f"unix://{tmp_path}/nobody.sock") as group_commit:
        early = submit_write(group_commit, "early", timeout_s=float("inf"))
        with pytest.raises(RedisUnavailable):
            await submit_write(group_commit, "impatient", timeout_s=0.1)
        late = submit_write(group_commit, "late", timeout_s=float("inf"))
        with pytest.raises(RedisUnavailable):
            await submit_write(group_commit, "impatient", timeout_s=0.6)
    assert early.cancelled()
    assert late.cancelled()


async def test_batches_start_no_task_but_that_of_the_sender(
    server: EmbeddedServer, open_group: OpenGroup
) -> None:
    """A task for each command that is sent costs more than the command."""
    loop = asyncio.get_running_loop()
    started: list[asyncio.Task[Any]] = []

    def record_task(
        loop: asyncio.AbstractEventLoop, coro: Coroutine[Any, Any, Any], **options: Any
    ) -> asyncio.Task[Any]:
        started.append(asyncio.Task(coro, loop=loop, **options))
        return started[-1]

    async with open_group(server.url) as group_commit:
        await submit_write(group_commit, "first")
        await asyncio.sleep(0)
        loop.set_task_factory(record_task)  # type: ignore[arg-type] # coroutines only
        try:
            for number in range(3):
                await asyncio.gather(
                    *(submit_write(group_commit, f"{number} {nth}") for nth in range(5))
                )
        finally:
            loop.set_task_factory(None)
    assert {task.get_name() for task in started} <= {"group-commit"}


async def test_exchange_when_cancelled_closes_the_connection(
    fault_proxy: SingleFaultProxy,
) -> None:
    """The next exchange cannot read the replies that this one left."""
    async with open_client(fault_proxy.url) as client:
        connection = await client.connection_pool.get_connection()  # type: ignore[no-untyped-call] # redis-py
        ping = [pack_command(("PING",))]
        assert await exchange(connection, ping * 2, replies=2) == [b"PONG", b"PONG"]
        fault_proxy.replies_allowed.clear()
        waiting = asyncio.create_task(exchange(connection, ping, replies=1))
        await asyncio.sleep(0.01)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert not connection.is_connected
        fault_proxy.replies_allowed.set()
        await client.connection_pool.release(connection)
