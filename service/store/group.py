"""How do many small acts become one round trip? They wait while the one before is on its way.

Group commit: whatever is asked for while a round trip is under way forms the next one, so a
loaded process pays for a round trip (and its fsync) once per group and an idle one never waits.
Scripts are idempotent under their own token; after a cut connection the group is sent again.
"""

import asyncio
import math
from collections.abc import Callable, Sequence
from typing import Protocol

from hiredis import pack_command
from redis.asyncio import Redis
from redis.asyncio.connection import AbstractConnection
from redis.exceptions import NoScriptError, RedisError, ResponseError

from service.store import Refused, Unavailable
from service.store.connect import AWAY, REPLY_TIMEOUT_S, is_bad_password, is_not_now
from service.store.durability import Barrier, Durability, choose_barrier
from service.store.script import Script

Argument = str | bytes | int | float
Reply = object

_GROUP_SIZE = 256
_REPEAT_S = (0.02, 0.05, 0.1, 0.2, 0.5)


class _Call:
    """One act that waits for its reply."""

    __slots__ = ("args", "deadline", "durable", "keys", "reply", "script")

    def __init__(
        self, script: Script, keys: Sequence[str], args: Sequence[Argument], *, durable: bool
    ) -> None:
        self.script = script
        self.keys = keys
        self.args = args
        self.durable = durable
        self.deadline = math.inf
        self.reply: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()

    def command(self) -> tuple[Argument, ...]:
        return ("EVALSHA", self.script.sha, len(self.keys), *self.keys, *self.args)


class Log(Protocol):
    """What is said when the connection is lost or found again."""

    def info(self, event: str, **facts: object) -> object:
        """Write a fact."""

    def warning(self, event: str, **facts: object) -> object:
        """Write a fact that somebody should know of."""


class GroupCommit:
    """One connection on which concurrent script calls share pipelined round trips.

    ``clock`` gives monotonic seconds. ``durability`` says what a *durable* call waits for.
    """

    def __init__(
        self, client: Redis, *, durability: Durability, clock: Callable[[], float], log: Log
    ) -> None:
        self._client = client
        self._durability = durability
        self._clock = clock
        self._log = log
        self._waiting: list[_Call] = []
        self._connection: AbstractConnection | None = None
        self._barrier: Barrier | None = None
        self._sender: asyncio.Task[None] | None = None
        self._failures = 0

    async def connect(self) -> None:
        """Open the connection now; raises Unavailable or Refused with the reason."""
        try:
            await self._connected()
        except Refused:
            raise
        except (*AWAY, RedisError) as error:
            if is_bad_password(error):
                raise Refused(f"Redis does not let us in: {error}") from None
            raise Unavailable(str(error)) from None

    def submit(
        self,
        script: Script,
        *,
        keys: Sequence[str],
        args: Sequence[Argument],
        durable: bool = False,
        patience_s: float = math.inf,
    ) -> asyncio.Future[Reply]:
        """Queue one act for the next round trip; its future gives the script's reply.

        The future fails with :class:`Unavailable` when ``patience_s`` passed without an answer.
        """
        call = _Call(script, keys, args, durable=durable)
        call.deadline = self._clock() + patience_s
        self._waiting.append(call)
        if self._sender is None:
            self._sender = asyncio.create_task(self._send_groups(), name="group-commit")
        return call.reply

    async def aclose(self) -> None:
        """Send what waits, then let the connection go."""
        if self._sender is not None:
            await asyncio.wait([self._sender], timeout=1.0)
        if self._sender is not None:
            self._sender.cancel()
            await asyncio.gather(self._sender, return_exceptions=True)
        await self._hang_up()

    async def _send_groups(self) -> None:
        group: list[_Call] = []
        try:
            while self._waiting:
                group, self._waiting = self._waiting[:_GROUP_SIZE], self._waiting[_GROUP_SIZE:]
                await self._send_until_answered(group)
        finally:
            self._sender = None
            for call in (*group, *self._waiting):
                call.reply.cancel()

    async def _send_until_answered(self, group: list[_Call]) -> None:
        while group := self._still_wanted(group):
            try:
                async with asyncio.timeout(self._time_left(group)):
                    group = await self._exchange(group)
            except (*AWAY, RedisError, Refused, Unavailable) as error:
                await self._note_failure(error)
                now = self._clock()
                self._fail([call for call in group if call.deadline <= now], error)
                await asyncio.sleep(_REPEAT_S[min(self._failures, len(_REPEAT_S)) - 1])

    def _still_wanted(self, group: list[_Call]) -> list[_Call]:
        """Leave out who gave up; take in, after a failure, who came meanwhile."""
        if self._failures:
            group = [*group, *self._waiting]
            self._waiting = []
        return [call for call in group if not call.reply.done()]

    def _time_left(self, group: list[_Call]) -> float:
        soonest = min(call.deadline for call in group) - self._clock()
        return min(max(soonest, 0.01), REPLY_TIMEOUT_S)

    async def _exchange(self, group: list[_Call]) -> list[_Call]:
        """Send a group, read its replies; give the calls that have to be sent again."""
        connection = await self._connected()
        barrier = self._barrier if any(call.durable for call in group) else None
        commands = [call.command() for call in group]
        if barrier is not None:
            commands.append(barrier.command)
        packed = [pack_command(command) for command in commands]  # type: ignore[arg-type] # stub
        await connection.send_packed_command(packed, check_health=False)
        replies = [await _read_reply(connection) for _ in commands]
        if barrier is not None and not barrier.is_met_by(replies.pop()):
            raise Unavailable("the server did not confirm in time that the writes are kept")
        if self._failures:
            self._failures = 0
            self._log.info("redis_reached")
        return await self._deliver(connection, group, replies)

    async def _deliver(
        self, connection: AbstractConnection, group: list[_Call], replies: list[Reply]
    ) -> list[_Call]:
        unknown: dict[bytes, Script] = {}
        again: list[_Call] = []
        refusal: ResponseError | None = None
        for call, reply in zip(group, replies, strict=True):
            match reply:
                case NoScriptError():
                    unknown[call.script.sha] = call.script
                    again.append(call)
                case ResponseError() if is_not_now(reply):
                    refusal = reply
                    again.append(call)
                case _ if call.reply.done():
                    pass
                case Exception():
                    call.reply.set_exception(reply)
                case _:
                    call.reply.set_result(reply)
        if refusal is not None:
            raise refusal
        for script in unknown.values():
            await connection.send_command("SCRIPT", "LOAD", script.text)
            await connection.read_response()
        return again

    async def _connected(self) -> AbstractConnection:
        if self._connection is None:
            connection = await self._client.connection_pool.get_connection()  # type: ignore[no-untyped-call] # redis-py
            self._connection = connection

            async def ask(*command: Argument) -> Reply:
                await connection.send_command(*command)
                return await connection.read_response()

            self._barrier = await choose_barrier(ask, self._durability)
        return self._connection

    async def _note_failure(self, error: Exception) -> None:
        self._failures += 1
        if self._failures == 1:
            self._log.warning("redis_lost", reason=f"{type(error).__name__}: {error}")
        await self._hang_up()

    def _fail(self, calls: list[_Call], error: Exception) -> None:
        for call in calls:
            if not call.reply.done():
                call.reply.set_exception(Unavailable(f"{type(error).__name__}: {error}"))

    async def _hang_up(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.disconnect(nowait=True)
            await self._client.connection_pool.release(connection)


async def _read_reply(connection: AbstractConnection) -> Reply:
    """Read one reply; a server's error for one call must not cost the others theirs."""
    try:
        return await connection.read_response(timeout=math.inf, disconnect_on_error=True)
    except ResponseError as error:
        return error
