"""How is one call made? Within everybody's budget, and what its answer told is told to all."""

import asyncio
from collections.abc import Callable

from msgspec import Struct

from service.enrich.budget import Budget
from service.enrich.launchdarkly import LaunchDarkly
from service.enrich.pages import Page
from service.enrich.ratelimit import Hints
from service.enrich.verdict import Answer, Later, Never, Silence, classify

Judge = Callable[[Answer | Silence], bytes | Later | Never]

_REPEATS = 5
_SILENT = Hints()


class Upstream(Struct, frozen=True):
    """LaunchDarkly, the budget, and the turnstile before the budget.

    However many tickets of one worker want a call at once, only those in the turnstile ask for it.
    """

    launchdarkly: LaunchDarkly
    budget: Budget
    turnstile: asyncio.Semaphore


class Calls:
    """The calls made for one job, each under a name in the budget.

    The first came with the lease of ``prepaid``, if there is one; the others are taken as ``name``.
    """

    __slots__ = ("_name", "_prepaid", "_up", "count")

    def __init__(self, upstream: Upstream, name: str, *, prepaid: str | None = None) -> None:
        self._up = upstream
        self._name = name
        self._prepaid = prepaid
        self.count = 0

    async def ask(self, page: Page, judge: Judge) -> bytes | Later | Never:
        """Make one call and judge its answer.

        What was fetched before is not thrown away for a rate limit: the call is made again.
        """
        repeats = _REPEATS
        while True:
            is_first = self._prepaid is not None
            name = await self._take(page)
            answer = await self._up.launchdarkly.get(page.path, route=page.route)
            self.count += 1
            told = self._tell(name, answer)
            verdict = judge(answer)
            if isinstance(verdict, bytes):
                return verdict
            await told  # the budget must be closed before anybody can claim again
            if is_first or isinstance(verdict, Never) or not verdict.repeatable:
                return verdict
            repeats -= 1
            if not repeats:
                return verdict

    async def _take(self, page: Page) -> str:
        if self._prepaid is not None:
            name, self._prepaid = self._prepaid, None
            return name
        async with self._up.turnstile:
            await self._up.budget.take(self._name, page.route)
        return self._name

    def _tell(self, name: str, answer: Answer | Silence) -> asyncio.Future[object]:
        hints = answer.hints if isinstance(answer, Answer) else _SILENT
        return self._up.budget.learn(name, classify(answer), hints)
