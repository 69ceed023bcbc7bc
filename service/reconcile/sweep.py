"""How is a span of time gone through? Page by page, with calls that are left over."""

from collections.abc import AsyncIterator, Callable
from functools import partial

from msgspec import Raw, Struct

from service.accept.choice import Only
from service.enrich.calls import Calls, Upstream
from service.enrich.deployment import DeploymentPage, read_deployment_page
from service.enrich.listing import open_list
from service.enrich.pages import PAGE_SIZE, Page, Unsafe, find_next, read_href
from service.enrich.verdict import History, Patience, judge_answer
from service.reconcile.missed import Scope, Span, sift_page, write_missed
from service.reconcile.rounds import Round, Rounds


class Swept(Struct):
    """What a span held: deployments listed, still open, unreadable, known before, and missed."""

    listed: int = 0
    open: int = 0
    unreadable: int = 0
    known: int = 0
    missed: int = 0
    oldest_open: int | None = None
    trouble: str = ""
    """Why the list could not be had to its end; empty when it could."""

    def add(self, other: "Swept") -> None:
        """Add what another span held."""
        self.listed += other.listed
        self.open += other.open
        self.unreadable += other.unreadable
        self.known += other.known
        self.missed += other.missed
        self.trouble = other.trouble
        began = (self.oldest_open, other.oldest_open)
        self.oldest_open = min((each for each in began if each is not None), default=None)


class Sweeper:
    """Lists what LaunchDarkly has, and plans a look at what was missed.

    ``only`` says what is wanted; ``chance`` gives numbers in [0, 1); what ended in the last
    ``grace_ms`` may still be told of.
    """

    def __init__(
        self,
        upstream: Upstream,
        rounds: Rounds,
        *,
        only: Only,
        chance: Callable[[], float],
        grace_ms: int,
    ) -> None:
        self._upstream = upstream
        self._rounds = rounds
        self._only = only
        self._chance = chance
        self._grace_ms = grace_ms

    async def sweep(self, held: Round, scope: Scope, span: Span, *, dry: bool = False) -> Swept:
        """Go through a span to its end, or until the list cannot be had. Raises Lost."""
        swept = Swept()
        # The scope's name would be that of two calls, where a backfill goes on beside a round.
        calls = Calls(self._upstream, f"round {held.token}")
        async for page in self._read(calls, scope, span):
            if isinstance(page, str):
                swept.trouble = page
                break
            sifted = sift_page(page, settled_before=held.now_ms - self._grace_ms)
            written = [write_missed(outline, scope, self._only) for outline in sifted.ended]
            missed = [each for each in written if each is not None]
            planned = await self._rounds.keep(held, missed, dry=dry)
            swept.add(
                Swept(
                    listed=sifted.listed,
                    open=sifted.open,
                    unreadable=sifted.unreadable,
                    known=len(missed) - planned,
                    missed=planned,
                    oldest_open=sifted.oldest_open,
                )
            )
        return swept

    async def _read(self, calls: Calls, scope: Scope, span: Span) -> AsyncIterator[list[Raw] | str]:
        """Read page after page; a text says why there is none."""
        query = {
            "projectKey": scope.project,
            "environmentKey": scope.environment,
            "from": str(max(1, span.begin)),
            "to": str(span.end),
            "limit": PAGE_SIZE,
        }
        if scope.applications:
            query["applicationKey"] = ",".join(scope.applications)
        page: Page | Unsafe | None = open_list(query)
        visited: set[str] = set()
        while isinstance(page, Page) and page.path not in visited:
            visited.add(page.path)
            history = History(attempts=0, age_s=0.0, chance=self._chance())
            judge = partial(judge_answer, history=history, patience=Patience())
            body = await calls.ask(page, judge)
            if not isinstance(body, bytes):
                yield body.reason
                return
            found = read_deployment_page(body)
            if not isinstance(found, DeploymentPage):
                yield found.reason
                return
            yield found.items or []
            href = read_href(found.links) if found.items else None
            origin = self._upstream.launchdarkly.origin
            page = find_next(href, origin=origin, fill={"list": query}) if href else None
        if page is not None:
            yield page.reason if isinstance(page, Unsafe) else "the pages go in a circle"
