"""Who lists a scope, and how far has that come? One process at a time; the checkpoint survives."""

import asyncio
import math
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Literal, cast

from msgspec import Struct

from service.reconcile.missed import Missed
from service.store import Unavailable
from service.store.group import Argument, GroupCommit
from service.store.keys import Keys
from service.store.script import load_script

_RENEWALS_PER_LEASE = 3
_LAST_WORD_S = 2.0

End = Literal["ended", "left", "goes on"]


class Lost(Exception):
    """The round is another's by now."""


class Round(Struct, frozen=True):
    """A round begun: its name, whose it is, Redis's time (ms), and where the last one ended."""

    name: str
    token: str
    now_ms: int
    checkpoint: int | None


class Rounds:
    """The rounds of one namespace. ``new_token`` names who holds one; all is kept ``life_ms``."""

    def __init__(
        self,
        group: GroupCommit,
        *,
        keys: Keys,
        new_token: Callable[[], str],
        life_ms: int,
        lease_ms: int = 30_000,
    ) -> None:
        self._group = group
        self._keys = keys
        self._new_token = new_token
        self._life_ms = life_ms
        self._lease_ms = lease_ms
        self._begin, self._keep, self._end = (
            load_script(__package__, name) for name in ("begin_round", "keep_missed", "end_round")
        )

    @asynccontextmanager
    async def hold(self, name: str, *, every_ms: int) -> AsyncIterator[Round | float]:
        """Hold a round while it goes on; or give the seconds after which to ask again."""
        token = self._new_token()
        reply = await self._group.submit(
            self._begin,
            keys=(self._keys.round(name),),
            args=(token, self._lease_ms, every_ms, self._life_ms),
        )
        told, number, *rest = cast("list[bytes | int]", reply)
        if told == b"wait":
            yield int(number) / 1000
            return
        checkpoint = int(rest[0]) if rest[0] else None
        held = Round(name, token, int(number), checkpoint)
        renewing = asyncio.create_task(self._keep_renewed(held), name="renew-round")
        try:
            yield held
        finally:
            renewing.cancel()
            await asyncio.gather(renewing, return_exceptions=True)
            with suppress(Unavailable):  # who stops does not wait for Redis: the lease runs out
                await self._tell_end(held, "", "left", patience_s=_LAST_WORD_S)

    async def keep(self, held: Round, missed: Sequence[Missed], *, dry: bool = False) -> int:
        """Plan what was missed, durably; gives how many were. Raises Lost."""
        keys = self._keys
        args: list[Argument] = [held.token, self._lease_ms, self._life_ms, "dry" if dry else ""]
        for one in missed:
            args += [one.deployment_id, one.sought_as, one.ticket]
        reply = await self._group.submit(
            self._keep,
            keys=(
                *(keys.round(held.name), keys.tickets, keys.looks, keys.look_tickets, keys.failed),
                *(keys.published(one.deployment_id) for one in missed),
            ),
            args=args,
            durable=not dry,
        )
        planned = cast("int", reply)
        if planned < 0:
            raise Lost(held.name)
        return planned

    async def end(self, held: Round, checkpoint: int, how: End = "ended") -> None:
        """Keep how far it came."""
        await self._tell_end(held, checkpoint, how)

    async def _tell_end(
        self, held: Round, checkpoint: int | str, how: End, *, patience_s: float = math.inf
    ) -> None:
        await self._group.submit(
            self._end,
            keys=(self._keys.round(held.name),),
            args=(held.token, checkpoint, how),
            patience_s=patience_s,
        )

    async def _keep_renewed(self, held: Round) -> None:
        while True:
            await asyncio.sleep(self._lease_ms / 1000 / _RENEWALS_PER_LEASE)
            await self.keep(held, (), dry=True)
