"""How do many small acts become one round trip? They wait while the one before is on its way.

Group commit: whatever is asked for while a round trip is under way forms the next one, so a
loaded process pays for a round trip (and its fsync) once per group and an idle one never waits.
Scripts are idempotent under their own token; after a cut connection the group is sent again.
"""

import asyncio
import math
from collections.abc import Callable, Sequence
from typing import Protocol

from redis.asyncio import Redis
from redis.asyncio.connection import AbstractConnection
from redis.exceptions import NoScriptError, RedisError, ResponseError

from service.store import Refused, Unavailable
from service.store.connect import (
    AWAY,
    REPLY_TIMEOUT_S,
    describe_trouble,
    is_bad_password,
    is_not_now,
)
from service.store.durability import Barrier, Durability
from service.store.exchange import exchange, pack
from service.store.opening import close_connection, open_connection
from service.store.patience import Patience
from service.store.script import Script

Argument = str | bytes | int | float
Reply = object
NoteTrip = Callable[[int, float], None]

_GROUP_SIZE = 256
_REPEAT_S = (0.02, 0.05, 0.1, 0.2, 0.5)


class _Call:
    """One act that waits for its reply. Packed at once: what cannot be packed hurts no other."""

    __slots__ = ("command", "durable", "reply", "script")

    def __init__(
        self, script: Script, keys: Sequence[str], args: Sequence[Argument], *, durable: bool
    ) -> None:
        self.command = pack(("EVALSHA", script.sha, len(keys), *keys, *args))
        self.script = script
        self.durable = durable
        self.reply: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()


class Log(Protocol):
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
        log: Log,
        note_trip: NoteTrip | None = None,
    ) -> None:
        self._client = client
        self._durability = durability
        self._clock = clock
        self._log = log
        self._note_trip = note_trip
        self._waiting: list[_Call] = []
        self._sending: list[_Call] = []
        self._connection: AbstractConnection | None = None
        self._barrier: Barrier | None = None
        self._sender: asyncio.Task[None] | None = None
        self._patience = Patience[Reply](self._lose_patience)
        self._warned: set[str] = set()
        self._failures = 0
        self._lost_at = 0.0
        self._trouble = "no answer in time"

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
        if patience_s < math.inf:
            self._patience.watch(call.reply, for_s=patience_s)
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
        try:
            while self._waiting:
                self._sending = self._waiting[:_GROUP_SIZE]
                self._waiting = self._waiting[_GROUP_SIZE:]
                await self._send_until_answered()
        finally:
            left, self._sending, self._waiting = [*self._sending, *self._waiting], [], []
            self._sender = None
            for call in left:
                call.reply.cancel()

    async def _send_until_answered(self) -> None:
        """See the group through. One caller's patience must not cut the exchange of the others."""
        while self._refill():
            try:
                async with asyncio.timeout(REPLY_TIMEOUT_S):
                    self._sending = await self._exchange(self._sending)
            except (*AWAY, RedisError, Refused, Unavailable) as error:
                await self._note_failure(error)
                await asyncio.sleep(_REPEAT_S[min(self._failures, len(_REPEAT_S)) - 1])

    def _refill(self) -> bool:
        """Leave out who gave up; take in, after a failure, who came meanwhile."""
        if self._failures:
            self._sending, self._waiting = [*self._sending, *self._waiting], []
        self._sending = [call for call in self._sending if not call.reply.done()]
        return bool(self._sending)

    async def _exchange(self, group: list[_Call]) -> list[_Call]:
        """Send a group, read its replies; give the calls that have to be sent again."""
        connection = await self._connected()
        barrier = self._barrier if any(call.durable for call in group) else None
        packed = [call.command for call in group]
        if barrier is not None:
            packed += [pack(each) for each in barrier.commands]
        since = self._clock()
        replies = await exchange(connection, packed)
        if self._note_trip is not None:
            self._note_trip(len(group), self._clock() - since)
        replies, kept = replies[: len(group)], replies[len(group) :]
        if barrier is not None and not barrier.is_met_by(kept):
            raise Unavailable("the server did not confirm in time that the writes are kept")
        if self._failures:
            self._failures, self._trouble = 0, "no answer in time"
            self._log.info("redis_reached", away_s=round(self._clock() - self._lost_at, 3))
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
            opened = await open_connection(self._client, self._durability)
            self._connection, self._barrier, warnings = opened
            for warning in sorted({*warnings} - self._warned):
                self._log.warning("redis_unfit", reason=warning)
            self._warned.update(warnings)
        return self._connection

    async def _note_failure(self, error: Exception) -> None:
        self._failures += 1
        self._trouble = describe_trouble(error)
        if self._failures == 1:
            self._lost_at = self._clock()
            self._log.warning("redis_lost", reason=self._trouble)
        await self._hang_up()

    def _lose_patience(self, reply: asyncio.Future[Reply]) -> None:
        reply.set_exception(Unavailable(self._trouble))

    async def _hang_up(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            await close_connection(self._client, connection)
