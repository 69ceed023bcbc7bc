"""Group commit: concurrent script calls that share one round trip and one fsync.

The calls that arrive during a round trip form the next batch. So a loaded process pays for a round
trip (and its fsync) once per batch, and an idle process never waits. Scripts are idempotent under
their own token: after a lost connection the whole batch is sent again. A call that Redis refuses
for now (its memory is full) is sent again alone, while the other calls go on.
"""

import asyncio
import math
from collections.abc import Callable, Sequence
from contextlib import suppress

from redis.asyncio import Redis
from redis.asyncio.connection import AbstractConnection
from redis.exceptions import NoScriptError, RedisError, ResponseError

from service.log import EventLogger
from service.store import RedisMisconfigured, RedisRefused, RedisUnavailable
from service.store.connect import (
    REPLY_TIMEOUT_S,
    UNAVAILABLE_ERRORS,
    close_connection,
    command_sender,
    describe_error,
    drop_idle_connections,
    is_bad_password,
    is_refusal,
    is_retryable,
)
from service.store.durability import Barrier
from service.store.encoded_command import Argument, command_size, encode_command, replace_in_head
from service.store.exchange import exchange
from service.store.keys import clock_key
from service.store.refused_calls import RefusedCalls
from service.store.script import Script
from service.store.script_check import load_on_server, open_script_connection
from service.store.services import Durability
from service.store.tcp_connection import is_alive

ScriptArgument = Argument
ScriptReply = object
RecordRoundTrip = Callable[[int, float], None]

_MAX_BATCH_SIZE = 256
_MAX_BATCH_BYTES = 1 << 20
_MAX_CONSIDERED = 4 * _MAX_BATCH_SIZE
_MIN_BYTES_PER_S = 1e6
"""The slowest that a connection may be: a large batch gets that much longer to be answered."""
_TIMEOUT_CHECK_INTERVAL_S = 0.25
_RETRY_DELAYS_S = (0.02, 0.05, 0.1, 0.2, 0.5)
_NO_ANSWER = "no answer in time"


class _ScriptCall:
    """One script call that waits for its reply.

    The command is encoded at once, so that a wrong argument fails this call and no other.
    ``deadline`` is a time of the event loop. A call that is not ``patient`` fails when it is
    refused, and is not sent again.
    """

    __slots__ = ("command", "deadline", "durable", "patient", "reply", "script", "size")

    def __init__(
        self,
        script: Script,
        keys: Sequence[str],
        args: Sequence[ScriptArgument],
        *,
        durable: bool,
        patient: bool,
        timeout_s: float,
    ) -> None:
        loop = asyncio.get_running_loop()
        if script.has_clock:
            keys = (*keys, clock_key(keys[0]))
        self.command = encode_command(("EVALSHA", script.sha, len(keys), *keys, *args))
        self.size = command_size(self.command)
        self.script = script
        self.durable = durable
        self.patient = patient
        self.reply: asyncio.Future[ScriptReply] = loop.create_future()
        self.deadline = loop.time() + timeout_s


class GroupCommit:
    """One connection on which concurrent script calls share pipelined round trips.

    ``clock`` returns monotonic seconds. ``durability`` says what a *durable* call waits for.
    ``record_round_trip`` receives the number of calls in a round trip and its duration (s).
    With ``probe_key``, a key of the namespace, each new connection is tried with a small script.
    """

    def __init__(
        self,
        client: Redis,
        *,
        durability: Durability,
        clock: Callable[[], float],
        log: EventLogger,
        record_round_trip: RecordRoundTrip | None = None,
        probe_key: str = "",
    ) -> None:
        self._client = client
        self._durability = durability
        self._clock = clock
        self._log = log
        self._record_round_trip = record_round_trip
        self._probe_key = probe_key
        self._queued: list[_ScriptCall] = []
        self._in_flight: list[_ScriptCall] = []
        self._refused = RefusedCalls[_ScriptCall](clock=clock, log=log)
        self._call_submitted = asyncio.Event()
        self._wants_plain_scripts = False
        self._connection: AbstractConnection | None = None
        self._barrier: Barrier | None = None
        self._sender_task: asyncio.Task[None] | None = None
        self._timeout_timer: asyncio.TimerHandle | None = None
        self._logged_warnings: set[str] = set()
        self._failures = 0
        self._disconnected_at = 0.0
        self._last_error = _NO_ANSWER

    async def connect(self) -> None:
        """Open the connection now. Raises RedisUnavailable or RedisMisconfigured."""
        try:
            await self._get_connection()
        except RedisMisconfigured:
            raise
        except (*UNAVAILABLE_ERRORS, RedisError) as error:
            if is_bad_password(error):
                raise RedisMisconfigured(f"Redis rejected the login: {error}") from None
            raise RedisUnavailable(str(error)) from None

    def submit(
        self,
        script: Script,
        *,
        keys: Sequence[str],
        args: Sequence[ScriptArgument],
        durable: bool = False,
        patient: bool = True,
        timeout_s: float = math.inf,
    ) -> asyncio.Future[ScriptReply]:
        """Queue one script call for the next round trip, and return the future of its reply.

        The future fails with :class:`RedisUnavailable` after ``timeout_s`` without a reply, up to
        0.25 s later. The timeout ends the wait, not the call: its effect may still happen.

        A call that Redis refuses for now is sent again until it is accepted. If it is not
        ``patient``, its future fails with :class:`RedisRefused` instead.
        """
        call = _ScriptCall(
            script, keys, args, durable=durable, patient=patient, timeout_s=timeout_s
        )
        self._choose_text(call)
        self._queued.append(call)
        self._call_submitted.set()
        if self._timeout_timer is None and timeout_s < math.inf:
            self._schedule_timeout_check(timeout_s)
        if self._sender_task is None:
            self._sender_task = asyncio.create_task(self._send_batches(), name="group-commit")
        return call.reply

    async def aclose(self) -> None:
        """Send the queued calls for up to a second, cancel the rest, and close the connection."""
        if self._sender_task is not None:
            await asyncio.wait([self._sender_task], timeout=1.0)
        if self._sender_task is not None:
            self._sender_task.cancel()
            await asyncio.gather(self._sender_task, return_exceptions=True)
        if self._timeout_timer is not None:
            self._timeout_timer.cancel()
            self._timeout_timer = None
        await self._disconnect()

    async def _send_batches(self) -> None:
        try:
            while self._queued or self._refused.calls:
                await self._take_batch()
                await self._send_with_retry()
        finally:
            unanswered = [*self._in_flight, *self._queued, *self._refused.calls]
            self._in_flight, self._queued, self._refused.calls = [], [], []
            self._sender_task = None
            for call in unanswered:
                call.reply.cancel()

    async def _take_batch(self) -> None:
        """Make the next batch, with the refused calls that are due; wait while there is no call."""
        if not self._queued:
            self._call_submitted.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(self._refused.wait_s()):
                    await self._call_submitted.wait()
        self._queued = [*self._refused.take_due(_MAX_BATCH_SIZE), *self._queued]
        self._in_flight, self._queued = _split_batch(self._queued)

    async def _send_with_retry(self) -> None:
        """Send a batch until every call has its reply; no caller's timeout cuts the exchange."""
        while self._select_batch():
            try:
                batch_bytes = sum([call.size for call in self._in_flight])
                async with asyncio.timeout(REPLY_TIMEOUT_S + batch_bytes / _MIN_BYTES_PER_S):
                    self._in_flight = await self._send_batch(self._in_flight)
            except (*UNAVAILABLE_ERRORS, RedisError, RedisMisconfigured, RedisUnavailable) as error:
                await self._record_failure(error)
                await asyncio.sleep(_RETRY_DELAYS_S[min(self._failures, len(_RETRY_DELAYS_S)) - 1])

    def _select_batch(self) -> bool:
        """Drop the calls that timed out; after a failure, add the calls that arrived meanwhile."""
        if self._failures:
            self._in_flight, self._queued = _split_batch([*self._in_flight, *self._queued])
        self._in_flight = [call for call in self._in_flight if not call.reply.done()]
        return bool(self._in_flight)

    async def _send_batch(self, batch: list[_ScriptCall]) -> list[_ScriptCall]:
        """Send a batch and deliver its replies; return the calls that have to be sent again."""
        connection = await self._get_connection()
        barrier = self._barrier if any(call.durable for call in batch) else None
        commands = [call.command for call in batch]
        if barrier is not None:
            commands += [encode_command(command) for command in barrier.commands]
        buffers = [buffer for command in commands for buffer in command]
        sent_at = self._clock()
        replies = await exchange(connection, buffers, replies=len(commands))
        if self._record_round_trip is not None:
            self._record_round_trip(len(batch), self._clock() - sent_at)
        replies, barrier_replies = replies[: len(batch)], replies[len(batch) :]
        if barrier is not None and not barrier.is_met_by(barrier_replies):
            raise RedisUnavailable("the server did not confirm in time that the writes are durable")
        retries = await self._deliver_replies(connection, batch, replies)
        if self._failures:
            self._failures = 0
            self._log.info(
                "redis_reconnected", outage_s=round(self._clock() - self._disconnected_at, 3)
            )
        return retries

    async def _deliver_replies(
        self, connection: AbstractConnection, batch: list[_ScriptCall], replies: list[ScriptReply]
    ) -> list[_ScriptCall]:
        missing_scripts: dict[bytes, Script] = {}
        retries: list[_ScriptCall] = []
        retryable_error: ResponseError | None = None
        for call, reply in zip(batch, replies, strict=True):
            match reply:
                case NoScriptError():
                    missing_scripts[call.script.sha] = call.script
                    retries.append(call)
                case ResponseError() if is_refusal(reply):
                    self._keep_refused(call, reply)
                case ResponseError() if is_retryable(reply):
                    retryable_error = reply
                    retries.append(call)
                case _:
                    self._deliver(call, reply)
        self._in_flight = retries
        if retryable_error is not None:
            raise retryable_error
        for script in missing_scripts.values():
            loaded = await load_on_server(command_sender(connection), script)
            self._wants_plain_scripts |= loaded is not script
        for call in retries:
            self._choose_text(call)
        return retries

    def _deliver(self, call: _ScriptCall, reply: ScriptReply) -> None:
        if isinstance(reply, Exception):
            if not call.reply.done():
                call.reply.set_exception(reply)
            return
        if not call.script.runs_when_full:
            self._last_error = _NO_ANSWER
            self._refused.record_acceptance()
        if not call.reply.done():
            call.reply.set_result(reply)

    def _keep_refused(self, call: _ScriptCall, error: ResponseError) -> None:
        """Keep a refused call until it is sent again; fail it if it is not patient."""
        self._last_error = describe_error(error)
        self._refused.record_refusal(self._last_error)
        if call.reply.done():
            return
        if call.patient:
            self._refused.calls.append(call)
        else:
            call.reply.set_exception(RedisRefused(self._last_error))

    def _choose_text(self, call: _ScriptCall) -> None:
        """Name the SHA-1 of the text that this server takes; both SHA-1 have the same length."""
        if self._wants_plain_scripts and call.script.plain is not None:
            call.command = replace_in_head(call.command, call.script.sha, by=call.script.plain.sha)
            call.script = call.script.plain

    async def _get_connection(self) -> AbstractConnection:
        if self._connection is not None and not await is_alive(self._connection):
            self._log.info("redis_connection_replaced", reason="no answer after an idle time")
            await self._disconnect()
            await drop_idle_connections(self._client)
        if self._connection is None:
            opened = await open_script_connection(
                self._client, self._durability, probe_key=self._probe_key
            )
            self._connection, self._barrier, warnings = opened
            for warning in sorted({*warnings} - self._logged_warnings):
                self._log.warning("redis_misconfigured", reason=warning)
            self._logged_warnings.update(warnings)
        return self._connection

    async def _record_failure(self, error: Exception) -> None:
        self._failures += 1
        self._last_error = describe_error(error)
        if self._failures == 1:
            self._disconnected_at = self._clock()
            self._log.warning("redis_disconnected", reason=self._last_error)
        await self._disconnect()

    def _schedule_timeout_check(self, wait_s: float) -> None:
        self._timeout_timer = asyncio.get_running_loop().call_later(
            min(wait_s, _TIMEOUT_CHECK_INTERVAL_S), self._fail_timed_out_calls
        )

    def _fail_timed_out_calls(self) -> None:
        """Fail the calls whose timeout has passed; check again while other calls have one.

        One timer serves all calls: a timer for each costs 40 % more CPU per call (5 µs).
        """
        self._timeout_timer = None
        now = asyncio.get_running_loop().time()
        next_deadline = math.inf
        for call in (*self._in_flight, *self._queued, *self._refused.calls):
            if call.reply.done():
                continue
            if call.deadline <= now:
                call.reply.set_exception(RedisUnavailable(self._last_error))
            else:
                next_deadline = min(next_deadline, call.deadline)
        if next_deadline < math.inf:
            self._schedule_timeout_check(next_deadline - now)

    async def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            await close_connection(self._client, connection)


def _split_batch(calls: Sequence[_ScriptCall]) -> tuple[list[_ScriptCall], list[_ScriptCall]]:
    """Return the calls of the next batch, and those that wait for a later one.

    A batch is limited in calls. It holds the first call, and of the others those that fit into the
    limit in bytes: so small calls, which renew leases, wait for one large record only.
    """
    batch = [*calls[:1]]
    later: list[_ScriptCall] = []
    room = _MAX_BATCH_BYTES
    for position, call in enumerate(calls[1:_MAX_CONSIDERED], 1):
        if len(batch) == _MAX_BATCH_SIZE:
            return batch, [*later, *calls[position:]]
        if call.size <= room:
            batch.append(call)
            room -= call.size
        else:
            later.append(call)
    return batch, [*later, *calls[_MAX_CONSIDERED:]]
