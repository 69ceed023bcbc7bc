"""Ticket in, Verdict out: which deployment, its answer, and every page of it."""

import asyncio
from collections.abc import Callable
from urllib.parse import quote, urlencode

from msgspec import Struct

from service.backlog.ticket import Lease
from service.enrich.budget import Budget
from service.enrich.deployment import (
    Deployment,
    DeploymentPage,
    Drift,
    Garbage,
    read_deployment,
    read_deployment_page,
)
from service.enrich.launchdarkly import LaunchDarkly
from service.enrich.merge import Collection, Whole
from service.enrich.pages import (
    PAGE_SIZE,
    ROOT,
    Page,
    Unsafe,
    fill_nested,
    find_next,
    is_whole,
    read_href,
)
from service.enrich.resolve import Sought, choose_deployment
from service.enrich.verdict import (
    Answer,
    Found,
    History,
    Later,
    Never,
    Patience,
    Silence,
    Verdict,
    classify,
    judge_absence,
    judge_accident,
    judge_answer,
    judge_page,
    judge_progress,
    judge_shape,
)

_DAY_MS = 86_400_000
_EXPAND = "pullRequests,flagReferences"
_REPEATS = 5

Judge = Callable[[Answer | Silence, History, Patience], bytes | Later | Never]


class Caps(Struct, frozen=True):
    """What one deployment may cost: pages followed, and how far back it is sought (ms)."""

    pages: int = 200
    window_ms: int = _DAY_MS


class Enricher:
    """Asks LaunchDarkly for what a ticket wants. ``chance`` gives numbers in [0, 1)."""

    def __init__(
        self,
        launchdarkly: LaunchDarkly,
        budget: Budget,
        *,
        patience: Patience,
        caps: Caps,
        chance: Callable[[], float],
    ) -> None:
        self._launchdarkly = launchdarkly
        self._budget = budget
        self._patience = patience
        self._caps = caps
        self._chance = chance

    async def enrich(self, lease: Lease) -> Verdict:
        """Find the deployment of a ticket, whole. Its first call came with the lease."""
        attempt = _Attempt(lease, chance=self._chance())
        wanted = lease.ticket.deployment_id
        if wanted is None:
            resolved = await self._resolve(attempt)
            if not isinstance(resolved, str):
                return resolved
            wanted = resolved
        path = f"{ROOT}deployments/{quote(wanted, safe='')}?expand={_EXPAND}"
        body = await self._ask(attempt, Page(route="get", path=path))
        if not isinstance(body, bytes):
            return body
        return await self._complete(attempt, body, wanted)

    def judge_accident(self, lease: Lease, error: Exception) -> Later | Never:
        """Say what becomes of a ticket on which our own code failed."""
        history = _Attempt(lease, chance=self._chance()).history
        return judge_accident(f"{type(error).__name__}: {error}", history, self._patience)

    async def _complete(self, attempt: "_Attempt", body: bytes, wanted: str) -> Verdict:
        deployment = read_deployment(body)
        if isinstance(deployment, Deployment) and deployment.id.lower() != wanted.lower():
            deployment = Garbage(reason="the answer is another deployment")
        if not isinstance(deployment, Deployment):
            return judge_shape(deployment, body, attempt.history, self._patience)
        later = judge_progress(deployment, attempt.history, self._patience)
        if later is not None:
            return later
        if is_whole(deployment):
            return Found(deployment=deployment, body=body, calls=attempt.calls)
        return await self._follow(attempt, body)

    async def _resolve(self, attempt: "_Attempt") -> str | Later | Never:
        """Find the id of (project, environment, application, version); costs a call a page."""
        ticket = attempt.lease.ticket
        sought = Sought(
            environment=ticket.environment or "",
            application=ticket.application or "",
            version=ticket.version or "",
            time_ms=ticket.event_time or attempt.lease.queued_at,
        )
        query = {
            "projectKey": ticket.project or "",
            "environmentKey": sought.environment,
            "applicationKey": sought.application,
            "from": str(max(1, sought.time_ms - self._caps.window_ms)),
            "limit": PAGE_SIZE,
        }
        page: Page | None = Page(route="list", path=f"{ROOT}deployments?{urlencode(query)}")
        listed: list[Deployment | None] = []
        visited: set[str] = set()
        while page is not None and page.path not in visited and len(visited) < self._caps.pages:
            visited.add(page.path)
            body = await self._ask(attempt, page)
            if not isinstance(body, bytes):
                return body
            found = read_deployment_page(body)
            if not isinstance(found, DeploymentPage):
                return judge_shape(found, body, attempt.history, self._patience)
            listed.extend(found.items or ())
            page = self._find_next_list(found, query, len(listed))
        chosen = choose_deployment(listed, sought)
        return judge_absence(attempt.history, self._patience) if chosen is None else chosen.id

    def _find_next_list(
        self, found: DeploymentPage, query: dict[str, str], count: int
    ) -> Page | None:
        href = read_href(found.links)
        if (
            not href
            or not found.items
            or (found.total_count is not None and count >= found.total_count)
        ):
            return None
        page = find_next(href, origin=self._launchdarkly.origin, fill={"list": query})
        return page if isinstance(page, Page) else None

    async def _follow(self, attempt: "_Attempt", body: bytes) -> Verdict:
        """Fetch what the first answer left out; a page that cannot be had leaves it incomplete."""
        whole = Whole(body)
        collections = [] if whole.pull_requests is None else [whole.pull_requests]
        for opened in (collections, None):
            for collection in whole.open_nested() if opened is None else opened:
                later = await self._gather(attempt, collection)
                if later is not None:
                    return later
        merged = whole.encode()
        deployment = read_deployment(merged)
        if isinstance(deployment, Drift | Garbage):
            return judge_shape(deployment, merged, attempt.history, self._patience)
        return Found(
            deployment=deployment, body=merged, stopped=whole.why_stopped(), calls=attempt.calls
        )

    async def _gather(self, attempt: "_Attempt", collection: Collection) -> Later | None:
        """Follow one collection to its end, or until something says not to."""
        ticket = attempt.lease.ticket
        fill = fill_nested(project=ticket.project, environment=ticket.environment)
        while (href := collection.next_href()) is not None:
            if attempt.calls >= self._caps.pages:
                collection.stopped = "page cap reached"
                return None
            page = find_next(href, origin=self._launchdarkly.origin, fill=fill)
            if isinstance(page, Unsafe):
                collection.stopped = page.reason
                return None
            match await self._ask(attempt, page, judge=judge_page):
                case Later() as later:
                    return later
                case Never() as refusal:
                    collection.stopped = f"a page was refused: {refusal.reason}"
                case bytes() as body:
                    collection.add_page(body)
        return None

    async def _ask(
        self, attempt: "_Attempt", page: Page, *, judge: Judge = judge_answer
    ) -> bytes | Later | Never:
        """Make one call within the budget and judge its answer.

        What was fetched before is not thrown away for a rate limit: the call is made again.
        """
        repeats = _REPEATS
        while True:
            if attempt.calls:
                await self._budget.take(attempt.lease.job, page.route)
            answer = await self._launchdarkly.get(page.path, route=page.route)
            attempt.calls += 1
            told = self._tell(attempt.lease.job, answer)
            verdict = judge(answer, attempt.history, self._patience)
            if isinstance(verdict, bytes):
                return verdict
            await told  # the budget must be closed before anybody can claim again
            if attempt.calls == 1 or isinstance(verdict, Never) or not verdict.repeatable:
                return verdict
            repeats -= 1
            if not repeats:
                return verdict

    def _tell(self, job: str, answer: Answer | Silence) -> asyncio.Future[object]:
        hints = answer.hints if isinstance(answer, Answer) else Answer(status=0, body=b"").hints
        return self._budget.learn(job, classify(answer), hints)


class _Attempt:
    """One try at one ticket: its history, and the calls it has made."""

    def __init__(self, lease: Lease, *, chance: float) -> None:
        self.lease = lease
        self.calls = 0
        self.history = History(attempts=lease.ticket.attempts, age_s=lease.age_s, chance=chance)
