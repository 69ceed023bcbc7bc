"""The enricher: a ticket in, a verdict out, with every page of the deployment fetched."""

import asyncio
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import TypeVar, assert_never

from msgspec import Raw, Struct
from msgspec.structs import replace

from service.backlog.ticket import Lease, QueuedEvent, Ticket, list_events, select_event
from service.buffer_memory import BufferMemory, MemoryHold
from service.enrich.budget import Budget, format_access_scope
from service.enrich.client import (
    LIST_CALL_PREFIX,
    BudgetedCalls,
    LaunchDarkly,
    Upstream,
    count_memory,
)
from service.enrich.large_json import measure_chunks
from service.enrich.matching import Match, NoMatch, describe_other_deployment
from service.enrich.models import (
    Deployment,
    Drift,
    parse_deployment_in_steps,
    parse_deployment_of_id,
    parse_page_in_steps,
    parse_split_deployment,
    split_deployment,
)
from service.enrich.pagination import (
    API_ROOT,
    ApiRequest,
    MergedDeployment,
    PagedCollection,
    UnsafeLink,
    is_complete,
    link_defaults,
    list_omits_details,
    resolve_next_link,
)
from service.enrich.report import check_version, decide_report, describe_report, waits_since
from service.enrich.reporter import Reporter
from service.enrich.shared_list import (
    EXPAND,
    ListLimits,
    ListResult,
    ListUnavailable,
    ListUnreadable,
    PageSizer,
    SharedList,
)
from service.enrich.steps import Steps
from service.enrich.verdict import (
    AttemptHistory,
    CallFailure,
    Ended,
    Fail,
    Found,
    Retry,
    RetryPolicy,
    Shared,
    Unreported,
    Verdict,
    decide_call_failure,
    decide_drift,
    decide_internal_error,
    decide_not_found,
    decide_page_failure,
    decide_taken,
    decide_unfinished,
    ends_refresh,
)
from service.url_part import quote_part

T = TypeVar("T")

_DAY_MS = 86_400_000
_MAX_CONCURRENT_ACQUIRES = 32


class EnrichLimits(Struct, frozen=True, kw_only=True):
    """Limits of one ticket: calls, how far back it is searched (ms), and memory.

    Up to ``max_list_bytes`` of a shared list stay in memory until its last ticket is answered.
    Calls wait while all tickets together hold ``max_buffered_bytes`` of responses.
    ``max_order_delay_s``: see :class:`service.enrich.shared_list.ListLimits`.
    """

    max_calls: int = 200
    lookback_ms: int = _DAY_MS
    max_list_bytes: int = 1 << 26
    max_buffered_bytes: int = 1 << 27
    max_order_delay_s: float = 2.0


class Enricher:
    """Fetches the deployments of tickets from LaunchDarkly.

    ``rng`` returns numbers in [0, 1). ``record_drift`` is called for every attempt that received
    JSON of an unexpected shape.
    """

    def __init__(
        self,
        launchdarkly: LaunchDarkly,
        budget: Budget,
        *,
        retry_policy: RetryPolicy,
        limits: EnrichLimits,
        rng: Callable[[], float],
        record_drift: Callable[[], None] | None = None,
    ) -> None:
        self._upstream = Upstream(
            launchdarkly=launchdarkly,
            budget=budget,
            limiter=asyncio.Semaphore(_MAX_CONCURRENT_ACQUIRES),
            rng=rng,
            repeats=retry_policy.repeats,
        )
        self._retry_policy = retry_policy
        self._limits = limits
        self._rng = rng
        self._record_drift = record_drift
        self._page_sizer = PageSizer(max_bytes=launchdarkly.max_bytes)
        self._list_limits = ListLimits(
            max_calls=limits.max_calls,
            lookback_ms=limits.lookback_ms,
            max_buffered_bytes=min(limits.max_list_bytes, limits.max_buffered_bytes // 2),
            origin=launchdarkly.origin,
            not_found_timeout_s=retry_policy.not_found_timeout_s,
            max_order_delay_s=limits.max_order_delay_s,
        )
        self._shared_lists: dict[str, SharedList] = {}
        self.memory = BufferMemory(limits.max_buffered_bytes)
        self._holds: dict[tuple[str, float], list[MemoryHold]] = defaultdict(list)

    def share_lists(self, leases: Iterable[Lease]) -> None:
        """Build one shared list for each group of leases that were claimed with the same call."""
        batches: dict[str, list[Lease]] = defaultdict(list)
        for lease in leases:
            batches[lease.leader or lease.job].append(lease)
        for batch in batches.values():
            if len(batch) > 1:
                shared_list = self._build_shared_list(batch)
                self._shared_lists.update((lease.job, shared_list) for lease in batch)

    async def enrich(self, lease: Lease) -> Verdict:
        """Return the verdict on a ticket. The claim of its lease acquired the first call."""
        shared_list = self._shared_lists.pop(lease.job, None)
        deployment_id = lease.ticket.deployment_id
        if deployment_id is None and (invalid := check_version(lease.ticket)) is not None:
            return replace(invalid, event_index=lease.index if lease.events else None)
        if shared_list is None and deployment_id is not None:
            return await self._fetch_by_id(
                self._start_attempt(lease, reserved_by=_find_reservation(lease)), deployment_id
            )
        shared_list = shared_list or self._build_shared_list([lease])
        return await self._enrich_from_list(lease, shared_list)

    def release_memory(self, lease: Lease) -> None:
        """Free what is kept in memory for a ticket; called after it is settled."""
        for hold in self._holds.pop((lease.job, lease.fence), ()):
            hold.release()

    def on_internal_error(self, lease: Lease, error: Exception) -> Retry | Fail:
        """Return the verdict on a ticket whose attempt raised an error in this program."""
        history = self._build_history(lease)
        return decide_internal_error(
            f"{type(error).__name__}: {error}", history, self._retry_policy
        )

    def on_taken(self, lease: Lease) -> Retry:
        """Return the verdict on an event whose found deployment belongs to an earlier event."""
        return decide_taken(self._build_history(lease), self._retry_policy)

    def build_reporter(self) -> Reporter:
        """Return the reporter of the deployments that LaunchDarkly does not list."""
        return Reporter(
            self._upstream, policy=self._retry_policy, build_history=self._build_history
        )

    def _build_history(self, lease: Lease) -> AttemptHistory:
        return AttemptHistory(
            attempts=lease.ticket.attempts,
            age_s=lease.age_s,
            jitter=self._rng(),
            is_refresh=lease.ticket.refresh is not None,
        )

    def _build_shared_list(self, batch: Sequence[Lease]) -> SharedList:
        leader = next((lease for lease in batch if lease.leader is None), batch[0])
        hold = self.memory.open_hold(users=len(batch))
        for lease in batch:
            self._holds[lease.job, lease.fence].append(hold)
        return SharedList(
            batch,
            BudgetedCalls(
                self._upstream,
                LIST_CALL_PREFIX + leader.job,
                scope=_access_scope(leader.ticket),
                reserved_by=_find_reservation(leader),
                hold=hold,
            ),
            page_sizer=self._page_sizer,
            limits=self._list_limits,
            hold=hold,
        )

    def _start_attempt(
        self, lease: Lease, *, reserved_by: str | None = None, group: object = None
    ) -> "_Attempt":
        hold = self.memory.open_hold(group=group)
        self._holds[lease.job, lease.fence].append(hold)
        return _Attempt(
            lease,
            BudgetedCalls(
                self._upstream,
                lease.job,
                scope=_access_scope(lease.ticket),
                reserved_by=reserved_by,
                hold=hold,
            ),
            history=self._build_history(lease),
            hold=hold,
        )

    async def _enrich_from_list(self, lease: Lease, shared_list: SharedList) -> Verdict:
        """Return the verdict by the list; fetch the deployment by id if the list lacks parts."""
        result = await shared_list.result_for(lease.job)
        if lease.ticket.deployment_id is None and isinstance(result, Match | NoMatch):
            step = self._decide_report(lease, result)
            if step is not None:
                return step
            lease = select_event(lease, result.index)
        attempt = self._start_attempt(lease, group=shared_list.hold.group)
        attempt.shared_calls = shared_list.calls if lease.leader is None else None
        verdict = await self._decide_list_result(attempt, result)
        if lease.events and isinstance(verdict, Found | Fail):
            verdict = replace(verdict, event_index=lease.index)
        return verdict

    def _decide_report(
        self, lease: Lease, result: Match | NoMatch
    ) -> Unreported | Retry | Ended | None:
        """Return what has to be reported first; None if nothing has."""
        if lease.ticket.report is None and not lease.events:
            return None
        return decide_report(
            list_events(lease),
            result,
            now_ms=lease.now,
            history=self._build_history(lease),
            policy=self._retry_policy,
        )

    async def _decide_list_result(self, attempt: "_Attempt", result: ListResult) -> Verdict:
        if isinstance(result, Match):
            if result.is_shared:
                return Shared(result.head.id, attempt.lease.index, calls=attempt.call_count)
            return await self._complete_listed(attempt, result)
        verdict = self._decide_no_match(attempt, result)
        deployment_id = attempt.lease.ticket.deployment_id
        if deployment_id is not None and (isinstance(verdict, Fail) or isinstance(result, NoMatch)):
            return await self._fetch_by_id(attempt, deployment_id)  # an id needs no list
        return verdict

    async def _complete_listed(self, attempt: "_Attempt", listed: Match) -> Verdict:
        """Complete a listed deployment; fetch it by id if the list lacks parts of it."""
        if listed.body is not None:
            deployment: object = listed.head
            if not isinstance(deployment, Deployment):
                await attempt.hold.acquire(memoryview(listed.body).nbytes)
                deployment = await self._run_steps(parse_deployment_in_steps(bytes(listed.body)))
            if isinstance(deployment, Deployment) and not list_omits_details(deployment):
                return await self._complete_deployment(attempt, deployment, listed.body)
        attempt.hold.resize(0)
        return await self._fetch_by_id(attempt, listed.head.id)

    async def _run_steps(self, steps: Steps[T]) -> T:
        return await self._upstream.launchdarkly.step_runner.run(steps)

    def _decide_no_match(
        self, attempt: "_Attempt", result: NoMatch | ListUnavailable | ListUnreadable
    ) -> Retry | Fail:
        history, policy = attempt.history, self._retry_policy
        match result:
            case ListUnavailable(failure):
                return decide_call_failure(failure, history, policy)
            case ListUnreadable(problem, body):
                return self._decide_drift(problem, body)
            case NoMatch(unreadable, other=other):
                known = "" if other is None else describe_other_deployment(other)
                verdict = decide_not_found(
                    attempt.waiting_history,
                    policy,
                    known=known,
                    advice=describe_report(attempt.lease.ticket),
                )
                if isinstance(verdict, Fail) and unreadable is not None:
                    return self._decide_drift(*unreadable)
                return verdict
            case unreachable:
                assert_never(unreachable)

    def _decide_drift(self, problem: Drift, body: bytes) -> Fail:
        if self._record_drift is not None:
            self._record_drift()
        return decide_drift(problem, body)

    async def _fetch_by_id(self, attempt: "_Attempt", deployment_id: str) -> Verdict:
        """Fetch one deployment by its id and return the verdict."""
        path = f"{API_ROOT}deployments/{quote_part(deployment_id)}?expand={EXPAND}"
        fetched = await attempt.calls.fetch(
            ApiRequest(route="get", path=path), partial(parse_deployment_of_id, deployment_id)
        )
        if isinstance(fetched, CallFailure):
            return decide_call_failure(fetched, attempt.history, self._retry_policy)
        if isinstance(fetched.value, Drift):
            return self._decide_drift(fetched.value, fetched.body)
        return await self._complete_deployment(attempt, fetched.value, fetched.body)

    async def _complete_deployment(
        self, attempt: "_Attempt", deployment: Deployment, body: bytes | Raw
    ) -> Verdict:
        retry = decide_unfinished(deployment, attempt.waiting_history, self._retry_policy)
        if retry is not None:
            return retry
        found = Found(deployment=deployment, chunks=(body,), calls=attempt.call_count)
        return found if is_complete(deployment) else await self._fetch_pages(attempt, found)

    async def _fetch_pages(self, attempt: "_Attempt", found: Found) -> Verdict:
        """Fetch the further pages; a page that cannot be fetched leaves the record incomplete."""
        split = await self._run_steps(split_deployment(found.body))
        merged = MergedDeployment(split)
        if merged.pull_requests is not None:
            verdict = await self._fetch_collection(attempt, merged.pull_requests)
            if verdict is not None:
                return verdict
        for collection in await self._run_steps(merged.find_nested()):
            verdict = await self._fetch_collection(attempt, collection)
            if verdict is not None:
                return verdict
        found = replace(found, stop_reason=merged.first_stop_reason(), calls=attempt.call_count)
        merged_split = merged.merge()
        if merged_split is None:
            return found
        chunks = (*merged_split.chunks(),)
        attempt.hold.resize(count_memory(measure_chunks(chunks)))
        deployment = await self._run_steps(parse_split_deployment(merged_split))
        if isinstance(deployment, Drift):
            return self._decide_drift(deployment, b"".join(chunks))
        return replace(found, deployment=deployment, chunks=chunks)

    async def _fetch_collection(
        self, attempt: "_Attempt", collection: PagedCollection
    ) -> Retry | Fail | None:
        """Fetch one collection to its end; a ``stop_reason`` is set where it ends early.

        Return a verdict if the ticket should be tried again, or if a refresh should be skipped.
        """
        ticket = attempt.lease.ticket
        defaults = link_defaults(project=ticket.project, environment=ticket.environment)
        origin = self._list_limits.origin
        while (href := collection.next_href()) is not None:
            if attempt.calls.answered >= self._limits.max_calls:
                collection.stop_reason = "page cap reached"
                return None
            request = resolve_next_link(href, origin=origin, defaults=defaults)
            if isinstance(request, UnsafeLink):
                collection.stop_reason = request.reason
                return None
            fetched = await attempt.calls.fetch(request, parse_page_in_steps)
            if not isinstance(fetched, CallFailure):
                collection.add_page(fetched.value)
                continue
            verdict = decide_page_failure(fetched, attempt.history, self._retry_policy)
            if isinstance(verdict, Retry) or ends_refresh(verdict, attempt.history):
                return verdict
            collection.stop_reason = f"a page was refused: {verdict.reason}"
        return None


def _find_reservation(lease: Lease) -> str | None:
    """Return the job whose call the claim acquired; None if the ticket shares another's call."""
    return lease.job if lease.leader is None else None


def _access_scope(ticket: Ticket) -> str:
    return format_access_scope(
        ticket.project, ticket.environment, deployment_id=ticket.deployment_id
    )


class _Attempt:
    """One attempt at one ticket: its history, its own calls, and the calls of its shared list."""

    __slots__ = ("calls", "history", "hold", "lease", "shared_calls")

    def __init__(
        self, lease: Lease, calls: BudgetedCalls, *, history: AttemptHistory, hold: MemoryHold
    ) -> None:
        self.history = history
        self.hold = hold
        self.lease = lease
        self.calls = calls
        self.shared_calls: BudgetedCalls | None = None

    @property
    def waiting_history(self) -> AttemptHistory:
        """The history, with the age since when the event waits for its deployment to be listed."""
        lease = self.lease
        if lease.ticket.report is None:
            return self.history
        since_ms = waits_since(QueuedEvent(lease.ticket, lease.queued_at), lease.now)
        return replace(self.history, age_s=max(0, lease.now - since_ms) / 1000)

    @property
    def call_count(self) -> int:
        """The calls that this ticket cost. The calls of a shared list count for its leader."""
        return self.calls.count + (0 if self.shared_calls is None else self.shared_calls.count)
