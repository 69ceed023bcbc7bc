"""The shared list: one list of deployments, read page by page once for several tickets."""

import asyncio
from collections.abc import Iterable, Iterator, Mapping, Sequence
from urllib.parse import parse_qsl, urlencode

from msgspec import Raw, Struct
from msgspec.structs import replace

from service.backlog.ticket import STARTED, Lease, QueuedEvent, list_events
from service.buffer_memory import MemoryHold
from service.enrich.client import BudgetedCalls, Parsed
from service.enrich.matching import DeploymentQuery, ListMatcher, Match, NoMatch
from service.enrich.models import DeploymentPage, Drift, parse_page_in_steps
from service.enrich.pagination import API_ROOT, PAGE_SIZE, ApiRequest, next_link, resolve_next_link
from service.enrich.report import waits_since
from service.enrich.steps import LARGE_BYTES
from service.enrich.verdict import ApiResponse, CallFailure

EXPAND = "pullRequests,flagReferences"

_MAX_PAGE_SIZE = int(PAGE_SIZE)
_MAX_FILTER_CHARS = 2000  # a longer application filter is omitted: servers limit URLs
_HOUR_MS = 3_600_000
_TYPICAL_DURATION_MS = 2 * _HOUR_MS  # nearly all deployments take less
_RECENT_MS = 300_000
_BETTER_MATCH_S = 120.0  # LaunchDarkly lists nearly all deployments sooner after their webhook


class PageSizer(Struct):
    """The page size (deployments) that keeps a response under a cap in bytes.

    The target is half the cap, because the next deployments may be larger than the last.
    """

    max_bytes: int
    page_size: int = _MAX_PAGE_SIZE

    def record(self, *, body_bytes: int, item_count: int) -> None:
        """Set the page size by the average size of a deployment in one response."""
        if item_count:
            self.page_size = max(
                1, min(_MAX_PAGE_SIZE, self.max_bytes * item_count // (2 * max(body_bytes, 1)))
            )

    def shrink(self) -> bool:
        """Shrink the page after a response over the cap; return False if it held one deployment."""
        previous, self.page_size = self.page_size, max(1, self.page_size // 4)
        return previous > 1


def build_deployment_query(event: QueuedEvent, *, now_ms: int, timeout_s: float) -> DeploymentQuery:
    """Return the query of an event without an id. The arrival stands in for a missing time.

    Until ``timeout_s`` an event with a time waits for a deployment that no other event has. An
    event without a time may be a repetition, so it waits for ``_BETTER_MATCH_S`` only.
    """
    ticket = event.ticket
    age_s = (now_ms - waits_since(event, now_ms)) / 1000
    is_expired = age_s >= timeout_s
    has_waited = is_expired or age_s >= _BETTER_MATCH_S
    return DeploymentQuery(
        environment=ticket.environment or "",
        application=ticket.application or "",
        version=ticket.version or "",
        time_ms=event.time_ms,
        outcome=ticket.outcome,
        taken=ticket.taken,
        has_waited=has_waited,
        may_share=is_expired if ticket.event_time is not None else has_waited,
        is_expired=is_expired,
        is_start=ticket.outcome == STARTED,
    )


def build_list_query(
    leases: Iterable[Lease], *, lookback_ms: int, page_size: int
) -> dict[str, str]:
    """Build the query of the list that contains the deployments of these tickets.

    All tickets belong to one environment. The list starts two hours before the earliest ticket
    if all tickets are recent first attempts, or if all know their id and could be fetched without
    the list. Else it starts ``lookback_ms`` before. It also starts there if a source has
    ``report = true``. The list ends an hour after the latest ticket. If a ticket lacks an id and a
    ticket was tried before, it ends an hour from now at the earliest: the deployment may take long,
    or LaunchDarkly's clock may differ from the sender's. Without ``to``, LaunchDarkly would end it
    now.
    """
    queued = [(lease, event) for lease in leases for event in list_events(lease)]
    tickets = [event.ticket for _, event in queued]
    all_have_ids = all(ticket.deployment_id is not None for ticket in tickets)
    is_first_attempt = not any(ticket.attempts for ticket in tickets)
    is_recent = is_first_attempt and all(
        lease.now - event.queued_at < _RECENT_MS and event.ticket.report is None
        for lease, event in queued
    )
    times_ms = [event.time_ms for _, event in queued]
    first_ticket = tickets[0]
    query = {
        "projectKey": first_ticket.project or "",
        "environmentKey": first_ticket.environment or "",
        "applicationKey": ",".join(sorted({ticket.application or "" for ticket in tickets})),
        "from": str(
            max(
                1,
                min(times_ms)
                - (_TYPICAL_DURATION_MS if all_have_ids or is_recent else lookback_ms),
            )
        ),
        "limit": str(page_size),
        "expand": EXPAND,
    }
    if len(query["applicationKey"]) > _MAX_FILTER_CHARS:
        del query["applicationKey"]
    if not (all_have_ids or is_first_attempt):
        times_ms.append(max(lease.now for lease, _ in queued))
    query["to"] = str(max(times_ms) + _HOUR_MS)
    return query


def build_list_request(query: Mapping[str, str]) -> ApiRequest:
    """Return the request for the first page of a list."""
    return ApiRequest(route="list", path=f"{API_ROOT}deployments?{urlencode(query)}")


def with_parameters(request: ApiRequest, **changes: str | None) -> ApiRequest:
    """Return the request with changed query parameters; None removes a parameter."""
    path, _, encoded_query = request.path.partition("?")
    query = dict(parse_qsl(encoded_query, keep_blank_values=True)) | changes
    parameters = {name: value for name, value in query.items() if value is not None}
    return replace(request, path=f"{path}?{urlencode(parameters)}")


class ListUnavailable(Struct, frozen=True):
    """The list could not be fetched. Each ticket gets a verdict by its own history."""

    failure: CallFailure


class ListUnreadable(Struct, frozen=True):
    """A page of the list is JSON of another shape."""

    problem: Drift
    body: bytes


ListResult = Match | NoMatch | ListUnavailable | ListUnreadable


class ListLimits(Struct, frozen=True, kw_only=True):
    """Limits of a shared list: calls, ms back in time, bytes of pages in memory, and the host.

    ``not_found_timeout_s`` is how long an event waits for its deployment. ``max_order_delay_s`` is
    how long a result waits for further pages, so that they can be put in order.
    """

    max_calls: int
    lookback_ms: int
    max_buffered_bytes: int
    origin: str
    not_found_timeout_s: float = 900.0
    max_order_delay_s: float = 2.0


class SharedList:
    """The list for some tickets of one project and environment.

    Reading starts when the first ticket waits for its result, and stops when no ticket waits.

    LaunchDarkly lists the newest deployments first. The results come in the order in which the
    deployments ended, so that each record is compared with those before it. Therefore the matches
    of a page wait for the pages after it, but not for long.
    """

    def __init__(
        self,
        leases: Sequence[Lease],
        calls: BudgetedCalls,
        *,
        page_sizer: PageSizer,
        limits: ListLimits,
        hold: MemoryHold,
    ) -> None:
        self.calls = calls
        self.hold = hold
        self._page_sizer = page_sizer
        self._limits = limits
        self._query = build_list_query(
            leases, lookback_ms=limits.lookback_ms, page_size=page_sizer.page_size
        )
        self._matcher = _build_matcher(leases, limits)
        self._unordered: list[tuple[str, ListResult]] = []
        self._order_timer: asyncio.TimerHandle | None = None
        self._waiters: dict[str, asyncio.Future[None]] = {}
        self._results: dict[str, ListResult | Exception] = {}
        self._task: asyncio.Task[None] | None = None

    async def result_for(self, job: str) -> ListResult:
        """Wait until the list has a result for one ticket, and return it once."""
        if job not in self._results:
            await self._wait_for_result(job)
        result = self._results.pop(job)
        if isinstance(result, Exception):
            raise result
        return result

    async def _wait_for_result(self, job: str) -> None:
        waiter = self._waiters[job] = asyncio.get_running_loop().create_future()
        if self._task is None:
            self._task = asyncio.create_task(self._run(), name="shared-list")
        try:
            await waiter
        finally:
            del self._waiters[job]
            if not self._waiters and self._task is not None:
                self._task.cancel()
                self._task = None

    async def _run(self) -> None:
        try:
            failure = await self._read_pages()
            results = self._matcher.finish() if failure is None else self._fail_unmatched(failure)
            self._add_results(results)
        except Exception as error:  # noqa: BLE001 - each ticket gets the verdict on an internal error
            for job in self._matcher.list_unmatched():
                self._set_result(job, error)
        finally:  # an error concerns the tickets that have no match yet
            self._set_results_in_order()
            self.hold.end_reading()

    def _fail_unmatched(
        self, failure: ListUnavailable | ListUnreadable
    ) -> Iterable[tuple[str, ListResult]]:
        return [(job, failure) for job in self._matcher.list_unmatched()]

    def _add_results(self, results: Iterable[tuple[str, ListResult]]) -> int:
        """Keep results until they can be put in order; return how many.

        If ``results`` raises an error, those before it are kept.
        """
        count = 0
        for result in results:
            self._unordered.append(result)
            count += 1
        if self._unordered and self._order_timer is None:
            self._order_timer = asyncio.get_running_loop().call_later(
                self._limits.max_order_delay_s, self._set_results_in_order
            )
        return count

    def _set_results_in_order(self) -> None:
        if self._order_timer is not None:
            self._order_timer.cancel()
            self._order_timer = None
        unordered, self._unordered = self._unordered, []
        for job, result in sorted(unordered, key=lambda found: _end_ms(found[1])):
            self._set_result(job, result)

    def _set_result(self, job: str, result: ListResult | Exception) -> None:
        self._results[job] = result
        waiter = self._waiters.get(job)
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    async def _read_pages(self) -> ListUnavailable | ListUnreadable | None:
        """Read pages until every ticket has its result or the list ends; return what failed."""
        request: ApiRequest | None = build_list_request(self._query)
        visited: set[str] = set()
        item_count = 0
        while request is not None and request.path not in visited and not self._matcher.is_done:
            if self.calls.answered >= self._limits.max_calls:
                break
            visited.add(request.path)
            held_before = self.hold.held
            fetched = await self._fetch_page(request)
            if isinstance(fetched, CallFailure):
                return ListUnavailable(fetched)
            list_page, body = fetched.value, fetched.body
            if isinstance(list_page, Drift):
                return ListUnreadable(list_page, body)
            items = list_page.items or []
            item_count += len(items)
            if list_page.hides_next_link:
                self._matcher.keep_unreadable(Drift(reason="a next link of another type"), body)
            matched = await self._match_items(items, body_bytes=len(body))
            kept_bytes = len(body) if self._matcher.keeps_bodies else 0
            self.hold.resize(held_before + kept_bytes)
            if not matched and self._matcher.has_only_ids:
                break  # further pages would match few tickets: the others fetch theirs by id
            request = self._next_request(list_page, item_count)
        return None

    async def _match_items(self, items: list[Raw], *, body_bytes: int) -> int:
        """Match the items of a page, some at a time; return how many tickets got their result."""
        matched = 0
        for group, group_bytes in _group_items(items):
            matched += self._add_results(self._matcher.match_page(group, body_bytes=group_bytes))
            await asyncio.sleep(0)
        if "expand" in self._query:
            self._page_sizer.record(body_bytes=body_bytes, item_count=len(items))
            self._query["limit"] = str(self._page_sizer.page_size)
        return matched

    async def _fetch_page(self, request: ApiRequest) -> Parsed[DeploymentPage] | CallFailure:
        """Return one page; request fewer items when it is over the byte cap."""
        while True:
            fetched = await self.calls.fetch(request, parse_page_in_steps)
            if isinstance(fetched, Parsed):
                return fetched
            response = fetched.response
            if (
                not (isinstance(response, ApiResponse) and response.oversized)
                or "expand" not in self._query
            ):
                return fetched
            if self._page_sizer.shrink():
                self._query["limit"] = str(self._page_sizer.page_size)
            else:  # one deployment alone is too large: each ticket fetches its own by id
                del self._query["expand"]
                self._query["limit"] = PAGE_SIZE
            request = with_parameters(
                request, limit=self._query["limit"], expand=self._query.get("expand")
            )

    def _next_request(self, list_page: DeploymentPage, item_count: int) -> ApiRequest | None:
        href = next_link(list_page.links)
        is_last = list_page.total_count is not None and item_count >= list_page.total_count
        if not href or not list_page.items or is_last:
            return None
        request = resolve_next_link(
            href, origin=self._limits.origin, defaults={"list": self._query}
        )
        return (
            with_parameters(request, limit=self._query["limit"])
            if isinstance(request, ApiRequest)
            else None
        )


def _end_ms(result: ListResult) -> int:
    return (result.head.ended_at or 0) if isinstance(result, Match) else 0


def _group_items(items: Iterable[Raw]) -> Iterator[tuple[list[Raw], int]]:
    """Yield the items in groups that take a few milliseconds to parse, and their bytes."""
    group: list[Raw] = []
    group_bytes = 0
    for item in items:
        group.append(item)
        group_bytes += memoryview(item).nbytes
        if group_bytes >= LARGE_BYTES:
            yield group, group_bytes
            group, group_bytes = [], 0
    if group:
        yield group, group_bytes


def _build_matcher(leases: Sequence[Lease], limits: ListLimits) -> ListMatcher:
    deployment_ids, queries = {}, {}
    for lease in leases:
        if lease.ticket.deployment_id is None:
            queries[lease.job] = [
                build_deployment_query(
                    event, now_ms=lease.now, timeout_s=limits.not_found_timeout_s
                )
                for event in list_events(lease)
            ]
        else:
            deployment_ids[lease.job] = lease.ticket.deployment_id
    return ListMatcher(
        deployment_ids=deployment_ids,
        queries=queries,
        max_buffered_bytes=limits.max_buffered_bytes,
    )
