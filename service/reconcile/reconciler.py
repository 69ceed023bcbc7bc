"""The reconciler: compares LaunchDarkly's list with Redis and queues deployments it misses."""

import asyncio
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from functools import partial
from http import HTTPStatus

from msgspec import Raw, Struct

from service.accept.filters import DeploymentFilter
from service.enrich.budget import format_access_scope
from service.enrich.client import BudgetedCalls, Upstream
from service.enrich.models import Drift, parse_deployment_of_id, parse_page_in_steps
from service.enrich.pagination import (
    API_ROOT,
    PAGE_SIZE,
    ApiRequest,
    UnsafeLink,
    next_link,
    resolve_next_link,
)
from service.enrich.shared_list import build_list_request
from service.enrich.verdict import (
    FORBIDDEN,
    ApiResponse,
    AttemptHistory,
    CallFailure,
    RetryPolicy,
    decide_call_failure,
)
from service.log import EventLogger
from service.reconcile.checkpoint import LeaseLost, Run, Runs
from service.reconcile.missed import (
    Scope,
    TimeRange,
    build_missed,
    classify_page,
    next_checkpoint,
    select_out_of_view,
)
from service.url_part import quote_part

UNKNOWN_SCOPE = "unknown_scope"
"""Why a list could not be read: LaunchDarkly knows no such project or environment."""

NEVER_LISTED = "nothing was ever listed for this scope; check the spelling"

_UNKNOWN_STATUSES = frozenset({HTTPStatus.BAD_REQUEST, HTTPStatus.NOT_FOUND})


class ScanResult(Struct):
    """The result of a scan: deployments listed, still open, unreadable, known and missed.

    ``open_starts`` maps the open ones to when they started (ms). ``decided`` are those that were
    out of view and have ended.
    """

    listed: int = 0
    still_open: int = 0
    unreadable: int = 0
    known: int = 0
    missed: int = 0
    open_starts: Mapping[str, int] = {}
    decided: frozenset[str] = frozenset()
    error: str = ""
    """Why the list could not be read to its end; empty if it was."""

    def add(self, other: "ScanResult") -> None:
        """Add the counts of another scan."""
        self.listed += other.listed
        self.still_open += other.still_open
        self.unreadable += other.unreadable
        self.known += other.known
        self.missed += other.missed
        self.error = other.error
        self.open_starts = {**self.open_starts, **other.open_starts}
        self.decided |= other.decided


def _is_unknown(failure: CallFailure) -> bool:
    response = failure.response
    return isinstance(response, ApiResponse) and response.status == HTTPStatus.NOT_FOUND


def _describe_failure(failure: CallFailure) -> str:
    """Return why a list could not be fetched."""
    response = failure.response
    if isinstance(response, ApiResponse) and response.status in _UNKNOWN_STATUSES:
        return UNKNOWN_SCOPE
    history = AttemptHistory(attempts=0, age_s=0.0, jitter=0.0)
    return decide_call_failure(failure, history, RetryPolicy()).reason


class Scanner:
    """Reads LaunchDarkly's list and schedules refreshes of missed deployments.

    The webhook of a deployment that ended in the last ``grace_ms`` may still arrive.
    """

    def __init__(
        self,
        upstream: Upstream,
        runs: Runs,
        *,
        deployment_filter: DeploymentFilter,
        grace_ms: int,
    ) -> None:
        self._upstream = upstream
        self._runs = runs
        self._deployment_filter = deployment_filter
        self._grace_ms = grace_ms

    async def scan(
        self,
        run: Run,
        scope: Scope,
        time_range: TimeRange,
        *,
        dry_run: bool = False,
        defers: bool = False,
    ) -> ScanResult:
        """Scan a range to its end, or until the list cannot be read. Raise LeaseLost.

        With ``defers``, a deployment whose version has a waiting ticket counts as open.
        """
        result = ScanResult()
        async for page in self._read_pages(self._open_calls(run, scope), scope, time_range):
            if isinstance(page, str):
                result.error = page
                break
            result.add(await self._queue_page(run, scope, page, dry_run=dry_run, defers=defers))
        return result

    async def fetch_out_of_view(self, run: Run, scope: Scope, known: ScanResult) -> ScanResult:
        """Fetch each deployment that was open at the last run and is no longer listed.

        One that LaunchDarkly no longer knows is left out. One that cannot be fetched stays open.
        """
        result = ScanResult()
        calls = self._open_calls(run, scope)
        for deployment_id, start_ms in run.out_of_view.items():
            if deployment_id in known.open_starts or deployment_id in known.decided:
                continue
            path = f"{API_ROOT}deployments/{quote_part(deployment_id)}"
            request = ApiRequest(route="get", path=path)
            fetched = await calls.fetch(request, partial(parse_deployment_of_id, deployment_id))
            if not isinstance(fetched, CallFailure):
                page = [Raw(fetched.body)]
                result.add(await self._queue_page(run, scope, page, dry_run=False, defers=True))
            elif not _is_unknown(fetched):
                result.add(ScanResult(still_open=1, open_starts={deployment_id: start_ms}))
        return result

    async def _queue_page(
        self, run: Run, scope: Scope, page: list[Raw], *, dry_run: bool, defers: bool
    ) -> ScanResult:
        """Queue the deployments of a page that are missed."""
        page_result = classify_page(page, settled_before_ms=run.now_ms - self._grace_ms)
        candidates = [
            build_missed(head, scope, self._deployment_filter) for head in page_result.ended
        ]
        missed = [candidate for candidate in candidates if candidate is not None]
        result = await self._runs.queue_missed(run, missed, dry_run=dry_run, defers=defers)
        ended_ids = {head.id for head in page_result.ended}
        deferred_starts = {
            head.id: head.started_at or head.ended_at or run.now_ms
            for head in page_result.ended
            if head.id in result.deferred
        }
        return ScanResult(
            listed=page_result.listed,
            still_open=page_result.still_open + len(result.deferred),
            unreadable=page_result.unreadable,
            known=len(missed) - result.queued - len(result.deferred),
            missed=result.queued,
            open_starts={**page_result.open_starts, **deferred_starts},
            decided=frozenset(run.out_of_view.keys() & ended_ids) - result.deferred,
        )

    async def is_never_listed(self, run: Run, scope: Scope) -> bool:
        """Return whether LaunchDarkly lists no deployment of any time; False if it does not say.

        It answers an unknown project or environment with an empty list, as an unused one.
        """
        time_range = TimeRange(1, run.now_ms)
        pages = self._read_pages(self._open_calls(run, scope), scope, time_range, page_size="1")
        async with aclosing(pages):
            return await anext(pages, "") == []

    def _open_calls(self, run: Run, scope: Scope) -> BudgetedCalls:
        # A backfill and a run of one scope make calls at once, so the name holds the run's token.
        return BudgetedCalls(
            self._upstream,
            f"run {run.token}",
            scope=format_access_scope(scope.project, scope.environment),
        )

    async def _read_pages(
        self,
        calls: BudgetedCalls,
        scope: Scope,
        time_range: TimeRange,
        *,
        page_size: str = PAGE_SIZE,
    ) -> AsyncGenerator[list[Raw] | str]:
        """Yield the items of each page; yield a text if a page cannot be read, and stop."""
        query = _build_query(scope, time_range, page_size)
        request: ApiRequest | UnsafeLink | None = build_list_request(query)
        visited: set[str] = set()
        while isinstance(request, ApiRequest) and request.path not in visited:
            visited.add(request.path)
            fetched = await calls.fetch(request, parse_page_in_steps)
            if isinstance(fetched, CallFailure):
                yield _describe_failure(fetched)
                return
            list_page = fetched.value
            if isinstance(list_page, Drift):
                yield list_page.reason
                return
            yield list_page.items or []
            if list_page.hides_next_link:
                yield "the next link has another type"
                return
            href = next_link(list_page.links) if list_page.items else None
            origin = self._upstream.launchdarkly.origin
            request = (
                resolve_next_link(href, origin=origin, defaults={"list": query}) if href else None
            )
        if request is not None:
            yield (
                request.reason if isinstance(request, UnsafeLink) else "the pages link in a circle"
            )


def _build_query(scope: Scope, time_range: TimeRange, page_size: str) -> dict[str, str]:
    query = {
        "projectKey": scope.project,
        "environmentKey": scope.environment,
        "from": str(max(1, time_range.start_ms)),
        "to": str(time_range.end_ms),
        "limit": page_size,
    }
    if scope.applications:
        query["applicationKey"] = ",".join(scope.applications)
    return query


_OVERLAP_MS = 3_600_000  # LaunchDarkly may list a deployment some time after it ended
_RETRY_DELAY_S = 10.0
_MIN_SLEEP_S = 0.05


class ReconcileConfig(Struct, frozen=True, kw_only=True):
    """How often each scope is listed, and how far back the first list goes (ms)."""

    interval_ms: int
    lookback_ms: int


class Reconciler:
    """Lists each scope at an interval, from some time before its checkpoint."""

    def __init__(
        self,
        scopes: Sequence[Scope],
        scanner: Scanner,
        runs: Runs,
        *,
        config: ReconcileConfig,
        log: EventLogger,
    ) -> None:
        self._scopes = scopes
        self._scanner = scanner
        self._runs = runs
        self._config = config
        self._log = log
        self._checked_scopes: set[Scope] = set()

    async def run(self) -> None:
        """Reconcile until cancelled; retry after an error."""
        while True:
            waits_s = [await self._try_reconcile(scope) for scope in self._scopes]
            await asyncio.sleep(max(_MIN_SLEEP_S, min(waits_s)))

    async def _try_reconcile(self, scope: Scope) -> float:
        try:
            return await self.reconcile(scope)
        except LeaseLost:
            self._log.warning("reconcile_lease_lost", scope=scope.name)
        except Exception as error:  # noqa: BLE001 - the reconciler must go on
            self._log.warning("reconcile_failed", scope=scope.name, reason=repr(error))
        return _RETRY_DELAY_S

    async def reconcile(self, scope: Scope) -> float:
        """List a scope if it is due; return the seconds until it is due again. Raise LeaseLost."""
        interval_ms, lookback_ms = self._config.interval_ms, self._config.lookback_ms
        async with self._runs.hold(scope.name, interval_ms=interval_ms) as run:
            if isinstance(run, float):
                return run
            now_ms = run.now_ms
            start_ms = (
                now_ms - lookback_ms if run.checkpoint is None else run.checkpoint - _OVERLAP_MS
            )
            time_range = TimeRange(start_ms, now_ms)
            result = await self._scanner.scan(run, scope, time_range, defers=True)
            if result.error:
                self._log.warning("reconcile_failed", scope=scope.name, reason=result.error)
                stays_so = result.error in {FORBIDDEN, UNKNOWN_SCOPE}  # until a person acts
                return interval_ms / 1000 if stays_so else min(_RETRY_DELAY_S, interval_ms / 1000)
            listed = result.listed
            result.add(await self._scanner.fetch_out_of_view(run, scope, result))
            open_starts = result.open_starts
            checkpoint = next_checkpoint(now_ms, open_starts, lookback_ms=lookback_ms)
            out_of_view = select_out_of_view(open_starts, checkpoint=checkpoint, now_ms=now_ms)
            await self._runs.end(run, checkpoint, out_of_view=out_of_view)
            self._log.info(
                "deployments_reconciled",
                scope=scope.name,
                listed=result.listed,
                open=result.still_open,
                missed=result.missed,
                unreadable=result.unreadable,
            )
            await self._check_spelling(run, scope, listed=listed)
            return interval_ms / 1000

    async def _check_spelling(self, run: Run, scope: Scope, *, listed: int) -> None:
        """Warn once of a scope that was empty at its first run and at any time before."""
        if scope in self._checked_scopes:
            return
        self._checked_scopes.add(scope)
        if not listed and await self._scanner.is_never_listed(run, scope):
            self._log.warning("reconcile_scope_empty", scope=scope.name, reason=NEVER_LISTED)
