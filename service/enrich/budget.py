"""Which calls may still be made? One budget, shared by every worker through Redis."""

import asyncio
from collections.abc import Callable
from typing import cast

from service.enrich.rate_limits import RateLimitHeaders
from service.enrich.verdict import CallResult
from service.store.group_commit import GroupCommit, ScriptReply
from service.store.keys import Keys
from service.store.script import Script, load_script, read_lua

CALL_TTL_MS = 40_000
"""When a call in flight is no longer believed in; must exceed the request timeout."""

_MAX_SLEEP_S = 5.0


def load_budget_prelude() -> str:
    """Give the Lua that says how many calls may be made; put before every script that asks."""
    return read_lua(__package__, "lib_budget")


def load_spare_prelude() -> str:
    """Give the Lua that says how many calls are left over; put before scripts that spend those."""
    return load_budget_prelude() + read_lua(__package__, "lib_spare")


class Budget:
    """Take a call before making it, and say afterwards what its answer told.

    ``share`` is the part of each limit that is ours; ``chance`` gives numbers in [0, 1).
    """

    def __init__(
        self, group: GroupCommit, *, keys: Keys, share: float, rng: Callable[[], float]
    ) -> None:
        self._group = group
        self._keys = keys
        self._share = share
        self._rng = rng
        self._acquire_keys: tuple[str, ...] = (keys.budget, keys.budget_calls, keys.budget_waiting)
        self._acquire: Script = load_script(__package__, "acquire", prelude=load_budget_prelude())
        self._record: Script = load_script(__package__, "record_response")

    async def acquire(self, call_id: str, route: str) -> None:
        """Wait until one more call may be made for a deployment already begun."""
        while True:
            reply = self._group.submit(
                self._acquire,
                keys=self._acquire_keys,
                args=(call_id, route, CALL_TTL_MS, self._share),
            )
            wait_ms = cast("int", await reply)
            if wait_ms == 0:
                return
            await asyncio.sleep(min(wait_ms / 1000, _MAX_SLEEP_S))

    def record(
        self, call_id: str, result: CallResult, rate_limits: RateLimitHeaders
    ) -> asyncio.Future[ScriptReply]:
        """Give a call back with what its answer told; the reply is the ms the budget is closed."""
        keys = self._keys
        window_args = [
            part
            for window in rate_limits.windows
            for part in (
                window.family,
                _encode_optional(window.limit),
                window.remaining,
                _encode_optional(window.reset_ms),
            )
        ]
        return self._group.submit(
            self._record,
            keys=(keys.budget, keys.budget_calls, keys.wakeup),
            args=(
                call_id,
                result,
                _encode_optional(rate_limits.date_ms),
                _encode_optional(rate_limits.retry_after_ms),
                _encode_optional(rate_limits.resume_at_ms),
                self._rng(),
                *window_args,
            ),
        )


def _encode_optional(value: int | None) -> int | str:
    return "" if value is None else value


class SpareBudget(Budget):
    """The same budget, of which a call is taken only while nothing is due and enough is left."""

    def __init__(
        self, group: GroupCommit, *, keys: Keys, share: float, rng: Callable[[], float]
    ) -> None:
        super().__init__(group, keys=keys, share=share, rng=rng)
        self._acquire = load_script(__package__, "acquire_spare", prelude=load_spare_prelude())
        self._acquire_keys = (*self._acquire_keys, keys.backlog)
