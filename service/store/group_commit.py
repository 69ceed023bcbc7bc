"""How do many small acts become one round trip? They wait while the one before is on its way.

Group commit: whatever is asked for while a round trip is under way forms the next one, so a
loaded process pays for a round trip (and its fsync) once per group and an idle one never waits.
Scripts are idempotent under their own token; after a cut connection the group is sent again.
"""

import asyncio
import math
from collections.abc import Callable, Sequence
from typing import Generic, Protocol, TypeVar

from hiredis import pack_command
from redis.asyncio import Redis
from redis.asyncio.connection import AbstractConnection
from redis.exceptions import NoScriptError, RedisError, ResponseError

from service.store import RedisMisconfigured, RedisUnavailable
from service.store.connect import (
    REPLY_TIMEOUT_S,
    UNAVAILABLE_ERRORS,
    close_connection,
    describe_error,
    is_bad_password,
    is_retryable,
    open_connection,
)
from service.store.exchange import Command, exchange
from service.store.script import Script
from service.store.server_checks import Barrier, Durability


def encode_command(command: Command) -> bytes:
    """Give the bytes of a command; raises TypeError for what cannot be one."""
    encoded: bytes = pack_command(tuple(command))  # type: ignore[arg-type] # its stub knows too few
    return encoded


T = TypeVar("T")

_DEADLINE_CHECK_INTERVAL_S = 0.25


class Deadlines(Generic[T]):
    """Futures with a deadline; ``lose`` is called with each whose deadline passes unanswered.

    A timer for each would cost a busy receiver more than what it waits for.
    """

    def __init__(self, on_expired: Callable[[asyncio.Future[T]], None]) -> None:
        self._on_expired = on_expired
        self._pending: list[tuple[float, asyncio.Future[T]]] = []
        self._timer: asyncio.TimerHandle | None = None

    def add(self, reply: asyncio.Future[T], *, timeout_s: float) -> None:
        """Wait for a reply so long, and not longer."""
        loop = reply.get_loop()
        self._pending.append((loop.time() + timeout_s, reply))
        if self._timer is None:
            self._timer = loop.call_later(
                min(timeout_s, _DEADLINE_CHECK_INTERVAL_S), self._check, loop
            )

    def _check(self, loop: asyncio.AbstractEventLoop) -> None:
        now = loop.time()
        unanswered = [pair for pair in self._pending if not pair[1].done()]
        self._pending = [pair for pair in unanswered if pair[0] > now]
        for deadline, reply in unanswered:
            if deadline <= now:
                self._on_expired(reply)
        self._timer = None
        if self._pending:
            next_deadline = min(deadline for deadline, _ in self._pending)
            self._timer = loop.call_later(
                min(max(next_deadline - now, 0.0), _DEADLINE_CHECK_INTERVAL_S), self._check, loop
            )


ScriptArgument = str | bytes | int | float
ScriptReply = object
RecordRoundTrip = Callable[[int, float], None]

_MAX_BATCH_SIZE = 256
_RETRY_DELAYS_S = (0.02, 0.05, 0.1, 0.2, 0.5)


class _ScriptCall:
    """One act that waits for its reply. Packed at once: what cannot be packed hurts no other."""

    __slots__ = ("command", "durable", "reply", "script")

    def __init__(
        self, script: Script, keys: Sequence[str], args: Sequence[ScriptArgument], *, durable: bool
    ) -> None:
        self.command = encode_command(("EVALSHA", script.sha, len(keys), *keys, *args))
        self.script = script
        self.durable = durable
        self.reply: asyncio.Future[ScriptReply] = asyncio.get_running_loop().create_future()


class ConnectionLog(Protocol):
    """What is said when the connection is lost or found again."""

    def info(self, event: str, **facts: object) -> object:
        """Write a fact."""

    def warning(self, event: str, **facts: object) -> object:
        """Write a fact that somebody should know of."""


class GroupCommit:
    """One connection on which concurrent script calls share pipelined round trips.

    ``clock`` gives monotonic seconds. ``durability`` says what a *durable* call waits for,
    ``note_trip`` hears how many acts shared a round trip and how long it took (s).
    """

    def __init__(
        self,
        client: Redis,
        *,
        durability: Durability,
        clock: Callable[[], float],
        log: ConnectionLog,
        record_round_trip: RecordRoundTrip | None = None,
    ) -> None:
        self._client = client
        self._durability = durability
        self._clock = clock
        self._log = log
        self._record_round_trip = record_round_trip
        self._queued: list[_ScriptCall] = []
        self._in_flight: list[_ScriptCall] = []
        self._connection: AbstractConnection | None = None
        self._barrier: Barrier | None = None
        self._sender_task: asyncio.Task[None] | None = None
        self._deadlines = Deadlines[ScriptReply](self._expire)
        self._logged_warnings: set[str] = set()
        self._failures = 0
        self._disconnected_at = 0.0
        self._last_error = "no answer in time"

    async def connect(self) -> None:
        """Open the connection now; raises Unavailable or Refused with the reason."""
        try:
            await self._get_connection()
        except RedisMisconfigured:
            raise
        except (*UNAVAILABLE_ERRORS, RedisError) as error:
            if is_bad_password(error):
                raise RedisMisconfigured(f"Redis does not let us in: {error}") from None
            raise RedisUnavailable(str(error)) from None

    def submit(
        self,
        script: Script,
        *,
        keys: Sequence[str],
        args: Sequence[ScriptArgument],
        durable: bool = False,
        timeout_s: float = math.inf,
    ) -> asyncio.Future[ScriptReply]:
        """Queue one act for the next round trip; its future gives the script's reply.

        The future fails with :class:`Unavailable` when ``patience_s`` passed without an answer.
        """
        call = _ScriptCall(script, keys, args, durable=durable)
        if timeout_s < math.inf:
            self._deadlines.add(call.reply, timeout_s=timeout_s)
        self._queued.append(call)
        if self._sender_task is None:
            self._sender_task = asyncio.create_task(self._send_batches(), name="group-commit")
        return call.reply

    async def aclose(self) -> None:
        """Send what waits, then let the connection go."""
        if self._sender_task is not None:
            await asyncio.wait([self._sender_task], timeout=1.0)
        if self._sender_task is not None:
            self._sender_task.cancel()
            await asyncio.gather(self._sender_task, return_exceptions=True)
        await self._disconnect()

    async def _send_batches(self) -> None:
        try:
            while self._queued:
                self._in_flight = self._queued[:_MAX_BATCH_SIZE]
                self._queued = self._queued[_MAX_BATCH_SIZE:]
                await self._send_with_retry()
        finally:
            unanswered, self._in_flight, self._queued = [*self._in_flight, *self._queued], [], []
            self._sender_task = None
            for call in unanswered:
                call.reply.cancel()

    async def _send_with_retry(self) -> None:
        """See the group through. One caller's patience must not cut the exchange of the others."""
        while self._select_batch():
            try:
                async with asyncio.timeout(REPLY_TIMEOUT_S):
                    self._in_flight = await self._send_batch(self._in_flight)
            except (*UNAVAILABLE_ERRORS, RedisError, RedisMisconfigured, RedisUnavailable) as error:
                await self._record_failure(error)
                await asyncio.sleep(_RETRY_DELAYS_S[min(self._failures, len(_RETRY_DELAYS_S)) - 1])

    def _select_batch(self) -> bool:
        """Leave out who gave up; take in, after a failure, who came meanwhile."""
        if self._failures:
            self._in_flight, self._queued = [*self._in_flight, *self._queued], []
        self._in_flight = [call for call in self._in_flight if not call.reply.done()]
        return bool(self._in_flight)

    async def _send_batch(self, batch: list[_ScriptCall]) -> list[_ScriptCall]:
        """Send a group, read its replies; give the calls that have to be sent again."""
        connection = await self._get_connection()
        barrier = self._barrier if any(call.durable for call in batch) else None
        commands = [call.command for call in batch]
        if barrier is not None:
            commands += [encode_command(command) for command in barrier.commands]
        sent_at = self._clock()
        replies = await exchange(connection, commands, replies=len(commands))
        if self._record_round_trip is not None:
            self._record_round_trip(len(batch), self._clock() - sent_at)
        replies, barrier_replies = replies[: len(batch)], replies[len(batch) :]
        if barrier is not None and not barrier.is_met_by(barrier_replies):
            raise RedisUnavailable("the server did not confirm in time that the writes are kept")
        if self._failures:
            self._failures, self._last_error = 0, "no answer in time"
            self._log.info(
                "redis_reconnected", outage_s=round(self._clock() - self._disconnected_at, 3)
            )
        return await self._deliver_replies(connection, batch, replies)

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
                case ResponseError() if is_retryable(reply):
                    retryable_error = reply
                    retries.append(call)
                case _ if call.reply.done():
                    pass
                case Exception():
                    call.reply.set_exception(reply)
                case _:
                    call.reply.set_result(reply)
        if retryable_error is not None:
            raise retryable_error
        for script in missing_scripts.values():
            await connection.send_command("SCRIPT", "LOAD", script.text)
            await connection.read_response()
        return retries

    async def _get_connection(self) -> AbstractConnection:
        if self._connection is None:
            opened = await open_connection(self._client, self._durability)
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

    def _expire(self, reply: asyncio.Future[ScriptReply]) -> None:
        reply.set_exception(RedisUnavailable(self._last_error))

    async def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            await close_connection(self._client, connection)
