"""How is a span of time gone through? Page by page, with calls that are left over."""

from collections.abc import AsyncIterator, Callable
from functools import partial

from msgspec import Raw, Struct

from service.accept.choice import DeploymentFilter
from service.enrich.calls import BudgetedCalls, Upstream
from service.enrich.deployment import DeploymentPage, parse_deployment_page
from service.enrich.listing import build_list_request
from service.enrich.pages import PAGE_SIZE, ApiRequest, UnsafeLink, next_link, resolve_next_link
from service.enrich.verdict import AttemptHistory, RetryPolicy, check_response
from service.reconcile.missed import Scope, TimeRange, build_missed, classify_page
from service.reconcile.rounds import Run, Runs


class ScanResult(Struct):
    """What a span held: deployments listed, still open, unreadable, known before, and missed."""

    listed: int = 0
    still_open: int = 0
    unreadable: int = 0
    known: int = 0
    missed: int = 0
    oldest_open_ms: int | None = None
    error: str = ""
    """Why the list could not be had to its end; empty when it could."""

    def add(self, other: "ScanResult") -> None:
        """Add what another span held."""
        self.listed += other.listed
        self.still_open += other.still_open
        self.unreadable += other.unreadable
        self.known += other.known
        self.missed += other.missed
        self.error = other.error
        start_times = (self.oldest_open_ms, other.oldest_open_ms)
        self.oldest_open_ms = min(
            (start for start in start_times if start is not None), default=None
        )


class Scanner:
    """Lists what LaunchDarkly has, and plans a look at what was missed.

    ``only`` says what is wanted; ``chance`` gives numbers in [0, 1); what ended in the last
    ``grace_ms`` may still be told of.
    """

    def __init__(
        self,
        upstream: Upstream,
        runs: Runs,
        *,
        deployment_filter: DeploymentFilter,
        rng: Callable[[], float],
        grace_ms: int,
    ) -> None:
        self._upstream = upstream
        self._runs = runs
        self._deployment_filter = deployment_filter
        self._rng = rng
        self._grace_ms = grace_ms

    async def scan(
        self, run: Run, scope: Scope, time_range: TimeRange, *, dry_run: bool = False
    ) -> ScanResult:
        """Go through a span to its end, or until the list cannot be had. Raises Lost."""
        result = ScanResult()
        # The scope's name would be that of two calls, where a backfill goes on beside a round.
        calls = BudgetedCalls(self._upstream, f"round {run.token}")
        async for page in self._read_pages(calls, scope, time_range):
            if isinstance(page, str):
                result.error = page
                break
            page_result = classify_page(page, settled_before_ms=run.now_ms - self._grace_ms)
            candidates = [
                build_missed(head, scope, self._deployment_filter) for head in page_result.ended
            ]
            missed = [candidate for candidate in candidates if candidate is not None]
            queued = await self._runs.queue_missed(run, missed, dry_run=dry_run)
            result.add(
                ScanResult(
                    listed=page_result.listed,
                    still_open=page_result.still_open,
                    unreadable=page_result.unreadable,
                    known=len(missed) - queued,
                    missed=queued,
                    oldest_open_ms=page_result.oldest_open_ms,
                )
            )
        return result

    async def _read_pages(
        self, calls: BudgetedCalls, scope: Scope, time_range: TimeRange
    ) -> AsyncIterator[list[Raw] | str]:
        """Read page after page; a text says why there is none."""
        query = {
            "projectKey": scope.project,
            "environmentKey": scope.environment,
            "from": str(max(1, time_range.start_ms)),
            "to": str(time_range.end_ms),
            "limit": PAGE_SIZE,
        }
        if scope.applications:
            query["applicationKey"] = ",".join(scope.applications)
        request: ApiRequest | UnsafeLink | None = build_list_request(query)
        visited: set[str] = set()
        while isinstance(request, ApiRequest) and request.path not in visited:
            visited.add(request.path)
            history = AttemptHistory(attempts=0, age_s=0.0, jitter=self._rng())
            check = partial(check_response, history=history, policy=RetryPolicy())
            body = await calls.fetch(request, check)
            if not isinstance(body, bytes):
                yield body.reason
                return
            list_page = parse_deployment_page(body)
            if not isinstance(list_page, DeploymentPage):
                yield list_page.reason
                return
            yield list_page.items or []
            href = next_link(list_page.links) if list_page.items else None
            origin = self._upstream.launchdarkly.origin
            request = (
                resolve_next_link(href, origin=origin, defaults={"list": query}) if href else None
            )
        if request is not None:
            yield request.reason if isinstance(request, UnsafeLink) else "the pages go in a circle"
