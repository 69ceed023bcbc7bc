"""Which calls may still be made? One budget, shared by every worker through Redis."""

import asyncio
from collections.abc import Callable
from typing import cast

from service.enrich.ratelimit import Hints
from service.enrich.verdict import Outcome
from service.store.group import GroupCommit, Reply
from service.store.keys import Keys
from service.store.script import Script, load_script, read_lua

CALL_LIFE_MS = 40_000
"""When a call in flight is no longer believed in; must exceed the request timeout."""

_LONGEST_SLEEP_S = 5.0


def load_room() -> str:
    """Give the Lua that says how many calls may be made; put before every script that asks."""
    return read_lua(__package__, "room")


def load_leftover() -> str:
    """Give the Lua that says how many calls are left over; put before scripts that spend those."""
    return load_room() + read_lua(__package__, "leftover")


class Budget:
    """Take a call before making it, and say afterwards what its answer told.

    ``share`` is the part of each limit that is ours; ``chance`` gives numbers in [0, 1).
    """

    def __init__(
        self, group: GroupCommit, *, keys: Keys, share: float, chance: Callable[[], float]
    ) -> None:
        self._group = group
        self._keys = keys
        self._share = share
        self._chance = chance
        self._take_keys: tuple[str, ...] = (keys.budget, keys.calls, keys.callers)
        self._take: Script = load_script(__package__, "take", prelude=load_room())
        self._learn: Script = load_script(__package__, "learn")

    async def take(self, job: str, route: str) -> None:
        """Wait until one more call may be made for a deployment already begun."""
        while True:
            reply = self._group.submit(
                self._take,
                keys=self._take_keys,
                args=(job, route, CALL_LIFE_MS, self._share),
            )
            wait_ms = cast("int", await reply)
            if wait_ms == 0:
                return
            await asyncio.sleep(min(wait_ms / 1000, _LONGEST_SLEEP_S))

    def learn(self, job: str, outcome: Outcome, hints: Hints) -> asyncio.Future[Reply]:
        """Give a call back with what its answer told; the reply is the ms the budget is closed."""
        keys = self._keys
        windows = [
            part
            for window in hints.windows
            for part in (
                window.family,
                _or_empty(window.limit),
                window.left,
                _or_empty(window.reset_ms),
            )
        ]
        return self._group.submit(
            self._learn,
            keys=(keys.budget, keys.calls, keys.bell),
            args=(
                job,
                outcome,
                _or_empty(hints.date_ms),
                _or_empty(hints.retry_after_ms),
                _or_empty(hints.resume_at_ms),
                self._chance(),
                *windows,
            ),
        )


def _or_empty(value: int | None) -> int | str:
    return "" if value is None else value
