"""The budget: the LaunchDarkly calls that may still be made, shared by all workers in Redis."""

import asyncio
from collections.abc import Callable
from typing import cast

from service.enrich.rate_limits import RateLimitHeaders
from service.enrich.verdict import CallResult
from service.store.group_commit import GroupCommit, ScriptArgument, ScriptReply
from service.store.keys import Keys
from service.store.script import Script, load_script, read_lua

CALL_TTL_MS = 40_000
"""Age in ms at which a call in flight is taken for lost. Must exceed the request timeout."""

_MAX_SLEEP_S = 5.0
_MAX_SPARE_SLEEP_S = 0.5  # a first attempt that arrives meanwhile ends the wait


_MAX_SCOPE_CHARS = 200
_FOR_REFRESH = 2  # see acquire.lua


def format_access_scope(
    project: str | None, environment: str | None, *, deployment_id: str | None = None
) -> str:
    """Return what a call reads, as ``/readyz`` names it when LaunchDarkly refuses access.

    ``deployment_id`` names it when the project is unknown. Empty when nothing is known.
    """
    if project:
        return "/".join(part for part in (project, environment) if part)[:_MAX_SCOPE_CHARS]
    return f"deployment {deployment_id}"[:_MAX_SCOPE_CHARS] if deployment_id else ""


def load_budget_prelude() -> str:
    """Return the Lua text that counts free calls; scripts that hand out calls start with it."""
    return read_lua(__package__, "lib_budget")


class Budget:
    """The shared budget. Acquire each call before making it, and record its response afterwards.

    ``share`` is the part of each rate limit that this service may use, in (0, 1]. ``rng`` returns
    numbers in [0, 1). With ``spare_only``, a call is acquired only while no ticket is due and
    enough calls remain for the tickets to come.
    """

    def __init__(
        self,
        group_commit: GroupCommit,
        *,
        keys: Keys,
        share: float,
        rng: Callable[[], float],
        spare_only: bool = False,
    ) -> None:
        self._group_commit = group_commit
        self._share = share
        self._rng = rng
        self._spare_only = spare_only
        self._acquire_keys = (keys.budget, keys.budget_calls, keys.budget_waiting, keys.backlog)
        self._record_keys = (keys.budget, keys.budget_calls, keys.wakeup, keys.forbidden)
        self._acquire: Script = load_script(__package__, "acquire", prelude=load_budget_prelude())
        self._record: Script = load_script(__package__, "record_response")

    async def acquire(self, call_id: str, route: str) -> None:
        """Wait until the budget allows one more call, and acquire it under ``call_id``.

        The workers leave the next calls to deployments already begun; spare calls come last.
        """
        while True:
            reply = self._group_commit.submit(
                self._acquire,
                keys=self._acquire_keys,
                args=(call_id, route, CALL_TTL_MS, self._share, int(self._spare_only)),
            )
            wait_ms = cast("int", await reply)
            if wait_ms == 0:
                return
            await asyncio.sleep(min(wait_ms / 1000, _MAX_SLEEP_S))

    async def acquire_for_refresh(self, call_id: str, route: str) -> bool:
        """Acquire one call more for refreshes under ``call_id``, if no first attempt needs it.

        Wait while only the limit is in the way. Return False as soon as a first attempt is due for
        which there might be no call.
        """
        while True:
            reply = self._group_commit.submit(
                self._acquire,
                keys=self._acquire_keys,
                args=(call_id, route, CALL_TTL_MS, self._share, _FOR_REFRESH),
            )
            wait_ms = cast("int", await reply)
            if wait_ms <= 0:
                return wait_ms == 0
            await asyncio.sleep(min(wait_ms / 1000, _MAX_SPARE_SLEEP_S))

    def record(
        self, call_id: str, result: CallResult, rate_limits: RateLimitHeaders, *, scope: str = ""
    ) -> asyncio.Future[ScriptReply]:
        """Return a call to the budget, with its result and the rate limits of its response.

        With a ``scope``, record that LaunchDarkly refuses access to it ("forbidden") or grants it
        ("ok"). The future holds the milliseconds for which the budget is closed (0: open).
        """
        window_args: list[ScriptArgument] = []
        for window in rate_limits.windows:
            limit, reset_ms = _encode_optional(window.limit), _encode_optional(window.reset_ms)
            window_args += (window.family, limit, window.remaining, reset_ms)
        return self._group_commit.submit(
            self._record,
            keys=self._record_keys,
            args=(
                call_id,
                result,
                _encode_optional(rate_limits.date_ms),
                _encode_optional(rate_limits.retry_after_ms),
                _encode_optional(rate_limits.resume_at_ms),
                0 if result == "ok" else self._rng(),  # jitter: only a failure needs it
                scope,
                *window_args,
            ),
        )


def _encode_optional(value: int | None) -> int | str:
    return "" if value is None else value
