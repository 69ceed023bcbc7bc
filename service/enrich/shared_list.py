"""What do several tickets go and look for together? One list, read once, page by page."""

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from urllib.parse import parse_qsl, urlencode

from msgspec import Raw, Struct
from msgspec.structs import replace

from service.backlog.ticket import Lease
from service.enrich.client import BudgetedCalls, ResponseCheck
from service.enrich.matching import DeploymentQuery, ListMatcher, Match, NoMatch
from service.enrich.models import DeploymentPage, Drift, Malformed, parse_deployment_page
from service.enrich.pagination import API_ROOT, PAGE_SIZE, ApiRequest, next_link, resolve_next_link
from service.enrich.verdict import ApiResponse, Fail, NoResponse, Retry

EXPAND = "pullRequests,flagReferences"

_MAX_PAGE_SIZE = int(PAGE_SIZE)
_MAX_FILTER_CHARS = 2000  # characters: a longer one is left out, since URLs have their limits
_HOUR_MS = 3_600_000
_TYPICAL_DURATION_MS = 2 * _HOUR_MS  # how long a deployment takes at most, but for a few
_RECENT_S = 300.0


class PageSizer(Struct):
    """How many deployments one answer should hold, so that it stays under a cap in bytes.

    Half the cap is aimed at: the next deployments may be larger than the last.
    """

    max_bytes: int
    page_size: int = _MAX_PAGE_SIZE

    def record(self, *, body_bytes: int, item_count: int) -> None:
        """Take from one answer how large a deployment is."""
        if item_count:
            self.page_size = max(
                1, min(_MAX_PAGE_SIZE, self.max_bytes * item_count // (2 * max(body_bytes, 1)))
            )

    def shrink(self) -> bool:
        """Ask for fewer after an answer over the cap; False when one alone was too large."""
        previous, self.page_size = self.page_size, max(1, self.page_size // 4)
        return previous > 1


def build_deployment_query(lease: Lease) -> DeploymentQuery:
    """Say what a ticket without an id seeks; without a time, that of its arrival counts."""
    ticket = lease.ticket
    return DeploymentQuery(
        environment=ticket.environment or "",
        application=ticket.application or "",
        version=ticket.version or "",
        time_ms=ticket.event_time or lease.queued_at,
    )


def build_list_query(
    leases: Iterable[Lease], *, lookback_ms: int, page_size: int
) -> dict[str, str]:
    """Write the query of the list that holds what these tickets of one environment seek.

    A look at what has just come need not go far back, and who knows an id can do without. Else a
    deployment is sought ``window_ms`` back, and once a ticket was tried before, with an open end:
    it may have taken long, or it may be LaunchDarkly's clock that differs.
    """
    tickets = [(lease, lease.ticket) for lease in leases]
    all_have_ids = all(ticket.deployment_id is not None for _, ticket in tickets)
    is_first_attempt = not any(ticket.attempts for _, ticket in tickets)
    is_recent = is_first_attempt and all(lease.age_s < _RECENT_S for lease, _ in tickets)
    times_ms = [ticket.event_time or lease.queued_at for lease, ticket in tickets]
    first_ticket = tickets[0][1]
    query = {
        "projectKey": first_ticket.project or "",
        "environmentKey": first_ticket.environment or "",
        "applicationKey": ",".join(sorted({ticket.application or "" for _, ticket in tickets})),
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
    if all_have_ids or is_first_attempt:
        query["to"] = str(max(times_ms) + _HOUR_MS)
    return query


def build_list_request(query: Mapping[str, str]) -> ApiRequest:
    """Give the first page of a list."""
    return ApiRequest(route="list", path=f"{API_ROOT}deployments?{urlencode(query)}")


def with_parameters(request: ApiRequest, **changes: str | None) -> ApiRequest:
    """Give the same page with other parameters; None leaves one out."""
    path, _, encoded_query = request.path.partition("?")
    query = dict(parse_qsl(encoded_query, keep_blank_values=True)) | changes
    parameters = {name: value for name, value in query.items() if value is not None}
    return replace(request, path=f"{path}?{urlencode(parameters)}")


class ListUnavailable(Struct, frozen=True):
    """The list could not be had: each ticket judges by its own history what that means for it."""

    response: ApiResponse | NoResponse


class ListUnreadable(Struct, frozen=True):
    """A page of the list could not be read."""

    problem: Drift | Malformed
    body: bytes


ListResult = Match | NoMatch | ListUnavailable | ListUnreadable


class ListLimits(Struct, frozen=True, kw_only=True):
    """How far an errand goes: calls, ms back in time, bytes of pages kept, and to which host."""

    max_calls: int
    lookback_ms: int
    max_buffered_bytes: int
    origin: str


class SharedList:
    """The list for some tickets of one project and environment. Sets out when the first asks.

    ``judge`` knows the history of the ticket whose call it is. When nobody waits any more, it ends.
    """

    def __init__(
        self,
        leases: Sequence[Lease],
        calls: BudgetedCalls,
        *,
        check: ResponseCheck,
        page_sizer: PageSizer,
        limits: ListLimits,
    ) -> None:
        self.calls = calls
        self._check = check
        self._page_sizer = page_sizer
        self._limits = limits
        self._query = build_list_query(
            leases, lookback_ms=limits.lookback_ms, page_size=page_sizer.page_size
        )
        self._matcher = _build_matcher(leases, max_buffered_bytes=limits.max_buffered_bytes)
        self._waiters: dict[str, asyncio.Future[None]] = {}
        self._results: dict[str, ListResult | Exception] = {}
        self._task: asyncio.Task[None] | None = None

    async def result_for(self, job: str) -> ListResult:
        """Wait for what the list says of one ticket."""
        if job not in self._results:
            await self._wait_for_result(job)
        result = self._results.pop(job)
        if isinstance(result, Exception):
            raise result
        return result

    async def _wait_for_result(self, job: str) -> None:
        waiter = self._waiters[job] = asyncio.get_running_loop().create_future()
        if self._task is None:
            self._task = asyncio.create_task(self._run(), name="errand")
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
            for job, result in results:
                self._set_result(job, result)
        except Exception as error:  # noqa: BLE001 - a mistake of ours is judged for each ticket
            for job in self._matcher.list_unmatched():
                self._set_result(job, error)

    def _fail_unmatched(
        self, failure: ListUnavailable | ListUnreadable
    ) -> Iterable[tuple[str, ListResult]]:
        return [(job, failure) for job in self._matcher.list_unmatched()]

    def _set_result(self, job: str, result: ListResult | Exception) -> None:
        self._results[job] = result
        waiter = self._waiters.get(job)
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    async def _read_pages(self) -> ListUnavailable | ListUnreadable | None:
        """Read page after page until all is found, or no more is to be had."""
        request: ApiRequest | None = build_list_request(self._query)
        visited: set[str] = set()
        item_count = 0
        while request is not None and request.path not in visited and not self._matcher.is_done:
            if self.calls.count >= self._limits.max_calls:
                break
            visited.add(request.path)
            body = await self._fetch_page(request)
            if not isinstance(body, bytes):
                return ListUnavailable(body)
            list_page = parse_deployment_page(body)
            if not isinstance(list_page, DeploymentPage):
                return ListUnreadable(list_page, body)
            items = list_page.items or []
            item_count += len(items)
            if not self._match_items(items, body_bytes=len(body)) and self._matcher.has_only_ids:
                break  # further pages would answer few: each asks for its own
            request = self._next_request(list_page, item_count)
        return None

    def _match_items(self, items: list[Raw], *, body_bytes: int) -> int:
        """Look through the items of a page; gives how many tickets it answered."""
        matched = 0
        for job, match_found in self._matcher.match_page(items, body_bytes=body_bytes):
            self._set_result(job, match_found)
            matched += 1
        if "expand" in self._query:
            self._page_sizer.record(body_bytes=body_bytes, item_count=len(items))
            self._query["limit"] = str(self._page_sizer.page_size)
        return matched

    async def _fetch_page(self, request: ApiRequest) -> bytes | ApiResponse | NoResponse:
        """Fetch one page, in smaller portions when it is over the cap of bytes."""
        response: ApiResponse | NoResponse = NoResponse(reason="not asked")

        def check(received: ApiResponse | NoResponse) -> bytes | Retry | Fail:
            nonlocal response
            response = received
            return self._check(received)

        while True:
            body = await self.calls.fetch(request, check)
            if isinstance(body, bytes):
                return body
            if (
                not (isinstance(response, ApiResponse) and response.oversized)
                or "expand" not in self._query
            ):
                return response
            if self._page_sizer.shrink():
                self._query["limit"] = str(self._page_sizer.page_size)
            else:  # one alone is too large: each ticket asks for its own
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


def _build_matcher(leases: Sequence[Lease], *, max_buffered_bytes: int) -> ListMatcher:
    deployment_ids, queries = {}, {}
    for lease in leases:
        if lease.ticket.deployment_id is None:
            queries[lease.job] = build_deployment_query(lease)
        else:
            deployment_ids[lease.job] = lease.ticket.deployment_id
    return ListMatcher(
        deployment_ids=deployment_ids, queries=queries, max_buffered_bytes=max_buffered_bytes
    )
