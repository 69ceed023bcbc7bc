"""How is one call made? Within everybody's budget, and what its answer told is told to all."""

import asyncio
from collections.abc import Callable

from msgspec import Struct

from service.enrich.budget import Budget
from service.enrich.launchdarkly import LaunchDarkly
from service.enrich.pages import ApiRequest
from service.enrich.ratelimit import RateLimitHeaders
from service.enrich.verdict import ApiResponse, Fail, NoResponse, Retry, classify_response

ResponseCheck = Callable[[ApiResponse | NoResponse], bytes | Retry | Fail]

_MAX_TRIES = 5
_NO_RATE_LIMITS = RateLimitHeaders()


class Upstream(Struct, frozen=True):
    """LaunchDarkly, the budget, and the turnstile before the budget.

    However many tickets of one worker want a call at once, only those in the turnstile ask for it.
    """

    launchdarkly: LaunchDarkly
    budget: Budget
    limiter: asyncio.Semaphore


class BudgetedCalls:
    """The calls made for one job, each under a name in the budget.

    The first came with the lease of ``prepaid``, if there is one; the others are taken as ``name``.
    """

    __slots__ = ("_call_id", "_reserved_by", "_upstream", "count")

    def __init__(self, upstream: Upstream, call_id: str, *, reserved_by: str | None = None) -> None:
        self._upstream = upstream
        self._call_id = call_id
        self._reserved_by = reserved_by
        self.count = 0

    async def fetch(self, request: ApiRequest, check: ResponseCheck) -> bytes | Retry | Fail:
        """Make one call and judge its answer.

        What was fetched before is not thrown away for a rate limit: the call is made again.
        """
        tries_left = _MAX_TRIES
        while True:
            is_reserved = self._reserved_by is not None
            call_id = await self._acquire(request)
            response = await self._upstream.launchdarkly.get(request.path, route=request.route)
            self.count += 1
            recorded = self._record(call_id, response)
            verdict = check(response)
            if isinstance(verdict, bytes):
                return verdict
            await recorded  # the budget must be closed before anybody can claim again
            if is_reserved or isinstance(verdict, Fail) or not verdict.retry_in_place:
                return verdict
            tries_left -= 1
            if not tries_left:
                return verdict

    async def _acquire(self, request: ApiRequest) -> str:
        if self._reserved_by is not None:
            call_id, self._reserved_by = self._reserved_by, None
            return call_id
        async with self._upstream.limiter:
            await self._upstream.budget.acquire(self._call_id, request.route)
        return self._call_id

    def _record(self, call_id: str, response: ApiResponse | NoResponse) -> asyncio.Future[object]:
        rate_limits = response.rate_limits if isinstance(response, ApiResponse) else _NO_RATE_LIMITS
        return self._upstream.budget.record(call_id, classify_response(response), rate_limits)
