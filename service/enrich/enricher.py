"""Ticket in, Verdict out: which deployment, its answer, and every page of it."""

import asyncio
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import assert_never
from urllib.parse import quote

from msgspec import Struct

from service.backlog.ticket import Lease
from service.enrich.budget import Budget
from service.enrich.calls import Calls, Judge, Upstream
from service.enrich.deployment import Deployment, Drift, Garbage, read_deployment
from service.enrich.errand import Bounds, Errand, Misread, Refused
from service.enrich.launchdarkly import LaunchDarkly
from service.enrich.listing import EXPAND, Portion
from service.enrich.merge import Collection, Whole
from service.enrich.pages import ROOT, Page, Unsafe, fill_nested, find_next, is_short, is_whole
from service.enrich.search import Listed, Missing
from service.enrich.verdict import (
    Found,
    History,
    Later,
    Never,
    Patience,
    Verdict,
    judge_absence,
    judge_accident,
    judge_answer,
    judge_page,
    judge_progress,
    judge_shape,
)

_DAY_MS = 86_400_000
_AT_ONCE = 32


class Caps(Struct, frozen=True, kw_only=True):
    """What one deployment may cost: calls, and how far back it is sought (ms).

    ``kept_bytes`` of a list stay in memory until all who seek in it have their answer.
    """

    pages: int = 200
    window_ms: int = _DAY_MS
    kept_bytes: int = 1 << 26


class Enricher:
    """Asks LaunchDarkly for what tickets want. ``chance`` gives numbers in [0, 1).

    ``note_drift`` hears of every attempt that met JSON of another shape.
    """

    def __init__(
        self,
        launchdarkly: LaunchDarkly,
        budget: Budget,
        *,
        patience: Patience,
        caps: Caps,
        chance: Callable[[], float],
        note_drift: Callable[[], None] | None = None,
    ) -> None:
        self._upstream = Upstream(launchdarkly, budget, asyncio.Semaphore(_AT_ONCE))
        self._patience = patience
        self._caps = caps
        self._chance = chance
        self._note_drift = note_drift
        self._portion = Portion(cap=launchdarkly.max_bytes)
        self._bounds = Bounds(
            calls=caps.pages,
            window_ms=caps.window_ms,
            most_kept=caps.kept_bytes,
            origin=launchdarkly.origin,
        )
        self._errands: dict[str, Errand] = {}

    def expect(self, leases: Iterable[Lease]) -> None:
        """Hear which tickets were claimed together: those that share a call share its list."""
        parties: dict[str, list[Lease]] = defaultdict(list)
        for lease in leases:
            parties[lease.lead or lease.job].append(lease)
        for party in parties.values():
            if len(party) > 1:
                errand = self._plan(party)
                self._errands.update((lease.job, errand) for lease in party)

    async def enrich(self, lease: Lease) -> Verdict:
        """Find the deployment of a ticket, whole. Its first call came with the lease."""
        errand = self._errands.pop(lease.job, None)
        wanted = lease.ticket.deployment_id
        if errand is None and wanted is not None:
            return await self._fetch(self._begin(lease, prepaid=lease.job), wanted)
        errand = errand or self._plan([lease])
        return await self._enrich_listed(lease, errand)

    def judge_accident(self, lease: Lease, error: Exception) -> Later | Never:
        """Say what becomes of a ticket on which our own code failed."""
        history = self._begin(lease).history
        return judge_accident(f"{type(error).__name__}: {error}", history, self._patience)

    def _plan(self, party: Sequence[Lease]) -> Errand:
        lead = next((lease for lease in party if lease.lead is None), party[0])
        history = self._begin(lead).history
        return Errand(
            party,
            Calls(self._upstream, f"list for {lead.job}", prepaid=lead.job),
            judge=partial(judge_answer, history=history, patience=self._patience),
            portion=self._portion,
            bounds=self._bounds,
        )

    def _begin(self, lease: Lease, *, prepaid: str | None = None) -> "_Attempt":
        return _Attempt(
            lease, Calls(self._upstream, lease.job, prepaid=prepaid), chance=self._chance()
        )

    async def _enrich_listed(self, lease: Lease, errand: Errand) -> Verdict:
        """Take from a list what it has; ask for the deployment itself where that is not all."""
        outcome = await errand.seek(lease.job)
        attempt = self._begin(lease)
        attempt.shared = errand.calls if lease.lead is None else None
        if isinstance(outcome, Listed):
            if outcome.old and attempt.history.age_s < self._patience.appear_s:
                return judge_absence(attempt.history, self._patience)
            known, body = outcome.known, outcome.body
            if body is not None and isinstance(known, Deployment) and not is_short(known):
                return await self._complete(attempt, known, bytes(body))
            return await self._fetch(attempt, known.id)
        verdict = self._judge_unlisted(attempt, outcome)
        wanted = lease.ticket.deployment_id
        if wanted is not None and (isinstance(verdict, Never) or isinstance(outcome, Missing)):
            return await self._fetch(attempt, wanted)  # who knows the id needs no list
        return verdict

    def _judge_unlisted(
        self, attempt: "_Attempt", outcome: Missing | Refused | Misread
    ) -> Later | Never:
        history, patience = attempt.history, self._patience
        match outcome:
            case Refused(answer):
                verdict = judge_answer(answer, history, patience)
                assert not isinstance(verdict, bytes)  # noqa: S101 - a good answer is no refusal
                return verdict
            case Misread(problem, body):
                return self._judge_shape(problem, body, history)
            case Missing(unreadable):
                verdict = judge_absence(history, patience)
                if isinstance(verdict, Never) and unreadable is not None:
                    return self._judge_shape(*unreadable, history)
                return verdict
            case never:
                assert_never(never)

    def _judge_shape(
        self, problem: Drift | Garbage, body: bytes, history: History
    ) -> Later | Never:
        if isinstance(problem, Drift) and self._note_drift is not None:
            self._note_drift()
        return judge_shape(problem, body, history, self._patience)

    async def _fetch(self, attempt: "_Attempt", wanted: str) -> Verdict:
        """Ask for one deployment by its id."""
        path = f"{ROOT}deployments/{quote(wanted, safe='')}?expand={EXPAND}"
        judge = partial(judge_answer, history=attempt.history, patience=self._patience)
        body = await attempt.calls.ask(Page(route="get", path=path), judge)
        if not isinstance(body, bytes):
            return body
        deployment = read_deployment(body)
        if isinstance(deployment, Deployment) and deployment.id.lower() != wanted.lower():
            deployment = Garbage(reason="the answer is another deployment")
        if not isinstance(deployment, Deployment):
            return self._judge_shape(deployment, body, attempt.history)
        return await self._complete(attempt, deployment, body)

    async def _complete(self, attempt: "_Attempt", deployment: Deployment, body: bytes) -> Verdict:
        later = judge_progress(deployment, attempt.history, self._patience)
        if later is not None:
            return later
        if is_whole(deployment):
            return Found(deployment=deployment, body=body, calls=attempt.count)
        return await self._follow(attempt, body)

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
            return self._judge_shape(deployment, merged, attempt.history)
        return Found(
            deployment=deployment, body=merged, stopped=whole.why_stopped(), calls=attempt.count
        )

    async def _gather(self, attempt: "_Attempt", collection: Collection) -> Later | None:
        """Follow one collection to its end, or until something says not to."""
        ticket = attempt.lease.ticket
        fill = fill_nested(project=ticket.project, environment=ticket.environment)
        origin = self._bounds.origin
        judge: Judge = partial(judge_page, history=attempt.history, patience=self._patience)
        while (href := collection.next_href()) is not None:
            if attempt.calls.count >= self._caps.pages:
                collection.stopped = "page cap reached"
                return None
            page = find_next(href, origin=origin, fill=fill)
            if isinstance(page, Unsafe):
                collection.stopped = page.reason
                return None
            match await attempt.calls.ask(page, judge):
                case Later() as later:
                    return later
                case Never() as refusal:
                    collection.stopped = f"a page was refused: {refusal.reason}"
                case bytes() as body:
                    collection.add_page(body)
        return None


class _Attempt:
    """One try at one ticket: its history, the calls made for it, and those made for others too."""

    __slots__ = ("calls", "history", "lease", "shared")

    def __init__(self, lease: Lease, calls: Calls, *, chance: float) -> None:
        self.lease = lease
        self.calls = calls
        self.shared: Calls | None = None
        self.history = History(
            attempts=lease.ticket.attempts,
            age_s=lease.age_s,
            chance=chance,
            again=lease.ticket.look is not None,
        )

    @property
    def count(self) -> int:
        """How many calls the ticket has cost; a shared list counts for whose call it was."""
        return self.calls.count + (0 if self.shared is None else self.shared.count)
